"""Reads a run's JSON records; a damaged one gives a one-line error that says how to go on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vivit.errors import UserError

Row = dict[str, Any]


def read_lines(file: Path, numbers: Sequence[str] = ()) -> list[Row]:
    """The objects in a file with one JSON object per line; none if there is no file.

    If the run is still writing or was killed, the file may end in an incomplete line, which is skipped.

    Args:
        numbers: fields that must be numbers in every row.

    Raises:
        UserError: the file cannot be read, or a line is not such an object.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{file}: {_whats_wrong(error)}; move it away, nothing else of the run needs it") from None
    rows = []
    for place, line in enumerate(lines[:-1], start=1):
        try:
            row, problem = json.loads(line), ""
        except (ValueError, RecursionError):
            row, problem = None, "is not JSON"
        if not isinstance(row, dict):
            problem = problem or "is not a JSON object"
        elif lacking := [name for name in numbers if type(row.get(name)) not in (int, float)]:
            problem = f"has no number {lacking[0]!r}"
        if problem:
            raise UserError(f"{file}: line {place} {problem}; delete that line, nothing else of the run needs it")
        rows.append(row)
    return rows


def _whats_wrong(error: OSError) -> str:
    return f"cannot be read ({error.strerror})"
