"""Writes a data set as WebDataset shards (tar files), with the index that `vivit.data.readers.shards` reads."""

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import av

from vivit.data.datasets import DataSet, LabelledVideo
from vivit.data.encode import Encoding, Task, prepare_all
from vivit.data.readers.listing import open_data
from vivit.data.readers.shard_index import INDEX, Index, label_fields, read_index, write_index
from vivit.data.readers.shards import UNFINISHED
from vivit.data.shard_writer import ShardWriter, Written, written_before
from vivit.errors import UserError
from vivit.files import as_text, write_files
from vivit.progress import console, progress_bar
from vivit.text import counted
from vivit.video.source import InShard, VideoError, VideoSource, is_remote, name_of, place_of, reason
from vivit.video.span import Span

SHARD_SIZE = 512 * 2**20
# The longest file name in a shard, short enough to fit in a tar header.
NAME_LENGTH = 80

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Packed:
    """What was written."""

    folder: Path
    shards: int
    files: int
    videos: int
    """Videos in the data set: more than files if several are spans of one file."""
    size: int
    """Bytes of all shards."""
    left_out: tuple[str, ...]
    """`path: reason` for each unreadable file."""


class _File(NamedTuple):
    """A file of the data and its uses."""

    source: VideoSource
    name: str
    """Its path within the data."""
    videos: tuple[LabelledVideo, ...]

    @property
    def size(self) -> int:
        """Bytes; 0 for a folder of frames."""
        if isinstance(self.source, InShard):
            return self.source.size
        return self.source.stat().st_size if self.source.is_file() else 0

    def open(self) -> BinaryIO:
        if isinstance(self.source, InShard):
            return self.source.open()
        try:
            return self.source.open("rb")
        except OSError as error:
            raise VideoError(self.source, f"cannot be read: {reason(error)}") from None


@dataclass(frozen=True)
class _Plan:
    """What to pack, and how."""

    data_set: DataSet
    out: Path
    encoding: Encoding | None
    shard_size: int
    files: tuple[_File, ...]

    def hash(self) -> str:
        """A hash of everything that determines the bytes of the shards."""
        plan, space = hashlib.sha256(), self.data_set.labels
        versions = av.library_versions if self.encoding else None
        encoding = self.encoding and asdict(self.encoding)
        settings = [encoding, self.shard_size, versions, space.multi_label, dict(space.classes)]
        plan.update(json.dumps(settings, sort_keys=True).encode())
        for file in self.files:
            fields = [label_fields(video, space.multi_label) for video in file.videos]
            plan.update(json.dumps([file.name, file.size, fields]).encode())
        return plan.hexdigest()

    def cut(self, file: _File) -> Span | None:
        """The span to encode, if no other part of the file is used."""
        spans = {video.span for video in file.videos}
        return spans.pop() if self.encoding and len(spans) == 1 else None

    def labels_beside(self, file: _File) -> bytes:
        """The labels as JSON, for programs that read the shards without the index."""
        videos = [replace(video, span=None) if self.cut(file) else video for video in file.videos]
        fields = [label_fields(video, self.data_set.labels.multi_label) for video in videos]
        return json.dumps({"path": file.name} | (fields[0] if len(fields) == 1 else {"entries": fields})).encode()


