"""Runs the cells of all tables, as many as fit in the time, on one machine or several that share the folder."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vivit.experiments.motion_benchmark import BenchmarkSettings, generate
from vivit.experiments.paper.cells import Cell, Scale, Table, number_of_cells, waiting
from vivit.experiments.paper.cost import expected_seconds
from vivit.experiments.paper.folder import PaperFolder, read_results
from vivit.experiments.paper.running import run_cell
from vivit.progress import console, progress_bar
from vivit.training.lock import InUse


@dataclass(frozen=True)
class Job:
    """The work of one call of `vivit experiment paper`."""

    folder: PaperFolder
    tables: Sequence[Table]
    scale: Scale
    benchmark: BenchmarkSettings
    image_vit: str | None = None
    """The source of an image ViT; without one, the tables that need it are skipped."""
    device: str = "auto"

    def results(self) -> dict[str, dict[str, Any]]:
        """Cell key → the values of its record."""
        return {key: record["values"] for key, record in read_results(self.folder.results).items()}


def run(job: Job, seconds: float) -> None:
    """Run cells until the time is over; skip a cell that is expected to take longer than the time left.

    Raises:
        UserError: a folder or a setting does not fit, or a training run fails.
        Stopped: Ctrl-C or SIGTERM came; the same call resumes.
    """
    say, end = console().print, time.monotonic() + seconds
    with progress_bar("make videos") as progress:
        generate(job.folder.videos, settings=job.benchmark, progress=progress)
    total = number_of_cells(job.tables, job.scale)
    while True:
        results = job.results()
        left = end - time.monotonic()
        cells = waiting(job.tables, job.scale, results)
        ran = run_first(job, [cell for cell in cells if expected_seconds(cell, results) <= left])
        if ran is None:
            break
        results = job.results()
        say(line(ran, results[ran.key], f"{len(results)}/{total}"))
    say("all cells are done" if not cells else f"{len(cells)} cells do not fit into the time that is left")


def run_first(job: Job, cells: Sequence[Cell]) -> Cell | None:
    """Run the first of these cells that no other process has, and return it; None if there is none."""
    for cell in cells:
        with job.folder.claim(cell) as work:
            if work is not None:
                try:
                    run_cell(cell, job.folder, work, job.image_vit, job.device)
                except InUse:  # another cell is making the pretrained model that it starts from
                    continue
                return cell
    return None


def line(cell: Cell, values: dict[str, Any], count: str) -> str:
    """A finished cell's result, in one line."""
    first = values["test"][cell.views[0]]
    scores = "  ".join(f"{name} {value:5.1%}" for name, value in first.items())
    where = f"rate {cell.recipe.learning_rate:g}  seed {cell.recipe.seed}"
    return f"{count:9} {cell.label:44} {where:20} {scores}  {values['seconds']:.0f} s"


def plan_lines(job: Job) -> list[str]:
    """The cells that can run now, in order, with their expected seconds."""
    results = job.results()
    cells = waiting(job.tables, job.scale, results)
    lines = [
        f"{expected_seconds(cell, results):6.0f} s  {cell.label:44} rate {cell.recipe.learning_rate:g}  "
        f"seed {cell.recipe.seed}"
        for cell in cells
    ]
    total = number_of_cells(job.tables, job.scale)
    mean = statistics.fmean([expected_seconds(cell, results) for cell in cells]) if cells else 0.0
    return [
        *lines,
        f"{len(results)} of {total} cells are done; the others take about {(total - len(results)) * mean / 3600:.1f} h",
    ]
