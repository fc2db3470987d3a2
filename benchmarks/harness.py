"""What all benchmarks share: their setting, fresh processes, and the record they write.

The timing of steps is in `vivit.inference.speed`, because `vivit benchmark` uses it too.

A record comes from `vivit.experiments.record`, in a file in docs/performance/ named after the benchmark. Its values are
the machine's "load" beforehand, a "task" (the settings that all rows share), and "rows", one per measurement. A row
names its "model" (a key of `benchmarks.contenders.CONTENDERS`), "variant" and "precision" where it has them; a time is
`vivit.inference.speed.spread` of seconds, and a failed measurement has an "error" in words. `benchmarks.tables` makes
all tables and plots from these files alone.
"""

import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import av
import torch

from vivit.experiments.record import commit, write_record
from vivit.files import make_folder
from vivit.runtime import device_name

RESULTS = Path(__file__).parents[1] / "docs" / "performance"
LOAD = os.getloadavg()[0]
"""Of the machine, before anything was measured."""
Result = TypeVar("Result")


def on_one_core() -> None:
    """Restrict this process to one core, including decoders that count cores."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def setting(*packages: str) -> str:
    """Three lines: the hardware, the versions of these packages and their libraries, and the commit."""
    versions = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    versions += [_version(package) for package in packages]
    return f"{device_name(torch.device('cpu'))}, {os.cpu_count()} cores.\n{', '.join(versions)}.\nCommit {commit()}."


def _version(package: str) -> str:
    try:
        version = f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {package}"
    if package == "av":
        return f"{version} (libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))})"
    if package == "torchcodec":
        try:
            from torchcodec._core import get_ffmpeg_library_versions
        except (ImportError, RuntimeError, OSError):
            return f"{version} (does not load)"
        return f"{version} (FFmpeg {get_ffmpeg_library_versions()['ffmpeg_version']})"
    return version


def fresh_process() -> ProcessPoolExecutor:
    """A fresh process, which imports everything anew."""
    return ProcessPoolExecutor(1, get_context("spawn"))


def in_fresh_process(call: Callable[..., Result], *args: Any) -> Result:
    with fresh_process() as process:
        return process.submit(call, *args).result()


def resident(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at its peak (Linux). `getrusage` may return the parent's peak."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{field}:"))


def write(path: Path, values: Mapping[str, Any], *, device: str = "cpu", packages: Sequence[str] = ()) -> None:
    """Write a record, with the versions of these packages if installed.

    Args:
        values: with "task" and "rows"; see above.

    Raises:
        UserError: the file cannot be written.
    """
    make_folder(path.parent)
    write_record(path, {"load": round(LOAD, 1), **values}, device=device, packages=packages)


def read(path: Path) -> dict[str, Any]:
    """Read a record; without a file, return one without rows."""
    if not path.exists():
        return {"values": {"task": {}, "rows": []}}
    record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return record


def forget_peak() -> None:
    """Return freed memory to the system, and reset VmHWM to what is resident now (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def end_above(limit: float) -> None:
    """End this process as soon as it holds more than this many bytes; whoever waits for it sees a broken pool."""

    def watch() -> None:
        while resident("VmRSS") < limit:
            time.sleep(0.02)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
