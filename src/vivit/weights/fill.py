"""Build a model without memory of its own, then fill it with the weights of a file."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch

from vivit.config import ModelConfig, Preprocessing
from vivit.errors import UserError
from vivit.model.vivit import ViViT
from vivit.weights.keymap import SAME, Rule, check, convert
from vivit.weights.weight_file import Shape, WeightFile, listed


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
    not_needed: Iterable[str] = (),
    fresh: Iterable[str] = (),
    classes: Mapping[str, Sequence[str]] | None = None,
    preprocessing: Preprocessing | None = None,
) -> Loaded:
    """Build a model and read each parameter into it, so that no second copy of all weights exists at any time.

    Args:
        rules: the source's key map; its weights become float32. None: the file has our names, and its precision stays.
        not_needed: patterns of names in the file that may stay unused; a note lists those found.
        fresh: parameters that the file may lack; they are zero.

    Returns:
        The model, in eval mode.

    Raises:
        UserError: file and architecture do not match; the message names the weight.
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
    dtype: torch.dtype | None = torch.float32
    if rules is None:
        rules, dtype = [Rule((name,), (name,), SAME) for name in wanted], None
    unused = check(file, rules, wanted, not_needed)
    zeros = {name: torch.zeros(shape) for name, shape in lacking.items()}
    model.load_state_dict(dict(convert(file, rules, wanted, dtype)) | zeros, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return Loaded(model.eval(), (f"not used: {listed(unused)}",) if unused else ())
