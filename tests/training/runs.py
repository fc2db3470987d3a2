"""Runs of `vivit train` as a user starts them, in one process or several, killed or told to stop on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def start(
    data: Path, out: Path, *flags: str, processes: int = 1, restarts: int = 0, **popen: Any
) -> "subprocess.Popen[str]":
    """In a process group of its own, as a terminal or a scheduler has it; torchrun starts several anew so often."""
    words = [sys.executable]
    if processes > 1:
        words += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        words += ["--max-restarts", str(restarts)]
    return subprocess.Popen(
        [*words, "-m", "vivit", "train", str(data), "--out", str(out), "--device", "cpu", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        start_new_session=True,
        **popen,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """What it printed, when it has ended well."""
    out, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint[:4000]
    return out, complaint


def signal_after(process: "subprocess.Popen[str]", run: Path, step: int, number: signal.Signals, delay: float) -> None:
    """Send a signal to all its processes, so many seconds after a step is done."""
    wait_for(process, run, step)
    time.sleep(delay)
    os.killpg(process.pid, number)


def wait_for(process: "subprocess.Popen[str]", run: Path, step: int) -> None:
    """Until a step is done, or the process has ended."""
    while len(rows(run / "steps.jsonl")) < step and process.poll() is None:
        time.sleep(0.002)


def rows(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of records, without times."""
    if not file.exists():
        return []
    lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    timed = ("clips_per_second", "waiting")
    return [{key: value for key, value in json.loads(line).items() if key not in timed} for line in lines]
