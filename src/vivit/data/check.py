"""`vivit data check`: read every video of a data set, and report problems that training would meet."""

import csv
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from io import StringIO
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from rich.console import Console

from vivit.data.advice import to_leave_out
from vivit.data.check_memory import Memory, file_records, manifest_path, span_problems
from vivit.data.check_report import print_report, remarks_on
from vivit.data.contradictions import Pair, contradictions, in_words
from vivit.data.datasets import DataSet, LabelledVideo
from vivit.data.file_state import file_states, sample
from vivit.data.look_alikes import look_alikes
from vivit.data.manifest import (
    FileRecord,
    Manifest,
    hash_videos,
    write_manifest,
)
from vivit.data.names import SPLIT_NAMES
from vivit.data.readers.folders import Presence
from vivit.data.readers.listing import open_data
from vivit.data.readers.lists import parse_list
from vivit.data.scan import scan_files
from vivit.errors import UserError
from vivit.files import as_text, make_folder, write_files
from vivit.labels import ONLY_HEAD
from vivit.progress import progress_bar
from vivit.video.clips import ClipSpec
from vivit.video.source import InShard, VideoError, VideoSource
from vivit.video.span import Span

MOST_WORKERS = 512
# Bytes to compare of each folder of frames.
FOLDER_SAMPLE = 1 << 20


def check(
    data: str | Path,
    *,
    videos: Path | None = None,
    clip: ClipSpec | None = None,
    workers: int = 2,
    full: bool = False,
    out: Path | None = None,
    fix: Path | None = None,
    console: Console | None = None,
) -> int:
    """Read the videos of a data set, print what it holds, and write a manifest.

    Files with a result in the manifest, or from an interrupted check, are not read again unless they have changed or
    could not be read, which may have been the network's fault.

    Args:
        data, videos: as for `open_data`.
        clip: the clips that will be used, to report videos that are too short; None: not reported.
        workers: processes that read videos.
        full: decode every frame, not only five of each file, and hash the bytes of every file.
        out: the manifest; None: in the user's cache (see `manifest_path`), where `train` looks for it.
        fix: a .csv to write with the usable videos, each in its split.
        console: where to print.

    Returns:
        The exit status: 0; 1 if a file or span is unreadable or missing, or two splits have a file with the same bytes;
        2 if videos with the same content have different labels and each may have only one.

    Raises:
        UserError: the data cannot be read, or something cannot be written.
    """
    console = console or Console()
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    if not 1 <= workers <= MOST_WORKERS:
        raise UserError(f"workers: {workers} is out of range; use 1 to {MOST_WORKERS}")
    data_set = open_data(data, videos)
    if fix is not None:
        _check_fix(fix, data_set)
    used = _in_splits(data_set)
    records = file_records(data, videos, used)
    if out is None:
        out = manifest_path(data, videos)
        make_folder(out.parent)
    with closing(Memory(out)) as memory:
        try:
            records = {source: memory.recall(record, full) for source, record in records.items()}
            _scan(records, memory, full, workers, console)
            _hash(records, memory, full, workers, console)
        except KeyboardInterrupt:
            say(f"results so far are in {memory.unfinished}; the same command continues from there")
            raise
        pairs = [] if data_set.labels.multi_label else contradictions(used, _identities(records))
        manifest = _manifest(records, used, data_set, pairs, clip)
        write_manifest(memory.path, manifest)
        memory.unfinished.unlink(missing_ok=True)
    print_report(console, manifest, data_set, clip)
    if fix is not None:
        doubtful = _of_pairs(pairs) | {
            (source, span) for source, record in records.items() for span, _ in span_problems(record)
        }
        good = [v for v in used if not records[v.source].scan.problem and (v.source, v.span) not in doubtful]
        _write_list(fix, good, data_set)
        say(f"{len(good)} of {len(used)} videos are listed in {fix}")
    unreadable = any(record.scan.problem or span_problems(record) for record in manifest.files)
    if fix is None and (unreadable or pairs):
        say(to_leave_out(data, videos, used))
    say(f"the manifest is {memory.path}")
    if pairs:
        return 2
    return int(unreadable or bool(manifest.leaks) or bool(manifest.missing and not data_set.official))


