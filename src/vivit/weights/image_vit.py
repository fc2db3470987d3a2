"""Initialisation from an image ViT (paper, section 3.4; Scenic: `model_utils.initialise_from_train_state`).

An image ViT is read as a ViViT of one frame, so its parameters have our names.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vivit.config import ModelConfig
from vivit.errors import UserError, one_line
from vivit.labels import head_fields
from vivit.model.embedding import resize_positions
from vivit.model.encoder import GELU
from vivit.model.vivit import ViViT
from vivit.weights.adapt import Classes, TubeletInit, Wishes, resize_kernel
from vivit.weights.fill import Loaded
from vivit.weights.image_sources import ImageViT, read_image_vit
from vivit.weights.source import Source
from vivit.weights.weight_file import by


def init_from_image_vit(
    model: ViViT, source: str | Path, tubelet_init: TubeletInit = "central_frame"
) -> tuple[str, ...]:
    """Initialise a video model, in place, from an image ViT; heads, and parts that it lacks, stay as they are.

    Positions are interpolated over space if the grids differ, and repeated at every temporal index. Model 2's spatial
    encoder becomes the whole image model, including the class token (the official code leaves that at zero). Model 3
    takes the image model's attention over space; its attention over time starts without effect. The paper zeroes all
    weights of the latter, but then only the output's bias gets a gradient. Here only the output projection is zero,
    which gives the same function and learns.

    The form of GELU and the LayerNorms' epsilon become the image model's. If its folder says how it normalises pixels,
    that is folded into the first layer, since all video models here take pixels in [−1, 1].

    Args:
        model: any variant, with the image model's width, depth, heads and patch.
        source: an .npz with the key names of Google's public ViT files, a Scenic checkpoint, a folder or Hub id of
            transformers' ViT or DINOv2, timm's weights (safetensors), with or without their config.json, or an ONNX
            file.
        tubelet_init: `central_frame` puts the image kernel at the middle frame ⌊t/2⌋ of the tubelet and zeros
            elsewhere (equation 9), `filter_inflation` gives each frame 1/t of it (equation 8), `random` keeps the
            model's own kernel.

    Returns:
        What was assumed or left out, one line each; also logged, and part of the model's `origin`.

    Raises:
        UserError: the source is not an image ViT, or its sizes differ from the model's; the message names both.
    """
    wishes = Wishes.of({}, None, tubelet_init)
    image = read_image_vit(Source.find(source), model.config.num_heads)
    loaded = Loaded(model, _initialise(model, image, wishes.tubelet_init or "central_frame"))
    loaded.log()
    return loaded.notes


def from_image_vit(
    source: str | Path,
    tubelet_init: TubeletInit = "central_frame",
    *,
    classes: Classes | None = None,
    **fields: Any,
) -> ViViT:
    """A new video model from an image ViT with its width, depth and patch, initialised as by `init_from_image_vit`.

    Args:
        classes: class names in order, or head → class names; they determine `num_classes` or `heads`.
        fields: fields of `ModelConfig` that the image model does not determine: variant, num_frames, num_classes and
            so on; by default tubelets have two frames and pictures the image model's size, but 224 × 224 from a DINOv2
            with positions for 518 × 518. `num_layers` takes that many of the image model's first layers.
    """
    wishes = Wishes.of(fields, classes, tubelet_init)
    return new_video_model(read_image_vit(Source.find(source), wishes.fields.get("num_heads")), wishes).log()


def new_video_model(image: ImageViT, wishes: Wishes) -> Loaded:
    """As `from_image_vit`."""
    image = image.first_layers(wishes.fields.get("num_layers"))
    theirs = image.model.config
    taken = ("hidden_size", "num_layers", "num_heads", "mlp_dim", "activation", "norm_eps")
    known: dict[str, Any] = {"tubelet_size": (2, *theirs.tubelet_size[1:]), "image_size": image.picture}
    known |= {name: getattr(theirs, name) for name in taken}
    if theirs.pooling == "mean":
        known["pooling"] = "mean"
    if wishes.counts is not None and wishes.fields.keys().isdisjoint(("heads", "num_classes")):
        known |= head_fields(wishes.counts)
    try:
        model = ViViT(ModelConfig(**{**known, **wishes.fields}), classes=wishes.classes).eval()
    except ValueError as error:
        raise UserError(f"{image.source.name}: {one_line(error)}") from None
    return Loaded(model, _initialise(model, image, wishes.tubelet_init or "central_frame"))


@torch.no_grad()
def _initialise(model: ViViT, image: ImageViT, tubelet_init: TubeletInit) -> tuple[str, ...]:
    """Copy the image model's weights, form of GELU and epsilon into the video model; return notes."""
    theirs, ours, name = image.model.config, model.config, image.source.name
    for count, what in (("num_layers", "layers"), ("num_heads", "heads")):
        if getattr(theirs, count) != getattr(ours, count):
            hint = ""
            if count == "num_layers" and ours.num_layers < theirs.num_layers:
                hint = f"; from_image_vit with num_layers={ours.num_layers} takes the first ones"
            raise UserError(f"{name}: has {getattr(theirs, count)} {what}, but the model {getattr(ours, count)}{hint}")
    state = _video_state(image.model, model, tubelet_init)
    parameters = model.state_dict()
    for parameter, value in state.items():
        if (own := tuple(parameters[parameter].shape)) != tuple(value.shape):
            raise UserError(f"{name}: {parameter} is {tuple(value.shape)} in the image model and {own} here")
    model.load_state_dict(state, strict=False)

    notes = [*image.notes, *_left_out(image.model, model, parameters.keys() - state.keys())]
    if image.normalises and tubelet_init != "random":
        notes.append("the first layer normalises pixels as the image model expects; clips stay in [-1, 1]")
    elif image.normalises:
        notes.append("the image model expects pixels normalised differently from the new first layer's [-1, 1]")
    if (was := theirs.grid[1:]) != (now := ours.grid[1:]):
        notes.append(f"positions resized from {by(was)} to {by(now)}")
    numerics = {"activation": theirs.activation, "norm_eps": theirs.norm_eps}
    if any(getattr(ours, field) != value for field, value in numerics.items()):
        form = "exact" if theirs.activation == "gelu" else "tanh"
        notes.append(
            f"GELU in its {form} form and LayerNorms' epsilon {theirs.norm_eps:g}, as the image model has them"
        )
        model.config = ours.model_copy(update=numerics)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = theirs.norm_eps
            elif isinstance(module, nn.GELU):
                module.approximate = GELU[theirs.activation]
    model.origin = (f"image ViT {image.source.called}, tubelets by {tubelet_init.replace('_', ' ')}", *notes)
    return tuple(notes)


def _left_out(image: ViViT, model: ViViT, untouched: Iterable[str]) -> list[str]:
    """Notes on parts of the image model that were not taken, and parts of the video model that it lacks."""
    notes = []
    if image.config.pooling == "token" and model.config.pooling != "token":
        notes.append("not used: the image model's class token; the video model has none")
    if image.config.representation_size is not None and model.config.representation_size is None:
        notes.append("not used: the image model's layer before its head (pre_logits, pooler)")
    # Name whole encoders and attentions, not each of their weights.
    parts = {re.sub(r"(temporal|adapter|_time|heads|pooler)\..*", r"\1", name) for name in untouched}
    parts = {re.sub(r"blocks\.\d+", "blocks.*", part) for part in parts}
    if parts:
        notes.append(f"not from the image model: {', '.join(sorted(parts))}")
    return notes


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
