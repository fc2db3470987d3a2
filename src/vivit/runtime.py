"""What the machine offers: devices, precision, threads and free memory."""

import atexit
import gc
import os
import platform
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
import torch.distributed as dist
from torch import cpu

from vivit.errors import UserError

Precision = Literal["f32", "bf16", "fp16", "int8"]
"""The precision of most arithmetic; int8 only in exported models."""
WantedPrecision = Literal["auto", "f32", "bf16", "fp16", "int8"]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# How a RuntimeError says that memory ran out: PyTorch's CPU allocator, CUDA's runtime and cuBLAS.
OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def pick_device(name: str) -> torch.device:
    """Return the named device; "auto" is the GPU if there is one, else the CPU.

    Raises:
        UserError: the device does not exist here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # fails on "meta", which holds no numbers
    except (RuntimeError, AssertionError):
        raise UserError(f"device: {name!r} is not available here; use auto, cpu or cuda") from None
    return device


def device_name(device: torch.device) -> str:
    """The model name of the GPU or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


@dataclass(frozen=True)
class Choice:
    """A precision and why it was chosen."""

    precision: Precision
    why: str
    """Empty if it was asked for."""

    def __str__(self) -> str:
        return f"{self.precision} ({self.why})" if self.why else self.precision


def pick_precision(wanted: WantedPrecision, device: torch.device) -> Choice:
    """Resolve "auto" to bf16 where the hardware makes it quicker than float32.

    Raises:
        UserError: fp16 without a GPU.
    """
    if wanted == "fp16" and device.type != "cuda":
        raise UserError("precision: fp16 needs a GPU; use bf16 or f32")
    if wanted != "auto":
        return Choice(wanted, "")
    if device.type == "cuda":
        # An older GPU emulates bf16, slowly.
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice("bf16", "this GPU computes in bf16")
        return Choice("f32", "this GPU does not compute in bf16")
    if device.type == "cpu":
        # docs/log.md has the speedups.
        for name, supported in (("AMX", cpu._is_amx_tile_supported), ("AVX512_BF16", cpu._is_avx512_bf16_supported)):
            if supported():
                return Choice("bf16", f"this processor has {name}")
    return Choice("f32", f"this {'processor' if device.type == 'cpu' else 'device'} has no fast bf16")


def peak_memory(device: torch.device) -> int:
    """Peak memory so far, in bytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # on Linux getrusage may return the peak of the process that started this one
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    # Other systems count in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_memory(device: torch.device) -> int:
    """Free bytes: on the GPU, or on the machine and within this process's control groups."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return max(0, min([psutil.virtual_memory().available, *left_in_control_groups()]))


def out_of_memory(error: BaseException) -> bool:
    """Whether this error means that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # PyTorch's CPU allocator has no exception of its own.
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def left_in_control_groups(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> Iterator[int]:
    """Bytes left under each memory limit on this process, from its own control group upwards (Linux, v1 and v2)."""
    for line in groups.read_text("utf-8").splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, limit, usage, reclaimable = root, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, usage = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            reclaimable = "total_inactive_file"
        else:
            continue
        # Inside a container the path may be the host's, while the container's own group is mounted at the top.
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            if not folder.is_relative_to(top):
                break
            try:
                most, used, counts = ((folder / name).read_text("utf-8") for name in (limit, usage, "memory.stat"))
            except OSError:
                continue
            if most.strip() != "max":
                # The kernel reclaims the page cache when memory is needed.
                yield int(most) - int(used) + int(dict(row.split() for row in counts.splitlines()).get(reclaimable, 0))


@dataclass(frozen=True)
class Ranks:
    """This process's place among several, and how they exchange data; by default it is the only one."""

    rank: int = 0
    world_size: int = 1
    gather: Callable[[list[Any]], list[Any]] = lambda items: items
    """Concatenates the lists of all processes, in rank order; every process gets the result."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; every process must call this."""
        return any(self.gather([flag]))


def leave_process_groups() -> None:
    """Destroy torch.distributed's process groups, if there are any, and join their threads.

    Call it once every network wrapped by DDP has been dropped. A wrapped network holds its group, and a group freed
    later joins gloo's threads without releasing the GIL. If one of these threads waits for the GIL to free a tensor,
    the process never ends.
    """
    if dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


def leave_gloo_at_exit() -> None:
    """Join gloo's threads at exit, before the interpreter shuts down; one that frees a tensor later aborts the process.

    NCCL's groups are left to the operating system: after a failure, destroying them may wait for another rank forever.
    """

    @atexit.register
    def leave() -> None:
        # An uncaught exception's traceback still holds the networks of its frames.
        if dist.is_initialized() and dist.get_backend() == "gloo" and not hasattr(sys, "last_traceback"):
            leave_process_groups()


def exit_after(wait: Callable[[], object]) -> None:
    """End this process, whatever it is doing, as soon as `wait` returns, such as when its parent has ended."""

    def watch() -> None:
        wait()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
