"""Describe weights in words and numbers."""

from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from vivit.config import ModelConfig
from vivit.errors import UserError
from vivit.model.embedding import CHANNELS
from vivit.model.vivit import ViViT
from vivit.text import counted
from vivit.weights.convert import open_any
from vivit.weights.exported import Export, Parity
from vivit.weights.image_sources import read_image_vit
from vivit.weights.shipped import Answers
from vivit.weights.source import Source
from vivit.weights.store import folder_config
from vivit.weights.weight_file import by


def describe_source(source: str | Path, **fields: Any) -> list[tuple[str, str]]:
    """Describe weights of any kind, as pairs of a topic and a statement.

    Args:
        fields: fields of `ModelConfig` that the weights leave open, as in `vivit.load`.
    """
    found = Source.find(source)
    if (exported := Export.of(found.folder)) is not None:
        if any(fields.values()):
            raise UserError(f"{source}: an exported model cannot be changed; change the one that it was exported from")
        return _describe_exported(found.folder, exported)
    if not any(fields.values()) and found.kind == "image ViT":
        image = read_image_vit(found)
        about = [("kind", "image ViT, to start a video model from: vivit convert"), *_encoder(image.model)]
        return about + [("note", note) for note in image.notes]
    described = describe(open_any(source, **fields).model)
    return described if any(fields.values()) else [*_answers(found.folder), *described]


def _answers(folder: Path) -> list[tuple[str, str]]:
    said = Answers.of(folder)
    return [] if said is None else [("answers", said.about), ("not sure", f"below {said.unsure_below:.0%}")]


def _describe_exported(folder: Path, export: Export) -> list[tuple[str, str]]:
    config = folder_config(folder)
    with torch.device("meta"):
        model = ViViT(
            config.architecture, classes=config.classes, preprocessing=config.preprocessing, origin=config.origin
        )
    made_with = ", ".join(f"{package} {version}" for package, version in export.made_with.items())
    return [
        ("kind", f"exported: {export}, takes {export.input}"),
        ("made with", made_with),
        ("parity", str(Parity.of(folder))),
        *_answers(folder),
        *describe(model),
    ]


def describe(model: ViViT) -> list[tuple[str, str]]:
    """Describe a video model."""
    config, preprocessing = model.config, model.preprocessing
    about = [
        ("variant", config.variant.replace("_", " ")),
        ("clip", f"{config.num_frames} frames of {by(config.image_size)}"),
        *_encoder(model),
        ("multiply-adds", f"{_scaled(multiply_adds(config))} a clip"),
    ]
    if not config.class_counts:
        about.append(("classes", "none: the model has no head"))
    for head, count in config.class_counts.items():
        names = (model.classes or {}).get(head)
        listed = "without names" if names is None else ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        about.append((f"head {head}" if config.heads else "classes", f"{count}: {listed}"))
    every = {1: "every frame", 2: "every second frame", 3: "every third frame"}.get(
        preprocessing.frame_stride, f"one frame of {preprocessing.frame_stride}"
    )
    every += f" at {preprocessing.frame_rate:g} frames a second" if preprocessing.frame_rate else ""
    ending = {"loop": "start again", "pad": "repeat their last frame"}[preprocessing.short_clips]
    prepared = f"{every}, shorter side {preprocessing.resize}, pixels in [-1, 1], short videos {ending}"
    about.append(("preprocessing", prepared))
    return about + [("origin", line) for line in model.origin or ["trained from scratch"]]


def _encoder(model: ViViT) -> list[tuple[str, str]]:
    config = model.config
    form = "tanh" if config.activation == "gelu_tanh" else "exact"
    sampled = f", {config.sampled_frames} frames sampled uniformly" if config.sampled_frames else ""
    parts = f"{counted(config.num_layers, 'layer')}, {counted(config.num_heads, 'head')}"
    size = f"{parts}, {config.hidden_size} wide, MLP {config.mlp_dim}"
    about = [
        ("tokens", f"{by(config.grid)} (time × height × width){sampled}"),
        ("tubelets", f"{by(config.tubelet_size)} (frames × height × width)"),
        ("encoder", size),
    ]
    if config.temporal_layers is not None:
        layers = config.temporal_layers
        about.append(("temporal", counted(layers, "layer") if layers else "mean over time (average-pooling baseline)"))
    if config.attention_order is not None:
        about.append(("attention", config.attention_order.replace("_", " before ")))
    pooling = "class token" if config.pooling == "token" else "mean of the tokens"
    return [
        *about,
        ("pooling", "a learned query attends to all tokens" if config.attentive_pooling else pooling),
        ("numerics", f"GELU in its {form} form, LayerNorms' epsilon {config.norm_eps:g}"),
        ("parameters", f"{sum(parameter.numel() for parameter in model.parameters()):,}"),
    ]


def multiply_adds(config: ModelConfig) -> int:
    """Multiply-adds of the matrix products for one clip; table 2 of the paper calls them FLOPs."""
    with torch.device("meta"):
        model = ViViT(config).eval()
        video = torch.empty(1, config.num_frames, CHANNELS, *config.image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(video)
    return counter.get_total_flops() // 2


def _scaled(count: int) -> str:
    return f"{count / 1e9:.4g} G" if count >= 1e9 else f"{count / 1e6:.4g} M"
