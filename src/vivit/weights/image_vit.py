"""Initialisation from an image ViT (paper, section 3.4; Scenic: `model_utils.initialise_from_train_state`).

An image ViT comes as what it is, a ViViT of one frame, so what a video model takes from it has our names.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from vivit.config import ModelConfig
from vivit.errors import UserError, one_line
from vivit.model.embedding import resize_positions
from vivit.model.encoder import GELU
from vivit.model.vivit import ViViT
from vivit.weights.adapt import Classes, named, resize_kernel
from vivit.weights.hub import called
from vivit.weights.image_sources import ImageViT, read_image_vit

TubeletInit = Literal["central_frame", "filter_inflation", "random"]


def init_from_image_vit(
    model: ViViT, source: str | Path, tubelet_init: TubeletInit = "central_frame"
) -> tuple[str, ...]:
    """Start a video model, in place, from an image ViT; the heads and what has no counterpart stay as they are.

    Positions are repeated at every temporal index, interpolated over space first where the grids differ. Model 2's
    spatial encoder is the image model whole, class token included (the official code leaves that at zero). Model 3
    takes the image model's attention over space; its attention over time gives nothing at the start. For that the
    paper zeroes all its weights, but then no gradient ever reaches them, save the output's bias: a product of zeros
    has zero slopes. Here only the output projection is zero, which is the same function and learns.

    The form of GELU and the LayerNorms' epsilon become the image model's. Where its folder says how it wants pixels
    normalised, its first layer takes that over, since video models here want them in [−1, 1].

    Args:
        model: any variant, of the image model's width, depth, heads and patch.
        source: a .npz under the key names of Google's public ViT files, a Scenic checkpoint, a folder or Hub id of
            transformers' ViT, or timm's weights (safetensors), with its config.json or without.
        tubelet_init: `central_frame` puts the image kernel at the middle frame ⌊t/2⌋ of the tubelet and zeros
            elsewhere (equation 9), `filter_inflation` gives each frame 1/t of it (equation 8), `random` leaves it.

    Returns:
        What to know of it, a line each; also the model's `report`.

    Raises:
        UserError: the source is no image ViT, or of other sizes than the model; the message names both.
    """
    _check_init(tubelet_init)
    image = read_image_vit(source, model.config.num_heads)
    _start(model, image, tubelet_init, str(source))
    return model.report


def from_image_vit(
    source: str | Path,
    tubelet_init: TubeletInit = "central_frame",
    *,
    classes: Classes | None = None,
    **fields: Any,
) -> ViViT:
    """A new video model from an image ViT, of its width, depth and patch, as `init_from_image_vit` does.

    Args:
        classes: the labels in order, or head → labels; they give `num_classes` or `heads`.
        fields: fields of `ModelConfig` that the image model does not decide: variant, num_frames, num_classes and the
            like; by default tubelets of two frames and pictures of the image model's size.
    """
    return new_from(read_image_vit(source, fields.get("num_heads")), source, tubelet_init, classes, fields)


def new_from(
    image: ImageViT, source: str | Path, tubelet_init: TubeletInit, classes: Classes | None, fields: dict[str, Any]
) -> ViViT:
    """As `from_image_vit`, of an image model that has been read; `source` is what the user called it."""
    _check_init(tubelet_init)
    theirs = image.model.config
    patch = theirs.tubelet_size[1:]
    taken = ("image_size", "hidden_size", "num_layers", "num_heads", "mlp_dim", "activation", "norm_eps")
    known: dict[str, Any] = {"tubelet_size": (2, *patch), **{name: getattr(theirs, name) for name in taken}}
    if theirs.pooling == "mean":
        known["pooling"] = "mean"
    names = named(classes)
    if names is not None and fields.get("heads") is None and fields.get("num_classes") is None:
        counts = {head: len(labels) for head, labels in names.items()}
        known |= {"num_classes": counts["classes"]} if set(counts) == {"classes"} else {"heads": counts}
    try:
        config = ModelConfig(**{**known, **{name: value for name, value in fields.items() if value is not None}})
        model = ViViT(config, classes=names).eval()
    except ValidationError as error:
        raise UserError(f"{source}: {one_line(error)}") from None
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None
    _start(model, image, tubelet_init, str(source))
    return model


@torch.no_grad()
def _start(model: ViViT, image: ImageViT, tubelet_init: TubeletInit, source: str) -> None:
    """The image model's weights, form of GELU and epsilon into the video model."""
    theirs, ours = image.model.config, model.config
    for count, what in (("num_layers", "layers"), ("num_heads", "heads")):
        if getattr(theirs, count) != getattr(ours, count):
            raise UserError(f"{source}: has {getattr(theirs, count)} {what}, but the model {getattr(ours, count)}")
    state = _video_state(image.model, model, tubelet_init)
    parameters = model.state_dict()
    for name, value in state.items():
        if parameters[name].shape != value.shape:
            raise UserError(
                f"{source}: {name} is {tuple(value.shape)} in the image model and {tuple(parameters[name].shape)} here"
            )
    model.load_state_dict(state, strict=False)

    lines = [*image.lines, *_left_out(image.model, model, parameters.keys() - state.keys())]
    if image.normalises and tubelet_init != "random":
        lines.append("the first layer normalises pixels as the image model wants them; ours stay in [-1, 1]")
    elif image.normalises:
        lines.append("the image model wants its pixels normalised otherwise than the [-1, 1] of the new first layer")
    if (was := theirs.grid[1:]) != (now := ours.grid[1:]):
        lines.append(f"positions resized from {was[0]} × {was[1]} to {now[0]} × {now[1]}")
    numerics = {"activation": theirs.activation, "norm_eps": theirs.norm_eps}
    if any(getattr(ours, field) != value for field, value in numerics.items()):
        form = "exact" if theirs.activation == "gelu" else "tanh"
        lines.append(
            f"GELU in its {form} form and LayerNorms' epsilon {theirs.norm_eps:g}, as the image model has them"
        )
        model.config = ours.model_copy(update=numerics)
        for module_ in model.modules():
            if isinstance(module_, nn.LayerNorm):
                module_.eps = theirs.norm_eps
            elif isinstance(module_, nn.GELU):
                module_.approximate = GELU[theirs.activation]
    model.report = tuple(lines)
    model.origin = (f"image ViT {called(source)}, tubelets by {tubelet_init.replace('_', ' ')}", *lines)


