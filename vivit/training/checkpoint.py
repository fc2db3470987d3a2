"""Checkpoints of a run: exact, whole or not there, for any number of processes, and never a pickle.

RUN/checkpoints/step-00000120/ holds
- rank-0.safetensors, rank-1.safetensors …: what each process had of the tensors; of a sharded one its part, whose place
  is in the file's metadata;
- state.json: what else the run needs to go on;
- SHA256SUMS: of all these, as `sha256sum --check` reads it.
"""

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from vivit.errors import UserError

STATE, SUMS = "state.json", "SHA256SUMS"
UNFINISHED = ".unfinished-"
Result = TypeVar("Result")


class Failure(Exception):
    """What went wrong in one of the processes."""


class Part(NamedTuple):
    """A block of a tensor, in a file."""

    file: Path
    start: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Saved:
    """A tensor in a checkpoint."""

    shape: tuple[int, ...]
    parts: list[Part]


class Checkpoints:
    """The checkpoints in a folder, RUN/checkpoints; the folder has to be one that all processes share.

    Every process has to make one, and to call each method when the others do. What is done in the background does not
    touch the devices, nor the process group that training uses.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        """
        Args:
            keep: how many of the latest stay, at least 1.
        """
        self._folder, self._keep = folder, keep
        several = dist.is_initialized() and dist.get_world_size() > 1
        self._rank, self._processes = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
        if self._rank == 0:
            for leftover in folder.glob(f"{UNFINISHED}*"):
                shutil.rmtree(leftover, ignore_errors=True)
        # No process is through this before all are at it: none writes while leftovers are cleared away.
        self._group = dist.new_group(backend="gloo") if several else None
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._saving: Future[None] | None = None

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take the state after `step` steps as it is now, and write it in the background.

        It appears under its name when all of it is on the disk; only then old ones are deleted. A save that is still
        under way is waited for first.

        Args:
            tensors: the same names in every process; sharded ones (DTensor) are written by those that have them, others
                by the first process.
            state: what else the run needs to go on, as JSON; the first process's counts.

        Raises:
            UserError: the save before this one failed, as on a full disk; it is raised in every process.
        """
        self.wait()
        parts, places = {}, {}
        for name, tensor in tensors.items():
            local, start, is_ours = self._local_part(tensor)
            if is_ours:
                parts[name] = torch.empty(local.shape, dtype=local.dtype, device="cpu").copy_(local)
                places[name] = {"start": start, "whole": tuple(tensor.shape)}
        said = json.dumps({"step": step, **state})
        self._saving = self._writer.submit(self._write, f"step-{step:08d}", parts, places, said)

    def wait(self) -> None:
        """Return when the last save is on the disk.

        Raises:
            UserError: it failed; it is raised once, in every process.
        """
        if self._saving is not None:
            wait_for([self._saving])
            saving, self._saving = self._saving, None
            saving.result()

    def load(self, checkpoint: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Fill the tensors in place and return the state, "step" in it.

        Args:
            tensors: plain ones or DTensors, however they are sharded here and were when they were saved.

        Raises:
            UserError: it is damaged, or of other tensors; nothing has been filled.
        """
        try:
            return self._load(checkpoint, tensors)
        except Failure as error:
            raise UserError(f"{checkpoint}: damaged ({error}); delete it to go on from the one before") from None

    def _load(self, checkpoint: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """As `load`, but Failure is raised of a damaged one."""
        saved, state = self._together(lambda: self._checked(checkpoint))
        if other := _difference(saved, tensors):
            raise UserError(f"{checkpoint}: not of this model and optimiser: {other}; give another --out")
        with ExitStack() as stack, torch.no_grad():
            names = {part.file for one in saved.values() for part in one.parts}
            files = {name: stack.enter_context(safe_open(name, framework="pt")) for name in names}
            for name, tensor in tensors.items():
                local, start, _ = self._local_part(tensor)
                for part in saved[name].parts:
                    here, there = _overlap(start, tuple(local.shape), part)
                    if all(one.start < one.stop for one in here):
                        local[here].copy_(files[part.file].get_slice(name)[there])
        return state

    def load_latest(
        self, tensors: Callable[[], Mapping[str, Tensor]], say: Callable[[str], object]
    ) -> dict[str, Any] | None:
        """As `load`, of the latest checkpoint that is not damaged; None where there is none at all.

        Damaged ones on the way are renamed to damaged-step-…, and a line is said of each.

        Args:
            tensors: called where there is a checkpoint.

        Raises:
            UserError: all are damaged, or it is of other tensors.
        """
        # The first process's listing counts: on a shared file system others may still see an older one.
        names = self._everyones([path.name for path in reversed(checkpoints(self._folder))])[0]
        if not names:
            return None
        filled, damaged = tensors(), {}
        for name in names:
            try:
                state = self._load(self._folder / name, filled)
            except Failure as error:
                damaged[name] = str(error)
                continue
            for lost, reason in damaged.items():
                if self._rank == 0:
                    _move_aside(self._folder / lost)
                say(f"{self._folder / lost}: damaged ({reason}), renamed to damaged-{lost}; going on from {name}")
            return state
        reasons = "; ".join(f"{name}: {reason}" for name, reason in damaged.items())
        raise UserError(
            f"{self._folder}: no checkpoint is whole ({reasons}); delete {self._folder.parent} to begin again"
        )

    def _local_part(self, tensor: Tensor) -> tuple[Tensor, tuple[int, ...], bool]:
        """What this process has of a tensor, where in the whole that starts, and whether it is the one to save it."""
        if not isinstance(tensor, DTensor):
            return tensor.detach(), (0,) * tensor.ndim, self._rank == 0
        (place,) = tensor.__create_chunk_list__()
        copied = [number for number, placement in enumerate(tensor.placements) if placement.is_replicate()]
        has_first_copy = all(tensor.device_mesh.get_local_rank(number) == 0 for number in copied)
        return tensor.to_local().detach(), tuple(place.offsets), has_first_copy

    def _write(
        self, name: str, parts: dict[str, Tensor], places: dict[str, dict[str, tuple[int, ...]]], state: str
    ) -> None:
        unfinished = self._folder / f"{UNFINISHED}{name}"
        try:
            self._together(lambda: _write_parts(unfinished / f"rank-{self._rank}.safetensors", parts, places))
            self._together(lambda: self._finish(unfinished, name, state) if self._rank == 0 else None)
        except Failure as error:
            if self._rank == 0:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise UserError(f"{self._folder}: checkpoint not written ({error}); the one before it is whole") from None

    def _finish(self, unfinished: Path, name: str, state: str) -> None:
        """Put a checkpoint in place of which all processes have written their parts."""
        (unfinished / STATE).write_text(state, encoding="utf-8")
        _index(_files(unfinished))
        sums = (f"{_sha256(file)}  {file.name}\n" for file in [*_files(unfinished), unfinished / STATE])
        (unfinished / SUMS).write_text("".join(sums), encoding="utf-8")
        for path in (unfinished / STATE, unfinished / SUMS, unfinished):
            _sync(path)
        if (self._folder / name).exists():
            _delete(self._folder / name)
        unfinished.rename(self._folder / name)
        _sync(self._folder)
        for old in checkpoints(self._folder)[: -self._keep]:
            _delete(old)

    def _checked(self, checkpoint: Path) -> tuple[dict[str, Saved], dict[str, Any]]:
        """What is in a checkpoint; each process reads its share of the files to see that they are as written."""
        lines = (checkpoint / SUMS).read_text("utf-8").splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        if STATE not in sums:
            raise ValueError(f"{SUMS} lacks {STATE}")
        for number, (name, digest) in enumerate(sums.items()):
            if number % self._processes == self._rank and _sha256(checkpoint / name) != digest:
                raise ValueError(f"{name} is not as it was written")
        state = json.loads((checkpoint / STATE).read_text("utf-8"))
        return _index(checkpoint / name for name in sums if name != STATE), state

    def _together(self, work: Callable[[], Result]) -> Result:
        """Do the work; where it fails in one process, raise Failure in all."""
        try:
            result, failure = work(), ""
        except (OSError, SafetensorError, ValueError) as error:  # a full disk is either of the first two
            failure = str(error) or type(error).__name__
        for trouble in filter(None, self._everyones(failure)):
            raise Failure(trouble)
        return result

    def _everyones(self, value: Any) -> list[Any]:
        """This value of each process, in their order."""
        if self._group is None:
            return [value]
        values = [None] * self._processes
        dist.all_gather_object(values, value, group=self._group)
        return values


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the latest last."""
    return sorted(folder.glob("step-*"))


def _files(checkpoint: Path) -> list[Path]:
    return sorted(checkpoint.glob("rank-*.safetensors"))


def _write_parts(file: Path, parts: dict[str, Tensor], places: dict[str, dict[str, tuple[int, ...]]]) -> None:
    """Write what this process saves; nothing where that is nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if parts:
        save_file(parts, file, metadata={"places": json.dumps(places)})
        file.chmod(file.parent.stat().st_mode & 0o666)  # safetensors lets nobody else read
        _sync(file)


def _index(files: Iterable[Path]) -> dict[str, Saved]:
    """Where the parts of each tensor are. Raises ValueError where one is missing."""
    index: dict[str, Saved] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            places = json.loads(opened.metadata()["places"])
            for name, place in places.items():
                saved = index.setdefault(name, Saved(tuple(place["whole"]), []))
                saved.parts.append(Part(file, tuple(place["start"]), tuple(opened.get_slice(name).get_shape())))
    for name, saved in index.items():
        if sum(math.prod(part.shape) for part in saved.parts) != math.prod(saved.shape):
            raise ValueError(f"a part of {name} is missing; all processes must share the folder")
    return index


def _difference(saved: Mapping[str, Saved], tensors: Mapping[str, Tensor]) -> str:
    """How they differ in names or shapes, or nothing."""
    if unequal := saved.keys() ^ tensors.keys():
        name = min(unequal)
        return f"{name} is {'not in it' if name in tensors else 'in it and not here'}"
    for name, tensor in tensors.items():
        if saved[name].shape != tuple(tensor.shape):
            there, here = (" × ".join(map(str, shape)) for shape in (saved[name].shape, tensor.shape))
            return f"{name} is {there} in it and {here} here"
    return ""


def _overlap(start: tuple[int, ...], shape: tuple[int, ...], part: Part) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """What a block and a part of a tensor have in common, as places in the one and in the other."""
    here, there = [], []
    for begin, length, part_begin, part_length in zip(start, shape, part.start, part.shape, strict=True):
        first = max(begin, part_begin)
        last = max(first, min(begin + length, part_begin + part_length))
        here.append(slice(first - begin, last - begin))
        there.append(slice(first - part_begin, last - part_begin))
    return tuple(here), tuple(there)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Return when a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot do this to a folder, and need not.
        if not (path.is_dir() and error.errno in (errno.EBADF, errno.EINVAL)):
            raise
    finally:
        os.close(descriptor)


def _delete(checkpoint: Path) -> None:
    """Delete a checkpoint such that what is left, should this be interrupted, does not look like one."""
    leaving = checkpoint.with_name(f"{UNFINISHED}{checkpoint.name}-deleted")
    with suppress(OSError):
        checkpoint.rename(leaving)
    shutil.rmtree(leaving, ignore_errors=True)


def _move_aside(checkpoint: Path) -> None:
    """Rename a damaged checkpoint, so that it is not taken for one again."""
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(OSError):
        checkpoint.rename(aside)
