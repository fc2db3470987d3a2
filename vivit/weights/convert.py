"""From weights of any kind to a model folder, and what there is to know of weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from vivit.errors import UserError
from vivit.model.cost import multiply_adds
from vivit.model.vivit import ViViT
from vivit.weights.adapt import Classes
from vivit.weights.files import open_weights, read_json
from vivit.weights.hub import find
from vivit.weights.huggingface import to_huggingface
from vivit.weights.image_sources import read_image_vit
from vivit.weights.image_vit import TubeletInit, new_from
from vivit.weights.store import CONFIG_FILE, IMAGE_TYPES, load_found
from vivit.weights.weight_file import WeightFile

Format = Literal["vivit", "huggingface"]
SCENIC_FILE = "checkpoint"  # as Scenic calls it, in a folder of the model's name


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
    return _model_of(source, path, file, tubelet_init, classes, fields)


def opened(source: str | Path) -> tuple[Path, WeightFile | None]:
    """Where the source is, and its weights where it is one file."""
    path = find(source)
    if path.is_dir() and not (path / CONFIG_FILE).is_file() and (path / SCENIC_FILE).is_file():
        path = path / SCENIC_FILE
    return path, None if path.is_dir() else open_weights(path)


def _model_of(
    source: str | Path,
    path: Path,
    file: WeightFile | None,
    tubelet_init: TubeletInit | None,
    classes: Classes | None,
    fields: dict[str, Any],
) -> ViViT:
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


def describe_source(source: str | Path, **fields: Any) -> list[tuple[str, str]]:
    """What there is to know of weights of any kind, for people: what, and its value.

    Args:
        fields: what the weights do not tell of themselves, as `vivit.load` takes it.
    """
    path, file = opened(source)
    if is_image_vit(path, file, fields) and not any(fields.values()):
        image = read_image_vit(path, None, file)
        about = [("kind", "image ViT, to start a video model from: vivit convert"), *_encoder(image.model)]
        return about + [("note", line) for line in image.lines]
    return describe(_model_of(source, path, file, None, None, fields))


def describe(model: ViViT) -> list[tuple[str, str]]:
    """What there is to know of a video model."""
    config, preprocessing = model.config, model.preprocessing
    about = [
        ("variant", config.variant.replace("_", " ")),
        ("clip", f"{config.num_frames} frames of {_by(config.image_size)}"),
        *_encoder(model),
        ("multiply-adds", f"{_scaled(multiply_adds(config))} a clip"),
    ]
    for head, count in config.class_counts.items():
        names = (model.classes or {}).get(head)
        listed = "without names" if names is None else ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        about.append(("classes" if head == "classes" else f"head {head}", f"{count}: {listed}"))
    every = {1: "every frame", 2: "every second frame", 3: "every third frame"}.get(
        preprocessing.frame_stride, f"one frame of {preprocessing.frame_stride}"
    )
    about.append(
        (
            "preprocessing",
            f"{every}, shorter side {preprocessing.resize}, pixels in [-1, 1], short videos "
            + {"loop": "start again", "pad": "stand still at their end"}[preprocessing.short_clips],
        )
    )
    about += [("origin", line) for line in model.origin or ["trained from scratch"]]
    return about + [("note", line) for line in model.report if line not in model.origin]


def _encoder(model: ViViT) -> list[tuple[str, str]]:
    config = model.config
    times, rows, columns = config.grid
    form = "tanh" if config.activation == "gelu_tanh" else "exact"
    sampled = f", {config.sampled_frames} frames sampled uniformly" if config.sampled_frames else ""
    about = [
        ("tokens", f"{times} × {rows} × {columns} (time × height × width){sampled}"),
        ("tubelets", f"{config.tubelet_size[0]} × {_by(config.tubelet_size[1:])} (frames × height × width)"),
        (
            "encoder",
            f"{config.num_layers} layers, {config.num_heads} heads, {config.hidden_size} wide, MLP {config.mlp_dim}",
        ),
    ]
    if config.temporal_layers is not None:
        layers = config.temporal_layers
        about.append(("temporal", f"{layers} layers" if layers else "mean over time (average-pooling baseline)"))
    if config.attention_order is not None:
        about.append(("attention", config.attention_order.replace("_", " before ")))
    return [
        *about,
        ("pooling", "class token" if config.pooling == "token" else "mean of the tokens"),
        ("numerics", f"GELU in its {form} form, LayerNorms' epsilon {config.norm_eps:g}"),
        ("parameters", f"{sum(parameter.numel() for parameter in model.parameters()):,}"),
    ]


def _scaled(count: int) -> str:
    return f"{count / 1e9:.4g} G" if count >= 1e9 else f"{count / 1e6:.4g} M"


def _by(lengths: Sequence[int]) -> str:
    return " × ".join(map(str, lengths))
