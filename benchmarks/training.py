"""Time and memory of a training step of ViViT-B/16x2: this package's models, and transformers'.

    .venv/bin/python -m benchmarks.training [--clips 1] [--rounds 2] [--models transformers,spatiotemporal]
        [--no-compiled] [--no-checkpointing] [--optimiser adamw] [--precision bf16] [--device cuda]

A step is the forward pass, cross-entropy, the backward pass, clipping the gradient norm to 1, and the optimiser. The
clips of 32 × 224 × 224 are random and in memory: bytes for this package's models, as its loader yields them, and floats
of the same shape for transformers' model, as its processor does. Transformers' model has random weights and its default
attention, and is trained by a plain loop with PyTorch's default optimiser; ours use `build_optimiser`. "Compiled"
compiles each block, as `vivit train --compile` does.

The kinds take turns, after a warm-up step each. Times are medians of the rounds; a ratio is the median of each round's
ratio. Memory is the peak of a separate process in two steps (Linux only), and its growth since PyTorch was imported; on
a GPU, it is what PyTorch allocated. FLOPs count two for each multiply-add of the matrix products, three times those of
the forward pass; recomputation by checkpointing does not count. Their fraction is of the fastest product of two large
matrices in any round.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from statistics import median
from typing import Any, Literal

import cyclopts
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import setting
from vivit.config import ModelConfig
from vivit.model.encoder import Encoder
from vivit.model.vivit import ViViT
from vivit.training.optim import build_optimiser
from vivit.training.recipe import Recipe

PEER = "transformers"
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
QUICK: dict[str, Any] = {
    "num_frames": 4,
    "image_size": 32,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_dim": 64,
}
LEARNING_RATE = 1e-3
PROGRESS = Console(stderr=True)
COLUMNS = (
    *("model", "blocks", "checkpointing", "step, s", "clips/s", "clips/s ÷ transformers'", "peak memory, GB"),
    *("after imports, GB", "peak ÷ transformers'", "TFLOPs of a step", "GFLOP/s", "of a matrix product's"),
)


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
        torch.manual_seed(0)
        self.task, self.device, config = task, torch.device(task.device), task.config(model)
        self.network = build(model, config).to(self.device).train()
        self.encoders = [module for module in self.network.modules() if isinstance(module, Encoder)]
        for encoder in self.encoders:
            for block in encoder.blocks:
                block.compile(fullgraph=True)
        self.optimiser = optimiser_of(self.network, model, task)
        self.clips = random_clips(model, config, task.clips).to(self.device)
        self.labels = torch.randint(400, (task.clips,), device=self.device)

    def step(self, compiled: bool, checkpointing: bool) -> None:
        for encoder in self.encoders:
            encoder.activation_checkpointing = checkpointing
        with torch.compiler.set_stance("default" if compiled else "force_eager"):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.task.precision == "bf16"):
                loss = F.cross_entropy(logits_of(self.network, self.clips), self.labels)
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad()


def build(model: str, config: ModelConfig) -> nn.Module:
    if model != PEER:
        return ViViT(config)
    from transformers import VivitConfig, VivitForVideoClassification

    network: nn.Module = VivitForVideoClassification(
        VivitConfig(
            image_size=config.image_size[0],
            num_frames=config.num_frames,
            tubelet_size=list(config.tubelet_size),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.mlp_dim,
            num_labels=config.num_classes,
        )
    )
    return network


def optimiser_of(network: nn.Module, model: str, task: Task) -> torch.optim.Optimizer:
    if model != PEER:
        return build_optimiser(network, Recipe(optimiser=task.optimiser, learning_rate=LEARNING_RATE))
    if task.optimiser == "sgd":
        return torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=0.9)
    return torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.0)


def random_clips(model: str, config: ModelConfig, clips: int) -> Tensor:
    """(B, T, C, H, W)."""
    shape = (clips, config.num_frames, 3, *config.image_size)
    if model == PEER:
        return torch.rand(shape) * 2 - 1
    return torch.randint(256, shape, dtype=torch.uint8)


def logits_of(network: nn.Module, clips: Tensor) -> Tensor:
    output = network(clips)
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


def flops_of_step(model: str, task: Task) -> int:
    config = task.config(model)
    with torch.device("meta"):
        network = build(model, config)
        clips = torch.empty(task.clips, config.num_frames, 3, *config.image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(clips)
    return 3 * counter.get_total_flops()


@cache
def _trainer(model: str, task: Task) -> Trainer:
    """The kind that this process measures."""
    return Trainer(model, task)


def seconds_of_step(kind: Kind, task: Task) -> float:
    trainer = _trainer(kind.model, task)
    _wait_for(trainer.device)
    begun = time.perf_counter()
    trainer.step(kind.compiled, kind.checkpointing)
    _wait_for(trainer.device)
    return time.perf_counter() - begun


def memory_of_steps(kind: Kind, task: Task) -> Memory:
    """Call it in a fresh process."""
    before = _resident("VmRSS")
    trainer = Trainer(kind.model, task)
    for _ in range(2):
        trainer.step(kind.compiled, kind.checkpointing)
    if trainer.device.type == "cuda":
        allocated = torch.cuda.max_memory_allocated(trainer.device)
        return Memory(allocated, allocated)
    peak = _resident("VmHWM")
    return Memory(peak, peak - before)


def _resident(field: str) -> int:
    """Peak bytes of this process. `getrusage` may return the peak of its parent."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{field}:"))


