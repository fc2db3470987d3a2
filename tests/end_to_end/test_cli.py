"""The installed command, from the outside."""

import json
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.conftest import InProcess
from tests.support import REAL_CLIPS, run_vivit

SMALL = (
    *("--recipe", "demo", "--epochs", "1", "--batch-size", "4", "--num-frames", "4", "--frame-stride", "1"),
    *("--image-size", "48", "--workers", "0", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, bright_dark: Path) -> Path:
    """A folder with data/ and the run/ that was trained on it."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(bright_dark, folder / "data")
    result = run_vivit("train", "data", "--out", "run", *SMALL, folder=folder)
    assert result.status == 0, result.err
    assert "the model is in run" in result.out
    return folder


@pytest.fixture
def here(work: Path, vivit_here: InProcess, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """The command in this process and in that folder."""
    monkeypatch.chdir(work)
    return vivit_here


def test_train_leaves_a_run(work: Path) -> None:
    run = work / "run"
    for name in ("config.json", "model.safetensors", "recipe.json", "metrics.jsonl", "confusion.png", "tensorboard"):
        assert (run / name).exists(), name
    recipe = json.loads((run / "recipe.json").read_text())
    # Flags come before the recipe, and the recipe before the defaults.
    assert (recipe["epochs"], recipe["batch_size"], recipe["optimiser"]) == (1, 4, "adamw")
    assert json.loads((run / "config.json").read_text())["classes"] == {"classes": ["bright", "dark"]}


def test_evaluate(work: Path, here: InProcess) -> None:
    result = here(
        "evaluate",
        "data",
        "--model",
        "run",
        "--split",
        "all",
        "--views",
        "2x3",
        "--workers",
        "0",
        "--device",
        "cpu",
    )
    assert result.status == 0, result.err
    (folder,) = (work / "run" / "evaluation").glob("all-2x3-*")
    scores = json.loads((folder / "scores.json").read_text())
    assert (scores["videos"], scores["views"], scores["unreadable"], scores["top5"]) == (12, "2x3", 0, 1.0)
    assert f"top-1 {scores['top1']:.1%}" in result.out
    assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_predict_answers_for_what_can_be_read(work: Path, here: InProcess, tmp_path: Path) -> None:
    for name, source in (("a", "bright/bright0"), ("b", "dark/dark0")):
        shutil.copy(work / "data" / f"{source}.mp4", tmp_path / f"{name}.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    flags = ("--model", work / "run", "--json", "--views", "2x1", "--top", "2")
    result = run_vivit("predict", "a.mp4", "broken.mp4", "b.mp4", *flags, folder=tmp_path)
    result.one_line("broken.mp4")
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert [answer["video"] for answer in answers] == ["a.mp4", "b.mp4"]
    for answer in answers:
        assert answer.keys() == {"video", "predictions"}
        assert {each["label"] for each in answer["predictions"]} == {"bright", "dark"}
        scores = [each["score"] for each in answer["predictions"]]
        assert sorted(scores, reverse=True) == scores
        assert min(scores) >= 0
        # Two labels of two classes.
        assert sum(scores) == pytest.approx(1)

    # For people, and one label: the one at the top.
    plain = here("predict", tmp_path / "a.mp4", "--model", "run", "--views", "2x1", "--top", "1").succeeded()
    best = answers[0]["predictions"][0]
    assert plain.split() == [str(tmp_path / "a.mp4"), f"{best['score']:.1%}", best["label"]]


def test_mistakes_are_one_line(work: Path, here: InProcess) -> None:
    video = "data/bright/bright0.mp4"
    here("predict", video, "--model", "run", "--views", "2x2").one_line("views", "2x2")
    here("predict", video, "--model", "nowhere").one_line("nowhere")
    here("predict", video, "--model", "run", "--top", "0").one_line("top")
    here("train", "nothing", "--out", "new", *SMALL).one_line("nothing")
    here("train", "data", "--out", "run", *SMALL, "--seed", "1").one_line("run", r"seed 0 \(now 1\)")
    assert not (work / "new").exists()


def test_model_of_other_classes_than_the_data(work: Path, here: InProcess, tmp_path: Path) -> None:
    for source, name in (("bright", "day"), ("dark", "night")):
        shutil.copytree(work / "data" / source, tmp_path / "other" / name)
    result = here("evaluate", tmp_path / "other", "--model", "run")
    result.one_line("'day', 'night'", "bright, dark")


@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="the clips are not beside this checkout")
def test_predict_real_clips(here: InProcess) -> None:
    videos = sorted(REAL_CLIPS.iterdir())
    result = here("predict", *videos, "--model", "run", "--json")
    assert (result.status, result.err) == (0, "")
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert [answer["video"] for answer in answers] == [str(video) for video in videos]
