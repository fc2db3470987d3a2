"""Peak memory of a forward pass and of a training step, for longer and larger clips. Linux only.

    .venv/bin/python -m benchmarks.memory [--frames 16,32,64,128] [--sizes 224,320] [--limit 12] [--threads 2]

ViViT-B/16x2, each variant, beside transformers' ViViT as shipped, each row in its own process on one clip. The forward
pass runs without gradients, on bytes for our models and on floats for transformers', with weights in that precision.
The training step is forward pass, cross-entropy, backward pass and SGD with momentum, in float32. Memory is the
process's peak from when its weights are ready, and how much of it came after the imports. A row that would exceed the
limit is abandoned and says so.

Rows are written as they are measured, the smallest clips first. Rows in the file are not measured again, so the command
can be stopped and repeated; delete the file to measure everything.
"""

import itertools
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cyclopts
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import nn

from benchmarks import harness
from benchmarks.contenders import CONTENDERS, OURS, QUICK, TRANSFORMERS, build, in_precision, random_clips
from vivit.config import ModelConfig, Variant
from vivit.experiments.record import commit
from vivit.runtime import DTYPES, Precision
from vivit.training.optim import build_optimiser
from vivit.training.recipe import Recipe

PRECISIONS: dict[str, tuple[Precision, ...]] = {"forward": ("f32", "bf16"), "training step": ("f32",)}
GIGA = 1e9


@dataclass(frozen=True)
class Case:
    """What a row measures."""

    model: str
    variant: Variant
    work: str
    """A key of PRECISIONS."""
    precision: Precision
    frames: int
    size: int

    def config(self, quick: bool) -> ModelConfig:
        shape: dict[str, Any] = {"num_frames": self.frames, "image_size": self.size}
        return ModelConfig(variant=self.variant, **{**QUICK, **shape} if quick else shape)


def hold(case: Case, limit: float, threads: int, quick: bool) -> tuple[int, int]:
    """The most bytes that this process holds, and how many of them were added by the model; see `measure`."""
    before = harness.resident("VmRSS")
    harness.end_above(limit * GIGA)
    torch.set_num_threads(threads)
    config = case.config(quick)
    network = build(case.model, config)
    clips = random_clips(case.model, config, 1)
    network = in_precision(network, torch.device("cpu"), case.precision)
    clips = clips.to(DTYPES[case.precision]) if clips.is_floating_point() else clips
    harness.forget_peak()
    if case.work == "forward":
        network.eval()
        with torch.inference_mode():
            network(clips)
    else:
        take_step(network, clips)
    peak = harness.resident("VmHWM")
    return peak, peak - before


def take_step(network: nn.Module, clips: torch.Tensor) -> None:
    """A training step after the first: the optimiser already has its momentum."""
    optimiser = build_optimiser(network, Recipe(optimiser="sgd", learning_rate=1e-3))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    optimiser.zero_grad()
    F.cross_entropy(network.train()(clips), torch.zeros(1, dtype=torch.long)).backward()
    optimiser.step()


def measure(case: Case, limit: float, threads: int, quick: bool) -> dict[str, Any]:
    """A row of the record."""
    # A server that has already imported everything forks a clean process faster than a new one starts.
    context = get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.contenders", "vivit.training.optim"])
    with ProcessPoolExecutor(1, context) as process:
        try:
            peak, grown = process.submit(hold, case, limit, threads, quick).result()
        except BrokenProcessPool:
            return {**asdict(case), "commit": commit(), "error": f"more than {limit:g} GB"}
    return {**asdict(case), "commit": commit(), "peak": peak, "after imports": grown}


def cases(models: list[str], frames: list[int], sizes: list[int]) -> list[Case]:
    """All cases, those with the fewest pixels first."""
    every = [
        Case(model, variant, work, precision, length, size)
        for length, size, (work, precisions), model in itertools.product(frames, sizes, PRECISIONS.items(), models)
        for variant in CONTENDERS[model].variants
        for precision in precisions
    ]
    return sorted(every, key=lambda case: case.frames * case.size**2)


def main(
    models: str = f"{OURS},{TRANSFORMERS}",
    frames: str = "16,32,64,128",
    sizes: str = "224,320",
    limit: float = 12.0,
    threads: int = 2,
    quick: bool = False,
    out: Path = harness.RESULTS / "memory.json",
) -> None:
    """Measure, and write a record; `benchmarks.tables` makes the table and the plot.

    Args:
        models: keys of CONTENDERS, separated by commas.
        frames: lengths of a clip, separated by commas.
        sizes: pixels of a side, separated by commas.
        limit: the most GB that a process may hold.
        quick: toy models, to check that it works.
    """
    task = {"batch": 1, "limit": limit, "quick": quick}
    rows = harness.read(out)["values"]["rows"]
    names = list(Case.__dataclass_fields__)
    done = {tuple(row[name] for name in names) for row in rows}
    wanted = cases(models.split(","), [*map(int, frames.split(","))], [*map(int, sizes.split(","))])
    left = [case for case in wanted if tuple(asdict(case).values()) not in done]
    for case in track(left, "memory", console=Console(stderr=True)):
        rows.append(measure(case, limit, threads, quick))
        harness.write(out, {"task": task, "rows": rows}, packages=["transformers"])


if __name__ == "__main__":
    cyclopts.run(main)
