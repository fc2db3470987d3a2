"""The optimiser, learning rates by step and layer, the EMA of the weights, and the schedule (paper, table 7)."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vivit.data.order import steps_per_epoch
from vivit.model.embedding import Positions, TubeletEmbedding
from vivit.model.encoder import encoders_of
from vivit.model.pooling import AttentivePooling
from vivit.model.vivit import Adapter
from vivit.training.recipe import Recipe


def build_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or AdamW, over the trained parameters; weight decay on kernels only.

    Each parameter group has "lr_scale", the factor for its layer's learning rate: `layer_decay` to the power of the
    number of layers above it, hence 1 for the heads (layer-wise learning rate decay as in BEiT, arXiv 2106.08254).
    Without layer decay there are two groups, kernels and the rest.

    Args:
        model: a ViViT or a part of one, on its device and, if sharding is on, already sharded.
    """
    above = layers_above(model)
    positions = {
        parameter for part in model.modules() if isinstance(part, Positions) for parameter in part.parameters()
    } | {part.positions for part in model.modules() if isinstance(part, AttentivePooling)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kernel = parameter.ndim > 1 and parameter not in positions
            key = (recipe.weight_decay if kernel else 0.0, recipe.layer_decay ** above[name])
            groups.setdefault(key, []).append(parameter)
    parameters = [
        {"params": group, "weight_decay": decay, "lr_scale": scale} for (decay, scale), group in groups.items()
    ]
    # A fused kernel updates all parameters at once; SGD has none for sharded parameters.
    fused = all(p.device.type in ("cpu", "cuda") and not isinstance(p, DTensor) for p in model.parameters())
    optimiser: torch.optim.Optimizer
    if recipe.optimiser == "sgd":
        optimiser = torch.optim.SGD(parameters, lr=recipe.learning_rate, momentum=0.9, fused=fused)
    else:
        optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, betas=(0.9, recipe.adam_beta2), fused=fused)
    set_learning_rate(optimiser, recipe.learning_rate)
    return optimiser


def layers_above(model: nn.Module) -> dict[str, int]:
    """Parameter → the number of layers above it: 0 for the heads, most for the embedding.

    Each block is a layer; so are the embedding with its positions, and everything between the factorised encoder's two
    encoders. Everything after the last block counts as part of the heads.
    """
    modules = list(model.modules())
    adapters = [module for module in modules if isinstance(module, Adapter)]
    encoders = encoders_of(model)
    layers: list[list[nn.Module]] = [[module for module in modules if isinstance(module, TubeletEmbedding)]]
    for encoder in encoders:
        layers[-1] += [encoder.positions, *(adapters if encoder is encoders[-1] else ())]
        layers += [[block] for block in encoder.blocks]
        layers.append([encoder.norm])
    above = {
        parameter: number
        for number, layer in enumerate(reversed(layers))
        for module in layer
        for parameter in module.parameters()
    }
    return {name: above.get(parameter, 0) for name, parameter in model.named_parameters()}


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group, scaled for its layer."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]


class WeightAverage:
    """The exponential moving average (EMA) of the trained weights.

    It starts from the initial weights. To forget them soon, the decay warms up: after n steps it is (1 + n) / (10 + n),
    capped at the given decay, as in TensorFlow's `ExponentialMovingAverage` with `num_updates`. Until it reaches the
    cap, the average covers about the last tenth of the steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """
        Args:
            model: on its device and, if sharding is on, already sharded; the average is sharded like it.
            decay: the weight of the old average at each update, from 0 to below 1.
        """
        self.decay = decay
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.state: dict[str, Tensor] = {name: weight.detach().clone() for name, weight in self._weights.items()}
        """Parameter → its average, float32; all the state that a resumed run must restore."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the current weights, after optimiser step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = [self.state[name] for name in self._weights]
        torch._foreach_lerp_(averages, list(self._weights.values()), 1 - decay)


@dataclass(frozen=True)
class Schedule:
    """The steps of a run. Arguments: `step` counts from 0; `done` is the number of completed steps."""

    batch_size: int
    """Clips per step, over all processes."""
    steps_per_epoch: int
    epochs: int
    steps_per_score: int
    warmup_steps: float
    highest_rate: float

    @classmethod
    def planned(cls, recipe: Recipe, num_videos: int) -> Self:
        """The schedule of a recipe for this number of training videos."""
        batch_size = min(recipe.batch_size, num_videos)
        per_epoch = steps_per_epoch(num_videos, recipe.batch_size)
        epochs, rate = planned_epochs(recipe, per_epoch), recipe.learning_rate
        if recipe.learning_rate_batch is not None:
            rate = rate * batch_size / recipe.learning_rate_batch
        return cls(
            batch_size=batch_size,
            steps_per_epoch=per_epoch,
            epochs=epochs,
            # Score about as often as the recipe has epochs: with few videos there are more epochs, not all scored.
            steps_per_score=per_epoch * (epochs // recipe.epochs),
            warmup_steps=recipe.warmup_epochs / recipe.epochs * epochs * per_epoch,
            highest_rate=rate,
        )

    @property
    def num_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def rate(self, step: int) -> float:
        """The learning rate of this step."""
        return learning_rate(step, self.highest_rate, self.warmup_steps, self.num_steps)

    def is_scored(self, done: int) -> bool:
        """Whether to score the model after this many steps."""
        return done > 0 and (done % self.steps_per_score == 0 or done == self.num_steps)


def planned_epochs(recipe: Recipe, steps_per_epoch: int) -> int:
    """The recipe's epochs, or as many more as reach its `min_steps`.

    The warm-up keeps its fraction of the run: `warmup_epochs` / `epochs`.
    """
    return max(recipe.epochs, math.ceil(recipe.min_steps / steps_per_epoch))


def learning_rate(step: int, highest: float, warmup_steps: float, num_steps: int) -> float:
    """Linear warm-up from 0, then half a cosine down to 0 at `num_steps`.

    While the rate rises, a step uses the value at its end; while it falls, the value at its beginning. So no step has
    rate 0. (Scenic, train_lib/lr_schedules.py, always uses the beginning, so its first step changes nothing.)
    """
    if step + 1 < warmup_steps:
        return highest * (step + 1) / warmup_steps
    progress = max(step - warmup_steps, 0.0) / max(num_steps - warmup_steps, 1)
    return highest * 0.5 * (1 + math.cos(math.pi * progress))
