"""Bring a model to a device and into a precision, for inference."""

from vivit.errors import UserError
from vivit.inference.exported import ExportedModel
from vivit.model.vivit import ViViT
from vivit.runtime import DTYPES, Choice, WantedPrecision, pick_device, pick_precision


def prepare(model: ViViT | ExportedModel, device: str, precision: WantedPrecision) -> Choice:
    """Move a model to a device and convert its weights, in place. Returns the precision and why it was chosen.

    The weights are converted once, which is quicker than autocast: that converts them in every call. The heads are
    float32, because logits of 8 bits would often be equal. An exported model has the precision of its file.

    Raises:
        UserError: there is no such device, or the model does not compute there in this precision.
    """
    if isinstance(model, ExportedModel):
        if device not in ("auto", "cpu"):
            raise UserError(f"device: an exported model runs on the CPU, not on {device!r}; leave it out")
        return model.prepare(precision)
    place = pick_device(device)
    choice = pick_precision(precision, place)
    if choice.precision == "int8":
        raise UserError("precision: int8 needs an exported model: vivit export MODEL OUT --int8 --clips VIDEOS")
    model.to(place, DTYPES[choice.precision])
    model.heads.float()
    return choice