def pack(
    data_set: DataSet,
    out: Path,
    *,
    encoding: Encoding | None = None,
    shard_size: int = SHARD_SIZE,
    workers: int = 2,
    progress: Progress | None = None,
) -> Packed:
    """Write the videos of a data set into shards, in random order, and `shards.json` beside them.

    Repeating an interrupted call resumes it, and gives the same bytes. Files that cannot be read, or have none of the
    spans in use, are left out and listed in the result.

    Args:
        out: a folder, created if needed; nothing else may have been packed into it.
        encoding: None copies the files as they are, after checking that they can be opened. Otherwise all frames are
            re-encoded or, if a single span of the file is in use, only that span.
        shard_size: the largest size of a shard in bytes; a larger video gets its own shard.
        workers: processes that read and encode; 0: this one.
        progress: called with the number of files done, and the total.

    Raises:
        UserError: the folder holds something else, the disk is full, no video can be read, or a file is missing.
    """
    if shard_size < 1:
        raise UserError(f"shard_size: {shard_size} is out of range; use 1 or more")
    if workers < 0:
        raise UserError(f"workers: {workers} is out of range; use 0 (this process) or more")
    data_set.check_files(["train", "val", "test", ""])
    files = _files(data_set)
    if not files:
        raise UserError(f"{data_set.name}: no videos to pack")
    folder = next((f.source for f in files if isinstance(f.source, Path) and f.source.is_dir()), None)
    if encoding is None and folder is not None:
        raise UserError(f"{folder}: a folder of frames must be encoded to be packed, for example with --key-frames 32")
    plan = _Plan(data_set, out, encoding, shard_size, files)
    digest = plan.hash()
    try:
        if (out / INDEX).exists():
            index = read_index((out / INDEX).read_bytes(), str(out))
            if index.plan != digest:
                raise UserError(f"{out}: holds shards of other data or with other settings; choose another folder")
            shutil.rmtree(out / UNFINISHED, ignore_errors=True)
            return _summary(out, index)
        _claim(out, digest)
        with _lock(out / UNFINISHED):
            written = written_before(out)
            _write_shards(plan, written, workers, progress or (lambda done, total: None))
            packed = _write_index(plan, written, digest)
            shutil.rmtree(out / UNFINISHED)
            return packed
    except OSError as error:
        place = error.filename or out
        raise UserError(
            f"{place}: not written ({error.strerror or error}); the same command continues from there"
        ) from None
    except BrokenProcessPool:
        raise UserError(
            f"{out}: a process that read videos was killed or crashed, perhaps for lack of memory; the same command "
            "continues from there; try fewer --workers"
        ) from None


def pack_and_tell(
    data: str | Path,
    out: str | Path,
    *,
    videos: Path | None,
    short_side: int | None,
    key_frames: int | None,
    crf: int | None,
    shard_size: int,
    workers: int,
) -> Packed:
    """`pack` with a progress bar and a summary. Videos are re-encoded if any field of `Encoding` is given."""
    given = {"short_side": short_side, "key_frames": key_frames, "crf": crf}
    chosen = {name: value for name, value in given.items() if value is not None}
    if is_remote(str(out)):
        raise UserError(f"{out}: shards are written to a local folder; name one, and copy it to the store afterwards")
    out = Path(out)
    if out.resolve().as_posix() == place_of(data):
        raise UserError(f"{out}: holds the data itself; choose another folder for its shards")
    data_set = open_data(data, videos)
    screen = console()
    screen.print(f"{name_of(data)}: {data_set.description}")
    for remark in data_set.remarks:
        screen.print(remark)
    encoding = Encoding(**chosen) if chosen else None
    with progress_bar("pack", screen=screen) as update:
        packed = pack(data_set, out, encoding=encoding, shard_size=shard_size, workers=workers, progress=update)
    for line in packed.left_out:
        screen.print(f"left out: {line}")
    screen.print(
        f"{counted(packed.files, 'video')} in {counted(packed.shards, 'shard')}, "
        f"{packed.size / 1e6:,.1f} MB, in {out}; "
        f"use it like any data: {shlex.join(['vivit', 'train', str(out), '--out', 'run'])}"
    )
    return packed


def _files(data_set: DataSet) -> tuple[_File, ...]:
    """The files ordered by a hash of their names, so that the order is independent of their content."""
    by_source: dict[VideoSource, list[LabelledVideo]] = {}
    for video in data_set.videos:
        by_source.setdefault(video.source, []).append(video)
    folders = [os.path.dirname(os.path.abspath(source)) for source in by_source if isinstance(source, Path)]
    root = os.path.commonpath(folders) if folders else ""
    files = []
    for source, videos in by_source.items():
        # The name does not depend on where the data is.
        name = source.name if isinstance(source, InShard) else Path(os.path.relpath(source, root)).as_posix()
        files.append(_File(source, name, tuple(videos)))
    return tuple(sorted(files, key=lambda file: (hashlib.sha256(os.fsencode(file.name)).digest(), file.name)))


