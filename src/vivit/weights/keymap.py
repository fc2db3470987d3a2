"""Key maps: names and layouts of a source's weights ↔ ours. Each source declares one table of rules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vivit.config import ModelConfig
from vivit.weights.weight_file import Shape

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Layout:
    """How a source's arrays become ours, and the inverse.

    `write` runs on the meta device too, to find the shapes that `read` expects.
    """

    read: Callable[..., Tensors]
    write: Callable[..., Tensors]


@dataclass(frozen=True)
class Rule:
    """Arrays of the source that make up one or several of our parameters."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    layout: Layout


SAME = Layout(lambda x: (x,), lambda x: (x,))
TRANSPOSED = Layout(lambda x: (x.T,), lambda x: (x.T,))  # Flax's kernels are (in, out)
ROW = Layout(lambda x: (x.flatten(),), lambda x: (x.view(1, 1, -1),))  # (1, 1, D) ↔ (D,)


def join(parts: Sequence[Tensor]) -> Tensor:
    """`torch.cat`, but on the meta device without the imports that it needs there, which take a second."""
    if parts[0].is_meta:
        return torch.empty(sum(part.shape[0] for part in parts), *parts[0].shape[1:], device="meta")
    return torch.cat(list(parts))


def absent(width: int) -> Layout:
    """A vector that the source lacks and for which zero is equivalent. It is not written back."""
    return Layout(lambda: (torch.zeros(width),), lambda x: ())


def fused_heads(num_heads: int) -> Layout:
    """Separate queries, keys and values, (H · d, …) each ↔ one array with rows ordered (H, 3, d)."""

    def read(*parts: Tensor) -> Tensors:
        heads = [part.unflatten(0, (num_heads, -1)) for part in parts]  # 3 × (H, d, …)
        return (torch.stack(heads, dim=1).flatten(0, 2),)

    def write(rows: Tensor) -> Tensors:
        return tuple(part.flatten(0, 1) for part in rows.unflatten(0, (num_heads, 3, -1)).unbind(1))

    return Layout(read, write)


def fused_rows(num_heads: int) -> Layout:
    """Rows ordered (3, H, d) ↔ ordered (H, 3, d)."""
    return Layout(
        lambda rows: (rows.unflatten(0, (3, num_heads, -1)).transpose(0, 1).flatten(0, 2),),
        lambda rows: (rows.unflatten(0, (num_heads, 3, -1)).transpose(0, 1).flatten(0, 2),),
    )


def position_grid(grid: Shape, class_token: bool, left_out: int = 0) -> Layout:
    """(1, N, D), or (1, 1 + N, D) with the class token's row first ↔ the class token's (D,) and (*grid, D).

    left_out: rows after the class token's, of tokens that our models do not have.
    """

    def read(rows: Tensor) -> Tensors:
        places = rows[0, class_token + left_out :].unflatten(0, grid)
        return (rows[0, 0], places) if class_token else (places,)

    def write(*parts: Tensor) -> Tensors:
        *token, places = parts
        rows = [row[None] for row in token * (1 + left_out)]
        return (join([*rows, places.flatten(0, -2)])[None],)

    return Layout(read, write)


def module(
    theirs: str, ours: str, weight: str = ".weight", bias: str = ".bias", layout: Layout = SAME
) -> tuple[Rule, Rule]:
    """Weight, in this layout, and bias of a module; `weight` and `bias` are the endings of the source's names."""
    return Rule((theirs + weight,), (f"{ours}.weight",), layout), Rule((theirs + bias,), (f"{ours}.bias",), SAME)


Block = Sequence[tuple[str | tuple[str, str, str], str]]
"""Modules of a PyTorch block → ours. Queries, keys and values are three modules, or one if they are fused."""


def scaled_module(theirs: str, scales: str, ours: str) -> Rule:
    """Weight and bias of a module whose outputs are then scaled (LayerScale): the scales are folded into both."""

    def read(weight: Tensor, bias: Tensor, scales: Tensor) -> Tensors:
        return weight * scales[:, None], bias * scales

    layout = Layout(read, lambda weight, bias: (weight, bias, torch.ones_like(bias)))
    return Rule((f"{theirs}.weight", f"{theirs}.bias", scales), (f"{ours}.weight", f"{ours}.bias"), layout)


def torch_block(
    theirs: str,
    block: Block,
    ours: str,
    config: ModelConfig,
    qkv_bias: bool,
    scales: Mapping[str, str] | None = None,
) -> list[Rule]:
    """The rules of one block; `theirs` and `ours` are the prefixes of its modules' names.

    scales: our module → the source's name for the factors of its outputs (LayerScale).
    """
    rules: list[Rule] = []
    for names, our_name in block:
        target = f"{ours}.{our_name}"
        if scales and our_name in scales:
            rules.append(scaled_module(f"{theirs}.{names}", f"{theirs}.{scales[our_name]}", target))
            continue
        if our_name != "attn.qkv":
            rules += module(f"{theirs}.{names}", target)
            continue
        parts, layout = ((names,), fused_rows) if isinstance(names, str) else (names, fused_heads)
        for part in ("weight", "bias") if qkv_bias else ("weight",):
            source = tuple(f"{theirs}.{name}.{part}" for name in parts)
            rules.append(Rule(source, (f"{target}.{part}",), layout(config.num_heads)))
        if not qkv_bias:
            rules.append(Rule((), (f"{target}.bias",), absent(3 * config.hidden_size)))
    return rules


def write(state: dict[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Our parameters under the source's names and in its layout; rules for parameters not in `state` are ignored."""
    written: dict[str, Tensor] = {}
    for rule in rules:
        if rule.ours[0] in state:
            arrays = rule.layout.write(*(state[name] for name in rule.ours))
            written.update({name: array.contiguous() for name, array in zip(rule.theirs, arrays, strict=True)})
    return written
