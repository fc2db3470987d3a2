"""A file of answers: it grows with each answer, and a later run resumes after those it holds."""

import csv
import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Self

from vivit.errors import UserError
from vivit.files import write_files
from vivit.inference.pipeline import Video
from vivit.inference.predictor import Prediction
from vivit.labels import ONLY_HEAD, LabelSpace
from vivit.tables import check_parquet, csv_text, escaped, in_parts, in_unicode, json_text, write_parquet
from vivit.video.source import VideoError, reason

# Formats that cannot be read until they are complete; meanwhile the answers are in a file beside.
WHOLE = ("json", "parquet")
PARTIAL = ".partial.jsonl"
BEGINNING = '{"video": '  # of an answer in JSON
LONGEST_CELL = 1 << 30  # the frames of many clips

Row = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """What the answer to a video holds."""

    labels: LabelSpace
    top: int
    """Labels for each head; all of them if it has fewer."""
    frames: bool = False
    """Whether to list the frames that were read."""
    made_by: Mapping[str, str] = field(default_factory=dict)
    """Further fields of every answer: what it depends on."""

    @property
    def ranks(self) -> list[int]:
        """The ranks in a video's rows of a table."""
        return [rank for count in self.labels.counts.values() for rank in range(1, min(self.top, count) + 1)]

    @property
    def columns(self) -> dict[str, type]:
        """The columns of a table, which has a row for each label."""
        head: dict[str, type] = {} if self.labels.single else {"head": str}
        frames: dict[str, type] = {"frames": str, "times": str} if self.frames else {}
        fixed = {"video": str, **head, "rank": int, "label": str, "score": float, "note": str}
        return {**fixed, **frames, **dict.fromkeys(self.made_by, str)}

    def row(self, prediction: Prediction) -> Row:
        """The answer as one value, for JSON."""
        return {**prediction.to_json(self.top, self.frames), **self.made_by}

    def table(self, row: Row) -> list[Row]:
        """The answer as rows of a table."""
        heads = {ONLY_HEAD: row["predictions"]} if self.labels.single else row["predictions"]
        rest = {"note": row.get("note", ""), **{name: row[name] for name in self.made_by}}
        if self.frames:
            rest |= {name: json_text(row[name]) for name in ("frames", "times")}
        return [
            {"video": row["video"], "head": head, "rank": rank, **scored, **rest}
            for head, labels in heads.items()
            for rank, scored in enumerate(labels, start=1)
        ]

    def of_table(self, lines: Iterable[Row]) -> Iterator[Row]:
        """The answers in a table, except an incomplete last one. Raises ValueError for another layout."""
        for of_video in in_parts(lines, len(self.ranks)):
            if len(of_video) < len(self.ranks):
                return
            first = of_video[0]
            row: Row = {"video": first["video"], "predictions": {}}
            if first["note"]:
                row["note"] = first["note"]
            if self.frames:
                row |= {name: json.loads(first[name]) for name in ("frames", "times")}
            for line in of_video:
                scored = {"label": line["label"], "score": float(line["score"])}
                row["predictions"].setdefault(line.get("head", ONLY_HEAD), []).append(scored)
            if [(line["video"], int(line["rank"])) for line in of_video] != [(first["video"], r) for r in self.ranks]:
                raise ValueError
            if self.labels.single:
                row["predictions"] = row["predictions"][ONLY_HEAD]
            yield row | {name: first[name] for name in self.made_by}


