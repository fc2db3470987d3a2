"""A run's checkpoints: exact, atomic, independent of the number of processes, and free of pickles.

RUN/checkpoints/step-00000120/ holds
- shard-00001-model-00001-of-00007.safetensors …: the tensors of each process, written and read by
  torch.distributed.checkpoint; of a sharded tensor, a file holds one part, which its metadata identify;
- state.json: everything else needed to resume;
- SHA256SUMS: the checksums of all these files, for `sha256sum --check`.
"""

import errno
import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor

from vivit.errors import UserError
from vivit.files import sync

STATE, SUMS = "state.json", "SHA256SUMS"
UNFINISHED = ".unfinished-"
# Writing a file takes two copies of it in memory, so files must stay small.
TENSORS_PER_FILE = 64
TROUBLES = (OSError, SafetensorError, ValueError)
# Raised by torch and json for files with altered content.
DAMAGED = (*TROUBLES, RecursionError, AssertionError, LookupError, TypeError, AttributeError, OverflowError)
# Reading may fail with these although the file is whole.
PASSING = (errno.EACCES, errno.EPERM, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE)
Result = TypeVar("Result")

# A run of one process needs no process group. The filter is global because filters are not per thread.
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")


class Failure(Exception):
    """One of the processes failed."""

    def __init__(self, reason: str, passing: bool = False) -> None:
        """
        Args:
            passing: whether the unreadable file may still be whole.
        """
        super().__init__(reason)
        self.passing = passing


class Writer(dcp.HuggingFaceStorageWriter):
    """Writes the tensors of each process to files; once all are written, rank 0 finishes the checkpoint."""

    def __init__(self, folder: Path, file_numbers: dict[str, int], finish: Callable[[list[str]], None]) -> None:
        """
        Args:
            file_numbers: tensor → the number, from 1, of the file that each process writes it to.
            finish: called with the names of all files.
        """
        super().__init__(str(folder), file_numbers, save_distributed=True)
        # The tensors are in CPU memory; copying from a device would make this thread use the first GPU.
        self.per_thread_copy_ahead = 0
        self._finish = finish

    def finish(self, metadata: dcp.Metadata, results: list[list[WriteResult]]) -> None:
        self._finish(sorted({result.storage_data.relative_path for of_one in results for result in of_one}))


