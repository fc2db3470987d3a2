"""Weight files: names and shapes first, an array when it is asked for. Nothing in a file is ever executed.

Four kinds are known by their content: safetensors, NumPy's .npz, flax msgpack, and PyTorch's zip files, which are read
with `weights_only=True`. What a file claims is held against its size before memory is taken for it.
"""

import json
import math
import pickletools
import re
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vivit.errors import UserError

Shape = tuple[int, ...]

# Of a config, an index, a pickled list of names: a hundred times an honest one's.
SMALL_FILE = 1 << 22
# Deflate shrinks zeros a thousandfold; weights hardly at all.
BOMB_BYTES, BOMB_RATIO = 1 << 26, 30
# Names in flax's trees are five deep and short, and their maps few.
DEEPEST, LONGEST_NAME, MOST_MAPS = 16, 500, 1 << 16
# How PyTorch's files began before they were zip files.
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
    size = size_of(path)
    try:
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
        return _open_msgpack(path)
    raise UserError(f"{path}: not readable as weights: no safetensors, .npz, flax msgpack (Scenic) or PyTorch zip file")


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
    if size_of(path) > SMALL_FILE:
        raise UserError(f"{path}: too large for a file of its kind")
    try:
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
    size_of(path)
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
    size = size_of(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception:  # zipfile raises many kinds on damaged files
        raise UserError(f"{path}: not a whole .npz or PyTorch file") from None
    if sum(entry.file_size for entry in entries) > max(BOMB_BYTES, BOMB_RATIO * size):
        raise UserError(f"{path}: would unpack to many times its size")
    if len({entry.filename.removesuffix(".npy") for entry in entries}) < len(entries):
        raise UserError(f"{path}: not a whole .npz or PyTorch file: a name stands for two arrays")
    if any(entry.filename.endswith("data.pkl") for entry in entries):
        return _open_torch(path, entries)
    return _open_npz(path)


def _open_npz(path: Path) -> WeightFile:
    try:
        archive = zipfile.ZipFile(path)
        shapes = {entry.filename.removesuffix(".npy"): _npy_shape(archive, entry) for entry in archive.infolist()}
    except Exception:  # zipfile, zlib and NumPy raise many kinds on damaged files
        raise UserError(f"{path}: not a whole .npz file of plain arrays of numbers") from None

    def read(name: str) -> Tensor:
        try:
            with archive.open(f"{name}.npy") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except Exception:
            raise UserError(f"{path}: {name}: damaged") from None
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))

    return WeightFile(str(path), "npz", shapes, read)


def _npy_shape(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Shape:
    """An array's shape. Raises ValueError where PyTorch has no such numbers, or its size does not bear it out."""
    with archive.open(entry) as file:
        # Read no more than an honest header has: what follows may have no end.
        start = BytesIO(file.read(1 << 14))
    version = np.lib.format.read_magic(start)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(start)
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise ValueError(entry.filename)
    if math.prod(shape) * dtype.itemsize + start.tell() != entry.file_size:
        raise ValueError(entry.filename)
    return shape


# All that a state_dict's pickle names. PyTorch's own reader knows a few more, one of which takes any amount of memory.
PICKLED_NAMES = re.compile(
    r"torch\._utils _rebuild_(tensor_v2|parameter)|collections OrderedDict|torch Size|"
    r"torch (\w+Storage|\w*float\w*|\w*int\w*|bool)"
)
TORCH_TYPES = {torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.int64, torch.bool}


def _open_torch(path: Path, entries: list[zipfile.ZipInfo]) -> WeightFile:
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"{path}: a compressed PyTorch file; torch.save writes none")
    pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
    if len(pickles) != 1 or pickles[0].file_size > SMALL_FILE:
        raise UserError(f"{path}: not a PyTorch file of weights")
    try:
        with zipfile.ZipFile(path) as archive:
            plain = _of_weights_alone(archive.read(pickles[0]))
    except Exception:  # zipfile and pickletools raise many kinds on what is damaged
        raise UserError(f"{path}: not a whole PyTorch file") from None
    if not plain:
        raise UserError(
            f"{path}: holds more than weights, which only running it would tell; save its state_dict as safetensors"
        )
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        for key in ("model", "state_dict"):  # as training scripts write them
            if isinstance(tree, dict) and isinstance(dict.get(tree, key), dict):
                tree = dict.get(tree, key)
        weights = dict(dict.items(tree))
        # A pickle may put numbers where an object's methods were, so those of the class are asked.
        plain = all(
            isinstance(name, str)
            and type(value) in (Tensor, torch.nn.Parameter)
            and value.dtype in TORCH_TYPES
            and value.layout is torch.strided
            and not value.is_nested
            for name, value in weights.items()
        )
        total = sum(Tensor.numel(value) * Tensor.element_size(value) for value in weights.values()) if plain else 0
    except Exception:  # PyTorch raises many kinds on damaged files
        raise UserError(f"{path}: not a whole PyTorch file of weights") from None
    # Tied weights stand there twice; a view that repeats one number does so a billion times.
    if not plain or total > 2 * path.stat().st_size:
        raise UserError(f"{path}: not a PyTorch file of weights alone: a state_dict is needed")
    weights = {name: torch.as_tensor(value).detach().as_subclass(Tensor) for name, value in weights.items()}
    return WeightFile(
        str(path), "PyTorch", {name: tuple(value.shape) for name, value in weights.items()}, weights.__getitem__
    )


def _of_weights_alone(pickle: bytes) -> bool:
    """Whether a pickle, which is only looked through, names nothing but tensors, and is done in reasonable time.

    Tuples of tuples of tuples, each taken twice by reference, would take for ever to be hashed; torch.save refers to
    no tuple twice.
    """
    tuples: set[object] = set()
    before = ""
    for opcode, argument, _ in pickletools.genops(pickle):
        name = opcode.name
        if name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "DUP", "MEMOIZE"):
            return False
        if name == "GLOBAL" and PICKLED_NAMES.fullmatch(str(argument)) is None:
            return False
        if name.endswith("PUT") and before.startswith("TUPLE"):
            tuples.add(argument)
        if name.endswith("GET") and argument in tuples:
            return False
        before = name
    return True


FLAX_TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int32": torch.int32,
    "int64": torch.int64,
}


def _open_msgpack(path: Path) -> WeightFile:
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
