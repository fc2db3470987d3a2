"""Where a video is: in a file, or in a byte range of a shard."""

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vivit.errors import UserError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Seconds to wait before each further attempt to read from a store after an error or an incomplete answer.
RETRY_DELAYS = (0.2, 1.0, 5.0)
# Bytes read at once, from a local file and from a store, where each request costs time.
LOCAL_BUFFER, REMOTE_BUFFER = 1 << 20, 1 << 23


class VideoError(UserError):
    """A video that cannot be read; the message is `path: problem`."""

    def __init__(self, source: object, problem: str) -> None:
        # A single string in `args`, so that the error can be pickled between processes.
        super().__init__(f"{source}: {problem}" if problem else str(source))

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (str(self), "")

    def without(self, source: object) -> str:
        """The problem without the name of the source; an error about one picture of a folder keeps the picture's."""
        return str(self).removeprefix(str(VideoError(source, ""))).lstrip(":/ ")


@dataclass(frozen=True, slots=True)
class InShard:
    """A video inside a tar file, on disk or in a store that fsspec can read."""

    shard: str
    """Path or URL."""
    name: str
    offset: int
    """Where its first byte is in the shard."""
    size: int
    """Bytes."""

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"

    def read(self) -> bytes:
        """The video's bytes. Raises VideoError."""
        return self.read_range(0, self.size)

    def open(self) -> io.BufferedReader:
        """The video as a file for reading and seeking, which fetches a buffer at a time as needed.

        Its methods raise VideoError. A video smaller than `REMOTE_BUFFER` takes one request to its store.
        """
        buffer = REMOTE_BUFFER if is_remote(self.shard) else LOCAL_BUFFER
        return io.BufferedReader(_RangeFile(self), max(1, min(self.size, buffer)))

    def read_range(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`, retried if they are in a store. Raises VideoError."""
        delays = RETRY_DELAYS if is_remote(self.shard) else ()
        for delay in (*delays, None):
            try:
                read = _read(self.shard, self.offset + start, self.offset + end)
                problem = f"cannot be read: the shard has {len(read):,} of its {end - start:,} bytes"
                if len(read) == end - start:
                    return read
                if len(read) > end - start:
                    raise VideoError(self, "cannot be read: the server sends whole files only, not ranges of bytes")
            except (FileNotFoundError, PermissionError, ImportError) as error:
                raise VideoError(self, f"cannot be read: {reason(error)}") from None
            except VideoError:
                raise
            except Exception as error:  # each store has its own exceptions
                problem = f"cannot be read: {reason(error)}"
            if delay is None:
                break
            time.sleep(delay)
        raise VideoError(self, problem)


VideoSource = Path | InShard


def place_of(data: str | Path) -> str:
    """A URL unchanged, or the absolute path of a local file or folder."""
    return str(data).rstrip("/") if is_remote(str(data)) else Path(data).resolve().as_posix()


def name_of(data: str | Path) -> str:
    """The last part of the path or URL."""
    return place_of(data).rpartition("/")[2]


def is_remote(shard: str) -> bool:
    return "://" in shard


def reason(error: BaseException) -> str:
    """Why something cannot be read, in one line."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    words = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return words.splitlines()[0]


def _read(shard: str, start: int, end: int) -> bytes:
    if not is_remote(shard):
        with open(shard, "rb") as file:
            file.seek(start)
            return file.read(end - start)
    from fsspec.core import url_to_fs

    # fsspec keeps one file system, with its connections, for each process and store.
    store, path = url_to_fs(shard)
    return store.cat_file(path, start=start, end=end)


class _RangeFile(io.RawIOBase):
    """The byte range of a video in its shard, as a file."""

    def __init__(self, source: InShard) -> None:
        self._source, self._position = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, self._source.size)[whence])
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        start = min(self._position, self._source.size)
        end = min(start + len(view), self._source.size)
        read = self._source.read_range(start, end) if end > start else b""
        view[: len(read)] = read
        self._position = start + len(read)
        return len(read)
