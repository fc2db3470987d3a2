"""`vivit data check`: reads every video of a data set, and tells what training on it would run into."""

import csv
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from io import StringIO
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vivit.data.check_report import print_report
from vivit.data.datasets import choose_split as choose
from vivit.data.entries import SPLIT_NAMES, DataListing, Entry
from vivit.data.look_alikes import look_alikes
from vivit.data.manifest import (
    FileRecord,
    Manifest,
    Scan,
    Use,
    from_line,
    hash_entries,
    read_manifest,
    stat_all,
    to_line,
    write_manifest,
)
from vivit.data.readers.listing import read_data
from vivit.data.remarks import remarks_on
from vivit.data.scan import scan_files
from vivit.errors import UserError
from vivit.files import as_text, write_files
from vivit.video.source import InShard, VideoError, VideoSource, is_remote

# Bytes read at once where all of a file are hashed.
CHUNK = 1 << 20
MOST_WORKERS = 512


def check(
    data: str | Path,
    *,
    videos: Path | None = None,
    workers: int = 2,
    full: bool = False,
    out: Path | None = None,
    fix: Path | None = None,
    console: Console | None = None,
) -> int:
    """Read the videos of a data set, print what it holds, and write a manifest.

    What the manifest, or a scan that was stopped, has of a file is not asked again, unless the file has changed or was
    unreadable: that may have been the network's fault.

    Args:
        data: as `open_split` takes it.
        videos: the folder that the videos lie in, as for `open_split`.
        workers: processes that read videos.
        full: decode every frame, not only five of each file, and hash the bytes of every file.
        out: the manifest; by default `manifest.json` in the folder of the data, or `LIST.manifest.json` beside a list.
        fix: a .csv to write with the videos that can be read, each in its split.
        console: where to print.

    Returns:
        The exit status: 0, or 1 where a file is unreadable or missing, or the same bytes are in two splits.

    Raises:
        UserError: the data cannot be listed, or something cannot be written.
    """
    console = console or Console()
    if not 1 <= workers <= MOST_WORKERS:
        raise UserError(f"workers: {workers}; give a number from 1 to {MOST_WORKERS}")
    listing = read_data(data, videos)
    if fix is not None:
        _check_fix(fix, listing)
    entries = _in_splits(listing, data)
    records = _records(entries, videos or (Path(data) if Path(data).is_dir() else Path(data).parent))
    with _Memory(out or _manifest_path(data)) as memory:
        try:
            records = {source: memory.recall(record, full) for source, record in records.items()}
            with _progress(console) as progress:
                _scan(records, memory, full, workers, progress)
                _hash(records, memory, full, workers, progress)
        except KeyboardInterrupt:
            told = f"what was read so far is kept in {memory.begun}; the same command goes on from there"
            console.print(told, markup=False, highlight=False, soft_wrap=True)
            raise
        manifest = _manifest(records.values(), entries, listing)
        write_manifest(memory.path, manifest)
        memory.forget()
    print_report(console, manifest, listing.classes)
    if fix is not None:
        kept = [entry for entry in entries if not records[entry.source].scan.problem]
        _write_list(fix, kept, listing)
        console.print(
            f"{len(kept)} of {len(entries)} videos are listed in {fix}", markup=False, highlight=False, soft_wrap=True
        )
    console.print(f"the manifest is {memory.path}", markup=False, highlight=False, soft_wrap=True)
    unreadable = any(record.scan.problem for record in manifest.files)
    return int(unreadable or bool(manifest.leaks) or bool(manifest.missing and not listing.official))


def _in_splits(listing: DataListing, data: str | Path) -> list[Entry]:
    """The entries, each with the split that `open_split` takes it for."""
    there = {entry.split for entry in listing.entries} | set(listing.missing)
    if there & {"", "train"}:
        there |= {"train", "val"}
    return [
        replace(entry, split=split)
        for split in SPLIT_NAMES
        if split in there
        for entry in choose(listing, split, data)[0]
    ]


