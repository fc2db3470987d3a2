"""Turn weights of any kind, of a video model or an image ViT, into a model folder."""

from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, Literal

from vivit.errors import UserError
from vivit.weights.adapt import Classes, TubeletInit, Wishes
from vivit.weights.fill import Loaded
from vivit.weights.huggingface import to_huggingface
from vivit.weights.image_sources import read_image_vit
from vivit.weights.image_vit import new_video_model
from vivit.weights.source import Source
from vivit.weights.store import load_video_model, save

Format = Literal["vivit", "huggingface"]
# What a model folder of either format holds; a run, an exported model or a folder of videos holds more.
OF_A_MODEL = ("README.md", "*config.json", "answers.json", "model*.safetensors", "model.safetensors.index.json", ".*")


def open_any(
    source: str | Path, tubelet_init: TubeletInit | None = None, classes: Classes | None = None, **fields: Any
) -> Loaded:
    """Load a video model, or make one from an image ViT, depending on the source.

    Args:
        tubelet_init: by default `central_frame` from an image model, and `filter_inflation` from a video model with
            tubelets of another length.
        classes: class names in order, or head → class names.
        fields: as in `vivit.load` and `vivit.from_image_vit`.

    Raises:
        UserError: the source is neither.
    """
    sampled = fields.get("sampled_frames") is not None
    if sampled:
        fields = {"embedding": "uniform_frames", **fields}
    wishes = Wishes.of(fields, classes, tubelet_init)
    found = Source.find(source, sampled)
    if found.kind == "image ViT":
        return new_video_model(read_image_vit(found, wishes.fields.get("num_heads")), wishes)
    return load_video_model(found, wishes)


def convert(
    source: str | Path,
    out: Path,
    to: Format = "vivit",
    tubelet_init: TubeletInit | None = None,
    classes: Classes | None = None,
    licence: str | None = None,
    **fields: Any,
) -> Loaded:
    """Load weights of any kind and write them as a model folder, ours or transformers'.

    Raises:
        UserError: they cannot be loaded with these fields, transformers has no such model, or the folder holds other
            things or cannot be written.
    """
    others = sorted(file.name for file in out.iterdir()) if out.is_dir() else []
    others = [name for name in others if not any(map(partial(fnmatch, name), OF_A_MODEL))]
    if others:
        raise UserError(f"{out}: holds something else than a model ({', '.join(others[:3])}); choose another name")
    if to == "huggingface" and licence is not None:
        raise UserError("licence: goes into our model card; a folder for transformers has none")
    loaded = open_any(source, tubelet_init, classes, **fields)
    if to == "huggingface":
        to_huggingface(loaded.model, out)
    else:
        save(loaded.model, out, licence=licence)
    return loaded
