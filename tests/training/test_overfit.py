"""Learning a few batches by heart: nothing is random, and the loss decides the verdict."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vivit.data.datasets import VideoSet
from vivit.data.loader import TrainingClips, evaluation_views, training_batches
from vivit.data.order import Order
from vivit.data.readers.listing import open_data
from vivit.errors import UserError
from vivit.report.run_page import write_report
from vivit.training import plan
from vivit.training.initialise import build_model
from vivit.training.plan import build_augmentation, few_batches, how_it_went, without_chance
from vivit.training.recipe import Recipe
from vivit.training.recipes import RECIPES
from vivit.training.train import train
from vivit.video.clips import ClipSpec

FROZEN = {"freeze_spatial": True, "cached_clips": 4}


@pytest.fixture
def videos(bright_dark: Path) -> VideoSet:
    return open_data(bright_dark).split("train")


def all_of_chance(tiny_recipe: Recipe) -> Recipe:
    """The recipe with every augmentation and regularisation, also those in `architecture`."""
    rates = {"dropout": 0.3, "attention_dropout": 0.3, "stochastic_depth": 0.3, "token_dropping": 0.3}
    return tiny_recipe.model_copy(
        update={
            "architecture": {**tiny_recipe.architecture, **rates},
            **dict.fromkeys(("dropout", "stochastic_depth", "token_dropping", "label_smoothing"), 0.3),
            **dict.fromkeys(("mixup", "cutmix", "ema", "weight_decay", "grey_scale", "colour_jitter"), 0.5),
            **{"flip": 0.5, "randaugment": (2, 15.0), "scale_jitter": (0.5, 1.5), **FROZEN},
        }
    )


def test_the_network_is_the_same_function_at_every_step(videos: VideoSet, tiny_recipe: Recipe) -> None:
    clip = torch.randint(0, 256, (4, 4, 3, 32, 32), dtype=torch.uint8)

    def moves(recipe: Recipe) -> bool:
        model = build_model(recipe.model_copy(update={"freeze_spatial": False}), videos, None, "clips").model
        torch.nn.init.normal_(model.get_parameter("heads.classes.weight"))  # a zero head would hide the rest
        first, second = model(clip), model(clip)
        assert isinstance(first, torch.Tensor)
        return not torch.equal(first, second)

    recipe = all_of_chance(tiny_recipe)
    assert moves(recipe)
    assert not moves(without_chance(tiny_recipe))


def test_clips_are_seen_as_they_are_and_labels_are_whole(videos: VideoSet, tiny_recipe: Recipe) -> None:
    spec = ClipSpec(num_frames=4, stride=1, size=(32, 32), resize=32)
    recipe = without_chance(all_of_chance(tiny_recipe))
    plain = TrainingClips(videos, spec, 0, build_augmentation(recipe))
    batches = list(training_batches(plain, Order(10, range(4), clips_of_each=1)))
    assert [len(batch.indices) for batch in batches] == [10] * 4
    clips = [dict(zip(batch.indices.tolist(), batch.clips, strict=True)) for batch in batches]
    for later in clips[1:]:
        for index, clip in clips[0].items():
            assert torch.equal(later[index], clip)
    left = (recipe.mixup, recipe.cutmix, recipe.label_smoothing, recipe.weight_decay, recipe.ema, recipe.cached_clips)
    assert left == (0, 0, 0, 0, 0, 1)


def test_its_videos_are_those_of_the_runs_first_batches(videos: VideoSet, tiny_recipe: Recipe) -> None:
    spec = ClipSpec(num_frames=4, stride=1, size=(32, 32), resize=32)
    batches = training_batches(TrainingClips(videos, spec, tiny_recipe.seed), Order(4, range(2)))
    first, second = ([videos.videos[index] for index in batch.indices] for batch in batches)
    assert list(few_batches(videos, 1, tiny_recipe).videos) == first
    assert list(few_batches(videos, 2, tiny_recipe).videos) == first + second
    assert len(few_batches(videos, 9, tiny_recipe).videos) == len(videos.videos)
    for number in (0, -1):
        with pytest.raises(UserError, match=f"overfit: {number} batches"):
            few_batches(videos, number, tiny_recipe)


@pytest.mark.parametrize("sound", [True, False])
def test_the_verdict_is_that_of_the_labels(
    sound: bool,
    bright_dark: Path,
    tmp_path: Path,
    tiny_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The labels of unsound data contradict each other: each clip has a copy in the other class."""
    monkeypatch.setattr(plan, "OVERFIT_STEPS", 30)
    data = tmp_path / "data"
    for name in ("bright", "dark"):
        for split, numbers in (("train", (0, 1)), ("val", (2,))):
            folder = data / split / name
            folder.mkdir(parents=True)
            for number in numbers:
                shown = name if sound or number else {"bright": "dark", "dark": "bright"}[name]
                copied = bright_dark / shown / f"{shown}0.mp4"
                shutil.copy(copied, folder / f"{number}.mp4")
    recipe = all_of_chance(tiny_recipe).model_copy(update={"freeze_spatial": False, "learning_rate": 0.01})
    model = train(data, tmp_path / "run", recipe, device="cpu", workers=0, overfit=1)
    said = " ".join(capsys.readouterr().out.split())
    assert "train on 4 videos" in said
    assert ("learns these clips by heart, as it should" in said) == sound
    assert ("it should be near 0" in said) == (not sound)

    spec = ClipSpec(num_frames=4, stride=1, size=(32, 32), resize=model.preprocessing.resize)
    (batch,) = training_batches(TrainingClips(open_data(data).split("train"), spec, 0), Order(4, range(1)))
    with torch.no_grad():
        logits = model(batch.clips)
    assert isinstance(logits, torch.Tensor)
    right = (logits.argmax(dim=1) == batch.labels["classes"]).sum()
    assert right == (4 if sound else 2)


