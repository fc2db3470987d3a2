"""Which weights of a run are in its folder: the best or the last, also when the run is killed on the way."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.report.page import Page
from tests.support import refused, tiny_model
from vivit.evaluation.evaluate import Evaluation
from vivit.labels import LabelSpace
from vivit.model.vivit import ViViT
from vivit.report.run_page import write_report
from vivit.training.checkpoint import Checkpoints
from vivit.training.kept import EPOCH_FILE, Keep, KeptModels
from vivit.training.recipe import Recipe
from vivit.training.sources import FromVideos
from vivit.training.train import train
from vivit.training.update import Updater
from vivit.weights.store import load

ONE = LabelSpace({"classes": ("a", "b", "c", "d", "e")})


def keep_all(run: Path, keep: Keep, rows: Sequence[dict[str, Any]], space: LabelSpace = ONE) -> dict[str, int]:
    """Save a model for each row; returns the step of the model in each folder."""
    models = KeptModels(run, keep, space)
    for number, row in enumerate(rows, start=1):
        models.save(tiny_model(seed=number), {"epoch": number, "step": number, **row}, {}, "some videos")
    return steps_in(run)


def steps_in(run: Path) -> dict[str, int]:
    """Folder → the step of its weights, after checking that they are the weights that were saved at that step."""
    found = {}
    for name in ("", "last", "best"):
        if (run / name / EPOCH_FILE).exists():
            found[name] = json.loads((run / name / EPOCH_FILE).read_text())["step"]
            assert_same(load(run / name), tiny_model(seed=found[name]))
    return found


def assert_same(one: ViViT, other: ViViT) -> None:
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ((0.2, 0.9, 0.5), 2),
        ((0.2, 0.9, 0.9, 0.1), 3),  # of equal ones the later: it has learnt longer
        ((0.0, 0.0), 2),
        ((float("nan"), 0.1, float("nan"), None), 2),
        ((0.9, "0.95", 1e9, True), 4),
    ],
)
def test_the_best_and_the_last_are_there(tmp_path: Path, scores: Sequence[Any], best: int) -> None:
    rows = [{"top1": score, "top5": 1.0} for score in scores]
    assert keep_all(tmp_path / "a", "best", rows) == {"": best, "last": len(rows)}
    assert keep_all(tmp_path / "b", "last", rows) == {"": len(rows), "best": best}


def test_several_heads_are_judged_together(tmp_path: Path) -> None:
    both = LabelSpace({"verb": ("a",), "noun": ("b",)})
    rows: list[dict[str, Any]] = [{"verb_top1": 1.0, "action_top1": 0.1}, {"verb_top1": 0.1, "action_top1": 0.2}]
    assert keep_all(tmp_path / "a", "best", [*rows, rows[0]], both)[""] == 2
    tags = replace(both, multi_label=True)
    rows = [{"verb_mAP": 0.9, "noun_mAP": 0.1}, {"verb_mAP": 0.4, "noun_mAP": 0.7}, {"verb_mAP": 1.0}]
    assert keep_all(tmp_path / "b", "best", rows, tags)[""] == 2


def test_where_the_weights_are_is_said(tmp_path: Path) -> None:
    def said(keep: Keep, *rows: dict[str, Any]) -> str:
        models = KeptModels(tmp_path, keep, ONE)
        models.best = rows[0] if rows else {}
        return models.described(4)

    best, last = {"epoch": 2, "step": 2}, {"epoch": 4, "step": 4}
    assert "epoch 2, the best" in said("best", best) and str(tmp_path / "last") in said("best", best)
    assert "the last epoch" in said("last", best) and str(tmp_path / "best") in said("last", best)
    assert "also the best" in said("best", last) and "also the best" in said("last", last)
    assert said("last") == "the weights of the last epoch"  # a run of an earlier version
    assert "unknown epoch" in said("best")


def test_a_run_that_repeats_steps_keeps_no_weights_of_later_ones(tmp_path: Path) -> None:
    keep_all(tmp_path, "best", [{"top1": 0.5}, {"top1": 0.7}, {"top1": 0.9}])
    models = KeptModels(tmp_path, "best", ONE)
    models.resume(1)  # the checkpoints after steps 2 and 3 are damaged
    models.save(tiny_model(seed=2), {"epoch": 2, "step": 2, "top1": 0.6}, {}, "some videos")
    assert steps_in(tmp_path) == {"": 2, "last": 2}
    models = KeptModels(tmp_path, "best", ONE)
    models.resume(2)
    models.save(tiny_model(seed=3), {"epoch": 3, "step": 3, "top1": 0.55}, {}, "some videos")
    assert steps_in(tmp_path) == {"": 2, "last": 3}
    for content in (b"", b"null", b"[1]", b'{"step": "3"}', b"\xff"):
        (tmp_path / EPOCH_FILE).write_bytes(content)
        refused(lambda: KeptModels(tmp_path, "best", ONE).resume(3), f"{tmp_path / EPOCH_FILE}: .*delete this file")


@pytest.fixture(scope="module")
def split(bright_dark: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The videos with a validation split of their own."""
    data = tmp_path_factory.mktemp("split") / "data"
    for name in ("bright", "dark"):
        for number in range(6):
            folder = data / ("val" if number > 3 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(bright_dark / name / f"{name}{number}.mp4", folder)
    return data


SCORES = (0.25, 0.75, 0.5, 0.5)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, Tensor]]:
    """Has the n-th epoch scored as SCORES says; gives the weights that were scored, by epoch."""
    weights: dict[int, dict[str, Tensor]] = {}
    real = FromVideos.evaluate

    def evaluate(self: FromVideos, model: ViViT) -> Evaluation:
        found = real(self, model)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        same = [epoch for epoch, other in weights.items() if all(torch.equal(other[n], state[n]) for n in state)]
        epoch = same[0] if same else len(weights) + 1
        weights[epoch] = state
        right = round(SCORES[epoch - 1] * found.num_videos)
        truth = found.truth["classes"]
        answers = torch.where(torch.arange(found.num_videos) < right, truth, 1 - truth)
        return replace(found, logits={"classes": torch.nn.functional.one_hot(answers, 2).float()})

    monkeypatch.setattr(FromVideos, "evaluate", evaluate)
    return weights


