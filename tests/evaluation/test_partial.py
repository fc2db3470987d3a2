"""An interrupted evaluation continues, with the same result as one without an interruption."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support import random_weights, refused
from vivit.data.datasets import VideoSet
from vivit.data.readers.listing import open_data
from vivit.errors import UserError
from vivit.evaluation import partial
from vivit.evaluation.evaluate import Evaluation, evaluate
from vivit.evaluation.partial import PartialLogits
from vivit.evaluation.score import score_model
from vivit.inference.views import Average, Views
from vivit.model.vivit import ViViT
from vivit.training.recipe import Recipe
from vivit.weights.store import save


@pytest.fixture
def model(tiny_recipe: Recipe) -> ViViT:
    heads = {"classes": 2}
    model = ViViT(
        tiny_recipe.build_config(heads),
        classes={"classes": ["bright", "dark"]},
        preprocessing=tiny_recipe.build_preprocessing(),
    )
    return random_weights(model, std=0.3)


@pytest.fixture
def data(bright_dark: Path, tmp_path: Path) -> Path:
    """Twelve videos; the second and the ninth are unreadable."""
    data = shutil.copytree(bright_dark, tmp_path / "data")
    for broken in ("bright/bright1.mp4", "dark/dark2.mp4"):
        (data / broken).write_bytes(b"no video")
    return data


@pytest.fixture(autouse=True)
def _save_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "SAVE_EVERY", 0.0)


class Stopped(Exception):
    pass


def stop_after(count: int) -> Callable[[int], None]:
    def progress(done: int) -> None:
        if done == count:
            raise Stopped

    return progress


def run(
    model: ViViT, videos: VideoSet, out: Path | None = None, progress: Callable[[int], object] = lambda done: None
) -> Evaluation:
    """With four views of each, four videos go through the network at once."""
    kept = PartialLogits(out, "a") if out is not None else None
    return evaluate(model, videos, Views(4), progress=progress, partial=kept)


def assert_same(some: Evaluation, other: Evaluation) -> None:
    assert some.failures == other.failures
    assert torch.equal(some.readable, other.readable)
    for head, values in some.logits.items():
        assert torch.equal(values[some.readable], other.logits[head][other.readable])


@pytest.mark.parametrize("stops", [[3], [6], [12], [2, 7], [5, 6, 11]])
def test_interrupted_and_continued_is_equal_to_the_last_bit(
    stops: list[int], data: Path, tmp_path: Path, model: ViViT
) -> None:
    videos = open_data(data).split("all")
    whole = run(model, videos)
    for stop in stops:
        with pytest.raises(Stopped):
            run(model, videos, tmp_path / "out", stop_after(stop))
    told: list[int] = []
    assert_same(run(model, videos, tmp_path / "out", told.append), whole)
    # A batch is saved after the network has run: the first four readable videos after five, and so on.
    saved = 8 if stops[-1] >= 10 else 4 if stops[-1] >= 5 else 0
    assert told == list(range(saved + 1, 13))


def test_what_is_saved_is_not_computed_again(data: Path, tmp_path: Path, model: ViViT) -> None:
    videos = open_data(data).split("all")
    with pytest.raises(Stopped):
        run(model, videos, tmp_path / "out", stop_after(12))
    kept = PartialLogits(tmp_path / "out", "a")
    assert list(kept.done) == [0, 2, 3, 4, 5, 6, 7, 9]
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.zero_()
    found = run(model, videos, tmp_path / "out").logits["classes"]
    assert (found[[10, 11]] == 0).all()
    assert (found[list(kept.done)] != 0).all()
    for index, row in kept.done.items():
        assert torch.equal(found[index], row["classes"])


def test_logits_are_kept_under_their_key_and_not_as_pickles(data: Path, tmp_path: Path, model: ViViT) -> None:
    with pytest.raises(Stopped):
        run(model, open_data(data).split("all"), tmp_path, stop_after(12))
    files = list((tmp_path / "unfinished-a").iterdir())
    assert [file.suffix for file in files] == [".safetensors"] * 2
    assert PartialLogits(tmp_path, "b").done == {}
    kept = PartialLogits(tmp_path, "a")
    kept.remove()
    assert not kept.folder.exists()


def test_a_damaged_file_is_ignored(data: Path, tmp_path: Path, model: ViViT) -> None:
    videos = open_data(data).split("all")
    whole = run(model, videos)
    with pytest.raises(Stopped):
        run(model, videos, tmp_path, stop_after(12))
    first, _ = sorted((tmp_path / "unfinished-a").iterdir())
    first.write_bytes(first.read_bytes()[:-5])
    assert list(PartialLogits(tmp_path, "a").done) == [5, 6, 7, 9]
    assert_same(run(model, videos, tmp_path), whole)


def test_files_are_written_only_from_time_to_time(
    data: Path, tmp_path: Path, model: ViViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "SAVE_EVERY", 1e6)
    run(model, open_data(data).split("all"), tmp_path)
    assert not list(tmp_path.glob("unfinished*"))


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from vivit.evaluation import evaluate, partial, score
from vivit.inference.views import Views

def progress_and_die(*args, progress, **kwargs):
    return evaluate.evaluate(*args, progress=lambda done: done == 11 and os.kill(os.getpid(), signal.SIGKILL), **kwargs)

torch.set_num_threads(1)
partial.SAVE_EVERY = 0.0
score.evaluate = progress_and_die
data, model, out = map(Path, sys.argv[1:])
score.score_model(data, model, views=Views(4), split="all", out=out, device="cpu", precision="f32")
"""


