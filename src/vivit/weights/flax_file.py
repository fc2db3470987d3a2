"""Flax's serialisation of weights, as Scenic's checkpoints have it, read with msgpack alone."""

import math
from pathlib import Path
from typing import Any

import msgpack
import torch
from torch import Tensor

from vivit.errors import UserError
from vivit.weights.weight_file import WeightFile, size_of

# Names in flax's trees are five deep and short, and their maps few.
DEEPEST, LONGEST_NAME, MOST_MAPS = 16, 500, 1 << 16
FLAX_TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int32": torch.int32,
    "int64": torch.int64,
}


def open_flax(path: Path) -> WeightFile:
    """Flax's serialisation: nested maps, whose arrays are extensions. Slashes join the keys of the weights."""
    size = size_of(path)
    maps = 0

    def count(tree: dict[str, Any]) -> dict[str, Any]:
        nonlocal maps
        maps += 1
        if maps > MOST_MAPS:
            raise ValueError("maps")
        return tree

    try:
        with path.open("rb") as file:
            unpacker = msgpack.Unpacker(
                file,
                read_size=min(size, 1 << 20),
                max_buffer_size=size,
                ext_hook=_flax_array,
                object_hook=count,
                list_hook=lambda _: None,  # lists hold no weights, and an empty one is but a byte in the file
                raw=False,
                strict_map_key=False,
            )
            tree = _weights_in(unpacker, ("optimizer", "target"))
            if unpacker.tell() != size:
                raise ValueError("more follows")
        arrays = _flatten(tree) if isinstance(tree, dict) else {}
    except Exception:  # msgpack and what it calls raise many kinds on damaged files
        raise UserError(f"{path}: not a whole Scenic checkpoint (flax msgpack)") from None
    # Old files of the image models have "params" once more inside.
    arrays = {name.removeprefix("params/"): array for name, array in arrays.items()}
    if not arrays:
        raise UserError(f"{path}: no weights under optimizer/target or params")
    # An array's memory goes when it has been read, so that two copies of all are never there at once.
    return WeightFile(str(path), "flax msgpack", {name: tuple(a.shape) for name, a in arrays.items()}, arrays.pop)


def _weights_in(unpacker: msgpack.Unpacker, keys: tuple[str, ...]) -> Any:
    """The value under those keys of nested maps, or under `params` of the first; all else is skipped, not built."""
    found = None
    for _ in range(unpacker.read_map_header()):
        key = unpacker.unpack()
        if key == keys[0]:
            found = _weights_in(unpacker, keys[1:]) if keys[1:] else unpacker.unpack()
        elif key == "params" and found is None and keys[1:]:
            found = unpacker.unpack()
        else:
            unpacker.skip()
    return found


def _flax_array(code: int, data: bytes) -> Any:
    """Flax's extensions: 1 is an array (shape, type, bytes); scalars and the rest are not weights."""
    if code != 1:
        return None
    shape, dtype, buffer = msgpack.unpackb(data, raw=False)
    if not all(isinstance(length, int) and length >= 0 for length in shape):
        raise ValueError("shape")
    kind = FLAX_TYPES[dtype]
    if math.prod(shape) * kind.itemsize != len(buffer):
        raise ValueError("size")
    # Nothing writes to it: what is kept of it is copied.
    return torch.frombuffer(bytearray(buffer), dtype=kind).reshape(shape) if buffer else torch.empty(shape, dtype=kind)


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """Raises ValueError where names are deeper or longer than weights have."""
    if prefix.count("/") > DEEPEST or len(prefix) > LONGEST_NAME:
        raise ValueError(prefix)
    flat: dict[str, Tensor] = {}
    for key, value in tree.items():
        if not isinstance(key, str) or len(key) > LONGEST_NAME:
            raise ValueError(key)
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}/"))
        elif isinstance(value, Tensor):
            flat[f"{prefix}{key}"] = value
    return flat
