"""One call of `vivit train`: when, where, with what, and what it took."""

import platform
from datetime import UTC, datetime
from typing import Any

import torch
from accelerate import Accelerator

from vivit import __version__
from vivit.runtime import device_name


def session_of(accelerator: Accelerator, first_step: int) -> dict[str, Any]:
    """When, where and with what a call of `train` runs."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": 0.0,
        "first_step": first_step,
        "last_step": first_step,
        "device": device_name(accelerator.device),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "vivit": __version__},
    }
