"""What the paper's models cost: parameters, multiply-adds and time (tables 2 and 5, figure 9)."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vivit.config import ModelConfig
from vivit.model.attention import FactorisedDotProductAttention, SelfAttention
from vivit.model.embedding import CHANNELS, Positions, TubeletEmbedding
from vivit.model.encoder import MLP
from vivit.model.vivit import ViViT

BASE = "vivit-b-16x2"
# Rows of table 2 → fields of their configs.
MODELS: dict[str, dict[str, Any]] = {
    "1 spatio-temporal attention": {"variant": "spatiotemporal"},
    "2 factorised encoder": {"variant": "factorised_encoder"},
    "3 factorised self-attention": {"variant": "factorised_self_attention"},
    "4 factorised dot-product": {"variant": "factorised_dot_product"},
    "2 average pooling": {"variant": "factorised_encoder", "temporal_layers": 0},
}


class Published(NamedTuple):
    """A row of the paper's table 2, and what JAX's compiler counts for the official code."""

    giga_multiply_adds: float
    million_parameters: float
    tpu_milliseconds: float
    official_parameters: int
    official_giga_multiply_adds: float | None
    """Half of the floating-point operations that XLA counts; None: not counted."""


TABLE_2 = dict(
    zip(
        MODELS,
        (
            Published(455.2, 88.9, 58.9, 88_954_000, 455.2),
            Published(284.4, 115.1, 17.4, 115_062_928, 284.4),
            Published(372.3, 117.3, 31.7, 117_319_312, 376.6),
            Published(277.1, 88.9, 22.9, 88_952_464, 277.2),
            Published(283.9, 86.7, 17.3, 86_696_080, None),
        ),
        strict=True,
    )
)
# Crop → GFLOPs of the paper's table 5.
TABLE_5 = {224: 1446, 288: 2919, 320: 3992}
# Operations per number that a module outputs, counted like XLA: additions, multiplications, divisions and comparisons
# are one each; exponentials, tanh and square roots are none.
OPERATIONS: tuple[tuple[type[nn.Module], int], ...] = (
    (nn.LayerNorm, 7),  # mean, square, mean of squares, subtract, scale twice, shift
    (nn.GELU, 8),  # x · ½ (1 + tanh(c (x + 0.044715 x³)))
    (nn.Linear, 1),  # bias
    (FactorisedDotProductAttention, 5),  # as the next, plus three biases, since it calls no Linear for its queries
    (SelfAttention, 2),  # queries scaled, residual
    (MLP, 1),  # residual
    (TubeletEmbedding, 1),  # bias
    (Positions, 1),
)
OF_SOFTMAX = 4  # maximum, subtract, sum, divide; for each score


class Cost(NamedTuple):
    """The cost of one clip."""

    parameters: int
    products: int
    """Multiply-adds of the matrix products alone."""
    operations: int
    """All other operations: norms, softmax, GELU, biases, residuals."""

    @property
    def multiply_adds(self) -> int:
        """As the paper counts: half of all floating-point operations."""
        return self.products + self.operations // 2


def cost_of(config: ModelConfig) -> Cost:
    """Count parameters and operations of a model on one clip, with shapes but no data."""
    with torch.device("meta"):
        model = ViViT(config).eval()
        video = torch.empty(1, config.num_frames, CHANNELS, *config.image_size)
    operations = 0

    def count(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal operations
        operations += output.numel() * next(number for kind, number in OPERATIONS if isinstance(module, kind))

    for module in model.modules():
        if isinstance(module, tuple(kind for kind, _ in OPERATIONS)):
            module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(video)
    counts = counter.get_flop_counts()["Global"]
    # The two products of an attention, the only ones in batches, each take 2 · d operations for each score.
    of_attention = counts[torch.ops.aten.bmm]
    scores = of_attention // (4 * config.hidden_size // config.num_heads)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, counter.get_total_flops() // 2, operations + OF_SOFTMAX * scores)


def base_model(row: str, **fields: Any) -> ModelConfig:
    """The config of a row of table 2: ViViT-B/16x2 on 32 frames of 224 × 224, 400 classes."""
    return ModelConfig.named(BASE, **MODELS[row], **fields)


def seconds_of(
    configs: Mapping[str, ModelConfig], repeats: int, progress: Callable[[int], None] = lambda done: None
) -> dict[str, list[float]]:
    """Time one clip in float32 through each model, after a warm-up clip; the models take turns.

    Args:
        progress: called with the number of clips done, of `(repeats + 1) * len(configs)`.

    Returns:
        name → seconds of each repeat.
    """
    models = {name: ViViT(config).eval() for name, config in configs.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(repeats + 1):
        for place, (name, model) in enumerate(models.items()):
            video = torch.zeros(1, model.config.num_frames, CHANNELS, *model.config.image_size)
            start = time.perf_counter()
            with torch.inference_mode():
                model(video)
            if turn:
                times[name].append(time.perf_counter() - start)
            progress(turn * len(models) + place + 1)
    return times


def table2(times: Mapping[str, Sequence[float]] | None = None) -> list[dict[str, Any]]:
    """The rows of table 2. times: row → seconds of each repeat, if measured."""
    rows = []
    for row in MODELS:
        cost, paper = cost_of(base_model(row)), TABLE_2[row]
        values: dict[str, Any] = {
            "model": row,
            "parameters": cost.parameters,
            "official_parameters": paper.official_parameters,
            "paper_million_parameters": paper.million_parameters,
            **_giga(cost),
            "paper_giga_multiply_adds": paper.giga_multiply_adds,
            "official_giga_multiply_adds": paper.official_giga_multiply_adds,
            "paper_tpu_milliseconds": paper.tpu_milliseconds,
        }
        if times:
            values |= {"seconds": statistics.median(times[row]), "seconds_of_repeats": list(times[row])}
        rows.append(values)
    return rows


def table5(crops: Sequence[int] = tuple(TABLE_5)) -> list[dict[str, Any]]:
    """The costs of table 5: Large/16x2 as a factorised encoder, as the table says, and as model 1."""
    rows = []
    for crop in crops:
        values: dict[str, Any] = {"crop": crop, "paper_giga_multiply_adds": TABLE_5.get(crop)}
        for variant in ("factorised_encoder", "spatiotemporal"):
            config = ModelConfig.named("vivit-l-16x2", variant=variant, image_size=crop)
            values[variant] = _giga(cost_of(config))
        rows.append(values)
    return rows


def figure9(frames: Sequence[int] = (32, 64, 128, 256)) -> list[dict[str, Any]]:
    """The costs of figure 9: each model of table 2 on one view of each number of frames."""
    return [
        {"model": row, "frames": count, **_giga(cost_of(base_model(row, num_frames=count)))}
        for row in MODELS
        for count in frames
    ]


def _giga(cost: Cost) -> dict[str, float]:
    return {
        "giga_multiply_adds": round(cost.multiply_adds / 1e9, 2),
        "giga_multiply_adds_of_products": round(cost.products / 1e9, 2),
    }