def test_a_run_that_is_killed_keeps_what_one_that_never_was_keeps(
    split: Path,
    tmp_path: Path,
    tiny_recipe: Recipe,
    scored: dict[int, dict[str, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = tiny_recipe.model_copy(update={"epochs": 4, "ema": 0.5})

    def run(out: Path, **options: Any) -> ViViT:
        return train(split, out, recipe, device="cpu", workers=0, checkpoint_every=0.0, **options)

    whole = tmp_path / "whole"
    model = run(whole)
    assert model.state_dict().keys() == scored[2].keys()
    for folder, epoch in (("", 2), ("last", 4)):
        for name, value in load(whole / folder).state_dict().items():
            assert torch.equal(value, scored[epoch][name]), (folder, name)
    assert all(torch.equal(value, scored[2][name]) for name, value in model.state_dict().items())
    assert not model.training
    # Card, predictions and page are of the weights in the folder.
    assert "| top-1 accuracy | 75.0% |" in (whole / "README.md").read_text()
    assert "| top-1 accuracy | 50.0% |" in (whole / "last" / "README.md").read_text()
    answers = (whole / "val_predictions.csv").read_text().splitlines()[1:]
    assert sum(row.split(",")[4] == row.split(",")[5] for row in answers) == 3
    page = Page(write_report(whole))
    assert page.scores == {"top1": "75.0\xa0%"}
    assert "those of epoch 2, the best by validation score; the last ones are in last/" in page.words
    assert "last 50.0\xa0%" in page.words
    assert f"{whole} has the weights of epoch 2, the best" in capsys.readouterr().out

    # Killed in each epoch, before and after its score.
    killed, real = tmp_path / "killed", Updater.__call__
    for _ in range(8):
        taken = 0

        def update(*arguments: Any) -> Any:
            nonlocal taken
            if (taken := taken + 1) > 1:
                raise KeyboardInterrupt
            return real(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(Updater, "__call__", update)
            try:
                run(killed)
            except KeyboardInterrupt:
                continue
    for file in ("model.safetensors", "last/model.safetensors", "epoch.json", "metrics.jsonl", "val_predictions.csv"):
        assert (killed / file).read_bytes() == (whole / file).read_bytes(), file

    refused(lambda: run(whole, keep="last"), f"keeps the best weights here, and the others in {whole}/last")
    other = tmp_path / "other"
    model = run(other, keep="last")
    assert all(torch.equal(value, scored[4][name]) for name, value in model.state_dict().items())
    assert json.loads((other / "best" / EPOCH_FILE).read_text())["epoch"] == 2
    assert (other / "best" / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert "those of epoch 4, the last" in Page(write_report(other)).words
    run(other)  # keeps what it was started with


def test_a_model_is_there_before_its_score_is_noted(
    split: Path, tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run that is killed between the two would end with the weights of an earlier epoch."""
    recipe, killed, real = tiny_recipe.model_copy(update={"epochs": 1}), tmp_path / "run", KeptModels.save

    def save(*_: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(KeptModels, "save", save)
    with pytest.raises(KeyboardInterrupt):
        train(split, killed, recipe, device="cpu", workers=0)
    assert not (killed / "metrics.jsonl").read_text()
    assert Checkpoints(killed / "checkpoints")
    monkeypatch.setattr(KeptModels, "save", real)
    train(split, killed, recipe, device="cpu", workers=0)
    assert load(killed).classes == {"classes": ("bright", "dark")}
    assert len((killed / "metrics.jsonl").read_text().splitlines()) == 1


def test_without_a_validation_split_of_its_own_a_run_keeps_the_last(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe
) -> None:
    recipe = tiny_recipe.model_copy(update={"epochs": 1})
    train(bright_dark, tmp_path / "run", recipe, device="cpu", workers=0)
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["keep"] == "last"
    assert not (tmp_path / "run" / "last").exists()
