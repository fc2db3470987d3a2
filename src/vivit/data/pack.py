"""Write a data set as WebDataset shards (tar files), with the index that `vivit.data.readers.shards` reads."""

import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import tarfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import av
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vivit.data.encode import Encoding, encode
from vivit.data.entries import DataListing, Entry
from vivit.data.readers.listing import read_data
from vivit.data.readers.shard_index import INDEX, Index, Shard, read_index, says, write_index
from vivit.data.readers.shards import UNFINISHED
from vivit.errors import UserError
from vivit.files import as_text, write_files
from vivit.video.decode import open_video
from vivit.video.source import InShard, VideoError, VideoSource, is_remote, name_of, place_of, reason

SHARD_SIZE = 512 * 2**20
# Videos in work for each process, so that none waits while the next in order is not ready.
AHEAD = 4
# Of a name in a shard, so that all of it is in the header.
NAME_LENGTH = 80
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Packed:
    """What was written."""

    folder: Path
    shards: int
    videos: int
    entries: int
    size: int
    """Bytes of all shards."""
    left_out: tuple[str, ...]
    """`path: reason` for each video that cannot be read."""


class _File(NamedTuple):
    """A video of the data and all that is said of it."""

    source: VideoSource
    name: str
    """Where it lies in the data."""
    entries: tuple[Entry, ...]


@dataclass
class _Written:
    """The whole shards so far, and which of the files are in them."""

    shards: list[Shard]
    members: dict[int, InShard]
    """Number of the file → where it has come to lie."""
    left_out: dict[int, str]
    following: int
    """The file that comes next."""


