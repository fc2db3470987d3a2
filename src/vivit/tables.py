"""Tables as CSV, Parquet or JSON-lines files."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vivit.errors import UserError
from vivit.files import write_files

SUFFIXES = (".csv", ".parquet", ".jsonl")
# A spreadsheet runs a cell that starts with one of these as a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")

Row = Mapping[str, Any]


def write_table(path: Path, rows: Sequence[Row], types: Mapping[str, type]) -> None:
    """Write rows to a file in the format of its suffix.

    In CSV, text that a spreadsheet would run as a formula gets a leading ', since file and class names come from
    outside. Parquet and JSON lines keep it as it is.

    Args:
        types: column → str, float or int, in the order of the columns. Values may be None.

    Raises:
        UserError: the suffix is unknown, pyarrow is missing, or the file cannot be written.
    """
    check_table(path)
    write = {".csv": _write_csv, ".parquet": _write_parquet, ".jsonl": _write_json_lines}[path.suffix]
    write_files({path: lambda unfinished: write(unfinished, rows, types)})


def check_table(path: Path) -> None:
    """Raise UserError if `write_table` could never write to this path."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: a table's name must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; create it first")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise UserError(f"{path}: Parquet needs pyarrow: pip install 'vivit[parquet]', or write .csv") from None


def unescaped(cell: str) -> str:
    """The text of a CSV cell, without the ' that `write_table` adds."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


def _write_csv(path: Path, rows: Sequence[Row], types: Mapping[str, type]) -> None:
    # With RFC 4180 line ends, csv quotes every cell that contains a part of one.
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(types)
        writer.writerows([_escaped(row[column]) for column in types] for row in rows)


def _escaped(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _write_parquet(path: Path, rows: Sequence[Row], types: Mapping[str, type]) -> None:
    import pyarrow
    from pyarrow import parquet

    # An explicit schema, because a column may hold nothing but None.
    names = {str: "string", float: "float64", int: "int64"}
    schema = pyarrow.schema([(column, names[kind]) for column, kind in types.items()])
    parquet.write_table(pyarrow.Table.from_pylist([_in_unicode(row) for row in rows], schema), path)


def _write_json_lines(path: Path, rows: Sequence[Row], types: Mapping[str, type]) -> None:
    lines = (json.dumps(_in_unicode(row), ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def _in_unicode(row: Row) -> dict[str, Any]:
    """File names may contain bytes that are not text; Parquet and JSON cannot hold those."""
    return {
        column: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for column, value in row.items()
    }
