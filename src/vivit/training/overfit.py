"""A few batches learnt by heart: a check that a model, its data and its learning rate are sound (--overfit)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vivit.data.datasets import VideoSet
from vivit.data.loader import epoch_order
from vivit.errors import UserError
from vivit.training.recipe import Recipe

STEPS = 100
EPOCHS = 10


def without_chance(recipe: Recipe) -> Recipe:
    """The recipe without augmentation and regularisation, for STEPS steps and EPOCHS epochs at least."""
    rates = dict.fromkeys(("dropout", "attention_dropout", "stochastic_depth", "token_dropping"), 0.0)
    return recipe.model_copy(
        update={
            "architecture": {**recipe.architecture, **rates},
            "min_steps": STEPS,
            "epochs": EPOCHS,
            "cached_clips": 1,
            "warmup_epochs": min(recipe.warmup_epochs / recipe.epochs, 0.5) * EPOCHS,
            **dict.fromkeys(("weight_decay", "label_smoothing", "stochastic_depth", "dropout"), 0.0),
            **dict.fromkeys(("token_dropping", "flip", "colour_jitter", "grey_scale", "mixup", "cutmix", "ema"), 0.0),
            **dict.fromkeys(("scale_jitter", "randaugment"), None),
        }
    )


def few_batches(videos: VideoSet, number: int, recipe: Recipe) -> VideoSet:
    """The videos of a run's first batches; raises UserError where there is none."""
    if number < 1:
        raise UserError(f"overfit: {number} batches cannot be learnt; give 1 or more")
    order = epoch_order(len(videos.videos), recipe.seed, 0)[: number * recipe.batch_size]
    words = f"{len(order)} videos of {videos.source}, to be learnt by heart"
    return replace(videos, videos=tuple(videos.videos[index] for index in order), source=words)


def how_it_went(steps: Sequence[dict[str, Any]]) -> str:
    """In words, whether the loss fell as it must."""
    first, last = steps[0]["loss"], steps[-1]["loss"]
    fell = f"the loss went from {first:.3g} to {last:.3g} in {steps[-1]['step']} steps"
    if last < first / 10:
        return f"{fell}: the model learns these clips by heart, as it should"
    return f"{fell}: it should be near 0; try another --learning-rate, and look at the clips with vivit data show"