def _in_splits(data_set: DataSet) -> list[LabelledVideo]:
    """The videos, each with the split in which training and evaluation use it."""
    there = {video.split for video in data_set.videos} | set(data_set.missing)
    if there & {"", "train"}:
        there |= {"train", "val"}
    return [
        replace(video, split=split) for split in SPLIT_NAMES if split in there for video in data_set.choose(split)[0]
    ]


def _scan(records: dict[VideoSource, FileRecord], memory: Memory, full: bool, workers: int, screen: Console) -> None:
    unknown = {
        source: [video.span for video in record.videos if video.span is not None]
        for source, record in records.items()
        if not record.scan.codec
    }
    with progress_bar("read", len(unknown), screen=screen) as update:
        unreadable = 0
        for done, (source, scan) in enumerate(scan_files(unknown, full=full, workers=workers), start=1):
            records[source] = replace(records[source], scan=scan)
            memory.add(records[source])
            unreadable += bool(scan.problem)
            update(done, title=f"read ({unreadable} unreadable)" if unreadable else "read")


def _hash(records: dict[VideoSource, FileRecord], memory: Memory, full: bool, workers: int, screen: Console) -> None:
    """Hash the bytes of all readable files, or of those that share their size with another."""
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
    with ThreadPool(workers) as pool, progress_bar("compare bytes", len(wanted), screen=screen) as update:
        for done, (source, digest) in enumerate(pool.imap_unordered(_sha256, wanted), start=1):
            records[source] = replace(records[source], sha256=digest)
            memory.add(records[source])
            update(done)


def _sha256(source: VideoSource) -> tuple[VideoSource, str]:
    """The file's digest; of samples for a folder of frames, and "" for a file that can no longer be read."""
    try:
        if isinstance(source, Path) and source.is_dir():
            return source, sample(source, FOLDER_SAMPLE)
        with source.open() if isinstance(source, InShard) else source.open("rb") as file:
            return source, hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, VideoError):
        return source, ""


def _identities(records: Mapping[VideoSource, FileRecord]) -> dict[VideoSource, object]:
    nodes = file_states(records, pictures=False)
    return {source: record.sha256 or nodes[source].node or source for source, record in records.items()}


def _of_pairs(pairs: Iterable[Pair]) -> set[tuple[VideoSource, Span | None]]:
    return {(video.source, video.span) for pair in pairs for video in pair}


def _manifest(
    records: Mapping[VideoSource, FileRecord],
    videos: Sequence[LabelledVideo],
    data_set: DataSet,
    pairs: Sequence[Pair],
    clip: ClipSpec | None,
) -> Manifest:
    names = {source: record.place for source, record in records.items()}
    with_remarks = (
        replace(record, remarks=tuple(remark.text for remark in remarks_on(record, clip)))
        for record in records.values()
    )
    files = tuple(sorted(with_remarks, key=lambda record: record.place))
    of_content: defaultdict[str, list[FileRecord]] = defaultdict(list)
    for record in files:
        if record.sha256:
            of_content[record.sha256].append(record)
    same = [group for group in of_content.values() if len(group) > 1]
    doubtful = {names[source] for source, _ in _of_pairs(pairs)}
    return Manifest(
        hash=_hashes(videos),
        source=data_set.description,
        files=files,
        contradictions=tuple(in_words(pair, names) for pair in pairs),
        leaks=_places(group for group in same if len(_splits(group)) > 1),
        duplicates=_places(
            group for group in same if len(_splits(group)) == 1 and doubtful.isdisjoint(r.place for r in group)
        ),
        look_alikes=_places(_look_alikes(files)),
        missing=data_set.missing,
    )


