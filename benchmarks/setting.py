"""The setting of a measurement: processor, versions, commit."""

import importlib.metadata
import os
import platform

import av
import torch

from vivit.experiments.record import commit
from vivit.runtime import device_name


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
