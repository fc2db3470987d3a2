"""Files written whole or not at all: under another name first, then put in place."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vivit.errors import UserError


def write_weights(path: Path, state: dict[str, Tensor]) -> None:
    """Write a safetensors file. Raises UserError where it cannot be, as on a full disk; what stood there then stays."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    _whole(path, lambda unfinished: save_file(tensors, unfinished, metadata={"format": "pt"}))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file. Raises UserError where it cannot be."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file. Raises UserError where it cannot be."""
    _whole(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it. Raises UserError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: no folder can be made there ({error.strerror})") from None


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        write(unfinished)
        os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:  # a full disk is the latter
        unfinished.unlink(missing_ok=True)
        raise UserError(f"{path}: not written ({error})") from None
