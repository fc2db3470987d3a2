"""From weights of any kind, of a video model or an image ViT, to a model folder."""

from pathlib import Path
from typing import Any, Literal

from vivit.errors import UserError
from vivit.model.vivit import ViViT
from vivit.weights.adapt import Classes
from vivit.weights.files import read_json
from vivit.weights.huggingface import to_huggingface
from vivit.weights.image_sources import read_image_vit
from vivit.weights.image_vit import TubeletInit, new_from
from vivit.weights.store import CONFIG_FILE, IMAGE_TYPES, load_found, opened
from vivit.weights.weight_file import WeightFile

Format = Literal["vivit", "huggingface"]


def open_any(
    source: str | Path,
    tubelet_init: TubeletInit | None = None,
    classes: Classes | None = None,
    **fields: Any,
) -> ViViT:
    """Load a video model, or make one of an image ViT, whichever the source is.

    Args:
        tubelet_init: by default `central_frame` from an image model and `filter_inflation` from a video model's
            tubelets of another length.
        classes: the labels in order, or head → labels.
        fields: as `vivit.load` and `vivit.from_image_vit` take them.

    Raises:
        UserError: the source is neither.
    """
    path, file = opened(source)
    return model_of(source, path, file, tubelet_init, classes, fields)


def model_of(
    source: str | Path,
    path: Path,
    file: WeightFile | None,
    tubelet_init: TubeletInit | None,
    classes: Classes | None,
    fields: dict[str, Any],
) -> ViViT:
    """As `open_any`, of a folder or an open file; `source` is what the user called it."""
    if fields.get("sampled_frames") is not None:
        fields = {"embedding": "uniform_frames", **fields}
    if is_image_vit(path, file, fields):
        image = read_image_vit(path, fields.get("num_heads"), file)
        return new_from(image, source, tubelet_init or "central_frame", classes, fields)
    if tubelet_init == "random":
        raise UserError(f"{source}: tubelet_init: a video model's kernel is not drawn anew; leave it out")
    return load_found(path, file, source, tubelet_init or "filter_inflation", classes, fields)


def is_image_vit(path: Path, file: WeightFile | None, fields: dict[str, Any]) -> bool:
    """Whether a folder, or a file's weights, are an image model rather than a video model."""
    if file is None:
        config = path / CONFIG_FILE
        if not config.is_file():
            return False
        content = read_json(config)
        ours = isinstance(content.get("architecture"), dict)
        return not ours and (content.get("model_type") in IMAGE_TYPES or "model_type" not in content)
    shapes = file.shapes
    kernel = shapes.get("embedding/kernel")
    if kernel is None:
        theirs = [shape for name, shape in shapes.items() if name.endswith("patch_embeddings.projection.weight")]
        return "patch_embed.proj.weight" in shapes or any(len(shape) == 4 for shape in theirs)
    if any("/MlpBlock_3/" in name for name in shapes):  # Google's names for images alone
        return True
    if any(name.startswith("SpatialTransformer/") or "/LayerNorm_time/" in name for name in shapes):
        return False
    # A video model may embed single frames as well, but must then be told how many.
    return len(kernel) == 4 and fields.get("sampled_frames") is None


def convert(
    source: str | Path,
    out: Path,
    to: Format = "vivit",
    tubelet_init: TubeletInit | None = None,
    classes: Classes | None = None,
    licence: str | None = None,
    **fields: Any,
) -> ViViT:
    """Load weights of any kind and write them as a model folder, ours or transformers'; returns the model.

    Raises:
        UserError: they cannot be loaded so, or transformers has no such model, or the folder cannot be written.
    """
    if to == "huggingface" and licence is not None:
        raise UserError("licence: goes into our model card; a folder for transformers has none")
    model = open_any(source, tubelet_init, classes, **fields)
    if to == "huggingface":
        to_huggingface(model, out)
    else:
        model.save_pretrained(out, licence=licence)
    return model
