"""transformers' processors: read how they prepare pixels, and write one that prepares them as we do."""

import math
from pathlib import Path
from typing import Any

from vivit.errors import UserError
from vivit.model.vivit import ViViT
from vivit.weights.files import read_json

# Far above any scale or offset of pixels, and far below what overflows once it is folded into weights.
MOST = 1e6
PROCESSOR_FILES = ("video_preprocessor_config.json", "preprocessor_config.json")


def read_processor(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """File and content of the processor's config in a folder of transformers; None if there is none."""
    found = next((folder / name for name in PROCESSOR_FILES if (folder / name).is_file()), None)
    return None if found is None else (found, read_json(found))


def read_resize(file: Path, processor: dict[str, Any]) -> int:
    """The length that the shorter side is resized to. Raises UserError if it cannot be read."""
    size = processor.get("size", 256)
    if isinstance(size, dict):
        sides = [size[name] for name in ("shortest_edge", "height", "width") if isinstance(size.get(name), int)]
        size = size["shortest_edge"] if size.get("shortest_edge") in sides else min(sides, default=None)
    if not isinstance(size, int) or size < 1:
        raise UserError(f"{file}: size {processor.get('size')!r} is not understood")
    return size


def pixel_scaling(file: Path, processor: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Scales and offsets per channel: a pixel p in [0, 255] becomes p · scale + offset.

    Raises:
        UserError: the processor's config cannot be read.
    """
    kind = processor.get("image_processor_type") or processor.get("video_processor_type")
    video = str(kind).startswith("Vivit")
    scale, offset = 1.0, 0.0
    mean, deviation = [0.0] * 3, [1.0] * 3
    try:
        if processor.get("do_rescale", True):
            scale = float(processor.get("rescale_factor", 1 / 127.5 if video else 1 / 255))
            offset = -1.0 if processor.get("offset", video) else 0.0
        if processor.get("do_normalize", True):
            mean, deviation = _of_channels(processor.get("image_mean")), _of_channels(processor.get("image_std"))
        scales = [scale / part for part in deviation]
        offsets = [(offset - middle) / part for middle, part in zip(mean, deviation, strict=True)]
    except (TypeError, ValueError, ArithmeticError):
        scales, offsets = [math.nan], [math.nan]
    within = all(0 < abs(scale) <= MOST for scale in scales) and all(abs(offset) <= MOST for offset in offsets)
    if len(scales) != 3 or not within:  # NaN is not within either
        raise UserError(f"{file}: how it scales and normalises pixels is not understood")
    return scales, offsets


def processor_of(model: ViViT) -> dict[str, Any]:
    """The config of a `VivitImageProcessor` that prepares clips for this model."""
    height, width = model.config.image_size
    return {
        "image_processor_type": "VivitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": model.preprocessing.resize},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        # To [-1, 1]; by default the processor normalises a second time, to [-3, 1].
        "do_rescale": True,
        "rescale_factor": 1 / 127.5,
        "offset": True,
        "do_normalize": False,
    }


def _of_channels(value: Any) -> list[float]:
    """A mean or deviation for each channel, from one value or three; transformers' default is one half."""
    if value is None:
        value = 0.5
    return [float(part) for part in (value if isinstance(value, list) else [value] * 3)]
