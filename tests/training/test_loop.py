import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support import random_weights, refused
from vivit.data.loader import Batch, TrainingClips
from vivit.data.manifest import data_hash
from vivit.data.readers.listing import open_data
from vivit.errors import Stopped, UserError
from vivit.evaluation import evaluate as evaluate_module
from vivit.evaluation.evaluate import evaluate
from vivit.inference.predictor import Predictor
from vivit.model.vivit import ViViT
from vivit.training import sources, update
from vivit.training.checkpoint import Checkpoints
from vivit.training.loop import StopRequest
from vivit.training.recipe import Recipe
from vivit.training.train import train
from vivit.weights.store import load, save


def read_metrics(run: Path) -> list[dict[str, Any]]:
    return read_rows(run, "metrics")


def read_rows(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]


def assert_same_weights(model: ViViT, other: ViViT) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def separable(recipe: Recipe) -> Recipe:
    fields = {**recipe.architecture, "dropout": 0.0}
    return recipe.model_copy(update={"epochs": 8, "stochastic_depth": 0.0, "architecture": fields})


@dataclass
class Whole:
    """A run that nothing interrupted."""

    run: Callable[..., ViViT]
    recipe: Recipe
    folder: Path
    model: ViViT


@pytest.fixture(scope="module", params=["sgd", "adamw"])
def whole(
    bright_dark: Path, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Whole:
    recipe = tiny_recipe.model_copy(update={"optimiser": request.param, "learning_rate": 1e-2})
    run = partial(train, bright_dark, device="cpu", workers=0, checkpoint_every=0.0)
    folder = tmp_path_factory.mktemp("whole") / "run"
    return Whole(run, recipe, folder, run(folder, recipe))


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_resumed_run_equals_uninterrupted_one(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_at(patched, stop_after)
        whole.run(tmp_path / "halves", whole.recipe)
    # Random numbers drawn in between must not matter.
    torch.rand(17)
    resumed = whole.run(tmp_path / "halves", whole.recipe)

    assert [row["first_step"] for row in read_rows(tmp_path / "halves", "sessions")] == [0, stop_after]
    assert_same_weights(whole.model, resumed)
    first, second = (run / "checkpoints" / "step-00000004" for run in (whole.folder, tmp_path / "halves"))
    tensors, others = (
        {k: v for f in folder.glob("*.safetensors") for k, v in load_file(f).items()} for folder in (first, second)
    )
    assert tensors.keys() == others.keys() and any(name.startswith("optimiser/") for name in tensors)
    for name, value in tensors.items():
        assert torch.equal(value, others[name]), name
    assert read_metrics(whole.folder) == read_metrics(tmp_path / "halves")
    assert [row["epoch"] for row in read_metrics(whole.folder)] == [1, 2]


def test_dropout_takes_part_in_the_steps(whole: Whole, tmp_path: Path) -> None:
    """Without it, the test above would not cover it."""
    still = whole.recipe.model_copy(update={"architecture": {**whole.recipe.architecture, "dropout": 0.0}})
    without = whole.run(tmp_path / "none", still)
    assert not torch.equal(whole.model.get_parameter("embedding.weight"), without.get_parameter("embedding.weight"))


def test_learns_bright_from_dark_and_leaves_true_records(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    model = train(bright_dark, run, separable(tiny_recipe), device="cpu", workers=0)
    rows = read_metrics(run)
    assert rows[-1]["loss"] < 0.3 < rows[0]["loss"]
    assert not model.training

    predictor = Predictor(run, "cpu")
    for name in ("bright", "dark"):
        assert predictor.predict(bright_dark / name / f"{name}0.mp4").labels[0].label == name

    # A new evaluation of the weights on disk gives the recorded scores.
    again = evaluate(load(run), open_data(bright_dark).split("val"))
    assert {name: rows[-1][name] for name in again.scores()} == again.scores()
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("val/top1")] == pytest.approx([row["top1"] for row in rows])
    losses = [event.value for event in events.Scalars("train/loss")]
    assert len(losses) == 16
    assert [sum(losses[i : i + 2]) / 2 for i in range(0, 16, 2)] == pytest.approx([row["loss"] for row in rows])
    assert (run / "confusion.png").read_bytes().startswith(b"\x89PNG")
    card = (run / "README.md").read_text()
    assert f"| top-1 accuracy | {rows[-1]['top1']:.1%} |" in card and f"data {rows[-1]['data_hash'][:16]}" in card

    # The same call again trains nothing.
    before = (run / "model.safetensors").stat().st_mtime_ns
    train(bright_dark, run, separable(tiny_recipe), device="cpu", workers=0)
    assert "trained already" in capsys.readouterr().out
    assert (run / "model.safetensors").stat().st_mtime_ns == before
    assert read_metrics(run) == rows


def test_another_recipe_or_data_for_the_same_folder_is_refused(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe
) -> None:
    recipe = tiny_recipe.model_copy(update={"epochs": 1})
    run = tmp_path / "run"
    train(bright_dark, run, recipe, device="cpu", workers=0)
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    other = recipe.model_copy(update={"learning_rate": 0.5})
    with pytest.raises(UserError, match=r"run: .*learning_rate 0\.003 \(now 0\.5\)"):
        train(bright_dark, run, other, device="cpu", workers=0)
    elsewhere = shutil.copytree(bright_dark, tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"run: .*data .*bright_dark.* \(now .*elsewhere"):
        train(elsewhere, run, recipe, device="cpu", workers=0)
    assert files == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("split", "words"), [("train", "training"), ("val", "validation")])
def test_a_run_does_not_go_on_with_other_videos(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe, split: str, words: str
) -> None:
    data = tmp_path / "data"
    for name in ("bright", "dark"):
        for number, video in enumerate(sorted((bright_dark / name).iterdir())):
            folder = data / ("val" if number > 3 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(video, folder)
    recipe = tiny_recipe.model_copy(update={"epochs": 1})
    train(data, tmp_path / "run", recipe, device="cpu", workers=0)
    noted = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert noted["train_hash"] == data_hash(open_data(data).split("train"))
    assert noted["val_hash"] == data_hash(open_data(data).split("val"))
    (row,) = read_metrics(tmp_path / "run")
    assert (row["data_hash"], row["videos"]) == (noted["val_hash"], 4)

    # Times of files do not matter, the set of videos does.
    (data / "train" / "dark" / "dark1.mp4").touch()
    train(data, tmp_path / "run", recipe, device="cpu", workers=0)
    number = 4 if split == "val" else 1
    shutil.copy(data / split / "dark" / f"dark{number}.mp4", data / split / "dark" / "another.mp4")
    changed = data_hash(open_data(data).split(split))
    was = noted[f"{split}_hash"]
    with pytest.raises(UserError, match=f"run: .* other {words} videos .data {was[:16]}, now {changed[:16]}"):
        train(data, tmp_path / "run", recipe, device="cpu", workers=0)


def test_recipe_without_a_model_does_not_claim_the_folder(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe
) -> None:
    """Otherwise the corrected recipe would be refused as a different one."""
    with pytest.raises(UserError, match="image_size"):
        wrong = tiny_recipe.model_copy(update={"image_size": 33})
        train(bright_dark, tmp_path / "run", wrong, device="cpu", workers=0)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def one_broken(bright_dark: Path, tmp_path: Path) -> Path:
    """The videos in splits; one of the ten training videos is unreadable."""
    data = tmp_path / "one_broken"
    for name in ("bright", "dark"):
        for number, video in enumerate(sorted((bright_dark / name).iterdir())):
            folder = data / ("val" if number == 5 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(video, folder)
    (data / "train" / "dark" / "dark2.mp4").write_text("no video")
    return data


def test_too_many_unreadable_videos_stop_training(one_broken: Path, tmp_path: Path, tiny_recipe: Recipe) -> None:
    recipe = tiny_recipe.model_copy(update={"batch_size": 10})
    with pytest.raises(UserError, match=r"^1 of 10 training videos .* more than 5% .*dark2\.mp4") as error:
        train(one_broken, tmp_path / "run", recipe, device="cpu", workers=0)
    assert "\n" not in str(error.value)


def test_an_unreadable_video_is_replaced_and_told(
    one_broken: Path, tmp_path: Path, tiny_recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe.model_copy(update={"batch_size": 10, "unreadable": 0.1})
    first = train(one_broken, tmp_path / "run", recipe, device="cpu", workers=0)
    out = capsys.readouterr().out
    assert out.count("replaced by others: ") == 1
    assert "dark2.mp4: not a readable video" in out
    again = train(one_broken, tmp_path / "again", recipe, device="cpu", workers=2)
    assert_same_weights(first, again)


def test_a_run_whose_validation_videos_are_all_unreadable_ends_with_its_first_score(
    one_broken: Path, tmp_path: Path, tiny_recipe: Recipe
) -> None:
    for video in (one_broken / "val").rglob("*.mp4"):
        video.write_text("no video")
    recipe = tiny_recipe.model_copy(update={"batch_size": 10, "unreadable": 0.1})
    with pytest.raises(UserError, match=r"^none of the 2 validation videos can be scored; .*5\.mp4"):
        train(one_broken, tmp_path / "run", recipe, device="cpu", workers=0)


def test_out_that_is_a_file(bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="run: cannot create this folder"):
        train(bright_dark, tmp_path / "run", tiny_recipe, device="cpu", workers=0)


def test_loss_that_is_no_number_stops_the_run_with_step_and_clips(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0
    # Two micro-batches of two clips: the second one of the third step is to blame.
    recipe = tiny_recipe.model_copy(update={"accumulate": 2})
    blamed: list[str] = []

    plain_loss = update.loss_of

    def loss_of(logits: torch.Tensor, *arguments: Any) -> torch.Tensor:
        nonlocal taken
        taken += 1
        return plain_loss(logits, *arguments) * (float("nan") if taken == 6 else 1.0)

    def prepared(self: update.Updater, batch: Batch, chosen: torch.Tensor, step: int, epoch: int) -> Any:
        blamed[:] = [str(videos[index].source) for index in batch.indices[chosen].tolist()]
        return real_prepared(self, batch, chosen, step, epoch)

    real_prepared = update.Updater._prepared
    videos = open_data(bright_dark).split("train").videos
    monkeypatch.setattr(update, "loss_of", loss_of)
    monkeypatch.setattr(update.Updater, "_prepared", prepared)
    with pytest.raises(UserError, match=r"^step 3: the loss is nan.*learning rate .0\.00") as error:
        train(bright_dark, tmp_path / "run", recipe, device="cpu", workers=0)
    assert "\n" not in str(error.value)
    assert len(blamed) == 2 and f"because of {', '.join(sorted(blamed))}; lower" in str(error.value)
    # The last checkpoint precedes that step.
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")] == ["step-00000002"]


@pytest.mark.parametrize(
    ("names", "given", "expected"),
    [
        (("bright", "dark"), None, 0.5),
        (("pan_left", "pan_right"), None, 0.5),
        (("pan_left", "stop"), None, 0.0),
        (("Turn Right", "stop"), None, 0.0),
        (("rotate-clockwise", "stop"), None, 0.0),
        (("leftovers", "bright"), None, 0.5),
        (("pan_left", "pan_right"), 0.5, 0.5),
        (("bright", "dark"), 0.0, 0.0),
    ],
)
def test_clips_are_mirrored_unless_a_class_has_a_side_and_no_mirror(
    bright_dark: Path,
    tmp_path: Path,
    tiny_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, str],
    given: float | None,
    expected: float,
) -> None:
    for source, name in zip(("bright", "dark"), names, strict=True):
        shutil.copytree(bright_dark / source, tmp_path / "data" / name)
    found = []

    class Reached(Exception):
        pass

    def batches(clips: TrainingClips, *_: Any) -> None:
        found.append(clips.augmentation.flip)
        raise Reached

    monkeypatch.setattr(sources, "training_batches", batches)
    with pytest.raises(Reached):
        recipe = tiny_recipe.model_copy(update={"flip": given})
        train(tmp_path / "data", tmp_path / "run", recipe, device="cpu", workers=0)
    assert found == [expected]


def write_list(file: Path, columns: str, rows: Sequence[str]) -> Path:
    file.write_text("\n".join([columns, *rows]) + "\n")
    return file


@pytest.fixture
def verbs_and_nouns(bright_dark: Path, tmp_path: Path) -> Path:
    """A list with two heads: "verb", which is visible, and "noun", which depends on the file's number."""
    shutil.copytree(bright_dark, tmp_path / "videos")
    return write_list(
        tmp_path / "kitchen.csv",
        "path,verb,noun,split",
        [
            f"videos/{name}/{name}{number}.mp4,{verb},{noun},{'val' if number > 3 else 'train'}"
            for name, verb in (("bright", "open"), ("dark", "close"))
            for number, noun in enumerate(["cup", "door", "lid", "cup", "door", "lid"])
        ],
    )


def test_verbs_and_nouns_are_learnt_scored_named_and_resumed(
    verbs_and_nouns: Path,
    tmp_path: Path,
    tiny_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = separable(tiny_recipe).model_copy(update={"epochs": 4, "learning_rate": 1e-2})
    model = train(verbs_and_nouns, tmp_path / "run", recipe, device="cpu", workers=0)
    assert model.config.heads == {"verb": 2, "noun": 3}
    # The file has losses and scores; the scores are those of the weights on disk.
    rows = read_metrics(tmp_path / "run")
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["verb_top1"] == 1.0
    again = evaluate(load(tmp_path / "run"), open_data(verbs_and_nouns).split("val"))
    best = max(rows, key=lambda row: (row["action_top1"], row["epoch"]))
    assert {name: best[name] for name in again.scores()} == again.scores()
    assert {"verb_top1", "noun_top5", "action_top1"} < again.scores().keys()
    # Scores are on the terminal, in curves and in pictures.
    assert "val verb top-1 100.0%  noun top-1" in capsys.readouterr().out
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    curve = [event.value for event in events.Scalars("val/action_top1")]
    assert curve == pytest.approx([row["action_top1"] for row in rows])
    pictures = {path.name for path in (tmp_path / "run").glob("*.png")}
    assert pictures == {"confusion_verb.png", "confusion_noun.png"}

    prediction = Predictor(tmp_path / "run", "cpu").predict(tmp_path / "videos" / "dark" / "dark5.mp4")
    assert prediction.heads["verb"][0].label == "close"
    assert {scored.label for scored in prediction.heads["noun"]} == {"cup", "door", "lid"}

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_at(patched, 5)
        train(verbs_and_nouns, tmp_path / "halves", recipe, device="cpu", workers=0, checkpoint_every=0.0)
    resumed = train(verbs_and_nouns, tmp_path / "halves", recipe, device="cpu", workers=0)
    assert_same_weights(model, resumed)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_run_whose_start_is_gone_goes_on(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    """Also before its first score, when the run folder has no model yet."""
    start = tmp_path / "start"
    model = random_weights(ViViT(tiny_recipe.build_config({"classes": 2}), classes={"classes": ("dark", "light")}))
    save(model, start)
    recipe = tiny_recipe.model_copy(update={"model": None, "architecture": {}, "freeze_spatial": frozen})
    run = partial(train, bright_dark, recipe=recipe, device="cpu", workers=0, checkpoint_every=0.0)
    uninterrupted = run(out=tmp_path / "whole", init=str(start))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_at(patched, 1)
        run(out=tmp_path / "halves", init=str(start))
    assert not (tmp_path / "halves" / "model.safetensors").exists()
    shutil.rmtree(start)
    resumed = run(out=tmp_path / "halves", init=str(start))
    assert_same_weights(uninterrupted, resumed)
    for name in ("config.json", "metrics.jsonl", "val_predictions.csv"):
        assert (tmp_path / "halves" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    refused(
        lambda: run(out=tmp_path / "halves", init="other"), rf"this run is finished, with init {start} \(now other\)"
    )


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Interrupt the run in this step, after the checkpoint of the step before is written."""
    real_update, taken = update.Updater.__call__, 0
    savers: list[Checkpoints] = []

    def stopped_update(*arguments: Any) -> update.Update:
        nonlocal taken
        taken += 1
        if taken > step:
            savers[-1].wait()
            raise KeyboardInterrupt
        return real_update(*arguments)

    def save(self: Checkpoints, *arguments: Any) -> None:
        savers.append(self)
        real_save(self, *arguments)

    real_save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", save)
    monkeypatch.setattr(update.Updater, "__call__", stopped_update)


def test_any_number_of_labels_is_learnt_and_scored(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(bright_dark, tmp_path / "videos")
    # "shown" applies to all videos, "light" to bright ones, "never" to one training video; some have no label.
    labels = {("bright", 0): "shown;light;never", ("dark", 1): "", ("dark", 4): ""}
    data = write_list(
        tmp_path / "many.csv",
        "path,labels,split",
        [
            f"videos/{name}/{name}{number}.mp4,{labels.get((name, number), usual)},{'val' if number > 3 else 'train'}"
            for name, usual in (("bright", "shown;light"), ("dark", "shown"))
            for number in range(6)
        ],
    )
    run = tmp_path / "run"
    recipe = separable(tiny_recipe).model_copy(update={"learning_rate": 1e-2})
    train(data, run, recipe, device="cpu", workers=0)
    rows = read_metrics(run)
    # Before the first step, three classes at probability 1/2 have a loss of 3 · log 2 = 2.08.
    assert 1.5 < rows[0]["loss"] < 2.5
    assert rows[-1]["loss"] < 1.0
    again = evaluate(load(run), open_data(data).split("val"))
    assert [row["videos"] for row in again.per_class()] == [2, 0, 3]
    light, never, _ = again.per_class()
    assert (light["class"], light["average_precision"]) == ("light", 1.0)
    assert (never["class"], never["average_precision"]) == ("never", None)
    assert again.scores() == {"mAP": rows[-1]["mAP"], "videos": 4, "unreadable": 0}
    assert f"val mAP {rows[-1]['mAP']:6.1%}" in capsys.readouterr().out
    assert not list(run.glob("*.png"))


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_a_run_told_to_stop_while_it_is_scored_has_its_steps_and_is_scored_later(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, ema: float
) -> None:
    recipe = tiny_recipe.model_copy(update={"ema": ema})
    run = partial(train, bright_dark, recipe=recipe, device="cpu", workers=0)
    whole = run(out=tmp_path / "whole")
    real_views, read = evaluate_module.evaluation_views, 0

    def views(*arguments: Any) -> Iterator[torch.Tensor | str]:
        nonlocal read
        for one in real_views(*arguments):
            read += 1
            yield one
            if read == 1:
                signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(evaluate_module, "evaluation_views", views)
    with pytest.raises(Stopped, match="stopped after step 2 of 4"):
        run(out=tmp_path / "parts")
    assert read == 2  # the signal is noticed after the next video
    assert read_metrics(tmp_path / "parts") == []
    assert [path.name for path in (tmp_path / "parts" / "checkpoints").glob("step-*")] == ["step-00000002"]
    parts = run(out=tmp_path / "parts")
    assert read_metrics(tmp_path / "parts") == read_metrics(tmp_path / "whole")
    assert_same_weights(whole, parts)


def test_sighup_that_is_ignored_stays_ignored_as_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as request:
            signal.raise_signal(signal.SIGHUP)
            assert request.signal == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with StopRequest() as request:
            signal.raise_signal(signal.SIGHUP)
            assert request.signal == signal.SIGHUP
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_that_is_trained_already_gives_its_model(bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe) -> None:
    """It is the average of the weights, not the initial model."""
    recipe = tiny_recipe.model_copy(update={"ema": 0.5})
    run = partial(train, bright_dark, tmp_path / "run", recipe, device="cpu", workers=0)
    first = run()
    again = run()
    assert not again.training
    assert_same_weights(first, again)


def test_kept_videos_are_part_of_what_a_run_is(bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe) -> None:
    recipe = tiny_recipe.model_copy(update={"epochs": 1})
    train(bright_dark, tmp_path / "run", recipe, device="cpu", workers=0, keep_decoded=True)
    with pytest.raises(UserError, match=r"run: .*keep_decoded True \(now False\)"):
        train(bright_dark, tmp_path / "run", recipe, device="cpu", workers=0)


def test_a_crop_that_does_not_fit_into_the_picture(bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"resize: .*10 pixels .* crop of 32"):
        train(bright_dark, tmp_path / "run", tiny_recipe.model_copy(update={"resize": 10}), device="cpu", workers=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_a_time_between_checkpoints_that_cannot_be(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe, seconds: float
) -> None:
    with pytest.raises(UserError, match="checkpoint_every"):
        train(bright_dark, tmp_path / "run", tiny_recipe, device="cpu", workers=0, checkpoint_every=seconds)


def test_a_run_that_has_not_learned_anything_may_be_begun_with_other_settings(
    one_broken: Path, tmp_path: Path, tiny_recipe: Recipe
) -> None:
    """The messages of failed starts say so."""
    recipe = tiny_recipe.model_copy(update={"batch_size": 10, "epochs": 1})
    with pytest.raises(UserError, match="--unreadable"):
        train(one_broken, tmp_path / "run", recipe, device="cpu", workers=0)
    other = recipe.model_copy(update={"learning_rate": 0.01, "unreadable": 0.5})
    train(one_broken, tmp_path / "run", other, device="cpu", workers=0)
    noted = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (noted["learning_rate"], noted["unreadable"]) == (0.01, 0.5)
    # From here on its settings are fixed, except for the fraction of unreadable videos.
    train(one_broken, tmp_path / "run", other.model_copy(update={"unreadable": 0.6}), device="cpu", workers=0)
    with pytest.raises(UserError, match=r"finished, with .*learning_rate 0\.01 \(now 0\.003\)"):
        train(one_broken, tmp_path / "run", recipe, device="cpu", workers=0)


def test_a_run_of_before_a_setting_was_noted_goes_on(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe.model_copy(update={"epochs": 1})
    train(bright_dark, tmp_path / "run", recipe, device="cpu", workers=0)
    note = tmp_path / "run" / "recipe.json"
    fields = json.loads(note.read_text())
    for name in ("keep_decoded", "overfit", "token_dropping"):
        del fields[name]
    assert fields["precision"] == "f32"
    fields["precision"] = "float32"  # its name then
    note.write_text(json.dumps(fields))
    train(bright_dark, tmp_path / "run", recipe, device="cpu", workers=0)
    assert "trained already" in capsys.readouterr().out


def test_the_datas_own_folder_is_no_place_for_a_run(bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe) -> None:
    data = shutil.copytree(bright_dark, tmp_path / "data")
    before = sorted(data.rglob("*"))
    with pytest.raises(UserError, match="the data's folder"):
        train(data, data / ".." / "data", tiny_recipe, device="cpu", workers=0)
    assert sorted(data.rglob("*")) == before


def test_how_videos_cannot_be_read_is_said_before_a_run_is_begun(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", ModuleType("torchcodec.decoders"))
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    cases: list[tuple[str, dict[str, Any]]] = [
        ("decoder: nvdec needs an NVIDIA GPU", {"decoder": "nvdec"}),
        ("timeout: 0 s is out of range", {"timeout": 0.0}),
        ("workers: 10000 is out of range", {"workers": 10000}),
        ("workers: -1 is out of range", {"workers": -1}),
    ]
    for message, flags in cases:
        with pytest.raises(UserError, match=message):
            train(bright_dark, tmp_path / "run", tiny_recipe, device="cpu", **flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler, which torch.compile wants on a CPU")
def test_compiled_blocks_learn_what_plain_ones_learn(bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe) -> None:
    """Without dropout, whose random numbers differ in compiled code."""
    recipe = separable(tiny_recipe).model_copy(update={"epochs": 2})
    for name, compiled in (("plain", False), ("compiled", True)):
        train(bright_dark, tmp_path / name, recipe, device="cpu", workers=0, compile=compiled)
    plain, compiled_ones = ([row["loss"] for row in read_rows(tmp_path / n, "steps")] for n in ("plain", "compiled"))
    assert compiled_ones == pytest.approx(plain, rel=1e-5)
    assert len(set(plain)) == 4
    # The saved model is like any other.
    assert load(tmp_path / "compiled").state_dict().keys() == load(tmp_path / "plain").state_dict().keys()
