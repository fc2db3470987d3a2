"""Optimisers, and the share of the learning rate that each layer gets (paper, table 7)."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vivit.data.order import steps_per_epoch
from vivit.model.embedding import Positions, TubeletEmbedding
from vivit.model.encoder import Encoder
from vivit.model.vivit import Adapter
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
    positions = {
        parameter for part in model.modules() if isinstance(part, Positions) for parameter in part.parameters()
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kernel = parameter.ndim > 1 and parameter not in positions
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
    modules = list(model.modules())
    adapters = [module for module in modules if isinstance(module, Adapter)]
    encoders = [module for module in modules if isinstance(module, Encoder)]
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
    """Give every group its share of the rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]


class WeightAverage:
    """The exponential moving average of the weights that are trained.

    It starts as the weights are. To forget them soon, the decay grows: after n steps it is (1 + n) / (10 + n), up to
    the one given (TensorFlow: `ExponentialMovingAverage` with `num_updates`), so that the average reaches back over
    about a tenth of the steps so far.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """
        Args:
            model: on its device; where its parameters are sharded, after that, and the average is sharded alike.
            decay: what stays of the average at each update, from 0 to below 1.
        """
        self.decay = decay
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.state: dict[str, Tensor] = {name: weight.detach().clone() for name, weight in self._weights.items()}
        """Parameter → its average, float32; all that a resumed run has to restore."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they are now, after a step of the optimiser; `step` counts those before it."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = [self.state[name] for name in self._weights]
        torch._foreach_lerp_(averages, list(self._weights.values()), 1 - decay)


@dataclass(frozen=True)
class Schedule:
    """The steps of a run, numbered from 1 where they are done, and from 0 where they are to be."""

    batch_size: int
    """Clips of a step, of all processes together."""
    steps_per_epoch: int
    epochs: int
    steps_per_score: int
    warmup_steps: float
    highest_rate: float

    @classmethod
    def planned(cls, recipe: Recipe, num_videos: int) -> Self:
        """That of a recipe for so many training videos."""
        batch_size = min(recipe.batch_size, num_videos)
        per_epoch = steps_per_epoch(num_videos, recipe.batch_size)
        epochs = planned_epochs(recipe, per_epoch)
        return cls(
            batch_size=batch_size,
            steps_per_epoch=per_epoch,
            epochs=epochs,
            # As often as the recipe's own epochs say: where a few videos have many short epochs, not after each.
            steps_per_score=per_epoch * (epochs // recipe.epochs),
            warmup_steps=recipe.warmup_epochs / recipe.epochs * epochs * per_epoch,
            highest_rate=scaled_learning_rate(recipe, batch_size),
        )

    @property
    def num_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def rate(self, step: int) -> float:
        """The learning rate of the step that comes after so many."""
        return learning_rate(step, self.highest_rate, self.warmup_steps, self.num_steps)

    def is_scored(self, done: int) -> bool:
        """Whether the model is scored when so many steps are done."""
        return done > 0 and (done % self.steps_per_score == 0 or done == self.num_steps)

    def times_scored(self, done: int) -> int:
        """How often the model has been scored when so many steps are done, where it is scored after the last."""
        return math.ceil(done / self.steps_per_score)


def planned_epochs(recipe: Recipe, steps_per_epoch: int) -> int:
    """The recipe's epochs, or more where they would be fewer steps than it wants.

    The warm-up's share of the run stays what it is: `warmup_epochs` of `epochs`.
    """
    return max(recipe.epochs, math.ceil(recipe.min_steps / steps_per_epoch))


def scaled_learning_rate(recipe: Recipe, batch: int) -> float:
    """The highest learning rate for updates of `batch` clips: in proportion to the batch that the recipe's is for."""
    if recipe.learning_rate_batch is None:
        return recipe.learning_rate
    return recipe.learning_rate * batch / recipe.learning_rate_batch


def learning_rate(step: int, highest: float, warmup_steps: float, num_steps: int) -> float:
    """Linear from 0 over the warm-up, then half a cosine towards 0 at `num_steps`.

    While it rises a step has the rate of its end, and while it falls that of its beginning: none is spent on a rate of
    0. (Scenic, train_lib/lr_schedules.py, has those of their beginnings, so its first step changes nothing.)
    """
    if step + 1 < warmup_steps:
        return highest * (step + 1) / warmup_steps
    progress = max(step - warmup_steps, 0.0) / max(num_steps - warmup_steps, 1)
    return highest * 0.5 * (1 + math.cos(math.pi * progress))
