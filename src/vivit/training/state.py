"""The tensors of a run, by name: those that it needs to go on, and those that it leaves."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vivit.training.averaging import WeightAverage


def training_tensors(
    model: nn.Module, optimiser: torch.optim.Optimizer, average: WeightAverage | None
) -> dict[str, Tensor]:
    """All tensors that decide how training goes on, themselves and not copies: to be saved, or to be loaded into.

    The state of an optimiser that has not stepped yet is made, as zeros, from which its first step is the same.

    Args:
        model: without a wrapper such as DDP; it may be sharded.
        optimiser: torch's own, not Accelerate's around it.

    Returns:
        "model/NAME", "optimiser/NAME/KEY" and "average/NAME", where NAME is that of the parameter in the model: the
        number and the order of the processes do not matter.
    """
    # First, because by this a sharded model lets go of what it has gathered, and its parameters are the shards again
    # that the optimiser knows.
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    _make_state(optimiser)
    for name, parameter in model.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimiser/{name}/{key}"] = value
    if average is not None:
        tensors |= {f"average/{name}": value for name, value in average.state.items()}
    return tensors


def kept_weights(model: nn.Module, average: WeightAverage | None) -> dict[str, Tensor]:
    """The state dict of the model that a run leaves: whole, in CPU memory, and averaged where there is an average.

    Every process has to call it, and each gets all of it.
    """
    weights = model.state_dict()
    if average is not None:
        weights |= average.state
    with torch.no_grad():
        return {
            name: (value.full_tensor() if isinstance(value, DTensor) else value).to("cpu", copy=True)
            for name, value in weights.items()
        }


def _make_state(optimiser: torch.optim.Optimizer) -> None:
    """Make the tensors that the optimiser makes in its first step for those parameters that have none, as zeros."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    without = {parameter for parameter in parameters if parameter.requires_grad and not optimiser.state.get(parameter)}
    if not without:
        return
    gradients = [parameter.grad for parameter in parameters]
    rates = [group["lr"] for group in optimiser.param_groups]
    # A step at rate 0 changes no parameter, and one without a gradient is passed over.
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter) if parameter in without else None
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    optimiser.step()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate
    for parameter in without:
        for value in optimiser.state[parameter].values():
            if isinstance(value, Tensor):
                value.zero_()
