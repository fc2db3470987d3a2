"""An open weight file: names and shapes now, arrays on demand."""

import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from vivit.errors import UserError

Shape = tuple[int, ...]

# Limit for a config, an index or a pickled list of names: a hundred times the size of a real one.
SMALL_FILE = 1 << 22
SHOWN_NAMES = 3


@dataclass(frozen=True)
class WeightFile:
    """An open file, or several that belong together."""

    source: str
    """The path, for messages."""
    shapes: dict[str, Shape]
    read: Callable[[str], Tensor]
    """Name → the array, which may be a view of the mapped file; each name may be read once."""


@dataclass(frozen=True)
class OnnxViT(WeightFile):
    """An image ViT in an ONNX file, under timm's names, and other facts from its graph."""

    grid: tuple[int, int]
    """Positions, over height and width."""
    num_heads: int
    activation: Literal["gelu", "gelu_tanh"]
    norm_eps: float
    picture: tuple[int, int] | None
    """Height and width of the pictures that the file takes; None: any."""


def size_of(path: Path) -> int:
    """A file's size in bytes. Raises UserError if there is no regular file; devices and pipes are endless."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path}: Is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: not a regular file")
    return status.st_size


def listed(names: Sequence[str]) -> str:
    """The first few names of weights, and how many more there are."""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"{', '.join(names[:SHOWN_NAMES])}{more}"


def by(lengths: Sequence[int]) -> str:
    """ "224 × 224"."""
    return " × ".join(map(str, lengths))
