"""All kinds of cells end to end, with a process that is killed and two that share the folder."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.experiments.paper.small import SCALE, job, tables
from vivit.experiments.paper.cells import number_of_cells
from vivit.experiments.paper.folder import read_results
from vivit.experiments.paper.schedule import run
from vivit.experiments.paper.tables import parts


def start(folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.experiments.paper.small", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_cells_run_once_whoever_runs_them_and_a_killed_one_is_continued(tmp_path: Path) -> None:
    killed = start(tmp_path)
    while not (stepped := list(tmp_path.glob("cells/*/run/steps.jsonl"))):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    before, _ = killed.communicate()
    left = stepped[0].parents[1].name

    other, ours = start(tmp_path), io.StringIO()
    with contextlib.redirect_stdout(ours):
        run(job(tmp_path), 1e9)
    theirs, _ = other.communicate(timeout=120)
    assert other.returncode == 0

    finished = [line for said in (before, ours.getvalue(), theirs) for line in said.splitlines() if " rate " in line]
    records = read_results(tmp_path / "results")
    assert len(finished) == len(set(finished)) == len(records) == number_of_cells(tables(), SCALE)
    assert left in records and not list((tmp_path / "cells").iterdir())

    for record in records.values():
        values = record["values"]
        assert values["steps"] >= 1 and values["parameters"] > 0 and values["multiply_adds"] > 0
        assert all(0 <= score <= 1 for scores in values["test"].values() for score in scores.values())
        assert record["seed"] == values["settings"]["recipe"].get("seed", 0)
    made = parts(tables(), tmp_path / "results", SCALE)
    for table in tables():
        assert f"| {table.rows[0].name} |" in "\n".join(made[table.key])
