"""Where a video lies, a file or a stretch of a shard, and how the bytes of a stretch are read."""

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vivit.errors import UserError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Seconds before each further attempt to read from a store that gave an error or too little.
RETRY_DELAYS = (0.2, 1.0, 5.0)
# Bytes read at once: of a file on disk, and of one in a store, where each request has its price.
LOCAL_BUFFER, REMOTE_BUFFER = 1 << 20, 1 << 23


class VideoError(UserError):
    """A file that cannot be read as asked; the message is `path: what is wrong`."""

    def __init__(self, source: object, problem: str) -> None:
        # One string for `args`, so that the error survives pickling between processes.
        super().__init__(f"{source}: {problem}" if problem else str(source))

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (str(self), "")

    def without(self, source: object) -> str:
        """The problem without the name of the source; an error about one picture of a folder keeps the picture's."""
        return str(self).removeprefix(str(VideoError(source, ""))).lstrip(":/ ")


@dataclass(frozen=True, slots=True)
class InShard:
    """A video inside a tar file, on disk or wherever fsspec reaches."""

    shard: str
    """Path or URL."""
    name: str
    offset: int
    """Of its first byte in the shard."""
    size: int
    """Bytes."""

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"

    def read(self) -> bytes:
        """The file's bytes. Raises VideoError."""
        return self.read_range(0, self.size)

    def open(self) -> BinaryIO:
        """The file, to read and seek in; as much is fetched as is read, a buffer at a time.

        Its methods raise VideoError. A video smaller than `REMOTE_BUFFER` is one request to its store.
        """
        buffer = REMOTE_BUFFER if is_remote(self.shard) else LOCAL_BUFFER
        return io.BufferedReader(_Stretch(self), max(1, min(self.size, buffer)))

    def read_range(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`. A store is asked again after an error. Raises VideoError."""
        delays = RETRY_DELAYS if is_remote(self.shard) else ()
        for delay in (*delays, None):
            try:
                read = _read(self.shard, self.offset + start, self.offset + end)
                problem = f"cannot be read: the shard has {len(read):,} of its {end - start:,} bytes"
                if len(read) == end - start:
                    return read
                if len(read) > end - start:
                    raise VideoError(self, "cannot be read: the server gives whole files only, no ranges of bytes")
            except (FileNotFoundError, PermissionError, ImportError) as error:
                raise VideoError(self, f"cannot be read: {reason(error)}") from None
            except VideoError:
                raise
            except Exception as error:  # each store has errors of its own
                problem = f"cannot be read: {reason(error)}"
            if delay is None:
                break
            time.sleep(delay)
        raise VideoError(self, problem)


VideoSource = Path | InShard


def place_of(data: str | Path) -> str:
    """Where data lies, whatever folder one is in: a URL as it is, or the whole path."""
    return str(data).rstrip("/") if is_remote(str(data)) else Path(data).resolve().as_posix()


def name_of(data: str | Path) -> str:
    return place_of(data).rpartition("/")[2]


def is_remote(shard: str) -> bool:
    return "://" in shard


def reason(error: BaseException) -> str:
    """Why something cannot be read, in a few words."""
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

    # One file system, with its connections, for each process and store: fsspec keeps them.
    store, path = url_to_fs(shard)
    return store.cat_file(path, start=start, end=end)


class _Stretch(io.RawIOBase):
    """The bytes of a video in its shard, as a file."""

    def __init__(self, source: InShard) -> None:
        self._source, self._position = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, self._source.size)[whence])
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        start = min(self._position, self._source.size)
        end = min(start + len(view), self._source.size)
        read = self._source.read_range(start, end) if end > start else b""
        view[: len(read)] = read
        self._position = start + len(read)
        return len(read)
