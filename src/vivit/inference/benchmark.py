"""How fast a model is on this machine: `vivit benchmark`."""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vivit.config import ModelConfig
from vivit.errors import UserError
from vivit.inference import speed
from vivit.inference.prepare import prepare
from vivit.model.embedding import CHANNELS
from vivit.model.vivit import ViViT
from vivit.runtime import DTYPES, peak_memory, pick_device
from vivit.weights.describe import multiply_adds
from vivit.weights.store import load

Precision = Literal["f32", "bf16", "fp16"]
NAMED = "vivit-"


@dataclass(frozen=True)
class Benchmark:
    """What is measured."""

    model: str
    """A model folder or Hub id, or the name of a size, such as vivit-b-16x2-fe, with random weights."""
    device: str = "auto"
    batch: int = 1
    """Clips that go through the model at once."""

    def load(self, precision: Precision) -> ViViT:
        """The model in a precision, on the device. Raises UserError."""
        model = open_model(self.model)
        prepare(model, self.device, precision)
        return model

    def clips(self, model: ViViT) -> Tensor:
        """Random clips for the model: (batch, T, C, H, W) uint8."""
        shape = (self.batch, model.config.num_frames, CHANNELS, *model.config.image_size)
        pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return pixels.to(pick_device(self.device))


def open_model(name: str) -> ViViT:
    """The model of a folder or the Hub, or one of this size with random weights. Raises UserError."""
    if not name.startswith(NAMED) or Path(name).exists():
        return load(name)
    try:
        return ViViT(ModelConfig.named(name)).eval()
    except ValueError as error:
        raise UserError(f"model: {error}") from None


def run(
    benchmark: Benchmark,
    precisions: Sequence[Precision],
    rounds: int,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure the model in each precision, in turns with the products and copies that bound it.

    Args:
        rounds: that count, after one that warms up.
        progress: called with the number of finished runs, and of all.

    Returns:
        The "task", a row for each precision, and the "peaks" measured among them: FLOP/s of products in each
        precision, bytes a second of copies.

    Raises:
        UserError: there is no such model or device, or it cannot compute in a precision.
    """
    device = pick_device(benchmark.device)
    loaded = open_model(benchmark.model)
    config, clips = loaded.config, benchmark.clips(loaded)
    models = {each: copy.deepcopy(loaded) for each in precisions}
    for each, model in models.items():
        prepare(model, benchmark.device, each)
    del loaded
    peaks = {f"product {each}": speed.product(DTYPES[each], device) for each in precisions}
    peaks["copy"] = speed.copy(device)
    steps: dict[str, speed.Step] = {each: lambda each=each: models[each](clips) for each in precisions}  # type: ignore[misc]
    every = {**{name: peak.step for name, peak in peaks.items()}, **steps}
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
    for each in precisions:
        seconds = speed.spread([one.clock / benchmark.batch for one in taken[each]])
        rate = flops / seconds["median"]
        rows.append(
            {
                "precision": each,
                "seconds": seconds,
                "clips a second": 1 / seconds["median"],
                "flops a second": rate,
                "of the product peak": rate / rates[f"product {each}"],
                "attention": speed.attention_of(steps[each]),
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
    """The most bytes that a process holds that does nothing else."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_memory_of_forward, benchmark, precision, torch.get_num_threads()).result()


def _memory_of_forward(benchmark: Benchmark, precision: Precision, threads: int) -> int:
    torch.set_num_threads(threads)
    model = benchmark.load(precision)
    clips = benchmark.clips(model)
    with torch.inference_mode():
        model(clips)
    return peak_memory(pick_device(benchmark.device))
