"""Key maps: names and layouts of a source's weights ↔ ours.

Each source declares one table of rules. `check` compares it with the names and shapes in the file before any number is
read: every weight of the source is used or declared as not needed, every parameter of the model is filled, and all
shapes agree.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from vivit.config import ModelConfig
from vivit.errors import UserError
from vivit.weights.weight_file import Shape, WeightFile, listed

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
    """`torch.cat`; on the meta device without the second of imports that `torch.cat` takes there."""
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


def module(theirs: str, ours: str) -> list[Rule]:
    """Weight and bias of a PyTorch module under another name."""
    return [Rule((f"{theirs}.{part}",), (f"{ours}.{part}",), SAME) for part in ("weight", "bias")]


Block = Sequence[tuple[str | tuple[str, str, str], str]]
"""Modules of a PyTorch block → ours. Queries, keys and values are three modules, or one if they are fused."""


def torch_block(theirs: str, block: Block, ours: str, config: ModelConfig, qkv_bias: bool) -> list[Rule]:
    """The rules of one block; `theirs` and `ours` are the prefixes of its modules' names."""
    rules = []
    for names, our_name in block:
        target = f"{ours}.{our_name}"
        if our_name != "attn.qkv":
            rules += module(f"{theirs}.{names}", target)
            continue
        parts = (names,) if isinstance(names, str) else names
        layout = fused_rows(config.num_heads) if isinstance(names, str) else fused_heads(config.num_heads)
        rules.append(Rule(tuple(f"{theirs}.{name}.weight" for name in parts), (f"{target}.weight",), layout))
        if qkv_bias:
            rules.append(Rule(tuple(f"{theirs}.{name}.bias" for name in parts), (f"{target}.bias",), layout))
        else:
            rules.append(Rule((), (f"{target}.bias",), absent(3 * config.hidden_size)))
    return rules


def check(
    file: WeightFile, rules: Sequence[Rule], wanted: dict[str, Shape], not_needed: Iterable[str] = ()
) -> list[str]:
    """Compare a table with a file and a model, by names and shapes only.

    Args:
        wanted: names and shapes of our parameters; rules for other parameters are ignored.
        not_needed: patterns of the source's names that may stay unused.

    Returns:
        The unused names in the file.

    Raises:
        UserError: a weight is missing, unexpected, or has another shape; the message names it and both shapes.
    """
    rules = [rule for rule in rules if rule.ours[0] in wanted]
    needed = {name for rule in rules for name in rule.theirs}
    _refuse(file.source, "missing", needed - file.shapes.keys())
    unused = sorted(file.shapes.keys() - needed)
    patterns = tuple(not_needed)
    _refuse(
        file.source,
        "not expected",
        [name for name in unused if not any(fnmatchcase(name, pattern) for pattern in patterns)],
    )
    filled = [name for rule in rules for name in rule.ours]
    _refuse(file.source, "no weights for", wanted.keys() - filled)
    for rule in rules:
        ours = [torch.empty(wanted[name], device="meta") for name in rule.ours]
        for name, expected in zip(rule.theirs, rule.layout.write(*ours), strict=True):
            if file.shapes[name] != tuple(expected.shape):
                raise UserError(
                    f"{file.source}: {name} has the shape {file.shapes[name]}, but the model wants "
                    f"{tuple(expected.shape)} for {rule.ours[-1]}"
                )
    return unused


def convert(
    file: WeightFile, rules: Sequence[Rule], wanted: dict[str, Shape], dtype: torch.dtype | None = torch.float32
) -> Iterator[tuple[str, Tensor]]:
    """Yield our parameters one by one, contiguous, in `dtype` or in the file's; call `check` first."""
    for rule in rules:
        if rule.ours[0] not in wanted:
            continue
        arrays = [file.read(name) for name in rule.theirs]
        for name, array in zip(rule.theirs, arrays, strict=True):
            if not array.is_floating_point():
                raise UserError(f"{file.source}: {name} holds {array.dtype}, not floating-point numbers")
        arrays = [array if dtype is None else array.to(dtype) for array in arrays]
        size = sum(array.numel() for array in arrays)
        for name, value in zip(rule.ours, rule.layout.read(*arrays), strict=True):
            # Clone parts of an array, which would keep all of it alive.
            kept = value.numel() >= size
            yield name, value.contiguous() if kept else value.clone(memory_format=torch.contiguous_format)


def write(state: dict[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """The inverse: our parameters under the source's names and in its layout."""
    written: dict[str, Tensor] = {}
    for rule in rules:
        arrays = rule.layout.write(*(state[name] for name in rule.ours))
        written.update({name: array.contiguous() for name, array in zip(rule.theirs, arrays, strict=True)})
    return written


def _refuse(source: str, problem: str, names: Iterable[str]) -> None:
    if found := sorted(names):
        raise UserError(f"{source}: {problem}: {listed(found)}")
