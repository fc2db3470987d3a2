"""How long a training is, at which learning rates, and after which steps the model is scored (paper, table 7)."""

import math
from dataclasses import dataclass
from typing import Self

from vivit.data.loader import steps_per_epoch
from vivit.training.recipe import Recipe


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
