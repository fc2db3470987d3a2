import functools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from vivit.data.loader import Batch
from vivit.labels import LabelSpace
from vivit.model.vivit import ViViT
from vivit.training.distributed import start_processes
from vivit.training.optim import WeightAverage, build_optimiser
from vivit.training.plan import build_augmentation
from vivit.training.recipe import Recipe
from vivit.training.recipes import DESCRIPTIONS, OWN, RECIPES, table
from vivit.training.update import Learner, Updater
from vivit.weights.describe import multiply_adds

# The paper's table 7, column by column: rate, epochs, colour jitter, RandAugment, stochastic depth, label smoothing,
# Mixup; and the number of classes and of training videos (section 4.1; Scenic's configurations for the last two).
TABLE_7: dict[str, dict[str, Any]] = {
    "kinetics400": {"row": (0.1, 30, 0.8, None, 0.0, 0.0, 0.0), "heads": {"classes": 400}, "videos": 267_000},
    "kinetics600": {"row": (0.1, 30, 0.8, None, 0.0, 0.0, 0.0), "heads": {"classes": 600}, "videos": 446_000},
    "moments": {"row": (0.25, 10, 0.8, None, 0.0, 0.0, 0.0), "heads": {"classes": 339}, "videos": 800_000},
    "epic": {"row": (0.5, 50, 0.0, (2, 15), 0.2, 0.2, 0.1), "heads": {"verb": 97, "noun": 300}, "videos": 67_217},
    "ssv2": {"row": (0.5, 35, 0.0, (2, 20), 0.3, 0.3, 0.3), "heads": {"classes": 174}, "videos": 168_913},
}
# ln K, averaged over the heads.
CHANCE = {"kinetics400": 5.991465, "kinetics600": 6.396930, "moments": 5.826000, "epic": 5.139247, "ssv2": 5.159055}
# Table 2, and the authors' parameter counts with 400 classes.
TABLE_2 = {
    "b": (80.0, 43.1, 88_954_000),
    "b-fe": (78.8, 43.7, 115_062_928),
    "b-fsa": (77.4, 39.1, 117_319_312),
    "b-fdp": (76.3, 39.5, 88_952_464),
    "b-average": (75.8, 38.8, 86_696_080),
}
# Tables 5 and 6, and the table of released weights in Scenic's projects/vivit/README.md.
SCORES = {
    "kinetics400-l": 80.3,
    "kinetics400-l-fe": 81.7,
    "kinetics400-h": 84.9,
    "kinetics600-l-fe": 82.9,
    "kinetics600-h": 85.8,
    "moments-l-fe": 38.5,
    "epic-l-fe": 44.0,
    "ssv2-l-fe": 65.9,
    "kinetics400-b-official": 79.9,
    "kinetics400-b-fe-official": 78.4,
    "kinetics400-l-fe-official": 80.3,
    "kinetics600-l-fe-official": 81.6,
    "epic-l-fe-official": 43.6,
}
# Where the authors' released configurations differ from the paper.
OFFICIAL: dict[str, dict[str, Any]] = {
    "kinetics400-b": {"grey_scale": 0.1},
    "kinetics400-b-fe": {"grey_scale": 0.1, "learning_rate": 0.05},
    "kinetics400-l-fe": {"grey_scale": 0.1, "num_frames": 32, "architecture": {"temporal_layers": 24}},
    "kinetics600-l-fe": {"grey_scale": 0.1, "learning_rate": 0.05, "architecture": {"temporal_layers": 24}},
    "epic-l-fe": {"frame_stride": 1},
    "ssv2-l-fe": {"frame_stride": 1, "learning_rate": 0.4, "image_size": 256, "resize": 288},
}
PAPERS = [name for name in RECIPES if name not in OWN]
PLAIN = [name for name in PAPERS if not name.endswith("-official")]


def heads_of(name: str) -> dict[str, int]:
    data_set = name.split("-")[0]
    return TABLE_7[data_set]["heads"] if data_set in TABLE_7 else {"classes": 9}


