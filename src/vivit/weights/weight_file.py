"""An open weight file: names and shapes, and the arrays when they are asked for."""

import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vivit.errors import UserError

Shape = tuple[int, ...]

# Of a config, an index, a pickled list of names: a hundred times an honest one's.
SMALL_FILE = 1 << 22
# No name in a weight file is this long, but a list of names in an error message could be.
SHOWN_NAMES = 3


@dataclass(frozen=True)
class WeightFile:
    """An open file, or several that belong together."""

    source: str
    """The path, for messages."""
    kind: str
    shapes: dict[str, Shape]
    read: Callable[[str], Tensor]
    """Name → the array, which may be a view of the mapped file; each name once."""


def size_of(path: Path) -> int:
    """A file's size in bytes. Raises UserError where there is no file, or one that has no end, as a device or pipe."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path}: Is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: not a regular file")
    return status.st_size
