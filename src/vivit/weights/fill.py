"""A model made of a file's weights: built without memory of its own, then filled."""

from collections.abc import Iterable, Mapping, Sequence

import torch

from vivit.config import ModelConfig, Preprocessing
from vivit.errors import UserError
from vivit.model.vivit import ViViT
from vivit.weights.keymap import SAME, Rule, check, convert
from vivit.weights.weight_file import SHOWN_NAMES, Shape, WeightFile


def build(
    config: ModelConfig,
    file: WeightFile,
    rules: Sequence[Rule] | None = None,
    *,
    not_needed: Iterable[str] = (),
    fresh: Iterable[str] = (),
    classes: Mapping[str, Sequence[str]] | None = None,
    preprocessing: Preprocessing | None = None,
    origin: Sequence[str] = (),
) -> ViViT:
    """Build a model and fill it, each parameter as it is read, so that no second copy of all is ever there.

    Args:
        rules: the source's key map; its weights become float32. None: the file has our own names, and its precision
            stays.
        not_needed: patterns of names in the file that may stay unused; those found go into the model's report.
        fresh: parameters that the file need not have; they are zero.

    Returns:
        The model, in eval mode.

    Raises:
        UserError: file and architecture do not fit; the message names the weight.
    """
    layers = config.num_layers + (config.temporal_layers or 0)
    if layers > len(file.shapes):  # before so many are built
        raise UserError(f"{file.source}: has {len(file.shapes)} weights, too few for {layers} layers")
    try:
        with torch.device("meta"):
            model = ViViT(config, classes=classes, preprocessing=preprocessing, origin=origin)
    except (ValueError, RuntimeError) as error:  # the latter for sizes that no tensor can have
        raise UserError(f"{file.source}: {str(error).splitlines()[0]}") from None
    wanted: dict[str, Shape] = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    of_fresh = {name: wanted.pop(name) for name in fresh}
    dtype: torch.dtype | None = torch.float32
    if rules is None:
        rules, dtype = [Rule((name,), (name,), SAME) for name in wanted], None
    unused = check(file, rules, wanted, not_needed)
    zeros = {name: torch.zeros(shape) for name, shape in of_fresh.items()}
    model.load_state_dict(dict(convert(file, rules, wanted, dtype)) | zeros, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if unused:
        more = f" and {len(unused) - SHOWN_NAMES} more" if len(unused) > SHOWN_NAMES else ""
        model.report = (f"not used: {', '.join(unused[:SHOWN_NAMES])}{more}",)
    return model.eval()
