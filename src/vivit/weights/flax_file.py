"""Flax's serialisation of weights, used by Scenic's checkpoints, read with msgpack only."""

import math
from pathlib import Path
from typing import Any

import msgpack
import torch
from torch import Tensor

from vivit.errors import UserError
from vivit.weights.weight_file import WeightFile, size_of

# Real trees are five levels deep, with short names and few maps.
DEEPEST, LONGEST_NAME, MOST_MAPS = 16, 500, 1 << 16
FLAX_TYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "complex64", "complex128", "bool"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
}


def open_flax(path: Path) -> WeightFile:
    """Open a file of nested maps with arrays as extensions. Slashes join the keys to names."""
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
                list_hook=lambda _: None,  # never weights; an empty list is one byte here, but 56 in memory
                raw=False,
                strict_map_key=False,
            )
            tree = _weights_in(unpacker, ("optimizer", "target"))
            if unpacker.tell() != size:
                raise ValueError("more follows")
        arrays = _flatten(tree) if isinstance(tree, dict) else {}
    except Exception:  # msgpack and what it calls raise many kinds on damaged files
        raise UserError(f"{path}: not a Scenic checkpoint (flax msgpack), or incomplete") from None
    # Old files of image models have another "params" inside.
    arrays = {name.removeprefix("params/"): array for name, array in arrays.items()}
    if not arrays:
        raise UserError(f"{path}: no weights under optimizer/target or params")
    # Reading an array frees it here, so that two copies of all weights never exist.
    return WeightFile(str(path), {name: tuple(a.shape) for name, a in arrays.items()}, arrays.pop)


def _weights_in(unpacker: msgpack.Unpacker, keys: tuple[str, ...]) -> Any:
    """The value under these keys of nested maps, or under `params` of the first; the rest is skipped, not built."""
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
    """Decode a flax extension: 1 is an array (shape, type, bytes); others, such as scalars, are not weights."""
    if code != 1:
        return None
    shape, dtype, buffer = msgpack.unpackb(data, raw=False)
    if not all(isinstance(length, int) and length >= 0 for length in shape):
        raise ValueError("shape")
    kind = FLAX_TYPES[dtype]
    if math.prod(shape) * kind.itemsize != len(buffer):
        raise ValueError("size")
    # Nothing writes to it: what stays is copied.
    return torch.frombuffer(bytearray(buffer), dtype=kind).reshape(shape) if buffer else torch.empty(shape, dtype=kind)


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """Flatten nested maps. Raises ValueError if names are deeper or longer than those of weights."""
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
