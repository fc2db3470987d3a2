"""The one way to write files: under a temporary name, then renamed, so a file is complete or absent."""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vivit.errors import UserError

Content = Callable[[Path], object]
"""Writes itself to a path."""


def as_weights(state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Content:
    """A safetensors file."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    return lambda path: save_file(tensors, path, metadata={"format": "pt", **(metadata or {})})


def as_json(value: Any) -> Content:
    return as_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def as_text(value: str) -> Content:
    """UTF-8; surrogates, which stand for undecodable bytes in file names, are written as those bytes."""
    return lambda path: path.write_text(value, encoding="utf-8", errors="surrogateescape")


def write_files(files: Mapping[Path, Content]) -> None:
    """Write files that belong together; if one cannot be written, as on a full disk, the old ones stay.

    All files are synced to disk before the first is renamed.

    Raises:
        UserError: a file cannot be written; the message names it.
    """
    unfinished = {path: path.with_name(f"{path.name}.{os.getpid()}.unfinished") for path in files}
    try:
        for path in files:
            # Renaming would replace a device such as /dev/null.
            if path.exists() and not path.is_file():
                raise UserError(f"{path}: not written (it is {'a folder' if path.is_dir() else 'no regular file'})")
        for path, content in files.items():
            content(unfinished[path])
            unfinished[path].chmod(0o666 & ~_umask())  # safetensors makes files that only their owner can read
            sync(unfinished[path])
        for path in files:
            os.replace(unfinished[path], path)
    except (OSError, SafetensorError, UnicodeEncodeError) as error:  # safetensors reports a full disk as its own error
        raise UserError(f"{path}: not written ({getattr(error, 'strerror', None) or error})") from None
    finally:
        for leftover in unfinished.values():
            with suppress(OSError):  # nothing can be deleted on a read-only file system
                leftover.unlink()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill. At the end it replaces `folder`; after an error it is deleted.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = folder.absolute()
    make_folder(folder.parent)
    try:
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", suffix=".unfinished", dir=folder.parent) as place:
            filling, old = Path(place) / "new", Path(place) / "old"
            filling.mkdir()
            yield filling
            for file in filling.iterdir():
                sync(file)
            sync(filling)
            if folder.exists():
                os.replace(folder, old)
            try:
                os.replace(filling, folder)
            except OSError:
                if old.exists():
                    os.replace(old, folder)
                raise
    except OSError as error:
        raise UserError(f"{folder}: not written ({error.strerror or error})") from None


def user_cache(name: str) -> Path:
    """A folder for files that can be regenerated; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vivit" / name


def make_folder(folder: Path) -> None:
    """Make a folder and its parents. Raises UserError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot create this folder ({error.strerror})") from None


def sync(path: Path) -> None:
    """Sync a file, or the list of names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder, and need not.
        if not (path.is_dir() and error.errno in (errno.EBADF, errno.EINVAL)):
            raise
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
