"""Weight files: names and shapes first, an array when it is asked for. Nothing in a file is ever executed.

Four kinds are known by their content: safetensors, NumPy's .npz, flax msgpack, and PyTorch's zip files, which are read
with `weights_only=True`. What a file claims is held against its size before memory is taken for it.
"""

import json
import math
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import msgpack
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vivit.errors import UserError

Shape = tuple[int, ...]

# Of what is small in every honest file: a config, an index, a pickled list of names.
SMALL_FILE = 1 << 26
# Deflate shrinks zeros a thousandfold; weights hardly at all.
BOMB_BYTES, BOMB_RATIO = 1 << 26, 30
OLD_PYTORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9"
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


def open_weights(path: Path) -> WeightFile:
    """Open a file of any kind that is known here. Raises UserError where it is damaged or of another kind."""
    try:
        size = path.stat().st_size
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path}: not a regular file")
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    if start.startswith(OLD_PYTORCH):
        raise UserError(f"{path}: an old PyTorch file, a bare pickle; save its state_dict as safetensors")
    if start.startswith(b"PK"):
        return _open_zip(path)
    if len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] <= size:
        return _open_safetensors(path)
    if start and (0x80 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF)):
        return _open_msgpack(path, size)
    raise UserError(f"{path}: not readable as weights: no safetensors, .npz, flax msgpack (Scenic) or PyTorch zip file")


def open_folder(folder: Path) -> WeightFile:
    """Open the weights in a folder as `transformers` writes it: in one file or in shards with an index."""
    for name, open_shard in (("model.safetensors", _open_safetensors), ("pytorch_model.bin", _open_zip)):
        if (folder / name).is_file():
            return open_shard(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _open_shards(index, open_shard)
    raise UserError(f"{folder}: no model.safetensors, and no pytorch_model.bin; not a whole model folder")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError where there is none, or it is no object, or absurdly large."""
    try:
        if path.stat().st_size > SMALL_FILE:
            raise UserError(f"{path}: too large for a file of its kind")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path}: not JSON ({reason})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object")
    return value


def _open_safetensors(path: Path) -> WeightFile:
    try:
        file = safe_open(path, "pt")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, OverflowError) as error:
        raise UserError(f"{path}: not readable ({str(error).splitlines()[0]})") from None

    def read(name: str) -> Tensor:
        try:
            return file.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError, TypeError) as error:
            raise UserError(f"{path}: {name}: not readable ({str(error).splitlines()[0]})") from None

    return WeightFile(str(path), "safetensors", shapes, read)


def _open_shards(index: Path, open_shard: Callable[[Path], WeightFile]) -> WeightFile:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        raise UserError(f"{index}: no weight_map from names to files")
    for file in names.values():
        if Path(file).name != file or file in ("", ".", ".."):
            raise UserError(f"{index}: {file!r} is not the name of a file beside it")
    shards = {file: open_shard(index.parent / file) for file in sorted(set(names.values()))}
    shapes = {}
    for name, file in names.items():
        if name not in shards[file].shapes:
            raise UserError(f"{index}: {name} is not in {file}")
        shapes[name] = shards[file].shapes[name]
    return WeightFile(str(index), "safetensors", shapes, lambda name: shards[names[name]].read(name))


def _open_zip(path: Path) -> WeightFile:
    """PyTorch's files and .npz are both zip files."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception:  # zipfile raises many kinds on damaged files
        raise UserError(f"{path}: not a whole .npz or PyTorch file, or an old PyTorch file; save it anew") from None
    if any(entry.filename.endswith("data.pkl") for entry in entries):
        return _open_torch(path, entries)
    return _open_npz(path)


def _open_npz(path: Path) -> WeightFile:
    shapes, headers = {}, {}
    try:
        archive = zipfile.ZipFile(path)
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            shapes[name], headers[name] = _npy_header(archive, entry)
    except Exception:  # zipfile, zlib and NumPy raise many kinds on damaged files
        raise UserError(f"{path}: not a whole .npz file of plain arrays of numbers") from None

    def read(name: str) -> Tensor:
        try:
            with archive.open(f"{name}.npy") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except Exception:
            raise UserError(f"{path}: {name}: damaged") from None
        return torch.from_numpy(np.ascontiguousarray(array))

    return WeightFile(str(path), "npz", shapes, read)


def _npy_header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[Shape, int]:
    """An array's shape, and where its numbers begin. Raises ValueError where its size does not bear it out."""
    with archive.open(entry) as file:
        # Read no more than an honest header has: what follows may have no end.
        start = BytesIO(file.read(1 << 14))
    version = np.lib.format.read_magic(start)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(start)
    if dtype.kind not in "fiub" or math.prod(shape) * dtype.itemsize + start.tell() != entry.file_size:
        raise ValueError(entry.filename)
    if entry.file_size > BOMB_BYTES and entry.file_size > BOMB_RATIO * entry.compress_size:
        raise ValueError(entry.filename)
    return shape, start.tell()


def _open_torch(path: Path, entries: list[zipfile.ZipInfo]) -> WeightFile:
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"{path}: a compressed PyTorch file; torch.save writes none")
    if any(entry.filename.endswith(".pkl") and entry.file_size > SMALL_FILE for entry in entries):
        raise UserError(f"{path}: not a PyTorch file of weights")
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError:
        raise UserError(
            f"{path}: holds more than weights, which only running it would tell; save its state_dict as safetensors"
        ) from None
    except Exception:  # PyTorch raises many kinds on damaged files
        raise UserError(f"{path}: not a whole PyTorch file") from None
    for key in ("model", "state_dict"):  # as training scripts write them
        if isinstance(tree, dict) and isinstance(tree.get(key), dict):
            tree = tree[key]
    size = path.stat().st_size
    if not isinstance(tree, dict) or not all(
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout is torch.strided
        and not value.is_quantized
        and value.numel() * value.element_size() <= size
        for name, value in tree.items()
    ):
        raise UserError(f"{path}: not a PyTorch file of weights alone: a state_dict is needed")
    return WeightFile(
        str(path), "PyTorch", {name: tuple(value.shape) for name, value in tree.items()}, tree.__getitem__
    )


FLAX_TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int32": torch.int32,
    "int64": torch.int64,
}


def _open_msgpack(path: Path, size: int) -> WeightFile:
    """Flax's serialisation: nested maps, whose arrays are extensions. Slashes join the keys of the weights."""
    try:
        with path.open("rb") as file:
            unpacker = msgpack.Unpacker(
                file,
                read_size=min(size, 1 << 20),
                max_buffer_size=size,
                ext_hook=_flax_array,
                raw=False,
                strict_map_key=False,
            )
            tree = _weights_in(unpacker, ("optimizer", "target"))
            if unpacker.tell() != size:
                raise ValueError("more follows")
    except Exception:  # msgpack and what it calls raise many kinds on damaged files
        raise UserError(f"{path}: not a whole Scenic checkpoint (flax msgpack)") from None
    arrays = _flatten(tree) if isinstance(tree, dict) else {}
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
    flat: dict[str, Tensor] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}/"))
        elif isinstance(value, Tensor):
            flat[f"{prefix}{key}"] = value
    return flat
