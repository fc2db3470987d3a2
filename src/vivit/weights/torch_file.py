"""PyTorch's own files, which are pickles: inspected first, then read with `weights_only=True`, or refused."""

import pickletools
import re
import struct
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from vivit.errors import UserError
from vivit.weights.weight_file import SMALL_FILE, WeightFile

# The globals in the pickle of a state_dict. PyTorch's reader allows a few more, and one of those can take all memory.
PICKLED_NAMES = re.compile(
    r"torch\._utils _rebuild_(tensor_v2|parameter)|collections OrderedDict|torch Size|"
    r"torch (\w+Storage|\w*float\w*|\w*int\w*|bool)"
)
TORCH_TYPES = {
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.complex128, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}


def open_torch(path: Path, entries: list[zipfile.ZipInfo]) -> WeightFile:
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"{path}: a compressed PyTorch file; torch.save writes none")
    pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
    if len(pickles) != 1 or pickles[0].file_size > SMALL_FILE or not _one_directory(path):
        raise UserError(f"{path}: not a PyTorch file of weights")
    try:
        with zipfile.ZipFile(path) as archive:
            plain = _has_only_weights(archive.read(pickles[0]))
    except Exception:  # zipfile and pickletools raise many kinds on damaged files
        raise UserError(f"{path}: not a PyTorch file, or incomplete") from None
    if not plain:
        raise UserError(
            f"{path}: holds more than weights of 16, 32 or 64 bits, and reading it might execute code; "
            "save its state_dict as safetensors"
        )
    try:
        # torch.load reads paths that end in .safetensors as safetensors, whatever they contain.
        mapped = path.suffix != ".safetensors"
        with path.open("rb") as file:
            tree = torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
        for key in ("model", "state_dict"):  # as training scripts write them
            if isinstance(tree, dict) and isinstance(dict.get(tree, key), dict):
                tree = dict.get(tree, key)
        weights = dict(dict.items(tree))
        # A pickle may overwrite an object's methods, so call those of the class.
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
        raise UserError(f"{path}: not a PyTorch file of weights, or incomplete") from None
    # Tied weights count twice; a view that repeats one number may do so a billion times.
    if not plain or total > 2 * path.stat().st_size:
        raise UserError(f"{path}: not a PyTorch file of weights alone: a state_dict is needed")
    weights = {name: torch.as_tensor(value).detach().as_subclass(Tensor) for name, value in weights.items()}
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    return WeightFile(str(path), shapes, weights.__getitem__)


def _has_only_weights(pickle: bytes) -> bool:
    """Whether a pickle, which is not executed here, names only tensors and unpickles in reasonable time.

    Nested tuples that each refer twice to the next take forever to hash; torch.save never refers to a tuple twice.
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
        if not name.endswith("PUT") and name != "PROTO":  # these leave the stack as it is
            before = name
    return True


def _one_directory(path: Path) -> bool:
    """Whether every reader finds the same zip directory; otherwise PyTorch and Python might read different ones."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(size - 98, 0))
        tail = file.read().rjust(98, b"\0")
    record, locator, end = tail[:56], tail[56:76], tail[76:]
    if not end.startswith(b"PK\x05\x06") or not end.endswith(b"\0\0"):
        return False
    if not locator.startswith(b"PK\x06\x07"):
        return sum(struct.unpack("<12x2I2x", end)) == size - 22
    (place,) = struct.unpack("<8xQ4x", locator)
    return record.startswith(b"PK\x06\x06") and place == size - 98 == sum(struct.unpack("<40x2Q", record))
