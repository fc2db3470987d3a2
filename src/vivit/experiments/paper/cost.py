"""The cost of a cell: multiply-adds and expected seconds."""

import statistics
from dataclasses import replace
from functools import lru_cache
from typing import Any

from vivit.config import ModelConfig
from vivit.experiments.motion_benchmark import VERBS
from vivit.experiments.paper.cells import Cell, ImageStart, Pretrained, Results
from vivit.weights.describe import multiply_adds

# Until a cell has been measured: multiply-adds per second, and a cell's seconds besides its training steps.
SPEED, OVERHEAD = 4e10, 20.0
# Until an image ViT has been measured, it is taken for a ViT-S.
IMAGE_VIT = {"hidden_size": 384, "num_heads": 6, "mlp_dim": 1536}


def expected_seconds(cell: Cell, results: Results) -> float:
    """How long a cell takes, from cells that have been measured, most of all those that differ in rate or seed only."""
    mine = _apart_from_rate_and_seed(cell.settings)
    alike = [one["seconds"] for one in results.values() if _apart_from_rate_and_seed(one["settings"]) == mine]
    if alike:
        return statistics.median(alike)
    # Records of other cells show how fast this machine is.
    speeds = [one["work"] / one["train_seconds"] for one in results.values() if one["train_seconds"]]
    return OVERHEAD + (work_of(cell) + work_before(cell)) / (statistics.median(speeds) if speeds else SPEED)


def _apart_from_rate_and_seed(settings: dict[str, Any]) -> dict[str, Any]:
    recipe = {name: value for name, value in settings["recipe"].items() if name not in ("learning_rate", "seed")}
    return {**settings, "recipe": recipe}


def work_of(cell: Cell) -> float:
    """Multiply-adds of a cell's training, without validation; the backward pass takes twice as many as the forward."""
    recipe = cell.recipe
    fields = recipe.config_fields(False)
    if isinstance(cell.start, ImageStart):
        fields |= {**IMAGE_VIT, "num_layers": cell.start.layers}
    config = ModelConfig.named(recipe.model or "vivit-ti-16x2-fe", num_classes=len(VERBS), **fields)
    if recipe.frozen is not None:  # each clip is encoded once; training the rest then costs next to nothing
        clips = cell.scale.benchmark["train_videos"] * cell.fraction * recipe.cached_clips
        return float(_counted(config.model_dump_json()) * clips)
    return 3.0 * _counted(config.model_dump_json()) * recipe.batch_size * recipe.min_steps


def work_before(cell: Cell) -> float:
    """Multiply-adds of the pretraining that a cell may have to do, with as many for the decoder as for the encoder."""
    if not isinstance(cell.start, Pretrained):
        return 0.0
    recipe = cell.start.recipe
    whole = work_of(replace(cell, recipe=recipe, start=None))
    return 2 * (1 - recipe.mask_ratio) * whole


@lru_cache
def _counted(config: str) -> int:
    return multiply_adds(ModelConfig.model_validate_json(config))
