"""Open weight files: names and shapes now, arrays on demand. Nothing in a file is ever executed.

Files are recognised by their content: safetensors, NumPy's .npz, flax msgpack, PyTorch's zip files, which are read
with `weights_only=True`, and ONNX. The sizes that a file claims are checked against its own size before memory is
allocated.
"""

import json
import math
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vivit.errors import UserError, one_line
from vivit.weights.flax_file import open_flax
from vivit.weights.torch_file import open_torch
from vivit.weights.weight_file import SMALL_FILE, Shape, WeightFile, size_of

Record = TypeVar("Record", bound=BaseModel)

# Deflate shrinks zeros a thousandfold, and weights hardly at all.
BOMB_BYTES, BOMB_RATIO = 1 << 26, 30
# The first bytes of PyTorch's files before they were zip files.
OLD_PYTORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9"

# The first byte of an ONNX file: its version is the first field.
ONNX = b"\x08"


def open_weights(path: Path) -> WeightFile:
    """Open a file of any known kind. Raises UserError if it is damaged or of another kind."""
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
    if start.startswith(ONNX) or path.suffix == ".onnx":
        return _open_onnx(path)
    if start and (0x80 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF)):
        return open_flax(path)
    raise UserError(
        f"{path}: not readable as weights (safetensors, .npz, Scenic's flax msgpack, PyTorch's zip file, ONNX)"
    )


def open_folder(folder: Path) -> WeightFile:
    """Open the weights in a folder as `transformers` writes it: one file, or several with an index."""
    for name, open_part in (("model.safetensors", _open_safetensors), ("pytorch_model.bin", _open_zip)):
        if (folder / name).is_file():
            return open_part(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _open_parts(index, open_part)
    raise UserError(f"{folder}: no model.safetensors and no pytorch_model.bin; not a complete model folder")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError if the file is missing, absurdly large or not a JSON object."""
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


def read_record(path: Path, kind: type[Record]) -> Record:
    """A JSON object as this model of pydantic. Raises UserError if the file is missing or damaged."""
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error)}") from None


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

    return WeightFile(str(path), shapes, read)


def _open_onnx(path: Path) -> WeightFile:
    try:
        from vivit.weights.onnx_vit import open_onnx
    except ImportError:
        raise UserError(f"{path}: ONNX files are read with the package onnx: pip install onnx") from None
    return open_onnx(path)


def _open_parts(index: Path, open_part: Callable[[Path], WeightFile]) -> WeightFile:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        raise UserError(f"{index}: no weight_map from names to files")
    for file in names.values():
        if Path(file).name != file or file in ("", ".", ".."):
            raise UserError(f"{index}: {file!r} is not the name of a file in its folder")
    parts = {file: open_part(index.parent / file) for file in sorted(set(names.values()))}
    shapes = {}
    for name, file in names.items():
        if name not in parts[file].shapes:
            raise UserError(f"{index}: {name} is not in {file}")
        shapes[name] = parts[file].shapes[name]
    return WeightFile(str(index), shapes, lambda name: parts[names[name]].read(name))


def _open_zip(path: Path) -> WeightFile:
    """Open a zip file: PyTorch's or .npz."""
    size = size_of(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception:  # zipfile raises many kinds on damaged files
        raise UserError(f"{path}: not an .npz or PyTorch file, or incomplete") from None
    if sum(entry.file_size for entry in entries) > max(BOMB_BYTES, BOMB_RATIO * size):
        raise UserError(f"{path}: would unpack to many times its size")
    if len({entry.filename.removesuffix(".npy") for entry in entries}) < len(entries):
        raise UserError(f"{path}: damaged .npz or PyTorch file: two arrays have the same name")
    if any(entry.filename.endswith("data.pkl") for entry in entries):
        return open_torch(path, entries)
    return _open_npz(path)


def _open_npz(path: Path) -> WeightFile:
    try:
        archive = zipfile.ZipFile(path)
        shapes = {entry.filename.removesuffix(".npy"): _npy_shape(archive, entry) for entry in archive.infolist()}
    except UnknownType as error:
        raise UserError(f"{path}: {error}") from None
    except Exception:  # zipfile, zlib and NumPy raise many kinds on damaged files
        raise UserError(f"{path}: not an .npz file of plain arrays of numbers, or incomplete") from None

    def read(name: str) -> Tensor:
        try:
            with archive.open(f"{name}.npy") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except Exception:
            raise UserError(f"{path}: {name}: damaged") from None
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))

    return WeightFile(str(path), shapes, read)


class UnknownType(Exception):
    """An array's numbers are of a type that PyTorch lacks."""


def _npy_shape(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Shape:
    """An array's shape. Raises UnknownType, or ValueError if its size does not match the entry's."""
    with archive.open(entry) as file:
        # Enough for an honest header: a hostile one may be endless.
        start = BytesIO(file.read(1 << 14))
    version = np.lib.format.read_magic(start)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(start)
    if dtype.kind not in "fiubc" or dtype.itemsize > (16 if dtype.kind == "c" else 8):
        # NumPy has no bfloat16: it writes it as two bytes of no type.
        name = entry.filename.removesuffix(".npy")
        raise UnknownType(f"{name} holds NumPy's {dtype}, which is not read; save it as float32")
    if math.prod(shape) * dtype.itemsize + start.tell() != entry.file_size:
        raise ValueError(entry.filename)
    return shape