def test_a_loss_that_stays_is_told_with_what_to_do() -> None:
    rows = [{"loss": 0.7, "step": 10}, {"loss": 0.08, "step": 100}]
    assert how_it_went(rows) == (
        "the loss went from 0.7 to 0.08 in 100 steps: it should be near 0; try another --learning-rate, and look at "
        "the clips with vivit data show"
    )
    assert how_it_went([rows[0], {"loss": 0.06, "step": 100}]).endswith("learns these clips by heart, as it should")


def test_every_named_recipe_becomes_one_without_chance() -> None:
    for name, named in RECIPES.items():
        recipe = without_chance(named)
        # model_copy does not validate, so it would accept unknown fields.
        assert Recipe.model_validate(recipe.model_dump()) == recipe, name
        assert recipe.warmup_epochs < recipe.epochs


def test_what_is_learnt_by_heart_is_what_is_scored_and_shown(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "OVERFIT_STEPS", 4)
    monkeypatch.setattr(plan, "OVERFIT_EPOCHS", 1)
    train(bright_dark, tmp_path / "run", tiny_recipe, device="cpu", workers=0, overfit=1)
    answers = tmp_path / "run" / "val_predictions.csv"
    wrong = answers.read_text().replace(",dark,dark,", ",dark,bright,").replace(",bright,bright,", ",bright,dark,")
    answers.write_text(wrong)
    page = write_report(tmp_path / "run").read_text()
    assert "<video" in page
    assert "not in the data" not in page and "are not those that were scored" not in page

    videos = few_batches(open_data(bright_dark).split("train"), 1, without_chance(tiny_recipe))
    spec = ClipSpec(num_frames=4, stride=1, size=(32, 32), resize=40)
    augmentation = replace(build_augmentation(without_chance(tiny_recipe)), centred=True)
    (batch,) = training_batches(TrainingClips(videos, spec, 0, augmentation), Order(4, range(1)))
    views = list(evaluation_views(videos.videos, spec, 1, 1))
    for clip, index in zip(batch.clips, batch.indices.tolist(), strict=True):
        (view,) = views[index]
        assert isinstance(view, torch.Tensor)
        assert (clip.float() - view.float()).abs().mean() < 2
