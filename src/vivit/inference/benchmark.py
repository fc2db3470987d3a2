"""How fast a model is on this machine: `vivit benchmark`."""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vivit.config import ModelConfig
from vivit.errors import UserError
from vivit.inference import speed
from vivit.inference.exported import ExportedModel
from vivit.inference.prepare import prepare
from vivit.model.embedding import CHANNELS
from vivit.model.vivit import ViViT
from vivit.runtime import DTYPES, Precision, peak_memory, pick_device
from vivit.weights.describe import multiply_adds
from vivit.weights.exported import EXPORT_FILE
from vivit.weights.source import Source
from vivit.weights.store import load

NAMED = "vivit-"


@dataclass(frozen=True)
class Benchmark:
    """What is measured."""

    model: str
    """A model folder, an exported one, a Hub id, or a size such as vivit-b-16x2-fe, with random weights."""
    device: str = "auto"
    batch: int = 1
    """Clips that go through the model at once."""

    def open(self) -> ViViT | ExportedModel:
        """The model, in float32 unless it is exported. Raises UserError."""
        if self.model.startswith(NAMED) and not Path(self.model).exists():
            try:
                return ViViT(ModelConfig.named(self.model)).eval()
            except ValueError as error:
                raise UserError(f"model: {error}") from None
        source = Source.find(self.model)
        if (source.folder / EXPORT_FILE).is_file():
            return ExportedModel(source.folder)
        return load(self.model)

    def clips(self, config: ModelConfig) -> Tensor:
        """Random clips for the model: (batch, T, C, H, W) uint8."""
        shape = (self.batch, config.num_frames, CHANNELS, *config.image_size)
        pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return pixels.to(pick_device(self.device))

    def models(self, precisions: Sequence[Precision]) -> dict[Precision, ViViT | ExportedModel]:
        """The model in each precision, or in that of its file if it is exported."""
        loaded = self.open()
        if isinstance(loaded, ExportedModel):
            return {prepare(loaded, self.device, precisions[0] if precisions else "auto").precision: loaded}
        models: dict[Precision, ViViT | ExportedModel] = {}
        for precision in precisions or ("f32", "bf16"):
            models[precision] = copy.deepcopy(loaded)
            prepare(models[precision], self.device, precision)
        return models


def run(
    benchmark: Benchmark,
    precisions: Sequence[Precision],
    rounds: int,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure the model in each precision, interleaved with the products and copies that bound it.

    Args:
        precisions: by default f32 and bf16.
        rounds: measured rounds, after one warm-up round.
        progress: called with the number of finished runs, and the total.

    Returns:
        The "task", a row for each precision, and the "peaks" measured among them: FLOP/s of products in each
        precision, bytes a second of copies.

    Raises:
        UserError: there is no such model or device, or it cannot compute in a precision.
    """
    device, models = pick_device(benchmark.device), benchmark.models(precisions)
    config = next(iter(models.values())).config
    clips = benchmark.clips(config)
    peaks = {f"product {each}": speed.product(DTYPES[each], device) for each in models if each in DTYPES}
    peaks["copy"] = speed.copy(device)
    steps: dict[str, speed.Step] = {each: partial(model, clips) for each, model in models.items()}
    every = {name: peak.step for name, peak in peaks.items()} | steps
    total, done = len(every) * (rounds + 1), 0

    def timed(step: speed.Step) -> Callable[[], speed.Seconds]:
        def run() -> speed.Seconds:
            nonlocal done
            with torch.inference_mode():
                seconds = speed.time_of(step, device)
            done += 1
            progress(done, total)
            return seconds

        return run

    taken = speed.take_turns({name: timed(step) for name, step in every.items()}, rounds)
    rates = {name: peak.rate(taken[name]) for name, peak in peaks.items()}
    flops = 2 * multiply_adds(config)
    rows = []
    for each, model in models.items():
        seconds = speed.spread([one.clock / benchmark.batch for one in taken[each]])
        rate = flops / seconds["median"]
        rows.append(
            {
                "precision": each,
                "seconds": seconds,
                "clips a second": 1 / seconds["median"],
                "flops a second": rate,
                "of the product peak": rate / rates[f"product {each}"] if each in DTYPES else None,
                # Other runtimes do not report it.
                "attention": speed.attention_of(steps[each]) if isinstance(model, ViViT) else "",
                "peak memory": _memory_here(steps[each]) if device.type == "cuda" else _memory(benchmark, each),
            }
        )
    task = {
        "model": benchmark.model,
        "variant": config.variant,
        "frames": config.num_frames,
        "image_size": list(config.image_size),
        "batch": benchmark.batch,
        "rounds": rounds,
        "flops a clip": flops,
    }
    return {"task": task, "rows": rows, "peaks": rates}


def _memory_here(step: speed.Step) -> int:
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        step()
    return torch.cuda.max_memory_allocated()


def _memory(benchmark: Benchmark, precision: Precision) -> int:
    """Peak memory, in bytes, of a process that does nothing else."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_memory_of_forward, benchmark, precision, torch.get_num_threads()).result()


def _memory_of_forward(benchmark: Benchmark, precision: Precision, threads: int) -> int:
    torch.set_num_threads(threads)
    (model,) = benchmark.models([precision]).values()
    clips = benchmark.clips(model.config)
    with torch.inference_mode():
        model(clips)
    return peak_memory(pick_device(benchmark.device))
