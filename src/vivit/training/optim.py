"""Optimisers, and the share of the learning rate that each layer gets (paper, table 7)."""

import re

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from vivit.training.recipe import Recipe


def build_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 or AdamW over the parameters that are trained; weight decay on kernels only.

    Each group has "lr_scale", the share of the learning rate that its layer gets: `layer_decay` for each layer above
    it, so 1 for the heads (layer-wise learning rate decay, as in BEiT, arXiv 2106.08254). Without layer decay there
    are two groups, kernels and all else.

    Args:
        model: a ViViT or a part of one, on its device; where it is to be sharded, after that.
    """
    above = layers_above(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kernel = parameter.ndim > 1 and not name.endswith("positions.embedding")
            key = (recipe.weight_decay if kernel else 0.0, recipe.layer_decay ** above[name])
            groups.setdefault(key, []).append(parameter)
    parameters = [
        {"params": group, "weight_decay": decay, "lr_scale": scale} for (decay, scale), group in groups.items()
    ]
    # One kernel for all parameters; there is none for SGD on sharded ones.
    fused = all(p.device.type in ("cpu", "cuda") and not isinstance(p, DTensor) for p in model.parameters())
    optimiser: torch.optim.Optimizer
    if recipe.optimiser == "sgd":
        optimiser = torch.optim.SGD(parameters, lr=recipe.learning_rate, momentum=0.9, fused=fused)
    else:
        optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, fused=fused)
    set_learning_rate(optimiser, recipe.learning_rate)
    return optimiser


def layers_above(model: nn.Module) -> dict[str, int]:
    """Parameter → how many layers lie between its own and the logits: 0 for the heads, the most for the embedding.

    A block is a layer. Below the first lie the embedding and its positions as one, and so does, between the factorised
    encoder's two encoders, all that stands there. What follows the last block belongs to the heads.
    """
    names = [name for name, _ in model.named_parameters()]
    over_time = any("temporal_encoder." in name for name in names)
    places = {name: _place(name, over_time) for name in names}
    layers = sorted(set(places.values()), reverse=True)
    return {name: layers.index(place) for name, place in places.items()}


def _place(name: str, over_time: bool) -> tuple[int, int]:
    """Where a parameter stands on the way from the video to the logits: its stage, and in an encoder the block."""
    if "heads." in name:
        return 4, 0
    if block := re.search(r"(temporal_)?encoder\.blocks\.(\d+)\.", name):
        return 3 if block[1] else 1, int(block[2])
    if "temporal_positions." in name or "adapter." in name or (over_time and "spatial_encoder.norm." in name):
        return 2, 0
    if "embedding." in name or "positions." in name:
        return 0, 0
    return 4, 0


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]
