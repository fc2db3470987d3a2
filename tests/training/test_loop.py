import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vivit.errors import UserError
from vivit.evaluation.evaluate import evaluate
from vivit.inference.predictor import Predictor
from vivit.model.vivit import ViViT
from vivit.training import loop
from vivit.training.recipes import Recipe
from vivit.video.datasets import open_split
from vivit.weights.store import load


def read_metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def separable(recipe: Recipe) -> Recipe:
    fields = {**recipe.architecture, "dropout": 0.0}
    return recipe.model_copy(update={"epochs": 8, "stochastic_depth": 0.0, "architecture": fields})


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_resumed_run_equals_uninterrupted_one(
    bright_dark: Path,
    tmp_path: Path,
    tiny_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    optimiser: Literal["sgd", "adamw"],
    stop_after: int,
) -> None:
    recipe = tiny_recipe.model_copy(update={"optimiser": optimiser, "learning_rate": 1e-2})
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    whole = loop.train(bright_dark, tmp_path / "whole", recipe, device="cpu", workers=0)

    step, taken = loop.training_step, 0

    def stopped_step(*arguments: Any) -> float:
        nonlocal taken
        if taken == stop_after:
            raise KeyboardInterrupt
        taken += 1
        return step(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "training_step", stopped_step)
        loop.train(bright_dark, tmp_path / "halves", recipe, device="cpu", workers=0)
    # What was drawn in between must not matter.
    torch.rand(17)
    steps_left = 0

    def counted_step(*arguments: Any) -> float:
        nonlocal steps_left
        steps_left += 1
        return step(*arguments)

    monkeypatch.setattr(loop, "training_step", counted_step)
    resumed = loop.train(bright_dark, tmp_path / "halves", recipe, device="cpu", workers=0)

    assert steps_left == 4 - stop_after
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for name in ("model.safetensors", "optimiser.safetensors"):
        last = Path("checkpoints") / "step-00000004" / name
        assert (tmp_path / "whole" / last).read_bytes() == (tmp_path / "halves" / last).read_bytes()
    rows = [read_metrics(tmp_path / run) for run in ("whole", "halves")]
    for row in [row for run in rows for row in run]:
        del row["clips_per_second"]
    assert rows[0] == rows[1]
    assert [row["epoch"] for row in rows[0]] == [1, 2]


def test_dropout_takes_part_in_the_steps(bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe) -> None:
    """Without it the test above would say nothing of it."""
    still = tiny_recipe.model_copy(update={"architecture": {**tiny_recipe.architecture, "dropout": 0.0}})
    first = loop.train(bright_dark, tmp_path / "dropout", tiny_recipe, device="cpu", workers=0)
    second = loop.train(bright_dark, tmp_path / "none", still, device="cpu", workers=0)
    assert not torch.equal(first.get_parameter("embedding.weight"), second.get_parameter("embedding.weight"))


def test_learns_bright_from_dark_and_leaves_true_records(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    model = loop.train(bright_dark, run, separable(tiny_recipe), device="cpu", workers=0)
    rows = read_metrics(run)
    assert rows[-1]["loss"] < 0.3 < rows[0]["loss"]
    assert not model.training

    predictor = Predictor(run, "cpu")
    for name in ("bright", "dark"):
        assert predictor.predict(bright_dark / name / f"{name}0.mp4").labels[0].label == name

    # An evaluation done anew, with the weights on the disk, gives the numbers in the records.
    again = evaluate(load(run), open_split(bright_dark, "val"), num_clips=1, num_crops=1)
    assert {name: rows[-1][name] for name in again.scores()} == again.scores()
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("val/top1")] == pytest.approx([row["top1"] for row in rows])
    losses = [event.value for event in events.Scalars("train/loss")]
    assert len(losses) == 16
    assert [sum(losses[i : i + 2]) / 2 for i in range(0, 16, 2)] == pytest.approx([row["loss"] for row in rows])
    assert (run / "confusion.png").read_bytes().startswith(b"\x89PNG")

    # The same call again trains nothing.
    before = (run / "model.safetensors").stat().st_mtime_ns
    loop.train(bright_dark, run, separable(tiny_recipe), device="cpu", workers=0)
    assert "trained already" in capsys.readouterr().out
    assert (run / "model.safetensors").stat().st_mtime_ns == before
    assert read_metrics(run) == rows


