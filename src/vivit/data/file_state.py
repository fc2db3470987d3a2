"""Tells whether files are the same or unchanged, from their sizes, times, and samples of their content."""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from vivit.video.frame_folder import PICTURES
from vivit.video.source import InShard, VideoError, VideoSource, is_remote

Value = TypeVar("Value")

# Files queried at once: on a network, nearly all the time is spent waiting.
AT_ONCE = 16
# Bytes to sample from all files together, and the minimum from each.
SAMPLED, LEAST = 256 << 20, 12 << 10
# A file is sampled in at least this many places, or in more if blocks of this many bytes allow it.
PLACES, BLOCK = 3, 64 << 10


class State(NamedTuple):
    """What the file system knows about a video's file without opening it; None for what it does not know."""

    size: int | None
    """Bytes; for a folder of frames, the number of files."""
    modified: int | None
    """Modification time in nanoseconds; for a folder of frames, a number that changes with the time of any frame."""
    changed: int | None
    """The same for the last change of content, owner or permissions (ctime), which programs cannot set."""
    node: tuple[int, ...] | None
    """Equal for all names of one file."""


def file_sizes(sources: Iterable[VideoSource]) -> dict[VideoSource, int | None]:
    """`State.size` of each; in a folder of frames, no file is examined."""
    return _of_all(_size, list(sources))


def file_states(sources: Iterable[VideoSource], pictures: bool = True) -> dict[VideoSource, State]:
    """The state of each.

    Args:
        pictures: query the times of every picture in folders of frames; if false, these times are None.
    """
    return _of_all(lambda source: _state(source, pictures), list(sources))


def sample_size(count: int) -> int:
    """The bytes to sample from each of this many files."""
    return max(LEAST, SAMPLED // max(1, count))


def file_samples(sources: Iterable[VideoSource], amount: int) -> dict[VideoSource, str]:
    """`sample` of each."""
    return _of_all(lambda source: sample(source, amount), list(sources))


def sample(source: VideoSource, amount: int) -> str:
    """A hash of a file's size and all its bytes, or about `amount` bytes from several places if it is larger.

    For a folder of frames, a hash of the sizes of all pictures and of the bytes of all or some.

    Returns:
        The hash; "" for a file in a remote store or one that cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        if isinstance(source, InShard):
            if is_remote(source.shard):
                return ""
            _add_sample(digest.update, source.size, amount, source.read_range)
        elif os.path.isdir(source):
            _add_pictures(digest.update, source, amount)
        else:
            _add_file(digest.update, source, amount)
    except (OSError, VideoError):
        return ""
    return digest.hexdigest()


def _of_all(ask: Callable[[VideoSource], Value], sources: list[VideoSource]) -> dict[VideoSource, Value]:
    with ThreadPool(AT_ONCE) as pool:
        return dict(zip(sources, pool.map(ask, sources, chunksize=max(1, min(256, len(sources) // 64))), strict=True))


def _size(source: VideoSource) -> int | None:
    try:
        if isinstance(source, InShard):
            return source.size
        status = os.stat(source)
        # A folder's size in the file system says nothing about its content.
        return len(os.listdir(source)) if stat.S_ISDIR(status.st_mode) else status.st_size
    except OSError:
        return None


def _state(source: VideoSource, pictures: bool) -> State:
    try:
        if isinstance(source, InShard):
            if is_remote(source.shard):
                return State(source.size, None, None, None)
            status = os.stat(source.shard)
            return State(source.size, *_times(status), (status.st_dev, status.st_ino, source.offset))
        status = os.stat(source)
        node = status.st_dev, status.st_ino
        if not stat.S_ISDIR(status.st_mode):
            return State(status.st_size, *_times(status), node)
        if not pictures:
            return State(len(os.listdir(source)), None, None, node)
        with os.scandir(source) as entries:
            inside = sorted((entry.name, entry.stat()) for entry in entries)
        modified = _number([name, each.st_size, each.st_mtime_ns] for name, each in inside)
        changed = _number([name, each.st_ctime_ns] for name, each in inside)
        return State(len(inside), modified, changed, node)
    except OSError:
        return State(source.size if isinstance(source, InShard) else None, None, None, None)


def _times(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_ctime_ns


def _number(rows: Iterable[list[Any]]) -> int:
    """63 bits of a hash."""
    digest = hashlib.blake2b(json.dumps(list(rows)).encode(), digest_size=8)
    return int.from_bytes(digest.digest()) >> 1


def _add_file(add: Callable[[bytes], object], path: Path, amount: int) -> None:
    # Open a pipe without waiting for a writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        size = os.fstat(descriptor).st_size
        _add_sample(add, size, amount, lambda start, end: os.pread(descriptor, end - start, start))
    finally:
        os.close(descriptor)


def _add_sample(add: Callable[[bytes], object], size: int, amount: int, read: Callable[[int, int], bytes]) -> None:
    """Add a size and samples of the content; `read` returns the bytes from a start to an end, exclusive."""
    add(f"{size} ".encode())
    if size <= amount:
        for start in range(0, size, 1 << 20):
            add(read(start, min(start + (1 << 20), size)))
        return
    places = max(PLACES, amount // BLOCK)
    length = amount // places
    for place in range(places):
        start = (size - length) * place // (places - 1)
        add(read(start, start + length))


def _add_pictures(add: Callable[[bytes], object], folder: Path, amount: int) -> None:
    with os.scandir(folder) as entries:
        pictures = sorted(e.path for e in entries if os.path.splitext(e.name)[1].lower() in PICTURES)
    sizes = [os.stat(picture).st_size for picture in pictures]
    add(f"{sizes} ".encode())
    count = len(pictures)
    chosen = count if sum(sizes) <= amount else max(PLACES, min(count, amount * count // (sum(sizes) or 1)))
    for number in sorted({(count - 1) * place // max(1, chosen - 1) for place in range(chosen)} if count else ()):
        _add_file(add, Path(pictures[number]), amount // chosen)
