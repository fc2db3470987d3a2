"""What earlier checks found out about a data set's files: where the manifest lies, and which results still hold."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from vivit.data.datasets import LabelledVideo
from vivit.data.file_state import file_states
from vivit.data.manifest import FileRecord, Scan, from_line, read_manifest, to_line
from vivit.data.scan import scan_files
from vivit.errors import UserError
from vivit.files import user_cache
from vivit.video.source import InShard, VideoSource, is_remote, name_of, place_of
from vivit.video.span import Span, span_problem


def manifest_path(data: str | Path, videos: Path | None) -> Path:
    """The default path of a data set's manifest: in the user's cache, named after the data's location."""
    places = [place_of(data), *([] if videos is None else [place_of(videos)])]
    digest = hashlib.sha256(os.fsencode("\n".join(places))).hexdigest()[:16]
    return user_cache("manifests") / f"{name_of(data)[:100]}-{digest}.json"


def file_records(
    data: str | Path, videos_in: Path | None, videos: Iterable[LabelledVideo]
) -> dict[VideoSource, FileRecord]:
    """One record without a result for each file, however often it is used."""
    uses: defaultdict[VideoSource, list[LabelledVideo]] = defaultdict(list)
    for video in videos:
        uses[video.source].append(video)
    base = videos_in or (Path(data) if Path(data).is_dir() else Path(data).parent)
    folder = os.path.abspath(base).replace(os.sep, "/").rstrip("/") + "/"
    records = {}
    for source, state in file_states(uses).items():
        path = source.shard if isinstance(source, InShard) else str(source)
        if not is_remote(path):
            path = os.path.abspath(path).replace(os.sep, "/").removeprefix(folder)
        name, shard = (source.name, path) if isinstance(source, InShard) else (path, "")
        records[source] = FileRecord(name, Scan(), shard, state.size, state.modified, videos=tuple(uses[source]))
    return records


class Memory:
    """Earlier results: those in the manifest, and those an unfinished check wrote line by line."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if nothing can be written beside that path, or it is another kind of file."""
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is not a file; choose another with --out")
        self.path = path
        self.unfinished = path.with_name(f"{path.name}.unfinished")
        known = list(read_manifest(path).files) if path.exists() else []
        try:
            known += _whole_lines(self.unfinished)
            self._file: TextIO = self.unfinished.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); choose another file with --out") from None
        self._known = {record.place: record for record in known}

    def recall(self, record: FileRecord, full: bool) -> FileRecord:
        """The record with this file's earlier results, if it is unchanged and they are sufficient."""
        known = self._known.get(record.place)
        if known is None or (known.size, known.modified) != (record.size, record.modified):
            return record
        scanned = known.scan.codec and not known.scan.problem and (known.scan.full or not full)
        recalled = replace(record, scan=known.scan, sha256=known.sha256)
        return recalled if scanned and not span_problems(recalled) else record

    def add(self, record: FileRecord) -> None:
        """Write the result of one file. Raises UserError if that fails, for example on a full disk."""
        try:
            self._file.write(f"{to_line(replace(record, videos=()))}\n")
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"{self.unfinished}: not written ({error.strerror}); make room, or choose another file with --out; the "
                "same command continues from there"
            ) from None

    def close(self) -> None:
        with suppress(OSError):  # closing flushes the rest of a line, for which there may be no room
            self._file.close()


def _whole_lines(path: Path) -> list[FileRecord]:
    """The records in a file. Incomplete lines, for example after a power failure, are skipped."""
    records = []
    for line in path.read_text("utf-8", "replace").splitlines() if path.is_file() else []:  # a device may have no end
        with suppress(ValueError):
            records.append(from_line(line))
    return records


def span_problems(record: FileRecord) -> list[tuple[Span, str]]:
    """The spans in use that a readable file lacks, once for each use, and why."""
    scan = record.scan
    if scan.problem or scan.duration is None or scan.frame_rate is None:
        return []
    spans = [video.span for video in record.videos if video.span is not None]
    problems = [(span, span_problem(span, scan.duration, scan.frame_rate)) for span in spans]
    return [(span, problem) for span, problem in problems if problem]


def known_unreadable(
    data: str | Path, videos_in: Path | None, videos: Sequence[LabelledVideo]
) -> Mapping[VideoSource, str]:
    """The files that the last check of this data could not read and that are still unreadable, and why.

    Only the default manifest is consulted. Files that have changed since are skipped.
    """
    path = manifest_path(data, videos_in)
    try:
        with path.open(encoding="utf-8") as file:
            lines = [line.strip().rstrip(",") for line in file if '"problem": ' in line]
    except (OSError, UnicodeDecodeError):
        return {}
    bad = {}
    for line in lines:
        with suppress(ValueError):
            record = from_line(line)
            bad[record.place] = (record.size, record.modified)
    if not bad:
        return {}
    records = file_records(data, videos_in, videos)
    again = {
        source: () for source, record in records.items() if bad.get(record.place) == (record.size, record.modified)
    }
    return {source: scan.problem for source, scan in scan_files(again, full=False, workers=2) if scan.problem}
