"""Prepare a model for inference: device, precision and token merging."""

from vivit.errors import UserError
from vivit.inference.exported import ExportedModel
from vivit.inference.merging import Merge, merge_tokens
from vivit.model.vivit import ViViT
from vivit.runtime import DTYPES, Choice, WantedPrecision, pick_device, pick_precision


def prepare(model: ViViT | ExportedModel, device: str, precision: WantedPrecision, merge: Merge = Merge()) -> Choice:
    """Move a model to a device, convert its weights and let it merge tokens, in place.

    Returns the precision and why it was chosen.

    The weights are converted once, which is faster than autocast: that converts them in every call. The heads are
    float32, because logits of 8 bits would often be equal. An exported model has the precision of its file.

    Raises:
        UserError: there is no such device, the model does not compute there in this precision, or it cannot merge
            these tokens.
    """
    if isinstance(model, ExportedModel):
        if device not in ("auto", "cpu"):
            raise UserError(f"device: an exported model runs on the CPU, not on {device!r}; leave it out")
        if merge.ratio:
            raise UserError("merge: an exported model computes all tokens; give the model that it was made from")
        return model.prepare(precision)
    merge_tokens(model, merge)
    place = pick_device(device)
    choice = pick_precision(precision, place)
    if choice.precision == "int8":
        raise UserError("precision: int8 needs an exported model: vivit export MODEL OUT --int8 --clips VIDEOS")
    model.to(place, DTYPES[choice.precision])
    model.heads.float()
    return choice