def cost_of_clip(recipe: Recipe) -> int:
    """Multiply-adds with 400 classes, counted once for each architecture."""
    return _multiply_adds(recipe.build_config({"classes": 400}).model_copy(update={"stochastic_depth": 0.0}))


_multiply_adds = functools.cache(multiply_adds)


def shrunken(recipe: Recipe) -> Recipe:
    """The recipe with a network and clips so small that a step takes no time."""
    config = recipe.build_config({"classes": 2})
    patch = config.tubelet_size[1]
    size = {"hidden_size": 16, "num_heads": 2, "num_layers": 2, "mlp_dim": 32}
    if config.temporal_layers:
        size["temporal_layers"] = 1
    small_clip = {"num_frames": 2 * config.tubelet_size[0], "image_size": 2 * patch, "resize": None}
    architecture = {**recipe.architecture, **size}
    return recipe.model_copy(update={**small_clip, "architecture": architecture, "precision": "f32"})


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps_of_every_recipe_learn_from_chance(name: str) -> None:
    """The head starts at zero, so the first loss is ln K, with any label smoothing and mixing."""
    recipe, heads = shrunken(RECIPES[name]), heads_of(name)
    torch.manual_seed(3)
    model = ViViT(recipe.build_config(heads), preprocessing=recipe.build_preprocessing())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    accelerator = start_processes(torch.device("cpu"), "f32", None, shard=False)
    average = WeightAverage(model, recipe.ema) if recipe.ema else None
    learner = Learner(model, model, build_optimiser(model, recipe), model, average)
    space = LabelSpace({head: tuple(map(str, range(count))) for head, count in heads.items()})
    update = Updater(learner, accelerator, recipe, space, build_augmentation(recipe))
    clips = torch.randint(256, (8, model.config.num_frames, 3, *model.config.image_size), dtype=torch.uint8)
    labels = {head: torch.arange(8) % count for head, count in heads.items()}
    batch = Batch(clips, labels, torch.arange(8))
    losses = [update(batch, step, 0, recipe.learning_rate, 8).loss for step in range(2)]
    assert losses[0] == pytest.approx(CHANCE.get(name.split("-")[0], math.log(9)), abs=1e-5)
    assert math.isfinite(losses[1])
    assert losses[1] != losses[0]
    same = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
    assert same == set()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_its_model(name: str) -> None:
    recipe = RECIPES[name]
    with torch.device("meta"):
        model = ViViT(recipe.build_config(heads_of(name)), preprocessing=recipe.build_preprocessing())
    assert model.config.class_counts == heads_of(name)
    assert model.preprocessing.resize >= min(model.config.image_size)
    build_augmentation(recipe)
    noted = recipe.model_dump_json()
    assert Recipe.model_validate_json(noted).model_dump_json() == noted


@pytest.mark.parametrize("name", PLAIN)
def test_the_papers_recipes_are_table_7(name: str) -> None:
    recipe = RECIPES[name]
    given = (
        recipe.learning_rate,
        recipe.epochs,
        recipe.colour_jitter,
        recipe.randaugment,
        recipe.stochastic_depth,
        recipe.label_smoothing,
        recipe.mixup,
    )
    assert given == TABLE_7[name.split("-")[0]]["row"]
    assert recipe.grey_scale == recipe.cutmix == recipe.weight_decay == recipe.dropout == recipe.ema == 0


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_recipes_share_what_table_7_has_once(name: str) -> None:
    recipe = RECIPES[name]
    assert (recipe.optimiser, recipe.batch_size, recipe.learning_rate_batch) == ("sgd", 64, 64)
    assert (recipe.warmup_epochs, recipe.min_steps, recipe.layer_decay) == (2.5, 0, 1.0)
    assert (recipe.clip_norm, recipe.scale_jitter, build_augmentation(recipe).flip) == (1.0, (0.9, 1.33), 0.5)
    if name not in ("kinetics400-l-fe", "epic-l-fe-official", "ssv2-l-fe-official"):
        assert (recipe.num_frames, recipe.frame_stride, recipe.image_size, recipe.resize) == (32, 2, 224, 256)


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_released_configurations_differ_in_these_values_alone(name: str) -> None:
    released, paper = (RECIPES[each].model_dump() for each in (f"{name}-official", name))
    assert {field: value for field, value in released.items() if value != paper[field]} == OFFICIAL[name]


