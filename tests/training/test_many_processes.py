"""Several processes learn what one learns, and score each video once."""

import signal
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.training.runs import finish, rows, signal_after, start, wait_for

STEPS = 20
# Without chance in the network: what dropout draws depends on how many clips a process has. Mixup's pairs do not.
SETTINGS = (
    *("--recipe", "debug", "--epochs", str(STEPS), "--min-steps", "0", "--batch-size", "7", "--mixup", "0.4"),
    *("--dropout", "0", "--stochastic-depth", "0", "--ema", "0.9", "--workers", "0"),
)
ALWAYS = ("--checkpoint-every", "0")


@pytest.fixture(scope="module")
def alone(bright_dark: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
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
    # Each video once, in the order of the set.
    answers, others = ((folder / "val_predictions.csv").read_text().splitlines() for folder in (run, other))
    assert [line.split(",")[0] for line in answers] == [line.split(",")[0] for line in others]
    weights, expected = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("processes", "flags"), [(2, ()), (4, ()), (2, ("--shard",)), (4, ("--shard",))])
def test_processes_learn_what_one_learns(
    bright_dark: Path, tmp_path: Path, alone: Path, processes: int, flags: tuple[str, ...]
) -> None:
    out, _ = finish(start(bright_dark, tmp_path / "run", *SETTINGS, *flags, processes=processes))
    assert out.count("the model is in") == 1
    assert_same_run(tmp_path / "run", alone)


def test_what_some_processes_began_others_finish(bright_dark: Path, tmp_path: Path, alone: Path) -> None:
    """Two with shards of the weights are told to stop, one goes on and is killed, four finish."""
    run = tmp_path / "run"
    process = start(bright_dark, run, *SETTINGS, "--shard", processes=2)
    signal_after(process, run, 6, signal.SIGTERM, delay=0.0)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert 6 <= len(rows(run / "steps.jsonl")) < STEPS

    process = start(bright_dark, run, *SETTINGS, *ALWAYS)
    signal_after(process, run, 13, signal.SIGKILL, delay=0.0)
    process.communicate(timeout=60)
    out, _ = finish(start(bright_dark, run, *SETTINGS, "--shard", processes=4))
    assert "going on after step" in out
    assert_same_run(run, alone)


def test_a_process_that_dies_is_started_anew_and_the_run_goes_on(
    bright_dark: Path, tmp_path: Path, alone: Path
) -> None:
    """Elastic restart: torchrun starts all processes again, and they find the last checkpoint."""
    run = tmp_path / "run"
    process = start(bright_dark, run, *SETTINGS, *ALWAYS, processes=2, restarts=1)
    wait_for(process, run, 7)
    workers = [child for child in psutil.Process(process.pid).children() if "train" in child.cmdline()]
    assert len(workers) == 2
    workers[1].kill()
    finish(process)
    assert len(rows(run / "sessions.jsonl")) == 2
    assert_same_run(run, alone)
