"""From weights of any kind to a model folder, and what there is to know of weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from vivit.errors import UserError
from vivit.model.cost import multiply_adds
from vivit.model.vivit import ViViT
from vivit.weights.adapt import KernelInit
from vivit.weights.files import open_weights, read_json
from vivit.weights.hub import find
from vivit.weights.huggingface import to_huggingface
from vivit.weights.image_vit import TubeletInit, from_image_vit
from vivit.weights.store import CONFIG_FILE, load

Format = Literal["vivit", "huggingface"]


def open_any(
    source: str | Path,
    tubelet_init: TubeletInit | None = None,
    classes: Sequence[str] | None = None,
    **fields: Any,
) -> ViViT:
    """Load a video model, or make one of an image ViT, whichever the source is.

    Args:
        tubelet_init: by default `central_frame` from an image model and `filter_inflation` from a video model's
            tubelets of another length.
        classes: the labels in order.
        fields: as `vivit.load` and `vivit.from_image_vit` take them.

    Raises:
        UserError: the source is neither.
    """
    if fields.get("sampled_frames") is not None:
        fields = {"embedding": "uniform_frames", **fields}
    if is_image_vit(source, fields):
        return from_image_vit(source, tubelet_init or "central_frame", classes=classes, **fields)
    if tubelet_init == "random":
        raise UserError(f"{source}: tubelet_init: a video model's kernel is not drawn anew; leave it out")
    how: KernelInit = tubelet_init or "filter_inflation"
    return load(source, tubelet_init=how, classes=classes, **fields)


def is_image_vit(source: str | Path, fields: dict[str, Any]) -> bool:
    """Whether the source is an image model rather than a video model."""
    path = find(source)
    if path.is_dir():
        config = path / CONFIG_FILE
        if not config.is_file():
            return False
        content = read_json(config)
        ours = isinstance(content.get("architecture"), dict)
        return not ours and content.get("model_type") != "vivit"
    shapes = open_weights(path).shapes
    kernel = shapes.get("embedding/kernel")
    if kernel is None:
        return "patch_embed.proj.weight" in shapes or any("embeddings.patch_embeddings" in name for name in shapes)
    # A video model may embed single frames as well, but must then be told how many.
    single = len(kernel) == 4 and not any(name.startswith("SpatialTransformer/") for name in shapes)
    return single and fields.get("sampled_frames") is None


def convert(
    source: str | Path,
    out: Path,
    to: Format = "vivit",
    tubelet_init: TubeletInit | None = None,
    classes: Sequence[str] | None = None,
    licence: str | None = None,
    **fields: Any,
) -> ViViT:
    """Load weights of any kind and write them as a model folder, ours or transformers'; returns the model.

    Raises:
        UserError: they cannot be loaded so, or transformers has no such model, or the folder cannot be written.
    """
    model = open_any(source, tubelet_init, classes, **fields)
    if to == "huggingface":
        to_huggingface(model, out)
    else:
        model.save_pretrained(out, licence=licence)
    return model


def describe(model: ViViT) -> dict[str, str]:
    """What there is to know of a model, for people."""
    config = model.config
    times, rows, columns = config.grid
    parameters = sum(parameter.numel() for parameter in model.parameters())
    about = {
        "variant": config.variant.replace("_", " "),
        "clip": f"{config.num_frames} frames of {_by(config.image_size)}",
        "tokens": f"{times} × {rows} × {columns}, tubelets of {_by(config.tubelet_size)}",
        "encoder": f"{config.num_layers} layers, {config.num_heads} heads, {config.hidden_size} wide, "
        f"MLP {config.mlp_dim}",
    }
    if config.sampled_frames is not None:
        about["tokens"] = f"{times} × {rows} × {columns}, {config.sampled_frames} frames sampled uniformly"
    if config.temporal_layers is not None:
        layers = config.temporal_layers
        about["temporal"] = f"{layers} layers" if layers else "mean over time (average-pooling baseline)"
    if config.attention_order is not None:
        about["attention"] = config.attention_order.replace("_", " before ")
    form = "tanh" if config.activation == "gelu_tanh" else "exact"
    about |= {
        "pooling": "class token" if config.pooling == "token" else "mean of the tokens",
        "numerics": f"GELU in its {form} form, LayerNorms' epsilon {config.norm_eps:g}",
        "parameters": f"{parameters:,}",
        "multiply-adds": f"{multiply_adds(config) / 1e9:.4g} G a clip",
    }
    for head, count in config.class_counts.items():
        names = (model.classes or {}).get(head)
        listed = "without names" if names is None else ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        about["classes" if head == "classes" else f"head {head}"] = f"{count}: {listed}"
    preprocessing = model.preprocessing
    about["preprocessing"] = (
        f"every {_ordinal(preprocessing.frame_stride)}frame, shorter side {preprocessing.resize}, pixels in [-1, 1], "
        f"short clips {preprocessing.short_clips}"
    )
    about["origin"] = "; ".join(model.origin) or "trained from scratch"
    return about


def _ordinal(stride: int) -> str:
    return {1: "", 2: "second ", 3: "third "}.get(stride, f"{stride}th ")


def _by(lengths: Sequence[int]) -> str:
    return " × ".join(map(str, lengths))