@pytest.mark.parametrize("model", TABLE_2)
def test_base_models_have_the_authors_parameters(model: str) -> None:
    for data_set in ("kinetics400", "epic"):
        with torch.device("meta"):
            network = ViViT(RECIPES[f"{data_set}-{model}"].build_config({"classes": 400}))
        assert sum(p.numel() for p in network.parameters()) == TABLE_2[model][2]


def test_a_view_of_the_large_and_huge_models_costs_what_the_paper_counts() -> None:
    """Table 6a's TFLOPs divided by its views, and table 5's GFLOPs; ours count matrix products only."""
    for name, multiply_adds_of_paper in {
        "kinetics400-l": 1446e9,
        "kinetics400-l-fe": 11.94e12 / 3,
        "kinetics400-h": 47.77e12 / 12,
    }.items():
        assert cost_of_clip(RECIPES[name]) == pytest.approx(multiply_adds_of_paper, rel=0.01)


@pytest.mark.parametrize("name", PAPERS)
def test_a_description_has_command_score_and_compute(name: str) -> None:
    words = DESCRIPTIONS[name]
    data_set, model = name.split("-", 1)
    assert f"--recipe {name} --init " in words
    if name != "ssv2-l-fe-official":
        score = TABLE_2[model][data_set == "epic"] if model in TABLE_2 else SCORES[name]
        assert f"{score:.1f} %" in words
    told = re.search(r"([\d.]+) EFLOP", words)
    assert told is not None
    recipe = RECIPES[name]
    compute = 6 * cost_of_clip(recipe) * TABLE_7[data_set]["videos"] * recipe.epochs / 1e18
    assert float(told[1]) == pytest.approx(compute, rel=0.01)


@pytest.mark.parametrize("name", OWN)
def test_our_own_recipes_say_how_to_start_them(name: str) -> None:
    words = DESCRIPTIONS[name]
    assert "vivit train" in words or "make demo" in words


def test_the_guide_has_all_recipes() -> None:
    """`python -m vivit.training.recipes` prints the table for docs/training.md."""
    guide = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text("utf-8")
    assert table() in guide
    assert [name for name in OWN if f"| `{name}` |" not in guide] == []


def test_finetuning_takes_its_clips_and_model_from_the_start() -> None:
    recipe = RECIPES["finetune"]
    fields = ("model", "num_frames", "frame_stride", "image_size", "resize")
    assert [getattr(recipe, field) for field in fields] == [None] * 5
    assert recipe.architecture == {}


def test_the_demo_is_what_the_readmes_score_was_measured_with() -> None:
    recipe = RECIPES["demo"]
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.weight_decay) == (6, 32, 1e-3, 0.05)
    assert (recipe.num_frames, recipe.image_size, recipe.position_std, recipe.flip) == (8, 48, 0.3, 0.0)
    assert (recipe.min_steps, recipe.layer_decay, recipe.learning_rate_batch, recipe.ema) == (0, 1.0, None, 0.0)
    with torch.device("meta"):
        model = ViViT(recipe.build_config({"classes": 9}))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(1.0, abs=0.05)


def test_architecture_has_the_last_word() -> None:
    recipe = Recipe(num_frames=8, architecture={"num_frames": 16, "hidden_size": 24})
    config = recipe.build_config({"classes": 3})
    assert (config.num_frames, config.hidden_size, config.num_classes) == (16, 24, 3)


@pytest.mark.parametrize("field", ["epochs", "batch_size", "learning_rate", "flip", "clip_norm", "colour"])
def test_a_value_that_makes_no_sense_is_named(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Recipe.model_validate({field: -1})
