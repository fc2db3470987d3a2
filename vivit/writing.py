"""Files written whole or not at all: under other names first, then put in place."""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vivit.errors import UserError

Content = Callable[[Path], object]
"""Writes itself to a path."""


def weights(state: Mapping[str, Tensor]) -> Content:
    """A safetensors file."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    return lambda path: save_file(tensors, path, metadata={"format": "pt"})


def as_json(value: Any) -> Content:
    return text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def text(value: str) -> Content:
    return lambda path: path.write_text(value, encoding="utf-8")


def write_files(files: Mapping[Path, Content]) -> None:
    """Write files that belong together; where one cannot be written, as on a full disk, what stood there stays.

    Raises:
        UserError: a file cannot be written; the message names it.
    """
    unfinished = {path: path.with_name(f"{path.name}.{os.getpid()}.unfinished") for path in files}
    try:
        for path, content in files.items():
            content(unfinished[path])
            unfinished[path].chmod(0o666 & ~_umask())  # safetensors lets nobody else read
        for path in files:
            os.replace(unfinished[path], path)
    except (OSError, SafetensorError, UnicodeEncodeError) as error:  # a full disk is the second
        raise UserError(f"{path}: not written ({error})") from None
    finally:
        for leftover in unfinished.values():
            with suppress(OSError):  # of a file system that is read-only
                leftover.unlink()


def write_whole(path: Path, text: str) -> None:
    """Put a file in place when all of it is on disk. Raises OSError."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it. Raises UserError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: no folder can be made there ({error.strerror})") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
