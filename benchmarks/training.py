"""Time and memory of a training step of ViViT-B/16x2: this package's models, and transformers'.

    .venv/bin/python -m benchmarks.training [--clips 1] [--rounds 2] [--models transformers,spatiotemporal]
        [--no-compiled] [--no-checkpointing] [--optimiser adamw] [--precision bf16] [--device cuda]

A step is the forward pass, cross-entropy, the backward pass, clipping the gradient norm to 1, and the optimiser. The
clips of 32 × 224 × 224 are random and in memory: bytes for this package's models, as its loader yields them, and floats
of the same shape for transformers' model, as its processor does. Transformers' model has random weights and its default
attention, and is trained by a plain loop with PyTorch's default optimiser; ours use `build_optimiser`. "Compiled"
compiles each block, as `vivit train --compile` does.

The kinds take turns, after a warm-up step each. Times are medians over rounds; a ratio is the median of the rounds'
ratios. Memory is the peak of a separate process in two steps (Linux only), and its growth since PyTorch was imported;
on a GPU, it is what PyTorch allocated. FLOPs count two for each multiply-add of the matrix products, and three times
the forward pass; recomputation by checkpointing does not count. Their fraction is relative to the fastest product of
two large matrices in any round.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, Literal

import cyclopts
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import harness
from benchmarks.contenders import OURS, QUICK, TRANSFORMERS, build, random_clips
from vivit.config import ModelConfig
from vivit.inference import speed
from vivit.model.encoder import encoders_of
from vivit.training.optim import build_optimiser
from vivit.training.recipe import Recipe

PEER = TRANSFORMERS
MODELS: dict[str, dict[str, Any]] = {
    PEER: {"variant": "spatiotemporal"},
    "spatiotemporal": {"variant": "spatiotemporal"},
    "factorised_encoder": {"variant": "factorised_encoder"},
    "factorised_self_attention": {"variant": "factorised_self_attention"},
    "factorised_dot_product": {"variant": "factorised_dot_product"},
    "average_pooling": {"variant": "factorised_encoder", "temporal_layers": 0},
}
"""name → fields of its config."""
USUAL = ",".join(name for name in MODELS if name != "average_pooling")
LEARNING_RATE = 1e-3
PROGRESS = Console(stderr=True)


@dataclass(frozen=True)
class Task:
    """The settings that all kinds share."""

    clips: int = 1
    optimiser: Literal["sgd", "adamw"] = "sgd"
    precision: Literal["f32", "bf16"] = "f32"
    device: str = "cpu"
    threads: int = 1
    quick: bool = False
    """A toy model instead of ViViT-B/16x2."""

    def config(self, model: str) -> ModelConfig:
        return ModelConfig(**MODELS[model], **(QUICK if self.quick else {}))


@dataclass(frozen=True)
class Kind:
    """A model and a way to train it."""

    model: str
    compiled: bool = False
    checkpointing: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    peak: int
    after_imports: int


class Trainer:
    """A network, its optimiser and a batch."""

    def __init__(self, model: str, task: Task) -> None:
        torch.set_num_threads(task.threads)
        self.task, self.device, config = task, torch.device(task.device), task.config(model)
        name = contender(model)
        self.network = build(name, config).to(self.device).train()
        self.encoders = encoders_of(self.network)
        for encoder in self.encoders:
            for block in encoder.blocks:
                block.compile(fullgraph=True)
        self.optimiser = optimiser_of(self.network, model, task)
        self.clips = random_clips(name, config, task.clips).to(self.device)
        self.labels = torch.randint(400, (task.clips,), device=self.device)

    def step(self, compiled: bool, checkpointing: bool) -> None:
        for encoder in self.encoders:
            encoder.activation_checkpointing = checkpointing
        with torch.compiler.set_stance("default" if compiled else "force_eager"):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.task.precision == "bf16"):
                loss = F.cross_entropy(self.network(self.clips), self.labels)
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad()


def contender(model: str) -> str:
    """The key of `benchmarks.contenders.CONTENDERS` that builds a model of MODELS."""
    return model if model == PEER else OURS


def optimiser_of(network: nn.Module, model: str, task: Task) -> torch.optim.Optimizer:
    if model != PEER:
        return build_optimiser(network, Recipe(optimiser=task.optimiser, learning_rate=LEARNING_RATE))
    if task.optimiser == "sgd":
        return torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=0.9)
    return torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.0)


def flops_of_step(model: str, task: Task) -> int:
    config = task.config(model)
    with torch.device("meta"):
        network = build(contender(model), config)
        clips = torch.empty(task.clips, config.num_frames, 3, *config.image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(clips)
    return 3 * counter.get_total_flops()


@cache
def _trainer(model: str, task: Task) -> Trainer:
    """The trainer of the model that this process measures."""
    return Trainer(model, task)


def seconds_of_step(kind: Kind, task: Task) -> speed.Seconds:
    trainer = _trainer(kind.model, task)
    return speed.time_of(lambda: trainer.step(kind.compiled, kind.checkpointing), trainer.device)


def memory_of_steps(kind: Kind, task: Task) -> Memory:
    """Peak memory of training steps; call it in a fresh process."""
    before = harness.resident("VmRSS")
    trainer = Trainer(kind.model, task)
    for _ in range(2):
        trainer.step(kind.compiled, kind.checkpointing)
    if trainer.device.type == "cuda":
        allocated = torch.cuda.max_memory_allocated(trainer.device)
        return Memory(allocated, allocated)
    peak = harness.resident("VmHWM")
    return Memory(peak, peak - before)


@cache
def _product(task: Task) -> speed.Peak:
    torch.set_num_threads(task.threads)
    dtype = torch.bfloat16 if task.precision == "bf16" else torch.float32
    return speed.product(dtype, torch.device(task.device), 256 if task.quick else None)


def seconds_of_product(task: Task) -> speed.Seconds:
    """Seconds of a product of two large matrices."""
    return speed.time_of(_product(task).step, torch.device(task.device))


def measure_memory(kinds: Sequence[Kind], task: Task) -> dict[Kind, Memory]:
    found = {}
    for kind in track(kinds, "memory", console=PROGRESS):
        with harness.fresh_process() as process:
            found[kind] = process.submit(memory_of_steps, kind, task).result()
    return found


def measure_times(
    kinds: Sequence[Kind], task: Task, rounds: int
) -> tuple[dict[Kind, list[speed.Seconds]], list[speed.Seconds]]:
    """The seconds of each kind in each round, and those of a matrix product."""
    with ExitStack() as stack:
        # Code compiled for one model would affect the next.
        processes = {
            model: stack.enter_context(harness.fresh_process()) for model in dict.fromkeys(kind.model for kind in kinds)
        }
        for_products = stack.enter_context(harness.fresh_process())

        def step(kind: Kind) -> Callable[[], speed.Seconds]:
            return lambda: processes[kind.model].submit(seconds_of_step, kind, task).result()

        def product() -> speed.Seconds:
            return for_products.submit(seconds_of_product, task).result()

        steps: dict[Kind | None, Callable[[], speed.Seconds]] = {None: product, **{kind: step(kind) for kind in kinds}}
        taken = speed.take_turns(
            steps, rounds, progress=lambda kind: PROGRESS.print(str(kind or "product"), style="dim")
        )
    return {kind: taken[kind] for kind in kinds}, taken[None]


def rows_of(
    task: Task,
    taken: dict[Kind, list[speed.Seconds]],
    memory: dict[Kind, Memory],
    flops: dict[str, int],
    product: float,
) -> list[dict[str, Any]]:
    """The rows of the record; `product` is in FLOP/s."""
    peer = Kind(PEER)
    rows = []
    for kind, each in taken.items():
        seconds = [one.clock for one in each]
        row = {
            "model": contender(kind.model),
            "variant": kind.model if kind.model != PEER else MODELS[PEER]["variant"],
            "how": "compiled" if kind.compiled else "eager",
            "checkpointing": kind.checkpointing,
            "seconds": speed.spread(seconds),
            "flops": flops[kind.model],
            "of the product peak": flops[kind.model] / median(seconds) / product,
            "peak": memory[kind].peak,
            "after imports": memory[kind].after_imports,
        }
        if peer in taken and kind != peer:
            row["transformers' time ÷"] = speed.spread(speed.ratios(taken[peer], each))
        rows.append(row)
    return rows


def main(
    clips: int = 1,
    rounds: int = 2,
    models: str = USUAL,
    compiled: bool = True,
    checkpointing: bool = True,
    optimiser: Literal["sgd", "adamw"] = "sgd",
    precision: Literal["f32", "bf16"] = "f32",
    device: str = "cpu",
    threads: int | None = None,
    quick: bool = False,
    out: Path = harness.RESULTS / "training.json",
) -> None:
    """Measure, and write a record; `benchmarks.tables` makes the table.

    Args:
        clips: batch size.
        rounds: measured steps of each kind.
        models: separated by commas; transformers, spatiotemporal, factorised_encoder, factorised_self_attention,
            factorised_dot_product and average_pooling.
        compiled: also measure this package's models compiled.
        checkpointing: also measure them with activation checkpointing.
        precision: bf16 is by autocast, with f32 weights.
        threads: on the CPU; by default PyTorch's choice.
        quick: toy models, to check that it works.
    """
    task = Task(clips, optimiser, precision, device, threads or torch.get_num_threads(), quick)
    names = models.split(",")
    kinds = [
        Kind(model, by_compiler, checkpointed)
        for model in names
        for checkpointed in ([False, True] if checkpointing and model != PEER else [False])
        for by_compiler in ([False, True] if compiled and model != PEER else [False])
    ]
    memory = measure_memory(kinds, task)
    taken, products = measure_times(kinds, task, rounds)
    flops = {model: flops_of_step(model, task) for model in names}
    rows = rows_of(task, taken, memory, flops, _product(task).rate(products))
    values = {"task": {**asdict(task), "rounds": rounds}, "rows": rows}
    harness.write(out, values, device=device, packages=["transformers"])


if __name__ == "__main__":
    cyclopts.run(main)
