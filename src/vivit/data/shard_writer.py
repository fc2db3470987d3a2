"""Writes shards: tar files that are moved into place once complete, each with a record of its content."""

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from vivit.data.readers.shard_index import Shard
from vivit.data.readers.shards import UNFINISHED
from vivit.files import as_text, write_files
from vivit.video.source import InShard, VideoError, reason

_BLOCK = tarfile.BLOCKSIZE


@dataclass
class Written:
    """The complete shards so far. Files are identified by their number in packing order."""

    shards: list[Shard] = field(default_factory=list)
    members: dict[int, InShard] = field(default_factory=dict)
    """file → its place in a shard."""
    left_out: dict[int, str] = field(default_factory=dict)
    """file → why it cannot be read."""
    following: int = 0
    """The file to pack next."""


def written_before(out: Path) -> Written:
    """The shards that an earlier call completed; its unfinished files are deleted."""
    written = Written()
    known = {"plan", "lock"}
    while (out / _shard_name(len(written.shards))).exists():
        record = out / UNFINISHED / f"{_shard_name(len(written.shards))}.json"
        value = json.loads(record.read_text())
        written.shards.append(Shard(*value["shard"]))
        written.members |= {int(file): InShard(*place) for file, place in value["members"].items()}
        written.left_out |= {int(file): why for file, why in value["left_out"].items()}
        written.following = value["following"]
        known.add(record.name)
    for path in (out / UNFINISHED).iterdir():
        if path.name not in known:
            path.unlink()
    return written


class ShardWriter:
    """Writes one shard after another, each under a temporary path until it is complete."""

    def __init__(self, out: Path, written: Written) -> None:
        self._out, self.written = out, written
        self._begin()

    def _begin(self) -> None:
        self.name = _shard_name(len(self.written.shards))
        self._path = self._out / UNFINISHED / self.name
        self._file = self._path.open("wb")
        self.members: dict[int, InShard] = {}
        self.left_out: dict[int, str] = {}

    def size_with(self, *sizes: int) -> int:
        """The size that the complete shard would have with more files of these sizes."""
        size = self._file.tell() + sum(_BLOCK + _padded(size, _BLOCK) for size in sizes)
        return _padded(size + 2 * _BLOCK, tarfile.RECORDSIZE)

    def add(self, name: str, content: BinaryIO, size: int, labels_name: str, labels: bytes) -> int:
        """Add a video and its labels; return where the video begins.

        Raises VideoError if the content ends early; the shard is then as before.
        """
        start = self._file.tell()
        try:
            self._add_member(name, content, size)
        except VideoError:
            self._file.seek(start)
            self._file.truncate()
            raise
        self._add_member(labels_name, BytesIO(labels), len(labels))
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

    def finish_shard(self, following: int) -> None:
        """Complete the shard, record its content, move it into place and begin the next."""
        size = self.size_with()
        self._file.truncate(size)  # fills it with zeros, at least two blocks of them
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        shard = Shard(self.name, size)
        record: dict[str, Any] = {"shard": shard, "following": following, "left_out": self.left_out}
        record["members"] = {number: astuple(place) for number, place in self.members.items()}
        write_files({self._path.with_name(f"{self.name}.json"): as_text(json.dumps(record))})
        os.replace(self._path, self._out / self.name)
        self.written.shards.append(shard)
        self.written.members |= self.members
        self.written.left_out |= self.left_out
        self.written.following = following
        self._begin()

    def close(self) -> None:
        """Delete the incomplete shard."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def _shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def _padded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


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
