"""Runs that are killed, told to stop or short of disk: the same command resumes it, and the result is the same."""

import fcntl
import os
import random
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import assert_one_line
from tests.training.runs import LONGEST, finish, holding, let_go, rows, signal_held, start, wait_until_held

STEPS = 16
KILLS = 5
# Everything random, an average of the weights, and micro-batches.
SETTINGS = (
    *("--recipe", "debug", "--epochs", str(STEPS // 2), "--min-steps", "0", "--batch-size", "4", "--accumulate", "2"),
    *("--mixup", "0.2", "--cutmix", "0.2", "--colour-jitter", "0.8", "--token-dropping", "0.25", "--dropout", "0.1"),
    *("--stochastic-depth", "0.2", "--ema", "0.9"),
)
# A checkpoint after every step.
ALWAYS = ("--checkpoint-every", "0")


def records(run: Path) -> dict[str, Any]:
    """What must be equal: losses, rates and norms of each step, scores, weights and predictions."""
    return {
        "steps": rows(run / "steps.jsonl"),
        "epochs": rows(run / "metrics.jsonl"),
        "weights": (run / "model.safetensors").read_bytes(),
        "predictions": (run / "val_predictions.csv").read_bytes(),
    }


@pytest.fixture(scope="module")
def whole(bright_dark: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run, without workers."""
    run = tmp_path_factory.mktemp("whole") / "run"
    finish(start(bright_dark, run, *SETTINGS, "--workers", "0"))
    assert [row["step"] for row in rows(run / "steps.jsonl")] == list(range(1, STEPS + 1))
    return run


def test_a_run_killed_at_random_steps_ends_as_one_that_never_was(
    bright_dark: Path, tmp_path: Path, whole: Path
) -> None:
    run, drawn = tmp_path / "run", random.Random(0)
    for step in sorted(drawn.sample(range(1, STEPS - KILLS), KILLS)):
        # The last process may have gone past this step before it died: this one does a step of its own.
        step = max(step, len(rows(run / "steps.jsonl")) + 1)
        workers = str(drawn.randrange(3))
        # At some moment within a step, a score or a checkpoint.
        moment = drawn.random() * 0.05
        process = start(bright_dark, run, *SETTINGS, *ALWAYS, "--workers", workers, hold_after=step, kill_after=moment)
        _, complaint = process.communicate(timeout=LONGEST)
        assert process.returncode == -signal.SIGKILL, complaint[-1500:]
    out, _ = finish(start(bright_dark, run, *SETTINGS, *ALWAYS, "--workers", "1"))
    assert "resuming after step" in out
    assert records(run) == records(whole)
    assert len(rows(run / "sessions.jsonl")) == KILLS + 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_run_told_to_stop_finishes_its_step_and_says_how_to_go_on(
    bright_dark: Path, tmp_path: Path, whole: Path, number: signal.Signals, status: int
) -> None:
    run = tmp_path / "run"
    process = start(bright_dark, run, *SETTINGS, "--workers", "2", hold_after=5)
    signal_held(process, run, number)
    _, complaint = process.communicate(timeout=LONGEST)
    assert process.returncode == status, complaint[-1500:]
    stopped_after = len(rows(run / "steps.jsonl"))
    assert 5 <= stopped_after <= 6
    assert complaint == f"vivit: stopped after step {stopped_after} of {STEPS}; run the same command to resume\n"
    out, _ = finish(start(bright_dark, run, *SETTINGS, "--workers", "0"))
    assert f"resuming after step {stopped_after} of {STEPS}" in out
    assert records(run) == records(whole)


def test_a_run_whose_terminal_is_closed_has_its_last_step(bright_dark: Path, tmp_path: Path, whole: Path) -> None:
    """Writing to the terminal fails from then on, and the run's workers get the signal too."""
    run, (ours, its) = tmp_path / "run", os.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-m", "vivit", "train", bright_dark, "--out", run, *SETTINGS, "--workers", "2"],
        stdin=its,
        stdout=its,
        stderr=its,
        env={**os.environ, **holding(5)},
        text=True,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(its)
    wait_until_held(process, run)
    os.close(ours)
    let_go(run)
    assert process.wait(LONGEST) == 75
    assert 5 <= len(rows(run / "steps.jsonl")) <= 6
    finish(start(bright_dark, run, *SETTINGS, "--workers", "0"))
    assert records(run) == records(whole)


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(bright_dark: Path, tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    # No file may grow larger than the weights: like a full disk, except for the name of the error.
    largest = (whole / "model.safetensors").stat().st_size * 3 // 2

    process = start(bright_dark, run, *SETTINGS, "--workers", "0", largest_file=largest)
    _, complaint = process.communicate(timeout=LONGEST)
    assert process.returncode == 2, complaint[-1500:]
    (line,) = complaint.strip().splitlines()
    assert line.startswith("vivit: ") and "not written" in line
    finish(start(bright_dark, run, *SETTINGS, "--workers", "0"))
    assert records(run) == records(whole)


def test_a_folder_in_which_a_run_is_at_work_is_left_alone(
    bright_dark: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when each call has temporary files of its own, as in the jobs of a cluster."""
    run = tmp_path / "run"
    first = start(bright_dark, run, *SETTINGS, *ALWAYS, "--workers", "0", hold_after=2)
    wait_until_held(first, run)
    (tmp_path / "another").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "another"))
    second = start(bright_dark, run, *SETTINGS, *ALWAYS, "--workers", "0")
    _, complaint = second.communicate(timeout=LONGEST)
    let_go(run)
    assert second.returncode == 2
    assert_one_line(complaint, f"vivit: {run}: in use by another vivit train .*process {first.pid} of ")
    finish(first)
    assert records(run) == records(whole)


def workers_of(pid: int) -> list[psutil.Process]:
    """Its worker processes and the server that forks them; none if it has ended."""
    try:
        children = psutil.Process(pid).children(recursive=True)
        return [child for child in children if "forkserver" in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_ctrl_c_while_workers_begin_is_one_line(bright_dark: Path, tmp_path: Path, workers: int) -> None:
    """Ctrl-C goes to every process of the terminal, also to the server that forks workers, and to new workers."""
    run = tmp_path / "run"
    # It is held at its first step, so that it is not over before the signal comes.
    process = start(bright_dark, run, *SETTINGS, "--workers", "2", hold_after=0)
    while len(workers_of(process.pid)) < workers and process.poll() is None:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    (run.parent / "go").touch()
    _, complaint = process.communicate(timeout=LONGEST)
    assert process.returncode == 130, complaint[-1500:]
    (line,) = complaint.splitlines()
    assert line.endswith("; run the same command to resume")


def test_workers_end_with_the_process_that_is_killed(bright_dark: Path, tmp_path: Path) -> None:
    process = start(bright_dark, tmp_path / "run", *SETTINGS, "--workers", "2", hold_after=2)
    wait_until_held(process, tmp_path / "run")
    orphans = workers_of(process.pid)
    assert len(orphans) == 3
    process.kill()
    _, alive = psutil.wait_procs(orphans, timeout=LONGEST)
    process.communicate(timeout=LONGEST)
    assert alive == []