def test_a_killed_command_continues(
    data: Path, tmp_path: Path, model: ViViT, capsys: pytest.CaptureFixture[str]
) -> None:
    save(model, tmp_path / "model")

    def score(out: Path, views: Views = Views(4)) -> str:
        score_model(data, tmp_path / "model", views=views, split="all", out=out, device="cpu", precision="f32")
        return capsys.readouterr().out

    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, data, tmp_path / "model", out], timeout=120)
    assert killed.returncode == -9
    assert not (out / "scores.json").exists()
    # Other views are another evaluation, which leaves this one alone.
    refused(lambda: score(out, Views(2)), f"{out}: has unfinished-.*, of another evaluation; give another --out")
    assert "resuming: 8 of 12 videos are scored already\n" in score(out)
    assert "resuming" not in score(tmp_path / "whole")
    for file in ("scores.json", "per_video.csv"):
        assert (out / file).read_text() == (tmp_path / "whole" / file).read_text()
    assert not list(out.glob("unfinished*"))
    assert "resuming" not in score(out)


def test_other_weights_or_videos_are_another_evaluation(
    data: Path, tmp_path: Path, model: ViViT, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every evaluation here fails at its end, so it stays unfinished."""

    def fail(*_: object) -> None:
        raise UserError("a full disk")

    monkeypatch.setattr("vivit.evaluation.score._write", fail)

    def goes_on(average: Average = "logits") -> bool:
        with pytest.raises(UserError, match="a full disk"):
            score_model(data, tmp_path / "model", views=Views(average=average), split="all", device="cpu")
        return "resuming" in capsys.readouterr().out

    monkeypatch.setattr("vivit.evaluation.evaluate.BATCH", 4)
    save(model, tmp_path / "model")
    assert not goes_on()
    assert goes_on()
    assert not goes_on("probabilities")
    model.state_dict()["heads.classes.bias"][1] += 1e-6
    save(model, tmp_path / "model")
    assert not goes_on()
    assert goes_on()
    shutil.copy(data / "dark" / "dark0.mp4", data / "dark" / "dark9.mp4")
    assert not goes_on()
    # The same size and name, under another label.
    shutil.move(data / "dark" / "dark9.mp4", data / "bright" / "dark9.mp4")
    assert not goes_on()
    assert goes_on()
