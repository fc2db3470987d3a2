"""Runs of `vivit train` as a user starts them, in one process or several, held, killed or told to stop on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.training.forking import Forked

Process = Forked | subprocess.Popen[str]

HOLD = Path(__file__).parent / "hold"
LONGEST = 600  # seconds; more than any run takes on a busy machine, and the end of one that hangs


def holding(after: int, kill_after: float | None = None, pace: float = 0.0) -> dict[str, str]:
    """The environment of a run that waits after a step, or is killed so many seconds after it: see `hold`."""
    paths = [str(HOLD), os.environ.get("PYTHONPATH", "")]
    kill = {} if kill_after is None else {"KILL_AFTER": str(kill_after)}
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "HOLD_AFTER": str(after), "PACE": str(pace), **kill}


def start(
    data: Path,
    out: Path,
    *flags: str,
    processes: int = 1,
    hold_after: int | None = None,
    kill_after: float | None = None,
    largest_file: int = -1,
    verb: str = "train",
) -> Forked:
    """Start `vivit train` or `pretrain` in a process group of its own, as a terminal or a scheduler does.

    `hold_after` and `kill_after` are those of `holding`; `largest_file` is the most bytes that a file may grow to.
    """
    held = {} if hold_after is None else holding(hold_after, kill_after)
    words = [verb, str(data), "--out", str(out), "--device", "cpu", *flags]
    return Forked(words, {**os.environ, "OMP_NUM_THREADS": "1", **held}, processes, largest_file, out.parent)


def start_torchrun(data: Path, out: Path, *flags: str, restarts: int, hold_after: int) -> "subprocess.Popen[str]":
    """Start `vivit train` in two processes by torchrun, which starts both again up to `restarts` times if one dies."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launcher += ["--max-restarts", str(restarts), "-m", "vivit"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.Popen(
        [*launcher, "train", str(data), "--out", str(out), "--device", "cpu", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, **holding(hold_after)},
        start_new_session=True,
    )


def finish(process: Process) -> tuple[str, str]:
    """What it printed, when it has ended well."""
    out, complaint = process.communicate(timeout=LONGEST)
    assert process.returncode == 0, complaint[:4000]
    return out, complaint


def wait_until_held(process: Process, run: Path) -> None:
    """Wait until the run has done the step that it is held after."""
    end = time.monotonic() + LONGEST
    while not (run.parent / "held").exists():
        assert process.poll() is None, process.communicate(timeout=LONGEST)
        assert time.monotonic() < end, "the run does not get to the step that it is to be held after"
        time.sleep(0.01)


def let_go(run: Path) -> None:
    """Let a run go on that is held; later ones of the same folder may be held again."""
    (run.parent / "held").unlink()
    (run.parent / "go").touch()


def signal_held(process: Process, run: Path, number: signal.Signals) -> None:
    """Send a signal to all processes of a run while it is held, and let it go on."""
    wait_until_held(process, run)
    os.killpg(process.pid, number)
    let_go(run)


def rows(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of records, without times."""
    if not file.exists():
        return []
    lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    timed = ("clips_per_second", "waiting")
    return [{key: value for key, value in json.loads(line).items() if key not in timed} for line in lines]
