"""The flags of a recipe: what can be typed, and what it makes of the recipe that is named."""

from typing import Any

import pytest
from pydantic import ValidationError

from vivit.cli import build_app
from vivit.cli.recipe import GROUP_OF, change_recipe
from vivit.training.recipe import Recipe
from vivit.training.recipes import RECIPES


def flags(*words: str) -> dict[str, Any]:
    """What `vivit train my_videos` makes of these words."""
    arguments = (
        build_app().parse_args(["train", "my_videos", *words], exit_on_error=False, print_error=False)[1].arguments
    )
    return arguments.get("flags") or {}


def test_each_field_is_a_flag() -> None:
    assert GROUP_OF.keys() == Recipe.model_fields.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_without_flags_a_recipe_is_what_it_is(name: str) -> None:
    assert change_recipe(RECIPES[name], flags()) == RECIPES[name]


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ("--epochs 3", {"epochs": 3}),
        ("--epochs=3", {"epochs": 3}),
        ("--epochs 3 --epochs 4", {"epochs": 4}),
        ("--batch_size 3", {"batch_size": 3}),
        ("--learning-rate 1e-3", {"learning_rate": 1e-3}),
        ("--model None --flip None --num-frames None", {"model": None, "flip": None, "num_frames": None}),
        ("--scale-jitter 0.9 1.33", {"scale_jitter": (0.9, 1.33)}),
        ("--scale-jitter None", {"scale_jitter": None}),
        ("--randaugment 2 15", {"randaugment": (2, 15.0)}),
        ("--randaugment None --epochs 2", {"randaugment": None, "epochs": 2}),
        ("--freeze-spatial", {"freeze_spatial": True}),
        ("--freeze-spatial --no-freeze-spatial", {"freeze_spatial": False}),
        ("--mirrored left right", {"mirrored": (("left", "right"),)}),
        ("--mirrored a b c d --mirrored e f", {"mirrored": (("a", "b"), ("c", "d"), ("e", "f"))}),
        ("--architecture.hidden-size 32", {"architecture": {"hidden_size": 32}}),
        ("--architecture.image-size 32 48", {"architecture": {"image_size": (32, 48)}}),
        ("--architecture.image-size 32", {"architecture": {"image_size": 32}}),
        ("--architecture.tubelet-size 2 8 8", {"architecture": {"tubelet_size": (2, 8, 8)}}),
        (
            "--architecture.variant factorised_encoder --architecture.temporal-layers None",
            {"architecture": {"variant": "factorised_encoder", "temporal_layers": None}},
        ),
    ],
)
def test_what_can_be_typed(typed: str, given: dict[str, Any]) -> None:
    assert flags(*typed.split()) == given


def test_flags_change_the_recipe_and_leave_the_rest() -> None:
    words = "--epochs 3 --mirrored a b --architecture.hidden-size 64 --scale-jitter None"
    changed = change_recipe(RECIPES["demo"], flags(*words.split()))
    architecture = RECIPES["demo"].architecture | {"hidden_size": 64}
    update = {"epochs": 3, "mirrored": {"a": "b"}, "architecture": architecture, "scale_jitter": None}
    assert changed == RECIPES["demo"].model_copy(update=update)


def test_values_out_of_range_are_refused_all_at_once() -> None:
    with pytest.raises(ValidationError) as error:
        change_recipe(Recipe(), flags("--ema", "1", "--flip", "2", "--batch-size", "0"))
    assert [finding["loc"] for finding in error.value.errors()] == [("batch_size",), ("ema",), ("flip",)]
