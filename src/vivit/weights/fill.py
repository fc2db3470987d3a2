"""Build a model on the meta device, then fill it with the weights of a file."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor

from vivit.config import ModelConfig, Preprocessing
from vivit.errors import UserError
from vivit.model.vivit import ViViT
from vivit.weights.keymap import SAME, Rule
from vivit.weights.weight_file import Shape, WeightFile, listed

# PyTorch's other floating-point types hold parts of quantised weights.
FLOATS = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
}
# No trained weight comes near this. Squares of a few such factors overflow float32.
LARGEST = 1e15


class Loaded(NamedTuple):
    """A model, and what its loader assumed or changed, one line each."""

    model: ViViT
    notes: tuple[str, ...] = ()

    def log(self) -> ViViT:
        """Log each note at level INFO to the logger "vivit"; return the model."""
        for note in self.notes:
            logging.getLogger("vivit").info(note)
        return self.model


def build(
    config: ModelConfig,
    file: WeightFile,
    rules: Sequence[Rule] | None = None,
    *,
    not_needed: Sequence[str] = (),
    fresh: Iterable[str] = (),
    classes: Mapping[str, Sequence[str]] | None = None,
    preprocessing: Preprocessing | None = None,
) -> Loaded:
    """Build a model and read each parameter into it, so that no second copy of all weights exists at any time.

    Args:
        rules: the source's key map; its weights become float32. None: the file has our names and keeps its precision,
            unless that is mixed, or 8 bits, in which PyTorch does not compute; then its weights become float32 too.
        not_needed: patterns of names in the file that may stay unused; a note lists those found.
        fresh: parameters that the file may lack; they are zero.

    Returns:
        The model, in eval mode; notes on unused weights and on a change of precision.

    Raises:
        UserError: file and architecture do not match, or a number is NaN, infinite or beyond any weight; the message
            names the weight.
    """
    layers = config.num_layers + (config.temporal_layers or 0)
    if layers > len(file.shapes):  # checked before that many layers are built
        raise UserError(f"{file.source}: has {len(file.shapes)} weights, too few for {layers} layers")
    try:
        with torch.device("meta"):
            model = ViViT(config, classes=classes, preprocessing=preprocessing)
    except (ValueError, RuntimeError) as error:  # RuntimeError: sizes beyond any tensor
        raise UserError(f"{file.source}: {str(error).splitlines()[0]}") from None
    wanted: dict[str, Shape] = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    lacking = {name: wanted.pop(name) for name in fresh}
    dtype = torch.float32 if rules else None
    rules = [rule for rule in rules or [Rule((name,), (name,), SAME) for name in wanted] if rule.ours[0] in wanted]
    unused = _check(file, rules, wanted, not_needed)
    zeros = {name: torch.zeros(shape) for name, shape in lacking.items()}  # not before the file is known to fit
    kinds: set[torch.dtype] = set()
    model.load_state_dict(dict(_read(file, rules, dtype, kinds)) | zeros, assign=True)
    if len(kinds) > 1 or any(kind.itemsize == 1 for kind in kinds):
        model.float()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    notes = [f"not used: {listed(unused)}"] if unused else []
    if model.embedding.weight.dtype not in kinds or len(kinds) > 1:
        were = " and ".join(sorted(_name(kind) for kind in kinds))
        notes.append(f"weights converted from {were} to float32")
    return Loaded(model.eval(), tuple(notes))


def _check(file: WeightFile, rules: Sequence[Rule], wanted: dict[str, Shape], not_needed: Sequence[str]) -> list[str]:
    """Compare rules with the file and the parameters wanted, before any number is read; return unused names.

    Every weight of the file must be used or match a pattern that is not needed, every parameter must be filled, and
    all shapes must agree.
    """
    needed = {name for rule in rules for name in rule.theirs}
    unused = sorted(file.shapes.keys() - needed)
    problems = {
        "missing": needed - file.shapes.keys(),
        "not expected": {name for name in unused if not any(fnmatchcase(name, pattern) for pattern in not_needed)},
        "no weights for": wanted.keys() - {name for rule in rules for name in rule.ours},
    }
    for problem, names in problems.items():
        if names:
            raise UserError(f"{file.source}: {problem}: {listed(sorted(names))}")
    for rule in rules:
        ours = [torch.empty(wanted[name], device="meta") for name in rule.ours]
        for name, expected in zip(rule.theirs, rule.layout.write(*ours), strict=True):
            if file.shapes[name] != tuple(expected.shape):
                raise UserError(
                    f"{file.source}: {name} has the shape {file.shapes[name]}, but the model wants "
                    f"{tuple(expected.shape)} for {rule.ours[-1]}"
                )
    return unused


def _read(
    file: WeightFile, rules: Sequence[Rule], dtype: torch.dtype | None, kinds: set[torch.dtype]
) -> Iterator[tuple[str, Tensor]]:
    """Yield our parameters one by one, contiguous, in `dtype` or in the file's, which is added to `kinds`."""
    for rule in rules:
        arrays = [file.read(name) for name in rule.theirs]
        for name, array in zip(rule.theirs, arrays, strict=True):
            if array.dtype not in FLOATS:
                raise UserError(
                    f"{file.source}: {name} holds {_name(array.dtype)}, not floating-point numbers; quantised weights "
                    "are not read: save them as float32 or bfloat16"
                )
            _refuse_unreal(f"{file.source}: {name}", array)
            kinds.add(array.dtype)
        arrays = [array if dtype is None else array.to(dtype) for array in arrays]
        size = sum(array.numel() for array in arrays)
        for name, value in zip(rule.ours, rule.layout.read(*arrays), strict=True):
            # Clone parts of an array, which would otherwise keep all of it alive.
            kept = value.numel() >= size
            yield name, value.contiguous() if kept else value.clone(memory_format=torch.contiguous_format)


def _refuse_unreal(what: str, array: Tensor) -> None:
    """Raise UserError if a number is NaN, infinite or larger than any weight."""
    if not array.numel():
        return
    array = array.float() if array.itemsize == 1 else array  # PyTorch does not compare 8-bit numbers
    low, high = (bound.item() for bound in array.aminmax())  # one pass; NaN if any number is
    if low >= -LARGEST and high <= LARGEST:  # False for NaN
        return
    count = array.numel() - int(array.isfinite().sum())
    numbers = (
        f"{count} of {array.numel()} numbers {'is' if count == 1 else 'are'} NaN or infinite"
        if count
        else f"a number is {max(-low, high):.1e}"
    )
    raise UserError(f"{what}: {numbers}; the file is damaged, or the training that wrote it diverged")


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
