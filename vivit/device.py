"""Which device to run on."""

import torch

from vivit.errors import UserError


def pick_device(name: str) -> torch.device:
    """ "auto" is the GPU where there is one. Raises UserError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # "meta" has no numbers
    except (RuntimeError, AssertionError):
        raise UserError(f"device: {name!r} is not available here; use auto, cpu or cuda") from None
    return device
