"""Several processes learn the same as one, and score each video once."""

import shutil
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import ViTConfig, ViTModel

from tests.training.runs import LONGEST, finish, let_go, rows, signal_held, start, start_torchrun, wait_until_held

STEPS = 12
# No dropout: its random numbers depend on how many clips a process has. Mixup's pairs do not.
SETTINGS = (
    *("--recipe", "debug", "--epochs", str(STEPS), "--min-steps", "0", "--batch-size", "7", "--mixup", "0.4"),
    *("--dropout", "0", "--stochastic-depth", "0", "--ema", "0.9", "--workers", "0"),
)
ALWAYS = ("--checkpoint-every", "0")


@pytest.fixture(scope="module")
def alone(bright_dark: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    finish(start(bright_dark, run, *SETTINGS))
    assert len({row["loss"] for row in rows(run / "steps.jsonl")}) == STEPS
    return run


def assert_same_run(run: Path, other: Path) -> None:
    assert [row["step"] for row in rows(run / "steps.jsonl")] == list(range(1, STEPS + 1))
    for left, right in zip(rows(run / "steps.jsonl"), rows(other / "steps.jsonl"), strict=True):
        for name in ("loss", "learning_rate"):
            assert left[name] == pytest.approx(right[name], rel=1e-5), (name, left["step"])
    for left, right in zip(rows(run / "metrics.jsonl"), rows(other / "metrics.jsonl"), strict=True):
        for name in ("videos", "unreadable", "top1", "top5", "data_hash"):
            assert left[name] == right[name]
    # Each video appears once, in the order of the set.
    answers, others = ((folder / "val_predictions.csv").read_text().splitlines() for folder in (run, other))
    assert [line.split(",")[0] for line in answers] == [line.split(",")[0] for line in others]
    weights, expected = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4)


# Two processes with sharded weights are part of the next test.
@pytest.mark.parametrize(("processes", "flags"), [(2, ("--accumulate", "2")), (4, ()), (4, ("--shard",))])
def test_processes_learn_what_one_learns(
    bright_dark: Path, tmp_path: Path, alone: Path, processes: int, flags: tuple[str, ...]
) -> None:
    out, _ = finish(start(bright_dark, tmp_path / "run", *SETTINGS, *flags, processes=processes))
    assert out.count("the model is in") == 1
    assert_same_run(tmp_path / "run", alone)


def test_what_some_processes_began_others_finish(bright_dark: Path, tmp_path: Path, alone: Path) -> None:
    """Two processes with sharded weights are told to stop, one goes on and is killed, four finish."""
    run = tmp_path / "run"
    process = start(bright_dark, run, *SETTINGS, "--shard", processes=2, hold_after=4)
    signal_held(process, run, signal.SIGTERM)
    process.communicate(timeout=LONGEST)
    assert process.returncode != 0
    assert 4 <= len(rows(run / "steps.jsonl")) <= 6

    process = start(bright_dark, run, *SETTINGS, *ALWAYS, hold_after=8, kill_after=0.0)
    process.communicate(timeout=LONGEST)
    assert process.returncode == -signal.SIGKILL
    out, _ = finish(start(bright_dark, run, *SETTINGS, "--shard", processes=4))
    assert "resuming after step" in out
    firsts = [row["first_step"] for row in rows(run / "sessions.jsonl")]
    assert firsts[0] == 0 and 4 <= firsts[1] < firsts[2]
    assert_same_run(run, alone)


def test_a_process_that_dies_is_started_anew_and_the_run_goes_on(
    bright_dark: Path, tmp_path: Path, alone: Path
) -> None:
    """Elastic restart: torchrun starts all processes again, and they find the last checkpoint."""
    run = tmp_path / "run"
    process = start_torchrun(bright_dark, run, *SETTINGS, *ALWAYS, restarts=1, hold_after=5)
    wait_until_held(process, run)
    workers = [child for child in psutil.Process(process.pid).children() if "train" in child.cmdline()]
    assert len(workers) == 2
    workers[1].kill()
    let_go(run)
    finish(process)
    assert [row["first_step"] > 0 for row in rows(run / "sessions.jsonl")] == [False, True]
    assert_same_run(run, alone)


def test_features_that_processes_share_are_those_of_one(bright_dark: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(image_size=32, patch_size=16, intermediate_size=32, **sizes)).save_pretrained(tmp_path / "vit")
    frozen = ("--init", str(tmp_path / "vit"), "--freeze-spatial", "--cached-clips", "2", "--num-frames", "4")
    settings = ("--recipe", "finetune", "--epochs", "4", "--min-steps", "0", "--batch-size", "4", *frozen)
    still = ("--stochastic-depth", "0", "--mixup", "0.4", "--workers", "0")
    for name, processes in (("alone", 1), ("two", 2)):
        finish(start(bright_dark, tmp_path / name, *settings, *still, processes=processes))
    alone, two = (rows(tmp_path / name / "steps.jsonl") for name in ("alone", "two"))
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in alone], rel=1e-5)
    assert len({row["loss"] for row in alone}) == len(alone) == 8
    answers = [(tmp_path / name / "val_predictions.csv").read_text().splitlines() for name in ("alone", "two")]
    assert [line.split(",")[0] for line in answers[0]] == [line.split(",")[0] for line in answers[1]]


def test_a_mistake_that_one_process_finds_is_a_line_in_each(bright_dark: Path, tmp_path: Path) -> None:
    """Only the first process looks at the run's folder."""
    (tmp_path / "run").touch()
    process = start(bright_dark, tmp_path / "run", *SETTINGS, processes=2)
    _, complaint = process.communicate(timeout=LONGEST)
    assert process.returncode != 0
    message = f"{tmp_path / 'run'}: cannot create this folder (File exists)"
    said = [line for line in complaint.splitlines() if line.startswith("vivit: ")]
    assert sorted(said) == [f"vivit: {message}", f"vivit: process 1: {message}"]
    assert "Traceback" not in complaint


def test_videos_that_one_process_cannot_read_are_no_traceback_in_the_other(bright_dark: Path, tmp_path: Path) -> None:
    """One of two videos in the batch is unreadable, there is no replacement, and only one process notices."""
    for split, name, number in (("train", "bright", 0), ("train", "dark", 0), ("val", "bright", 1), ("val", "dark", 1)):
        folder = tmp_path / "data" / split / name
        folder.mkdir(parents=True)
        shutil.copy(bright_dark / name / f"{name}{number}.mp4", folder)
    (tmp_path / "data" / "train" / "dark" / "dark0.mp4").write_text("no video")
    few = ("--recipe", "debug", "--epochs", "2", "--min-steps", "0", "--batch-size", "2", "--workers", "0")
    process = start(tmp_path / "data", tmp_path / "run", *few, processes=2)
    _, complaint = process.communicate(timeout=LONGEST)
    assert process.returncode != 0
    assert "dark0.mp4" in complaint
    assert "Traceback" not in complaint