def pack(
    listing: DataListing,
    out: Path,
    *,
    encoding: Encoding | None = None,
    shard_size: int = SHARD_SIZE,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Packed:
    """Write the videos of a data set into shards, mixed, and `shards.json` beside them.

    Ended at any time, the same call goes on where it was, and what it writes is the same to the byte. What cannot be
    read is left out, and told.

    Args:
        listing: what `read_data` gives.
        out: a folder, which is made; nothing else may have been packed into it.
        encoding: None copies the files as they are, after a look whether they can be opened. Otherwise the frames of
            the even grid are encoded, and of a file that counts by one stretch alone, that stretch.
        shard_size: most bytes of a shard; a larger video has one to itself.
        workers: processes that read and encode; 0 is this one.
        progress: called with how many videos are done, and of how many.

    Raises:
        UserError: the folder holds something else, the disk is full, no video can be read, or a file is missing.
    """
    if shard_size < 1:
        raise UserError("shard_size: a shard without bytes holds nothing; give 1 or more")
    if workers < 0:
        raise UserError(f"workers: {workers} processes cannot encode; give 0, for none but this one, or more")
    listing.check_files(["train", "val", "test", ""])
    files = _files(listing)
    if not files:
        raise UserError(f"{listing.source}: no videos to pack")
    if encoding is None and (folder := next((f.source for f in files if _is_folder(f.source)), None)) is not None:
        raise UserError(f"{folder}: a folder of frames; it can be packed when encoded, as with --key-frames 32")
    plan = _plan(files, listing, encoding, shard_size)
    try:
        if (out / INDEX).exists():
            return _packed_before(out, plan)
        _claim(out, plan)
        with _lock(out / UNFINISHED):
            written = _written_before(out)
            _write(out, files, written, listing.multi_label, encoding, shard_size, workers, progress)
            packed = _write_index(out, files, written, listing, encoding, plan)
            shutil.rmtree(out / UNFINISHED)
            return packed
    except OSError as error:
        place = error.filename or out
        raise UserError(
            f"{place}: not written ({error.strerror or error}); the same command goes on from there"
        ) from None
    except BrokenProcessPool:
        raise UserError(
            f"{out}: a process that read videos was ended from outside or by one of them, perhaps for want of memory; "
            "the same command goes on from there, with fewer --workers if need be"
        ) from None


# --- what to write


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
    """`pack` with a progress bar, and words about what was packed. Encodes anew where any of the three is given."""
    given = {"short_side": short_side, "key_frames": key_frames, "crf": crf}
    chosen = {name: value for name, value in given.items() if value is not None}
    if is_remote(str(out)):
        raise UserError(f"{out}: shards are written to a folder; copy it to the store afterwards")
    out = Path(out)
    if out.resolve().as_posix() == place_of(data):
        raise UserError(f"{out}: holds the data itself; give another folder for its shards")
    listing = read_data(data, videos)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(f"{name_of(data)}: {listing.source}")
    columns = (TextColumn("pack"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("")
        packed = pack(
            listing,
            out,
            encoding=Encoding(**chosen) if chosen else None,
            shard_size=shard_size,
            workers=workers,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    for line in packed.left_out:
        console.print(f"left out: {line}")
    console.print(
        f"{packed.videos} videos in {packed.shards} shards, {packed.size / 1e6:,.1f} MB, in {out}; "
        f"use it as any data: vivit train {out} --out run"
    )
    return packed


def _files(listing: DataListing) -> list[_File]:
    """The videos, mixed: in the order of a hash of their names, which has nothing to do with what they show."""
    by_source: dict[VideoSource, list[Entry]] = {}
    for entry in listing.entries:
        by_source.setdefault(entry.source, []).append(entry)
    folders = [os.path.dirname(os.path.abspath(source)) for source in by_source if isinstance(source, Path)]
    root = os.path.commonpath(folders) if folders else ""
    files = [_File(source, _name(source, root), tuple(entries)) for source, entries in by_source.items()]
    return sorted(files, key=lambda file: (hashlib.sha256(os.fsencode(file.name)).digest(), file.name))


def _name(source: VideoSource, root: str) -> str:
    """The same wherever the data lies."""
    return source.name if isinstance(source, InShard) else Path(os.path.relpath(source, root)).as_posix()


def _is_folder(source: VideoSource) -> bool:
    return isinstance(source, Path) and source.is_dir()


def _size(source: VideoSource) -> int:
    if isinstance(source, InShard):
        return source.size
    return source.stat().st_size if source.is_file() else 0


def _plan(files: Sequence[_File], listing: DataListing, encoding: Encoding | None, shard_size: int) -> str:
    """A hash of all that the shards follow from."""
    plan = hashlib.sha256()
    versions = av.library_versions if encoding else None
    settings = [encoding and asdict(encoding), shard_size, versions, listing.multi_label, dict(listing.classes)]
    plan.update(json.dumps(settings, sort_keys=True).encode())
    for file in files:
        said = [says(entry, listing.multi_label) for entry in file.entries]
        plan.update(json.dumps([file.name, _size(file.source), said]).encode())
    return plan.hexdigest()


def _claim(out: Path, plan: str) -> None:
    """Make the folder this plan's. Raises UserError where it is another's."""
    begun = out / UNFINISHED / "plan"
    if begun.exists():
        if begun.read_text() != plan:
            raise UserError(
                f"{out}: other data, or the same with other settings, was begun to be packed there; take another folder"
            )
        return
    if out.is_dir() and any(out.glob("*.tar")):
        raise UserError(f"{out}: holds tar files already; take another folder")
    begun.parent.mkdir(parents=True, exist_ok=True)
    write_files({begun: as_text(plan)})


def _packed_before(out: Path, plan: str) -> Packed:
    index = read_index((out / INDEX).read_bytes(), str(out))
    if index.plan != plan:
        raise UserError(f"{out}: holds other shards, or the same data with other settings; take another folder")
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    return _told(out, index)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder.parent}: another process is packing into it") from None
        yield


# --- writing


def _shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def _written_before(out: Path) -> _Written:
    """The shards that an earlier run has put in place; what else it has left is deleted."""
    written = _Written([], {}, {}, 0)
    keep = {"plan", "lock"}
    while (out / _shard_name(len(written.shards))).exists():
        record = out / UNFINISHED / f"{_shard_name(len(written.shards))}.json"
        value = json.loads(record.read_text())
        written.shards.append(Shard(*value["shard"]))
        written.members |= {int(file): InShard(*place) for file, place in value["members"].items()}
        written.left_out |= {int(file): why for file, why in value["left_out"].items()}
        written.following = value["following"]
        keep.add(record.name)
    for path in (out / UNFINISHED).iterdir():
        if path.name not in keep:
            path.unlink()
    return written


def _write(
    out: Path,
    files: Sequence[_File],
    written: _Written,
    multi_label: bool,
    encoding: Encoding | None,
    shard_size: int,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """All further shards."""
    first = written.following
    shard = _OpenShard(out, len(written.shards))
    with closing(shard), _prepared(files[first:], first, out / UNFINISHED, encoding, workers) as results:
        for number, (file, result) in enumerate(zip(files[first:], results, strict=True), start=first):
            if progress is not None:
                progress(number, len(files))
            if isinstance(result, str):
                shard.left_out[number] = result
                continue
            beside = _beside(file, encoding, multi_label)
            size = result.stat().st_size if result else _size(file.source)
            if shard.members and shard.size_with(size, len(beside)) > shard_size:
                shard.put_in_place(written, following=number)
            try:
                with _open(result or file.source) as content:
                    extension = ".mp4" if result else Path(file.name).suffix.lower()
                    key = f"{number:07d}/{_safe(file.name)}"
                    place = shard.add(key + extension, content, size, f"{key}.json", beside)
                    shard.members[number] = InShard(shard.name, file.name, place, size)
            except VideoError as error:
                # It could be opened, and not be read to its end.
                shard.left_out[number] = _why(error, file.source)
            if result:
                result.unlink()
        if shard.members:
            shard.put_in_place(written, following=len(files))
        written.left_out |= shard.left_out
    if progress is not None:
        progress(len(files), len(files))


def _open(source: VideoSource) -> BinaryIO:
    if isinstance(source, InShard):
        return source.open()
    try:
        return source.open("rb")
    except OSError as error:
        raise VideoError(source, f"cannot be read: {reason(error)}") from None


def _safe(name: str) -> str:
    """The file's name in the shard up to its ending, which for WebDataset begins at the first full stop."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", Path(name).stem)[:NAME_LENGTH]


def _beside(file: _File, encoding: Encoding | None, multi_label: bool) -> bytes:
    """What lies beside the video for those who read the shards without the index, as JSON."""
    said = [says(entry, multi_label) for entry in _entries_of(file, encoding)]
    fields = {"path": file.name} | (said[0] if len(said) == 1 else {"entries": said})
    return json.dumps(fields).encode()


def _entries_of(file: _File, encoding: Encoding | None) -> list[Entry]:
    """Its entries as they are once it is packed."""
    return [replace(entry, span=None) if _cut(file, encoding) else entry for entry in file.entries]


def _cut(file: _File, encoding: Encoding | None) -> tuple[float, float] | None:
    """The stretch that is all that is encoded of a file."""
    spans = {entry.span for entry in file.entries}
    return spans.pop() if encoding and len(spans) == 1 else None


class _OpenShard:
    """The shard that is being written, under another name until it is whole; then the next."""

    def __init__(self, out: Path, number: int) -> None:
        self._out, self._number = out, number
        self._begin()

    def _begin(self) -> None:
        self.name = _shard_name(self._number)
        self._path = self._out / UNFINISHED / self.name
        self._file = self._path.open("wb")
        self.members: dict[int, InShard] = {}
        self.left_out: dict[int, str] = {}

    def size_with(self, *sizes: int) -> int:
        """Of the whole shard, with further files of these sizes."""
        size = self._file.tell() + sum(_BLOCK + _padded(size, _BLOCK) for size in sizes)
        return _padded(size + 2 * _BLOCK, tarfile.RECORDSIZE)

    def add(self, name: str, content: BinaryIO, size: int, beside_name: str, beside: bytes) -> int:
        """Where the content begins. Raises VideoError where it ends early; the shard is then as before."""
        start = self._file.tell()
        try:
            self._add_member(name, content, size)
        except VideoError:
            self._file.seek(start)
            self._file.truncate()
            raise
        self._add_member(beside_name, BytesIO(beside), len(beside))
        return start + _BLOCK

    def _add_member(self, name: str, content: BinaryIO, size: int) -> None:
        info = tarfile.TarInfo(name)
        info.size = size
        header = info.tobuf(tarfile.GNU_FORMAT)
        assert len(header) == _BLOCK, name
        self._file.write(header)
        for chunk in _chunks(content, size, name):
            self._file.write(chunk)
        self._file.write(bytes(_padded(size, _BLOCK) - size))

    def put_in_place(self, written: _Written, following: int) -> None:
        """Close it, note what it holds, give it its name and go on to the next."""
        size = self.size_with()
        self._file.truncate(size)  # zeros follow, at least two blocks of them
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        shard = Shard(self.name, size)
        record: dict[str, Any] = {"shard": shard, "following": following, "left_out": self.left_out}
        record["members"] = {number: astuple(place) for number, place in self.members.items()}
        write_files({self._path.with_name(f"{self.name}.json"): as_text(json.dumps(record))})
        os.replace(self._path, self._out / self.name)
        written.shards.append(shard)
        written.members |= self.members
        written.left_out |= self.left_out
        written.following = following
        self._number += 1
        self._begin()

    def close(self) -> None:
        """Give up what is not in place."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def _padded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _why(error: VideoError, source: VideoSource) -> str:
    return str(error).removeprefix(f"{source}: ")


def _chunks(content: BinaryIO, size: int, name: str) -> Iterator[bytes]:
    while size > 0:
        try:
            chunk = content.read(min(size, 1 << 20))
        except OSError as error:
            raise VideoError(name, f"cannot be read: {reason(error)}") from None
        if not chunk:
            raise VideoError(name, "became shorter while it was packed")
        size -= len(chunk)
        yield chunk


def _write_index(
    out: Path, files: Sequence[_File], written: _Written, listing: DataListing, encoding: Encoding | None, plan: str
) -> Packed:
    left_out = tuple(f"{files[number].name}: {why}" for number, why in sorted(written.left_out.items()))
    if not written.members:
        shutil.rmtree(out / UNFINISHED)
        raise UserError(f"{listing.source}: none of {len(files)} videos can be read, for example {left_out[0]}")
    places = {file.source: (written.members.get(number), _cut(file, encoding)) for number, file in enumerate(files)}
    entries = []
    for entry in listing.entries:
        place, cut = places[entry.source]
        if place is not None:
            entries.append(replace(entry, source=place, span=None if cut else entry.span))
    packed = DataListing(tuple(entries), listing.classes, listing.multi_label, listing.source)
    index = Index(packed, tuple(written.shards), left_out, plan)
    write_index(out / INDEX, index)
    return _told(out, index)


def _told(out: Path, index: Index) -> Packed:
    entries = index.listing.entries
    videos = len({entry.source for entry in entries})
    size = sum(shard.size for shard in index.shards)
    return Packed(out, len(index.shards), videos, len(entries), size, index.left_out)


@contextmanager
def _prepared(
    files: Sequence[_File], first: int, scratch: Path, encoding: Encoding | None, workers: int
) -> Iterator[Iterator[Path | str | None]]:
    """For each file in order the path of what was encoded, None to take it as it is, or why it cannot be read."""
    calls = (
        (file.source, scratch / f"{number}.mp4", encoding, _cut(file, encoding))
        for number, file in enumerate(files, start=first)
    )
    if not workers:
        yield (_prepare(*call) for call in calls)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vivit.data.pack"])
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)

    def in_order() -> Iterator[Path | str | None]:
        waiting: deque[Future[Path | str | None]] = deque()
        for call in calls:
            waiting.append(pool.submit(_prepare, *call))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield in_order()
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)
    # Ctrl-C is for the process that writes, and reaches all of them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    # Where that process is killed, its workers would wait for work for ever.
    threading.Thread(target=end_with_parent, daemon=True).start()


def _prepare(
    source: VideoSource, target: Path, encoding: Encoding | None, span: tuple[float, float] | None
) -> Path | str | None:
    try:
        with open_video(source) as video:
            if encoding is None:
                return None
            encode(video, target, encoding, span)
            return target
    except VideoError as error:
        target.unlink(missing_ok=True)
        return _why(error, source)