def flops_of_product(task: Task) -> float:
    """FLOP/s of one product of two square matrices."""
    torch.set_num_threads(task.threads)
    side = 256 if task.quick else 4096 if task.device == "cpu" else 16384
    dtype = torch.bfloat16 if task.precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, dtype=dtype, device=task.device) for _ in range(2))
    _wait_for(a.device)
    begun = time.perf_counter()
    torch.mm(a, b)
    _wait_for(a.device)
    return 2 * side**3 / (time.perf_counter() - begun)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"))


def measure_memory(kinds: Sequence[Kind], task: Task) -> dict[Kind, Memory]:
    found = {}
    for kind in track(kinds, "memory", console=PROGRESS):
        with _process() as process:
            found[kind] = process.submit(memory_of_steps, kind, task).result()
    return found


def measure_times(kinds: Sequence[Kind], task: Task, rounds: int) -> tuple[dict[Kind, list[float]], float]:
    """Seconds of each kind in each round, and the best FLOP/s of a matrix product."""
    with ExitStack() as stack:
        # Code compiled for one model would affect the next.
        processes = {model: stack.enter_context(_process()) for model in dict.fromkeys(kind.model for kind in kinds)}
        for_products = stack.enter_context(_process())

        def seconds(kind: Kind) -> float:
            return processes[kind.model].submit(seconds_of_step, kind, task).result()

        def product() -> float:
            return for_products.submit(flops_of_product, task).result()

        return take_turns(kinds, rounds, seconds, product)


def take_turns(
    kinds: Sequence[Kind], rounds: int, seconds: Callable[[Kind], float], product: Callable[[], float]
) -> tuple[dict[Kind, list[float]], float]:
    """Their results in each round, and the largest of the products, without the warm-up round."""
    taken: dict[Kind, list[float]] = {kind: [] for kind in kinds}
    products = []
    for number in track(range(rounds + 1), "time", console=PROGRESS):
        products.append(product())
        for kind in kinds:
            value = seconds(kind)
            if number:
                taken[kind].append(value)
    return taken, max(products)


def table(
    task: Task,
    taken: dict[Kind, list[float]],
    memory: dict[Kind, Memory],
    flops: dict[str, int],
    product: float,
) -> str:
    """Rows in Markdown; `product` is in FLOP/s."""
    peer = Kind(PEER)
    rows = []
    for kind, seconds in taken.items():
        step = median(seconds)
        quicker = smaller = ""
        if peer in taken and kind != peer:
            ratios = [theirs / ours for theirs, ours in zip(taken[peer], seconds, strict=True)]
            quicker, smaller = f"{median(ratios):.2f}", f"{memory[kind].peak / memory[peer].peak:.2f}"
        rate = flops[kind.model] / step
        cells = (
            kind.model if kind.model == PEER else f"`vivit`, {kind.model}",
            "compiled" if kind.compiled else "eager",
            "yes" if kind.checkpointing else "no",
            *(f"{step:.3g}", f"{task.clips / step:.3g}", quicker),
            *(f"{memory[kind].peak / 1e9:.2f}", f"{memory[kind].after_imports / 1e9:.2f}", smaller),
            *(f"{flops[kind.model] / 1e12:.3g}", f"{rate / 1e9:.0f}", f"{rate / product:.0%}"),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


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
) -> None:
    """Measure and print a table in Markdown.

    Args:
        clips: batch size.
        rounds: measured steps of each kind.
        models: separated by commas; transformers, spatiotemporal, factorised_encoder, factorised_self_attention,
            factorised_dot_product and average_pooling.
        compiled: also measure this package's models compiled.
        checkpointing: also measure them with activation checkpointing.
        precision: bf16 is by autocast, with float32 weights.
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
    print(setting("transformers"))
    if device == "cuda":
        print(f"{torch.cuda.get_device_name()}.")
    memory = measure_memory(kinds, task)
    taken, product = measure_times(kinds, task, rounds)
    size = "A toy" if quick else "ViViT-B/16x2 on 32 × 224 × 224"
    print(
        f"{size}, batches of {clips}, {precision}, {optimiser}, {task.threads} threads; medians of {rounds} rounds. A "
        f"product of two large matrices: {product / 1e9:.0f} GFLOP/s.\n"
    )
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    print(table(task, taken, memory, {model: flops_of_step(model, task) for model in names}, product))


if __name__ == "__main__":
    cyclopts.run(main)
