"""The tensors of a run: those in its checkpoints, and the weights that are scored and saved."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vivit.training.optim import WeightAverage


def training_tensors(
    model: nn.Module, optimiser: torch.optim.Optimizer, average: WeightAverage | None
) -> dict[str, Tensor]:
    """All tensors that training needs to continue, not copies of them: to save, or to load into.

    If the optimiser has not stepped yet, its state is created as zeros, which does not change its first step.

    Args:
        model: without a wrapper such as DDP; its parameters may be sharded.
        optimiser: torch's own, not Accelerate's wrapper.

    Returns:
        "model/NAME", "optimiser/NAME/KEY" and "average/NAME", where NAME is the parameter's name in the model. The
        names do not depend on the number of processes.
    """
    # First, because this makes a sharded model free its gathered parameters; then they are the optimiser's shards.
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
    """The state dict of the model to score and save: unsharded, in CPU memory, averaged if there is an average.

    Every process must call this, and each gets all of it.
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
    """Create the optimiser state of the first step, as zeros, for parameters that have none."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    without = {parameter for parameter in parameters if parameter.requires_grad and not optimiser.state.get(parameter)}
    if not without:
        return
    gradients = [parameter.grad for parameter in parameters]
    rates = [group["lr"] for group in optimiser.param_groups]
    # A step at rate 0 changes no parameter, and skips parameters without a gradient.
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
