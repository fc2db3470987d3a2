"""Reads the user's own lists of videos: tables in CSV, TSV, JSON and JSON-lines, and lines of a path and a label."""

import ast
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any

from vivit.data.datasets import LabelledVideo, Labels
from vivit.data.names import split_named
from vivit.data.readers.folders import Presence
from vivit.errors import UserError
from vivit.video.kinds import EXTENSIONS

LISTS = (".csv", ".tsv", ".jsonl", ".json", ".txt")
PATH_COLUMNS = ("path", "file_name", "filename", "file", "video_path", "video")
OTHER_COLUMNS = ("split", "start", "end")
_KNOWN_COLUMNS = {*PATH_COLUMNS, *OTHER_COLUMNS, "label", "labels"}
# In a list with this many rows or more, a column with a different value in each row cannot be the labels.
MANY = 10


@dataclass
class VideoList:
    """The content of a list."""

    entries: list[LabelledVideo] = field(default_factory=list)
    multi_label: bool = False
    missing: dict[str, list[str]] = field(default_factory=dict)
    """split → listed files that are missing."""
    classes: dict[str, set[str]] = field(default_factory=dict)
    """head → class names, including those of missing files."""


@dataclass(frozen=True)
class _Table:
    columns: Sequence[str]
    rows: Iterable[tuple[int, Mapping[str, Any]]]
    """Each row's line number, and column → cell: text in CSV, any value in JSON."""


def read_list(file: Path, folder: Path | None = None, split: str = "", presence: Presence | None = None) -> VideoList:
    """Read a list.

    A .txt has lines of a path and a label. The label is the last word, or everything after a tab. A .csv without a
    header may look the same, or have a comma between the two. Any other list is a table with these columns:
    - `path` (or `file_name`, `filename`, `file`, `video_path`, `video`);
    - `label`; or `labels`, if a video may have any number of them. Then all other columns are ignored. Without either,
      a single other column is the label, and several are one head each, named after the column;
    - optionally `split`: train, val or test;
    - optionally `start` and `end`, in seconds or as HH:MM:SS.ss; both are empty for a whole video.

    A cell with several labels is a list (in CSV written as ["run", "jump"]) or has semicolons between them.

    Args:
        file: has one of the extensions in `LISTS`.
        folder: paths are relative to it; None: the list's folder.
        split: the split of all videos if the list has no `split` column.
        presence: pass the same one for all lists, so that each folder is listed once.

    Raises:
        UserError: this is not such a list, or a row lacks something.
    """
    return parse_list(file, read_text(file), folder, split, presence)


def parse_list(
    file: Path, text: str, folder: Path | None = None, split: str = "", presence: Presence | None = None
) -> VideoList:
    """`read_list` for a text; the file is needed for messages, its extension, and the folder of the videos."""
    return _Reader(file, folder or file.parent, split, presence or Presence()).read(_table(file, text))


def read_text(file: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark. Raises UserError."""
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        if file.suffix.lower() not in LISTS:
            raise UserError(f"{file}: not a list of videos; give a folder, or a {', '.join(LISTS)}") from None
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{file}: line {line} is not UTF-8; save the file as UTF-8") from None


def csv_rows(file: Path, text: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """The non-empty rows, each with its line number. Raises UserError."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(
            f"{file}: line {reader.line_num} is not CSV ({error}); is a quotation mark not closed?"
        ) from None