def _hashes(videos: Sequence[LabelledVideo]) -> dict[str, str]:
    """split → hash of its videos."""
    chosen = {split: [video for video in videos if video.split == split] for split in SPLIT_NAMES}
    return {split: hash_videos(of_split) for split, of_split in chosen.items() if of_split}


def _splits(group: Iterable[FileRecord]) -> set[str]:
    return {split for record in group for split in record.splits}


def _places(groups: Iterable[Sequence[FileRecord]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(record.place for record in group) for group in groups)


def _look_alikes(files: Sequence[FileRecord]) -> list[list[FileRecord]]:
    """Groups of look-alikes, except those whose files all have the same bytes."""
    seen = [record for record in files if record.scan.thumbnails and not record.scan.problem]
    groups = look_alikes([record.scan.thumbnails for record in seen], [record.scan.duration or 0.0 for record in seen])
    chosen = [[seen[number] for number in group] for group in groups]
    return [group for group in chosen if len({record.sha256 or record.place for record in group}) > 1]


def _check_fix(fix: Path, data_set: DataSet) -> None:
    if fix.suffix.lower() != ".csv":
        raise UserError(f"{fix}: the list is written as .csv; change the extension")
    if fix.exists():
        raise UserError(f"{fix}: exists already; choose another file")
    if not fix.parent.is_dir():
        raise UserError(f"{fix.parent}: no such folder")
    if any(isinstance(video.source, InShard) for video in data_set.videos):
        raise UserError(
            f"{fix}: videos in shards cannot be listed; pack the data again, which leaves out unreadable videos"
        )


def _write_list(fix: Path, videos: Sequence[LabelledVideo], data_set: DataSet) -> None:
    """Write a list of videos, and check that reading it back gives the same videos."""
    if not videos:
        raise UserError(f"{fix}: not written, since no video can be read and has one label")
    rows = _as_csv(fix, videos, data_set)
    write_files({fix: as_text("".join(rows))})
    try:
        if _hashes(open_data(fix).videos) == _hashes(videos):
            return
        why = ""
    except UserError as error:
        why = f" ({error})"
    fix.unlink()
    if (wrong := _not_held(fix, videos, rows)) is None:
        raise UserError(f"{fix}: not written, since reading it gives other videos{why}")
    names = ", ".join(name for names in wrong.labels.values() for name in names)
    raise UserError(
        f"{wrong.source}: cannot be in a list with the label {names!r}, so {fix} was not written; rename files and "
        "classes that contain ; or a line break, that begin or end with a space, or that are not UTF-8"
    )


def _as_csv(fix: Path, videos: Sequence[LabelledVideo], data_set: DataSet) -> list[str]:
    """The header and a row for each video, as text."""
    heads, multi_label = data_set.labels.heads, data_set.labels.multi_label
    columns = ["labels" if multi_label else "label"] if heads == (ONLY_HEAD,) else heads
    folder = os.path.abspath(fix.parent)
    cells: list[Sequence[Any]] = [["path", *columns, "split", "start", "end"]]
    for video in videos:
        path = os.path.relpath(os.path.abspath(str(video.source)), folder).replace(os.sep, "/")
        names = [list(video.labels[head]) for head in heads]
        labels = [json.dumps(several, ensure_ascii=False) if multi_label else several[0] for several in names]
        cells.append([path, *labels, video.split, *(video.span or ("", ""))])
    rows = []
    for row in cells:
        text = StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerow(row)
        rows.append(text.getvalue())
    return rows


def _not_held(fix: Path, videos: Sequence[LabelledVideo], rows: Sequence[str]) -> LabelledVideo | None:
    """The first video that changes when its row is read back."""
    presence = Presence()
    for video, row in zip(videos, rows[1:], strict=True):
        try:
            (read,) = parse_list(fix, (rows[0] + row).encode("utf-8").decode(), presence=presence).entries
            same = os.path.abspath(str(read.source)) == os.path.abspath(str(video.source))
        except (UserError, ValueError):  # not one row, or not UTF-8
            return video
        if not same or (read.labels, read.split, read.span) != (video.labels, video.split, video.span):
            return video
    return None
