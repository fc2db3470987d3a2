"""Holds a run of `vivit train` at a step, so that a test can act on it there however busy the machine is.

Python imports this file in every process that has its folder on PYTHONPATH. The process that is about to add a row to
`steps.jsonl` when it has HOLD_AFTER rows waits:

- with KILL_AFTER, only from the second row on, and a thread kills its process group that many seconds after the first:
  the run dies at some moment within those steps;
- else it creates `held` beside the run's folder, and goes on when there is `go`; with PACE, every later step waits so
  many seconds, for a signal that other processes have yet to pass on.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

LONGEST = 600  # seconds that a run is held where its test has died


def hold(rows: int, kill_after: float | None, pace: float) -> None:
    """Have this process held when there are so many rows."""

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event != "open" or "a" not in str(arguments[1]) or Path(str(arguments[0])).name != "steps.jsonl":
            return
        run = Path(str(arguments[0])).parent
        written = (run / "steps.jsonl").read_text().count("\n") if (run / "steps.jsonl").exists() else 0
        if kill_after is not None:
            if written == rows:
                threading.Timer(kill_after, os.killpg, (os.getpgid(0), signal.SIGKILL)).start()
            elif written == rows + 2:
                time.sleep(LONGEST)
        elif written == rows:
            (run.parent / "held").touch()
            end = time.monotonic() + LONGEST
            while not (run.parent / "go").exists() and time.monotonic() < end:
                time.sleep(0.01)
        elif written > rows:
            time.sleep(pace)

    sys.addaudithook(audit)


if "HOLD_AFTER" in os.environ:
    kill_after = os.environ.get("KILL_AFTER")
    hold(
        int(os.environ["HOLD_AFTER"]),
        None if kill_after is None else float(kill_after),
        float(os.environ.get("PACE", "0")),
    )