def parse_json(where: object, text: str) -> Any:
    """Parse a text. Raises UserError, which says where it is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from None


def seconds(text: str | float) -> float:
    """Seconds from a number or HH:MM:SS.ss. Raises ValueError."""
    parts = str(text).strip().split(":")
    total = 0.0
    for part in parts:
        total = total * 60 + float(part)
    # float() would accept 1_000, and a sign in each part.
    if not isfinite(total) or "_" in str(text) or len(parts) > 3 or "-" in "".join(parts[1:]):
        raise ValueError(f"{text} is not a time")
    return total


def _starts_with_a_video(line: str) -> bool:
    path = next(csv.reader([line]))[0] if line else ""
    return any(path.lower().rstrip().endswith(ending) or f"{ending} " in path.lower() for ending in EXTENSIONS)


def _pairs(file: Path, text: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    for number, row in csv_rows(file, text):
        if len(row) != 2:
            raise UserError(
                f"{file}: line {number} has {len(row)} cells; the first line must name the columns, as in path,label"
            )
        yield number, {"path": row[0], "label": row[1]}


def _split_lines(file: Path, text: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        parts = line.strip().rsplit("\t" if "\t" in line.strip() else None, maxsplit=1)
        if len(parts) == 1:
            raise UserError(f"{file}: the line {parts[0]!r} has no label; write `path label` in each line")
        if parts:
            yield number, {"path": parts[0], "label": parts[1]}


def _table(file: Path, text: str) -> _Table:
    suffix = file.suffix.lower()
    first = next((line for line in text[:4096].splitlines() if line.strip()), "")
    if suffix == ".txt" or (suffix == ".csv" and _starts_with_a_video(first)):  # without a header
        rows_of = _pairs if suffix == ".csv" and "," in first else _split_lines
        return _Table(("path", "label"), rows_of(file, text))
    if suffix in (".csv", ".tsv"):
        return _csv_table(file, text)
    if suffix == ".json":
        rows = parse_json(file, text) if text.strip() else []
        if not isinstance(rows, list):
            raise UserError(f'{file}: not a list of videos; write [{{"path": "1.mp4", "label": "run"}}, …]')
        return _json_table(file, list(enumerate(rows, start=1)))
    if suffix == ".jsonl":
        lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
        return _json_table(file, [(n, parse_json(f"{file}: line {n}", line)) for n, line in lines])
    raise UserError(f"{file}: not a list of videos; give a folder, or a {', '.join(LISTS)}")


def _csv_table(file: Path, text: str) -> _Table:
    first = text.lstrip().split("\n", 1)[0]
    delimiter = next((mark for mark in "\t,;" if mark in first), ",")
    rows = csv_rows(file, text, delimiter)
    named = [name.strip() for name in next(rows, (0, []))[1]]
    columns = [name.lower() if name.lower() in _KNOWN_COLUMNS else name for name in named]

    def cells() -> Iterator[tuple[int, dict[str, str]]]:
        for number, row in rows:
            if len(row) > len(columns) and any(cell.strip() for cell in row[len(columns) :]):
                raise UserError(
                    f"{file}: line {number} has {len(row)} cells, but the first line names {len(columns)}; "
                    "put a cell with a comma in it into quotation marks"
                )
            yield number, dict(zip(columns, row, strict=False))

    return _Table(columns, cells())


def _json_table(file: Path, rows: list[tuple[int, Any]]) -> _Table:
    columns: dict[str, None] = {}
    for number, row in rows:
        if not isinstance(row, dict):
            raise UserError(f'{file}: entry {number} is not like {{"path": "1.mp4", "label": "run"}}')
        columns.update(dict.fromkeys(row))
    return _Table(list(columns), rows)


class _Reader:
    """Turns the rows of one list into labelled videos."""

    def __init__(self, file: Path, folder: Path, split: str, presence: Presence) -> None:
        self.file, self.folder, self.split, self.presence = file, str(folder), split, presence
        self.result = VideoList()
        self._labels: dict[tuple[Any, ...], Labels] = {}  # most rows share their labels with others

    def read(self, table: _Table) -> VideoList:
        rows = iter(table.rows)
        first = next(rows, None)
        if first is None:
            return self.result
        path_column, heads = self._roles(table.columns)
        with_span = "start" in table.columns or "end" in table.columns
        self.result.multi_label = "labels" in heads
        for number, row in chain((first,), rows):
            where = f"{self.file}: line {number}"
            path = self._path_of(row, path_column, where)
            split = self._split_of(row.get("split"), where)
            labels = self._labels_of(row, heads, where)
            span = self._span_of(row, where) if with_span else None
            if path in self.presence:
                self.result.entries.append(LabelledVideo(Path(path), labels, split, span))
            else:
                self.result.missing.setdefault(split, []).append(path)
        if not {"label", "labels"} & set(heads):
            self._check_labels(heads)
        return self.result

    def _roles(self, columns: Sequence[str]) -> tuple[str, Mapping[str, str]]:
        """Return the column of paths, and column → head for the labels."""
        twice = next((name for name in columns if name and list(columns).count(name) > 1), None)
        if twice is not None:
            raise UserError(f"{self.file}: two columns {twice!r}; keep one")
        path = next((name for name in PATH_COLUMNS if name in columns), None)
        if path is None:
            raise UserError(f"{self.file}: no column 'path'; the first line must name the columns, as in path,label")
        labels = [name for name in ("label", "labels") if name in columns]
        others = [name for name in columns if name and name not in (*PATH_COLUMNS, *OTHER_COLUMNS)]
        if len(labels) > 1:
            raise UserError(f"{self.file}: both a column 'label' and a column 'labels'; keep one")
        if not (labels or others):
            raise UserError(f"{self.file}: no column 'label'; the first line must name the columns, as in path,label")
        if len(labels or others) == 1:
            return path, {(labels or others)[0]: "classes"}
        return path, {name: name for name in others}

    def _path_of(self, row: Mapping[str, Any], column: str, where: str) -> str:
        name = row.get(column)
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{where} has no {column}")
        name = name.strip()
        if "\\" in name and "/" not in name and os.sep == "/":
            name = name.replace("\\", "/")  # written on Windows
        return os.path.join(self.folder, name)

    def _split_of(self, cell: Any, where: str) -> str:
        if not cell or not str(cell).strip():
            return self.split
        split = split_named(str(cell))
        if not split:
            raise UserError(f"{where} has the split {cell!r}; write train, val or test")
        return split

    def _labels_of(self, row: Mapping[str, Any], heads: Mapping[str, str], where: str) -> Labels:
        cells = [row.get(column) for column in heads]
        key = tuple(cell if isinstance(cell, str) else (repr(cell),) for cell in cells)
        if key not in self._labels:
            labels = {}
            for (column, head), cell in zip(heads.items(), cells, strict=True):
                names, several = _names(cell)
                if names is None:
                    raise UserError(f"{where}: {column} {cell!r} is not a label; write a name, or a list of names")
                if not names and not several and column != "labels":
                    raise UserError(f"{where} has no {column}")
                labels[head] = names
                self.result.classes.setdefault(head, set()).update(names)
                self.result.multi_label |= several
            self._labels[key] = labels
        return self._labels[key]

    def _span_of(self, row: Mapping[str, Any], where: str) -> tuple[float, float] | None:
        given = [row.get(column) for column in ("start", "end")]
        given = [None if isinstance(value, str) and not value.strip() else value for value in given]
        if given == [None, None]:
            return None
        try:
            start, end = (seconds(value) for value in given if value is not None)
        except ValueError:
            start, end = 0.0, 0.0
        if not 0 <= start < end < float("inf"):
            raise UserError(
                f"{where}: start {row.get('start')!r} and end {row.get('end')!r} are not a span; "
                "write seconds or HH:MM:SS, or leave both empty"
            )
        return start, end

    def _check_labels(self, heads: Mapping[str, str]) -> None:
        """Raise UserError if a column has a different value in each row: every video would be a class of its own.

        A column named verb or noun holds labels for sure, however short the list is.
        """
        entries = self.result.entries
        for column, head in heads.items():
            if head in ("verb", "noun"):
                continue
            if len(entries) >= MANY and len({entry.labels[head] for entry in entries}) == len(entries):
                raise UserError(
                    f"{self.file}: the column {column!r} has a different value in each row, so it cannot be a label; "
                    "delete it, or name the column of labels 'label'"
                )


def _names(cell: Any) -> tuple[tuple[str, ...] | None, bool]:
    """Return a cell's labels, or None, and whether it is written as several labels."""
    if isinstance(cell, str):
        text = cell.strip()
        if text.startswith("[") and text.endswith("]"):
            try:
                cell = ast.literal_eval(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                cell = text  # a label such as "[something] in [something]"
        elif ";" in text:
            cell = [name for name in text.split(";") if name.strip()]
    if cell is None or cell == "":
        return (), False
    several = isinstance(cell, list)
    names = cell if several else [cell]
    if not all(isinstance(name, str | int) and not isinstance(name, bool) and str(name).strip() for name in names):
        return (None, False) if several or not isinstance(cell, str) else ((), False)
    return tuple(dict.fromkeys(str(name).strip() for name in names)), several
