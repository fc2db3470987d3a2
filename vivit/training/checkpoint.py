"""Checkpoints of a run: whole or not there, and never a pickle.

`RUN/checkpoints/step-00000120/` holds model.safetensors, optimiser.safetensors and state.json.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vivit.errors import UserError

KEEP = 2


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Write the state after `step` steps; it appears under its name when all of it is on the disk.

    `state` is what else the run needs to go on, as JSON. The KEEP latest checkpoints stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".unfinished-{step:08d}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        save_file(
            {name: value.detach().cpu() for name, value in model.state_dict().items()}, unfinished / "model.safetensors"
        )
        save_file(_moments(model, optimiser), unfinished / "optimiser.safetensors")
        (unfinished / "state.json").write_text(json.dumps({"step": step, **state}))
        for file in unfinished.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        final = folder / f"step-{step:08d}"
        shutil.rmtree(final, ignore_errors=True)
        unfinished.rename(final)
    except (OSError, SafetensorError) as error:  # a full disk is the latter
        shutil.rmtree(unfinished, ignore_errors=True)
        raise UserError(f"{folder}: checkpoint not written ({error}); the one before it is whole") from None
    for old in checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints, the latest last."""
    return sorted(folder.glob("step-*"))


def load_checkpoint(checkpoint: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Put weights and optimiser back as they were and return the state, "step" in it.

    Raises:
        UserError: the checkpoint is damaged, or of another model.
    """
    try:
        weights, moments = (load_file(checkpoint / f"{name}.safetensors") for name in ("model", "optimiser"))
        state = json.loads((checkpoint / "state.json").read_text())
        model.load_state_dict(weights)
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{checkpoint}: damaged ({reason}); delete it to go on from the one before") from None
    for name, parameter in model.named_parameters():
        found = {key.rsplit("/", 1)[1]: value for key, value in moments.items() if key.rsplit("/", 1)[0] == name}
        if found:
            # AdamW counts its steps on the CPU; moments live beside their parameter.
            optimiser.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in found.items()
            }
    return state


def _moments(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's tensors as `parameter/key`, so that they do not depend on an order of parameters."""
    return {
        f"{name}/{key}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }
