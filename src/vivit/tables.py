"""Tables as CSV, Parquet or JSON-lines files, and their rows as text."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from vivit.errors import UserError
from vivit.files import write_files

SUFFIXES = (".csv", ".parquet", ".jsonl")
# A spreadsheet runs a cell that starts with one of these as a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")

# Rows of a Parquet file that are in memory at once.
AT_ONCE = 10_000

Row = Mapping[str, Any]


def write_table(path: Path, rows: Iterable[Row], types: Mapping[str, type]) -> None:
    """Write rows to a file in the format of its suffix.

    In CSV, text that a spreadsheet would run as a formula gets a leading ', since file and class names come from
    outside. Parquet and JSON lines keep it as it is.

    Args:
        types: column → str, float or int, in the order of the columns. Values may be None.

    Raises:
        UserError: the suffix is unknown, pyarrow is missing, or the file cannot be written.
    """
    check_table(path)
    write = {".csv": write_csv, ".parquet": write_parquet, ".jsonl": _write_json_lines}[path.suffix]
    write_files({path: lambda unfinished: write(unfinished, rows, types)})


def check_table(path: Path) -> None:
    """Raise UserError if `write_table` could never write to this path."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: a table's name must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; create it first")
    if path.suffix == ".parquet":
        check_parquet(path)


def check_parquet(path: Path, instead: str = ".csv") -> None:
    """Raise UserError, suggesting another suffix, if pyarrow is missing."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UserError(f"{path}: Parquet needs pyarrow: pip install 'vivit[parquet]', or write {instead}") from None


def escaped(value: Any) -> Any:
    """A cell as `write_table` writes it to CSV."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def unescaped(cell: str) -> str:
    """The text of a CSV cell, without the ' that `write_table` adds."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


def in_unicode(value: Any) -> Any:
    """A value for JSON or Parquet: bytes in file names that are not valid text are escaped."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {in_unicode(key): in_unicode(each) for key, each in value.items()}
    return [in_unicode(each) for each in value] if isinstance(value, list) else value


def csv_text(rows: Iterable[Row], types: Mapping[str, type], head: bool = False) -> str:
    """Rows as lines of CSV, with a header if `head`; see `write_table`."""
    # With RFC 4180 line ends (CRLF), csv quotes every cell that contains CR or LF.
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    if head:
        writer.writerow(types)
    writer.writerows([escaped(row[column]) for column in types] for row in rows)
    return text.getvalue()


def json_text(row: Any) -> str:
    """Anything as JSON in one line. Raises ValueError for NaN and infinity, which JSON does not have."""
    return json.dumps(in_unicode(row), ensure_ascii=False, allow_nan=False)


def write_parquet(path: Path, rows: Iterable[Row], types: Mapping[str, type]) -> None:
    """Write rows to a Parquet file; not all of them are in memory at once."""
    import pyarrow
    from pyarrow import parquet

    # An explicit schema, because a column may hold nothing but None.
    names = {str: "string", float: "float64", int: "int64"}
    schema = pyarrow.schema([(column, names[kind]) for column, kind in types.items()])
    with parquet.ParquetWriter(path, schema) as file:
        for part in in_parts(rows, AT_ONCE):
            file.write_table(pyarrow.Table.from_pylist([in_unicode(row) for row in part], schema))


def in_parts(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """The rows in lists of this size; the last may be shorter."""
    left = iter(rows)
    while part := list(islice(left, size)):
        yield part


def write_csv(path: Path, rows: Iterable[Row], types: Mapping[str, type]) -> None:
    """Write rows to a CSV file; not all of them are in memory at once."""
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(csv_text((), types, head=True))
        for part in in_parts(rows, AT_ONCE):
            file.write(csv_text(part, types))


def _write_json_lines(path: Path, rows: Iterable[Row], types: Mapping[str, type]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{json_text(row)}\n" for row in rows)
