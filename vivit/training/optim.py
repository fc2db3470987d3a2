"""Optimisers and the learning rate (paper, table 7)."""

import math

import torch
from torch import nn

from vivit.training.recipe import Recipe


def build_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 or AdamW; weight decay on kernels only."""
    kernels = [p for name, p in model.named_parameters() if p.ndim > 1 and not name.endswith("positions.embedding")]
    chosen = {id(p) for p in kernels}
    others = [p for p in model.parameters() if id(p) not in chosen]
    groups = [{"params": kernels, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def learning_rate(step: int, highest: float, warmup_steps: float, num_steps: int) -> float:
    """Linear from 0 over the warm-up, then half a cosine down to 0 at `num_steps`.

    The first step, number 0, has a rate already: that of the end of a step.
    """
    if step + 1 < warmup_steps:
        return highest * (step + 1) / warmup_steps
    progress = (step + 1 - warmup_steps) / max(num_steps - warmup_steps, 1)
    return highest * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