def _manifest_path(data: str | Path) -> Path:
    if is_remote(str(data)):
        return Path("manifest.json")
    path = Path(data)
    return path / "manifest.json" if path.is_dir() else path.with_name(f"{path.stem}.manifest.json")


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


# --- what is known of each file


def _records(entries: Sequence[Entry], base: Path) -> dict[VideoSource, FileRecord]:
    """Each file once, however often it is used."""
    uses: defaultdict[VideoSource, list[Use]] = defaultdict(list)
    for entry in entries:
        uses[entry.source].append(Use(entry.split, entry.labels, entry.span))
    folder = os.path.abspath(base).replace(os.sep, "/").rstrip("/") + "/"
    records = {}
    for source, (size, modified) in stat_all(list(uses)).items():
        path = source.shard if isinstance(source, InShard) else str(source)
        if not is_remote(path):
            path = os.path.abspath(path).replace(os.sep, "/").removeprefix(folder)
        name, shard = (source.name, path) if isinstance(source, InShard) else (path, "")
        records[source] = FileRecord(name, Scan(), shard, size, modified, uses=tuple(uses[source]))
    return records


class _Memory:
    """What was told of files before: by the manifest, and by the scan since, of which each result is a line at once."""

    def __init__(self, path: Path) -> None:
        """Raises UserError where nothing can be written beside that path, or another file is there."""
        self.path = path
        self.begun = path.with_name(f"{path.name}.unfinished")
        known = list(read_manifest(path).files) if path.exists() else []
        try:
            known += _whole_lines(self.begun)
            self._file: TextIO = self.begun.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); say with --out where to") from None
        self._known = {record.place: record for record in known}

    def recall(self, record: FileRecord, full: bool) -> FileRecord:
        """The record with what is known of this very file, if it is enough."""
        known = self._known.get(record.place)
        if known is None or (known.size, known.modified) != (record.size, record.modified):
            return record
        scanned = known.scan.codec and not known.scan.problem and (known.scan.full or not full)
        return replace(record, scan=known.scan, sha256=known.sha256) if scanned else record

    def add(self, record: FileRecord) -> None:
        try:
            self._file.write(f"{to_line(replace(record, uses=()))}\n")
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self.begun}: not written ({error.strerror})") from None

    def forget(self) -> None:
        self._file.close()
        self.begun.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _whole_lines(path: Path) -> list[FileRecord]:
    """The records in it. A line that is cut off, as when the machine went down, is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(from_line(line))
        except ValueError:
            continue
    return records


def _scan(
    records: dict[VideoSource, FileRecord], memory: _Memory, full: bool, workers: int, progress: Progress
) -> None:
    unknown = [source for source, record in records.items() if not record.scan.codec]
    bar = progress.add_task("read", total=len(unknown))
    unreadable = 0
    for source, scan in scan_files(unknown, full=full, workers=workers):
        records[source] = replace(records[source], scan=scan)
        memory.add(records[source])
        unreadable += bool(scan.problem)
        told = f"read ({unreadable} unreadable)" if unreadable else "read"
        progress.update(bar, advance=1, description=told)


def _hash(
    records: dict[VideoSource, FileRecord], memory: _Memory, full: bool, workers: int, progress: Progress
) -> None:
    """Hash the bytes of readable files, if not all of them then those of which others have the same size."""
    of_size: defaultdict[int | None, list[VideoSource]] = defaultdict(list)
    for source, record in records.items():
        if not record.scan.problem:
            of_size[record.size].append(source)
    wanted = [
        source
        for sources in of_size.values()
        if full or len(sources) > 1
        for source in sources
        if not records[source].sha256
    ]
    bar = progress.add_task("compare bytes", total=len(wanted), visible=bool(wanted))
    with ThreadPool(workers) as pool:
        for source, digest in pool.imap_unordered(_sha256, wanted):
            records[source] = replace(records[source], sha256=digest)
            memory.add(records[source])
            progress.advance(bar)


def _sha256(source: VideoSource) -> tuple[VideoSource, str]:
    """ "" where it is a folder of frames, or cannot be read any more."""
    try:
        with source.open() if isinstance(source, InShard) else source.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(CHUNK):
                digest.update(chunk)
            return source, digest.hexdigest()
    except (OSError, VideoError):
        return source, ""


# --- what follows from it


def _manifest(records: Iterable[FileRecord], entries: Sequence[Entry], listing: DataListing) -> Manifest:
    files = tuple(sorted((replace(r, remarks=_texts(r)) for r in records), key=lambda record: record.place))
    of_content: defaultdict[str, list[FileRecord]] = defaultdict(list)
    for record in files:
        if record.sha256:
            of_content[record.sha256].append(record)
    same = [group for group in of_content.values() if len(group) > 1]
    splits = {split: [entry for entry in entries if entry.split == split] for split in SPLIT_NAMES}
    return Manifest(
        hash={split: hash_entries(chosen) for split, chosen in splits.items() if chosen},
        source=listing.source,
        files=files,
        leaks=_places(group for group in same if len(_splits(group)) > 1),
        duplicates=_places(group for group in same if len(_splits(group)) == 1),
        look_alikes=_places(_look_alikes(files)),
        missing=listing.missing,
    )


def _texts(record: FileRecord) -> tuple[str, ...]:
    return tuple(remark.text for remark in remarks_on(record))


def _splits(group: Iterable[FileRecord]) -> set[str]:
    return {split for record in group for split in record.splits}


def _places(groups: Iterable[Sequence[FileRecord]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(record.place for record in group) for group in groups)


def _look_alikes(files: Sequence[FileRecord]) -> list[list[FileRecord]]:
    """Groups that are not of the same bytes all of them."""
    seen = [record for record in files if record.scan.thumbnails and not record.scan.problem]
    groups = look_alikes([record.scan.thumbnails for record in seen], [record.scan.duration or 0.0 for record in seen])
    chosen = [[seen[number] for number in group] for group in groups]
    return [group for group in chosen if len({record.sha256 or record.place for record in group}) > 1]


# --- the list without what is unreadable


def _check_fix(fix: Path, listing: DataListing) -> None:
    if fix.suffix.lower() != ".csv":
        raise UserError(f"{fix}: the list is written as .csv; name it so")
    if fix.exists():
        raise UserError(f"{fix}: is there already; name another file")
    if not fix.parent.is_dir():
        raise UserError(f"{fix.parent}: no such folder")
    if any(isinstance(entry.source, InShard) for entry in listing.entries):
        raise UserError(
            f"{fix}: videos in shards cannot be listed; pack the data again, which leaves unreadable ones out"
        )


def _write_list(fix: Path, entries: Sequence[Entry], listing: DataListing) -> None:
    """Write the list, and see that it says what is meant."""
    if not entries:
        raise UserError(f"{fix}: not written, as no video can be read")
    heads = list(listing.classes)
    columns = ["labels" if listing.multi_label else "label"] if heads == ["classes"] else heads
    folder = os.path.abspath(fix.parent)
    text = StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", *columns, "split", "start", "end"])
    for entry in entries:
        path = os.path.relpath(os.path.abspath(str(entry.source)), folder).replace(os.sep, "/")
        labels = [_cell(entry.labels[head], listing.multi_label) for head in heads]
        writer.writerow([path, *labels, entry.split, *(entry.span or ("", ""))])
    try:
        write_files({fix: as_text(text.getvalue())})
        read = read_data(fix)
        right = all(_hash_of(read.entries, split) == _hash_of(entries, split) for split in SPLIT_NAMES)
    except OSError as error:
        raise UserError(f"{fix}: not written ({error.strerror})") from None
    except UserError:
        right = False
    if not right:
        fix.unlink()
        raise UserError(
            f"{fix}: not written, as a list cannot hold all names; rename what has a ; or a space at its end"
        )


def _hash_of(entries: Sequence[Entry], split: str) -> str:
    return hash_entries([entry for entry in entries if entry.split == split])


def _cell(names: Sequence[str], multi_label: bool) -> str:
    return json.dumps(list(names), ensure_ascii=False) if multi_label else names[0]
