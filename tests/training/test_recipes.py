import pytest
import torch
from pydantic import ValidationError

from vivit.model.vivit import ViViT
from vivit.training.recipe import Recipe
from vivit.training.recipes import RECIPES


@pytest.mark.parametrize(
    ("name", "frames", "image_size", "resize"),
    [("paper", 32, (224, 224), 256), ("small", 16, (112, 112), 128), ("demo", 8, (48, 48), 48)],
)
def test_every_recipe_builds_its_model(name: str, frames: int, image_size: tuple[int, int], resize: int) -> None:
    recipe = RECIPES[name]()
    with torch.device("meta"):
        model = ViViT(recipe.build_config({"classes": 400}), preprocessing=recipe.build_preprocessing())
    assert (model.config.num_frames, model.config.image_size) == (frames, image_size)
    assert model.preprocessing.resize == resize
    assert model.preprocessing.frame_stride == 2
    assert model.config.num_classes == 400
    assert set(RECIPES) == {"paper", "small", "demo"}


def test_the_papers_model_has_the_papers_size() -> None:
    """115.1 M parameters at 400 classes (table 2)."""
    with torch.device("meta"):
        model = ViViT(RECIPES["paper"]().build_config({"classes": 400}))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(115.1, abs=0.05)


def test_the_papers_settings_are_table_7() -> None:
    recipe = RECIPES["paper"]()
    table = {
        "optimiser": "sgd",
        "learning_rate": 0.1,
        "batch_size": 64,
        "epochs": 30,
        "warmup_epochs": 2.5,
        "stochastic_depth": 0.0,
        "label_smoothing": 0.0,
    }
    assert {name: getattr(recipe, name) for name in table} == table


def test_architecture_has_the_last_word() -> None:
    recipe = Recipe(num_frames=8, architecture={"num_frames": 16, "hidden_size": 24})
    config = recipe.build_config({"classes": 3})
    assert (config.num_frames, config.hidden_size, config.num_classes) == (16, 24, 3)


@pytest.mark.parametrize("field", ["epochs", "batch_size", "learning_rate", "flip", "clip_norm", "colour"])
def test_a_value_that_makes_no_sense_is_named(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Recipe.model_validate({field: -1})
