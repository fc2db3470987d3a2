"""Where a video lies: a file, or a stretch of a shard."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
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
        """The file's bytes. Raises OSError."""
        if "://" not in self.shard:
            with open(self.shard, "rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        import fsspec

        return fsspec.open(self.shard).fs.cat_file(self.shard, self.offset, self.offset + self.size)


Source = Path | InShard