class Planner(dcp.DefaultLoadPlanner):
    """Refuses tensors whose names or shapes differ from the checkpoint's, before any of them is filled.

    Torch's planner ignores tensors that are in the checkpoint but not asked for.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        self._checkpoint = checkpoint

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: dcp.Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        assert metadata is not None
        if other := _difference(metadata.state_dict_metadata, state_dict):
            raise UserError(f"{self._checkpoint}: from another model or optimiser: {other}; give another --out")
        super().set_up_planner(state_dict, metadata, is_coordinator)


class Checkpoints:
    """The checkpoints in RUN/checkpoints, a folder that all processes share.

    Every process makes one and must call each method when the others do. Background work uses neither the devices nor
    the process group of training.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        """
        Args:
            keep: how many of the latest checkpoints to keep, at least 1.
        """
        self._folder, self._keep = folder, keep
        many = dist.is_initialized()
        self._rank, self._processes = (dist.get_rank(), dist.get_world_size()) if many else (0, 1)
        if self._rank == 0:
            for leftover in folder.glob(f"{UNFINISHED}*"):
                shutil.rmtree(leftover, ignore_errors=True)
        # new_group waits for all processes, so none writes while leftovers are being deleted.
        self._group = dist.new_group(backend="gloo") if many else None
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._saving: Future[None] | None = None

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Copy the state after `step` steps now, and write it in the background.

        The checkpoint gets its name once all of it is on disk; only then are old ones deleted. If the previous save is
        still under way, wait for it first.

        Args:
            tensors: the same names in every process. Each process writes its part of sharded tensors (DTensor); rank 0
                writes all others.
            state: everything else needed to resume, as JSON; rank 0's is written.

        Raises:
            UserError: in every process, if the previous save failed, for example on a full disk.
        """
        self.wait()
        # Only rank 0 writes tensors that are equal in all processes; the others need no copy.
        copies = {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
            if self._rank == 0 or isinstance(tensor, DTensor)
        }
        file_numbers = {name: 1 + number // TENSORS_PER_FILE for number, name in enumerate(tensors)}
        said = json.dumps({"step": step, **state})
        self._saving = self._writer.submit(self._write, f"step-{step:08d}", copies, file_numbers, said)

    def wait(self) -> None:
        """Wait until the last save is on disk.

        Raises:
            UserError: in every process, once, if it failed.
        """
        self.settle()
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.result()

    def settle(self) -> None:
        """Wait until nothing is being written, whether or not the last save failed."""
        if self._saving is not None:
            wait_for([self._saving])

    def load_latest(
        self,
        tensors: Callable[[], Mapping[str, Tensor]],
        say: Callable[[str], object],
        check: Callable[[dict[str, Any]], object] = lambda state: None,
    ) -> dict[str, Any] | None:
        """Fill the tensors in place from the latest undamaged checkpoint.

        Damaged ones found first are renamed to damaged-step-…, and each is reported in one line.

        Args:
            tensors: called if there is a checkpoint. The tensors may be plain or sharded (DTensor), however they were
                saved.
            check: called with a state; raises ValueError if this run cannot have written it.

        Returns:
            The state, including "step"; None if there is no checkpoint.

        Raises:
            UserError: a checkpoint cannot be read or has other tensors, or all of them are damaged.
        """
        # Use rank 0's listing: on a shared file system, other processes may still see an older one.
        names = self._everyones([path.name for path in reversed(checkpoints(self._folder))])[0]
        if not names:
            return None
        filled, damaged = tensors(), {}
        for name in names:
            try:
                state = self._load(self._folder / name, filled, check)
            except Failure as error:
                if error.passing:
                    raise UserError(
                        f"{self._folder / name}: cannot be read ({error}); make it readable, and run the same command"
                    ) from None
                damaged[name] = str(error)
                continue
            for lost, reason in damaged.items():
                if self._rank == 0:
                    _move_aside(self._folder / lost)
                say(f"{self._folder / lost}: damaged ({reason}), renamed to damaged-{lost}; resuming from {name}")
            return state
        reasons = "; ".join(f"{name}: {reason}" for name, reason in damaged.items())
        raise UserError(
            f"{self._folder}: all checkpoints are damaged ({reasons}); give another --out, and --init "
            f"{self._folder.parent} to start from its last scored weights"
        )

    def _load(
        self, checkpoint: Path, tensors: Mapping[str, Tensor], check: Callable[[dict[str, Any]], object]
    ) -> dict[str, Any]:
        """Fill the tensors from this checkpoint and return the state. Raises Failure if it is damaged."""
        state = self._together(lambda: self._checked(checkpoint), DAMAGED)
        self._together(lambda: check(state), DAMAGED)
        reader, planner = dcp.HuggingFaceStorageReader(str(checkpoint)), Planner(checkpoint)
        self._together(reader.read_metadata, DAMAGED)  # in dcp.load, torch would log a traceback on failure
        self._together(
            lambda: dcp.load(dict(tensors), storage_reader=reader, planner=planner, process_group=self._group), DAMAGED
        )
        self._together(lambda: _check_finite(tensors), DAMAGED)
        return state

    def _write(self, name: str, tensors: dict[str, Tensor], file_numbers: dict[str, int], state: str) -> None:
        unfinished = self._folder / f"{UNFINISHED}{name}"
        writer = Writer(unfinished, file_numbers, lambda files: self._finish(unfinished, name, files, state))
        try:
            self._together(lambda: dcp.save(tensors, storage_writer=writer, process_group=self._group))
        except Failure as error:
            if self._rank == 0:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise UserError(f"{self._folder}: checkpoint not written ({error}); the one before it is whole") from None

    def _finish(self, unfinished: Path, name: str, files: list[str], state: str) -> None:
        """Give the checkpoint its name, now that all processes have written their files."""
        if missing := [file for file in files if not (unfinished / file).exists()]:
            raise ValueError(f"{missing[0]} is missing; all processes must share the folder")
        (unfinished / STATE).write_text(state, encoding="utf-8")
        sums = (f"{_sha256(unfinished / file)}  {file}\n" for file in [*files, STATE])
        (unfinished / SUMS).write_text("".join(sums), encoding="utf-8")
        for path in (unfinished / STATE, unfinished / SUMS, unfinished):
            sync(path)
        if (self._folder / name).exists():
            _delete(self._folder / name)
        unfinished.rename(self._folder / name)
        sync(self._folder)
        for old in checkpoints(self._folder)[: -self._keep]:
            _delete(old)

    def _checked(self, checkpoint: Path) -> dict[str, Any]:
        """The state in a checkpoint; each process verifies the checksums of some of the files."""
        lines = (checkpoint / SUMS).read_text("utf-8").splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        if STATE not in sums:
            raise ValueError(f"{SUMS} lacks {STATE}")
        for number, (name, digest) in enumerate(sums.items()):
            if number % self._processes == self._rank and _sha256(checkpoint / name) != digest:
                raise ValueError(f"{name} has changed since it was written")
        state = json.loads((checkpoint / STATE).read_text("utf-8"))
        if not isinstance(state, dict) or type(state.get("step")) is not int or state["step"] != _step(checkpoint):
            raise ValueError(f"{STATE} is not the state after step {_step(checkpoint)}")
        return state

    def _together(self, work: Callable[[], Result], troubles: tuple[type[Exception], ...] = TROUBLES) -> Result:
        """Do the work; if it fails in one process, with one of these exceptions, raise Failure in all of them."""
        try:
            result, failure = work(), None
        except dcp.CheckpointException as error:
            cause, _ = next(iter(error.failures.values()))  # the same in every process
            raise (Failure(*_reason(cause)) if isinstance(cause, troubles) else cause) from None
        except troubles as error:
            failure = _reason(error)
        for trouble in filter(None, self._everyones(failure)):
            raise Failure(*trouble)
        return result

    def _everyones(self, value: Any) -> list[Any]:
        """The values of all processes, in rank order."""
        if self._group is None:
            return [value]
        values = [None] * self._processes
        dist.all_gather_object(values, value, group=self._group)
        return values


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the latest last."""
    found = (path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name) and path.is_dir())
    return sorted(found, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _reason(error: Exception) -> tuple[str, bool]:
    """The reason to report for an error, and whether it may be temporary."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return reason, isinstance(error, OSError) and error.errno in PASSING


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a value in this process is NaN or infinite: a run ends before it saves one."""
    for name, tensor in tensors.items():
        values = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if values.is_floating_point() and not values.isfinite().all():
            raise ValueError(f"{name} has values that are not finite numbers")


def _difference(saved: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The first difference in names or shapes, in words; "" if there is none."""
    if unequal := saved.keys() ^ tensors.keys():
        name = min(unequal)
        return f"{name} is {'not in it' if name in tensors else 'in it, but not in this run'}"
    for name, tensor in tensors.items():
        if saved[name].size != tensor.shape:
            there, here = (" × ".join(map(str, shape)) for shape in (saved[name].size, tensor.shape))
            return f"{name} is {there} in it and {here} in this run"
    return ""


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _delete(checkpoint: Path) -> None:
    """Delete a checkpoint; if this is interrupted, the rest is not mistaken for a checkpoint."""
    leaving = checkpoint.with_name(f"{UNFINISHED}{checkpoint.name}-deleted")
    with suppress(OSError):
        checkpoint.rename(leaving)
    shutil.rmtree(leaving, ignore_errors=True)


def _move_aside(checkpoint: Path) -> None:
    """Rename a damaged checkpoint so it is not read again."""
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(OSError):
        checkpoint.rename(aside)