def _left_out(image: ViViT, model: ViViT, untouched: Iterable[str]) -> list[str]:
    """What of the image model was not taken, and what of the video model it does not have."""
    lines = []
    if image.config.pooling == "token" and model.config.pooling != "token":
        lines.append("not used: the image model's class token; the video model has none")
    if image.config.representation_size is not None and model.config.representation_size is None:
        lines.append("not used: the image model's layer before its head (pre_logits, pooler)")
    # Whole encoders and attentions, not each of their weights.
    parts = {re.sub(r"(temporal|adapter|_time|heads)\..*", r"\1", name) for name in untouched}
    parts = {re.sub(r"blocks\.\d+", "blocks.*", part) for part in parts}
    if parts:
        lines.append(f"not from the image model: {', '.join(sorted(parts))}")
    return lines


def _video_state(image: ViViT, model: ViViT, tubelet_init: TubeletInit) -> dict[str, Tensor]:
    """The image model's weights under the names of the video model's parameters."""
    theirs, config = image.state_dict(), model.config
    prefix = "encoder.spatial." if config.variant == "factorised_encoder" else "encoder."
    state = {
        name.replace("encoder.", prefix, 1): value
        for name, value in theirs.items()
        if name.startswith(("encoder.blocks.", "encoder.norm."))
    }
    if config.variant == "factorised_self_attention":
        parts = {".norm1.": ".norm_space.", ".attn.": ".attn_space.", ".norm2.": ".norm_mlp."}
        for part, ours in parts.items():
            state = {name.replace(part, ours): value for name, value in state.items()}
        for layer in range(config.num_layers):
            proj = f"encoder.blocks.{layer}.attn_time.proj"
            state[f"{proj}.weight"] = torch.zeros(config.hidden_size, config.hidden_size)
            state[f"{proj}.bias"] = torch.zeros(config.hidden_size)

    if config.pooling == "token" and image.config.pooling == "token":
        for name in ("class_token", "class_position"):
            state[f"{prefix}positions.{name}"] = theirs[f"encoder.positions.{name}"]
    times, *places = config.grid
    grid = resize_positions(theirs["encoder.positions.embedding"][0], tuple(places))
    state[f"{prefix}positions.embedding"] = (
        grid if config.variant == "factorised_encoder" else grid.expand(times, *grid.shape)
    )

    if config.representation_size is not None and image.config.representation_size is not None:
        state |= {name: theirs[name] for name in ("representation.weight", "representation.bias")}
    if tubelet_init != "random":
        state["embedding.weight"] = resize_kernel(theirs["embedding.weight"], config.tubelet_size[0], tubelet_init)
        state["embedding.bias"] = theirs["embedding.bias"]
    return state


def _check_init(tubelet_init: str) -> None:
    if tubelet_init not in ("central_frame", "filter_inflation", "random"):
        raise UserError(f'tubelet_init: "central_frame", "filter_inflation" or "random", not {tubelet_init!r}')