def _claim(out: Path, digest: str) -> None:
    """Reserve the folder for this plan. Raises UserError if it belongs to another plan."""
    begun = out / UNFINISHED / "plan"
    if begun.exists():
        if begun.read_text() != digest:
            raise UserError(
                f"{out}: packing of other data or with other settings was started here; choose another folder"
            )
        return
    if out.is_dir() and any(out.glob("*.tar")):
        raise UserError(f"{out}: holds tar files already; choose another folder")
    begun.parent.mkdir(parents=True, exist_ok=True)
    write_files({begun: as_text(digest)})


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder.parent}: another process is packing into this folder") from None
        yield


def _write_shards(plan: _Plan, written: Written, workers: int, progress: Progress) -> None:
    """Write the missing shards."""
    first, total = written.following, len(plan.files)
    scratch = plan.out / UNFINISHED
    tasks = [
        Task(
            file.source,
            scratch / f"{number}.mp4",
            plan.encoding,
            plan.cut(file),
            tuple(dict.fromkeys(video.span for video in file.videos)),
        )
        for number, file in enumerate(plan.files[first:], start=first)
    ]
    shard = ShardWriter(plan.out, written)
    with closing(shard), prepare_all(tasks, workers) as results:
        for number, (file, result) in enumerate(zip(plan.files[first:], results, strict=True), start=first):
            progress(number, total)
            if isinstance(result, str):
                shard.left_out[number] = result
                continue
            labels = plan.labels_beside(file)
            size = result.stat().st_size if result else file.size
            if shard.members and shard.size_with(size, len(labels)) > plan.shard_size:
                shard.finish_shard(following=number)
            try:
                with result.open("rb") if result else file.open() as content:
                    extension = ".mp4" if result else Path(file.name).suffix.lower()
                    key = f"{number:07d}/{_safe(file.name)}"
                    place = shard.add(key + extension, content, size, f"{key}.json", labels)
                    shard.members[number] = InShard(shard.name, file.name, place, size)
            except VideoError as error:  # the file could be opened, but not read to its end
                shard.left_out[number] = error.without(file.source)
            if result:
                result.unlink()
        if shard.members:
            shard.finish_shard(following=total)
        written.left_out |= shard.left_out
    progress(total, total)


def _safe(name: str) -> str:
    """The file's name without extension or full stops: WebDataset's extension starts at the first full stop."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", Path(name).stem)[:NAME_LENGTH]


def _write_index(plan: _Plan, written: Written, digest: str) -> Packed:
    data_set, files = plan.data_set, plan.files
    left_out = tuple(f"{files[number].name}: {why}" for number, why in sorted(written.left_out.items()))
    if not written.members:
        shutil.rmtree(plan.out / UNFINISHED)
        raise UserError(f"{data_set.name}: none of {len(files)} videos can be read, for example {left_out[0]}")
    places = {file.source: (written.members.get(number), plan.cut(file)) for number, file in enumerate(files)}
    videos = []
    for video in data_set.videos:
        place, cut = places[video.source]
        if place is not None:
            videos.append(replace(video, source=place, span=None if cut else video.span))
    packed = DataSet(data_set.name, tuple(videos), data_set.labels, data_set.description)
    index = Index(packed, tuple(written.shards), left_out, digest)
    write_index(plan.out / INDEX, index)
    return _summary(plan.out, index)


def _summary(out: Path, index: Index) -> Packed:
    videos = index.data_set.videos
    size = sum(shard.size for shard in index.shards)
    return Packed(out, len(index.shards), len({video.source for video in videos}), len(videos), size, index.left_out)