def test_another_recipe_or_data_for_the_same_folder_is_refused(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe
) -> None:
    recipe = tiny_recipe.model_copy(update={"epochs": 1})
    run = tmp_path / "run"
    loop.train(bright_dark, run, recipe, device="cpu", workers=0)
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    other = recipe.model_copy(update={"learning_rate": 0.5})
    with pytest.raises(UserError, match=r"run: begun with another learning_rate 0\.003"):
        loop.train(bright_dark, run, other, device="cpu", workers=0)
    elsewhere = shutil.copytree(bright_dark, tmp_path / "elsewhere")
    with pytest.raises(UserError, match="run: begun with another data"):
        loop.train(elsewhere, run, recipe, device="cpu", workers=0)
    assert files == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_recipe_without_a_model_does_not_claim_the_folder(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe
) -> None:
    """Else the mended recipe would be refused as another one."""
    with pytest.raises(UserError, match="image_size"):
        wrong = tiny_recipe.model_copy(update={"image_size": 33})
        loop.train(bright_dark, tmp_path / "run", wrong, device="cpu", workers=0)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def one_broken(bright_dark: Path, tmp_path: Path) -> Path:
    """The videos in splits, all to be read but one of the ten to train on."""
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
    with pytest.raises(UserError, match=r"^1 of 10 training videos cannot be read, more than 5% .*dark2\.mp4") as error:
        loop.train(one_broken, tmp_path / "run", recipe, device="cpu", workers=0)
    assert "\n" not in str(error.value)


def test_an_unreadable_video_is_replaced_and_told(
    one_broken: Path, tmp_path: Path, tiny_recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe.model_copy(update={"batch_size": 10, "unreadable": 0.1})
    first = loop.train(one_broken, tmp_path / "run", recipe, device="cpu", workers=0)
    out = capsys.readouterr().out
    assert out.count("not read, others seen in its place: ") == 1
    assert "dark2.mp4: not a readable video" in out
    again = loop.train(one_broken, tmp_path / "again", recipe, device="cpu", workers=2)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_out_that_is_a_file(bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="run: no folder can be made there"):
        loop.train(bright_dark, tmp_path / "run", tiny_recipe, device="cpu", workers=0)


def test_loss_that_is_no_number_stops_the_run(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([0.7, 0.6, float("nan")])
    monkeypatch.setattr(loop, "training_step", lambda *_: next(losses))
    with pytest.raises(UserError, match=r"the loss at step 2 is nan.*0\.003") as error:
        loop.train(bright_dark, tmp_path / "run", tiny_recipe, device="cpu", workers=0)
    assert "\n" not in str(error.value)
    # The last checkpoint is from before it.
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]


@pytest.mark.parametrize(
    ("names", "given", "expected"),
    [
        (("bright", "dark"), None, 0.5),
        (("pan_left", "pan_right"), None, 0.0),
        (("Turn Right", "stop"), None, 0.0),
        (("rotate-clockwise", "stop"), None, 0.0),
        (("leftovers", "bright"), None, 0.5),
        (("pan_left", "pan_right"), 0.5, 0.5),
        (("bright", "dark"), 0.0, 0.0),
    ],
)
def test_clips_are_mirrored_unless_class_names_speak_of_sides(
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

    def batches(*_: Any, flip_probability: float, **__: Any) -> None:
        found.append(flip_probability)
        raise Reached

    monkeypatch.setattr(loop, "training_batches", batches)
    with pytest.raises(Reached):
        recipe = tiny_recipe.model_copy(update={"flip": given})
        loop.train(tmp_path / "data", tmp_path / "run", recipe, device="cpu", workers=0)
    assert found == [expected]


def test_gradients_are_scaled_down_to_the_recipes_norm(tiny_recipe: Recipe) -> None:
    """One SGD step at rate 1 without momentum moves the weights by the gradient itself."""
    torch.manual_seed(0)
    recipe = tiny_recipe.model_copy(update={"clip_norm": 0.01})
    model = ViViT(recipe.build_config({"classes": 2})).eval()
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    clips = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    optimiser = torch.optim.SGD(model.parameters(), lr=123.0)
    loss = loop.training_step(model, optimiser, clips, {"classes": torch.tensor([0, 0])}, 1.0, recipe)
    after = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    assert (after - before).norm().item() == pytest.approx(0.01, rel=1e-3)
    # The heads begin at zero: two equal logits.
    assert loss == pytest.approx(0.693147, abs=1e-5)
