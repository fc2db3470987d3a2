"""The file that an experiment writes: its values, and everything needed to reproduce them."""

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

import vivit
from vivit.files import as_json, write_files
from vivit.runtime import device_name


def write_record(
    path: Path,
    values: Mapping[str, Any],
    *,
    seed: int | None = None,
    device: str = "cpu",
    packages: Sequence[str] = (),
) -> None:
    """Write `record` as JSON. Raises UserError if the file cannot be written."""
    write_files({path: as_json(record(values, seed=seed, device=device, packages=packages))})


def record(
    values: Mapping[str, Any], *, seed: int | None = None, device: str = "cpu", packages: Sequence[str] = ()
) -> dict[str, Any]:
    """The values of an experiment, after the command, commit, seed, hardware, versions and date that produced them.

    Args:
        values: the results; anything that JSON can hold.
        device: the device that computed them, such as cpu or cuda.
        packages: packages whose versions matter, besides Python, PyTorch and this one; some may not be installed.
    """
    return {
        "command": command(),
        "commit": commit(),
        "seed": seed,
        "hardware": hardware(device),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "vivit": vivit.__version__,
            **dict(_versions(packages)),
        },
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "values": dict(values),
    }


def _versions(packages: Sequence[str]) -> Iterator[tuple[str, str]]:
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            yield package, importlib.metadata.version(package)


def command() -> str:
    """The command line of this process, with absolute paths cut to their last name: the rest is this machine's."""

    def shown(word: str) -> str:
        option, equals, value = word.rpartition("=")
        return f"{option}{equals}{Path(value).name if os.path.isabs(value) else value}"

    program = "vivit" if Path(sys.argv[0]).name in ("vivit", "__main__.py") else Path(sys.argv[0]).name
    return shlex.join([program, *map(shown, sys.argv[1:])])


def commit() -> str:
    """The output of `git describe` for the checkout that this code runs from; without one, the version."""
    here = Path(__file__)

    def git(*words: str) -> str:
        ran = subprocess.run(
            ["git", "--no-optional-locks", *words], cwd=here.parent, capture_output=True, text=True, check=True
        )
        return ran.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an environment may be inside a checkout of something else
        return git("describe", "--always", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return f"vivit {vivit.__version__}"


def hardware(device: str) -> dict[str, Any]:
    """The processor with its cores and memory, the threads that PyTorch uses, and the device."""
    return {
        "cpu": device_name(torch.device("cpu")),
        "instructions": instructions(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "device": device_name(torch.device(device)) if device != "cpu" else "cpu",
    }


def instructions() -> list[str]:
    """The CPU's instruction sets that determine the speed of matrix products."""
    asked = {
        "avx2": torch.cpu._is_avx2_supported,
        "avx512": torch.cpu._is_avx512_supported,
        "avx512_vnni": torch.cpu._is_vnni_supported,
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported,
        "amx": torch.cpu._is_amx_tile_supported,
    }
    return [name for name, supported in asked.items() if supported()]