class AnswerFile:
    """A file of answers, open for more.

    CSV and JSON lines grow with each answer. JSON and Parquet are written by `finish`; until then the answers are in
    FILE.partial.jsonl.
    """

    def __init__(self, path: Path, format: str, layout: Layout, resume: bool) -> None:
        """
        Args:
            format: json, jsonl, csv or parquet.
            resume: resume after the answers in the file, if it exists.

        Raises:
            UserError: the file exists and `resume` is False, its answers have another layout or model, another process
                is writing to it, or it cannot be read or written.
        """
        self.path, self._format, self._layout = path, format, layout
        self._growing = path.with_name(path.name + PARTIAL) if format in WHOLE else path
        self.done: Counter[str] = Counter()
        """The names of the videos that have an answer, as stored in the file."""
        self._file: IO[str] | None = None
        check_out(path, format)
        there = [file for file in (self._growing, path) if os.path.lexists(file)]
        if there and not resume:
            raise UserError(f"{there[0]}: exists; --resume continues after its answers, or choose another --out")
        try:
            if there:
                self._take_up(there[0])
            self._file = _open(self._growing, "a" if there else "x")
            _lock(self._file, path)
            if not there:
                self._write(self._head)
        except OSError as error:
            raise UserError(f"{error.filename or path}: cannot be opened ({reason(error)})") from None

    def left(self, videos: Iterable[Video | VideoError]) -> Iterator[Video | VideoError]:
        """The videos that have no answer yet, and the errors."""
        done = self.done.copy()
        for video in videos:
            name = str(self._stored(str(video)))
            if isinstance(video, VideoError) or not done[name]:
                yield video
            else:
                done[name] -= 1

    def add(self, prediction: Prediction) -> None:
        """Write an answer, in one piece. Raises UserError."""
        self._write(self._text(self._layout.row(prediction)))

    def finish(self) -> None:
        """Write the file, if its format cannot grow. Raises UserError."""
        if self._growing == self.path:
            return
        rows = self._answers(self._growing)
        if self._format == "json":
            content = partial(_write_json, rows)
        else:
            lines = (line for row in rows for line in self._layout.table(row))
            content = partial(write_parquet, rows=lines, types=self._layout.columns)
        write_files({_target(self.path): content})
        self._growing.unlink()

    def close(self) -> None:
        """Sync the file to disk and close it."""
        if self._file is not None:
            with suppress(OSError):  # a full disk has been reported
                os.fsync(self._file.fileno())
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def _head(self) -> str:
        return csv_text((), self._layout.columns, head=True) if self._format == "csv" else ""

    def _text(self, row: Row) -> str:
        if self._format == "csv":
            return csv_text(self._layout.table(row), self._layout.columns)
        return f"{json_text(row)}\n"

    def _stored(self, name: str) -> Any:
        """The name of a video as stored in the file."""
        return escaped(name) if self._format == "csv" else in_unicode(name)

    def _write(self, text: str) -> None:
        assert self._file is not None
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self._growing}: not written ({error.strerror}); --resume continues from there") from None

    def _take_up(self, file: Path) -> None:
        """Note the answers in the file, and drop an incomplete one that an interruption may have left."""
        layout = self._layout
        with _open(file, "r") as held:
            _lock(held, file)
            for row in self._answers(file):
                for name, value in layout.made_by.items():
                    if row.get(name) != value:
                        made = f"with {name} {row.get(name)}, not {value}"
                        raise UserError(f"{file}: its answers were made {made}; choose another --out")
                self.done[row["video"]] += 1

            def copy(unfinished: Path) -> None:
                with _open(unfinished, "x") as out:
                    out.write(self._head)
                    out.writelines(map(self._text, self._answers(file)))

            write_files({_target(self._growing): copy})

    def _answers(self, file: Path) -> Iterator[Row]:
        """The complete answers in a file. Raises UserError if it holds something else."""
        layout = self._layout
        try:
            for row in self._parsed(file):
                if len(layout.table(row)) != len(layout.ranks) or ("frames" in row) != layout.frames:
                    raise ValueError
                yield row
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, csv.Error):
            raise UserError(
                f"{file}: does not hold answers of this kind (with the same --top and --show-frames); choose another "
                "--out"
            ) from None

    def _parsed(self, file: Path) -> Iterator[Row]:
        if self._format == "csv":
            yield from self._layout.of_table(_csv_lines(file, list(self._layout.columns)))
        elif file == self._growing:
            with _open(file, "r") as lines:
                for line in lines:
                    if line.endswith("\n"):
                        yield json.loads(line)
                    elif not BEGINNING.startswith(line[: len(BEGINNING)]):  # not a truncated answer
                        raise ValueError
        elif self._format == "json":
            rows = json.loads(file.read_bytes())
            if not isinstance(rows, list):
                raise ValueError
            yield from rows
        else:
            from pyarrow import parquet

            try:
                table = parquet.ParquetFile(file)
            except OSError as error:
                raise error if error.errno else ValueError from None
            if table.schema_arrow.names != list(self._layout.columns):
                raise ValueError
            parts = table.iter_batches()
            yield from self._layout.of_table(line for part in parts for line in part.to_pylist())


def check_out(path: Path, format: str) -> None:
    """Raise UserError if answers could never be written to this path."""
    if not os.path.isdir(path.parent):
        raise UserError(f"{path.parent}: no such folder; create it first")
    if os.path.exists(path) and not path.is_file():
        raise UserError(f"{path}: is not a regular file; choose another name")
    if format == "parquet":
        check_parquet(path)


def _target(file: Path) -> Path:
    """The file that a link leads to, so that writing replaces that file and not the link."""
    return Path(os.path.realpath(file))


def _open(file: Path, mode: str) -> IO[str]:
    return file.open(mode, encoding="utf-8", errors="surrogateescape", newline="")


def _lock(file: IO[str], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{path}: another process is writing to it") from None
    except OSError:
        pass  # some network file systems have no locks


def _csv_lines(file: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a CSV file with these columns, except a truncated last one. Raises ValueError."""
    with file.open("rb") as end:
        end.seek(max(0, file.stat().st_size - 1))
        ends_whole = end.read() == b"\n"
    csv.field_size_limit(LONGEST_CELL)
    with _open(file, "r") as text:
        lines = csv.reader(text)
        if next(lines, columns) != columns:
            raise ValueError
        before: list[str] | None = None
        for cells in lines:
            if before is not None:
                yield dict(zip(columns, before, strict=True))
            before = cells
        if before is not None and ends_whole and len(before) == len(columns):
            yield dict(zip(columns, before, strict=True))


def _write_json(rows: Iterable[Row], path: Path) -> None:
    with _open(path, "w") as file:
        file.write("[")
        for number, row in enumerate(rows):
            file.write(f"{',' if number else ''}\n{json_text(row)}")
        file.write("\n]\n")
