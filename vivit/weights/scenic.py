"""Scenic's checkpoints: the official weights of ViViT, and image ViTs in the same layout.

A checkpoint is one file of flax msgpack; `optimizer/target`, or `params` at the top of some files, holds the weights.
Kernels are (in, out), and attention keeps its heads apart: queries (D, H, d), output (H, d, D).
"""

import math
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from vivit.config import ModelConfig
from vivit.errors import UserError, one_line
from vivit.model.vivit import ViViT

Weights = dict[str, np.ndarray]
"""Slash-separated Scenic names → arrays."""

# Scenic's block names → ours: models 1, 2 and 4.
BLOCK = {
    "LayerNorm_0": "attention.norm",
    "MultiHeadDotProductAttention_0": "attention.attention",
    "LayerNorm_1": "mlp.norm",
    "MlpBlock_0/Dense_0": "mlp.mlp.hidden",
    "MlpBlock_0/Dense_1": "mlp.mlp.out",
}
# Model 3.
FACTORISED_BLOCK = {
    "LayerNorm_space": "space.norm",
    "MultiHeadDotProductAttention_space": "space.attention",
    "LayerNorm_time": "time.norm",
    "MultiHeadDotProductAttention_time": "time.attention",
    "LayerNorm_mlp": "mlp.norm",
    "MlpBlock/Dense_0": "mlp.mlp.hidden",
    "MlpBlock/Dense_1": "mlp.mlp.out",
}


def from_scenic(path: str | Path, **overrides: Any) -> ViViT:
    """Load an official checkpoint; the model gives the official code's logits.

    What the weights tell is read from them. What they do not tell comes by keyword, any field of `ModelConfig`:
    `image_size` always, `num_frames` without a temporal encoder of known length, `variant` where there is no class
    token, `attention_order` for factorised self-attention, `heads` to name the parts of one output.

    Args:
        path: the checkpoint file.
        overrides: fields of `ModelConfig`; those that contradict the weights are refused.

    Raises:
        UserError: the file is no such checkpoint, a needed keyword is missing (the message names it), or weights and
            keywords contradict each other.
    """
    weights = read_scenic(path)
    try:
        config = _read_config(weights, {key: value for key, value in overrides.items() if value is not None})
        state = convert(weights, config)
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} is missing from the weights") from None
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error)}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    with torch.device("meta"):
        model = ViViT(config)
    fill(model, state, str(path))
    return model.eval()


def read_scenic(path: str | Path) -> Weights:
    """The weights of a checkpoint by their Scenic names. Raises UserError where the file is not one."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    try:
        tree = msgpack.unpackb(data, ext_hook=_array, raw=False, strict_map_key=False)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException):
        raise UserError(f"{path}: not a Scenic checkpoint (flax msgpack)") from None
    if isinstance(tree, dict) and isinstance(tree.get("optimizer"), dict):
        tree = tree["optimizer"].get("target")
    elif isinstance(tree, dict) and "params" in tree:
        tree = tree["params"]
    weights = _flatten(tree) if isinstance(tree, dict) else {}
    # Old files of the image models have "params" once more inside.
    weights = {name.removeprefix("params/"): array for name, array in weights.items()}
    if "embedding/kernel" not in weights:
        raise UserError(f"{path}: no weights of a ViViT or ViT under optimizer/target or params")
    return weights


def _array(code: int, data: bytes) -> Any:
    """Flax's msgpack extensions: 1 is an array (shape, dtype name, bytes); scalars and the rest are not weights."""
    if code != 1:
        return None
    shape, dtype, buffer = msgpack.unpackb(data, raw=False)
    return np.frombuffer(buffer, dtype=np.dtype(dtype)).reshape(shape)


def _flatten(tree: dict[str, Any], prefix: str = "") -> Weights:
    flat: Weights = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}/"))
        elif isinstance(value, np.ndarray):
            flat[prefix + key] = value
    return flat


def _read_config(weights: Weights, overrides: dict[str, Any]) -> ModelConfig:
    """What the weights say of the architecture, completed and checked against the keywords."""
    factorised_encoder = any(name.startswith("SpatialTransformer/") for name in weights)
    stem = "SpatialTransformer" if factorised_encoder else "Transformer"
    first = f"{stem}/encoderblock_0"
    class_token = "cls" in weights or "cls_SpatialTransformer" in weights
    told: dict[str, Any] = {}

    factorised_attention = f"{first}/LayerNorm_time/scale" in weights
    if factorised_encoder:
        told["variant"] = "factorised_encoder"
        told["temporal_layers"] = count_layers(weights, "TemporalTransformer")
    elif factorised_attention:
        told["variant"] = "factorised_self_attention"
    elif class_token:
        told["variant"] = "spatiotemporal"
    elif "variant" not in overrides:
        raise UserError(
            "weights without a class token may be of either model: "
            'give variant="spatiotemporal" or variant="factorised_dot_product"'
        )
    elif overrides["variant"] in ("factorised_encoder", "factorised_self_attention"):
        raise UserError(f"variant: the weights are not of a {overrides['variant']} model")
    # Asked before the rest is checked: the other variant's fields would be named in place of this one.
    if "variant" in told and overrides.get("variant", told["variant"]) != told["variant"]:
        raise UserError(f"variant: {overrides['variant']} asked for, but the weights say {told['variant']}")
    if factorised_attention and "attention_order" not in overrides:
        raise UserError('the weights do not tell which attention comes first: give attention_order="time_space"')
    told["pooling"] = "token" if class_token else "mean"

    attention = "MultiHeadDotProductAttention_space" if factorised_attention else "MultiHeadDotProductAttention_0"
    query = f"{first}/{attention}/query/kernel"
    hidden = f"{first}/{'MlpBlock' if factorised_attention else 'MlpBlock_0'}/Dense_0/kernel"
    told["num_layers"] = count_layers(weights, stem)
    told["hidden_size"], told["num_heads"], _ = weights[query].shape
    told["mlp_dim"] = weights[hidden].shape[1]
    if "pre_logits/kernel" in weights:
        told["representation_size"] = weights["pre_logits/kernel"].shape[1]

    classes = len(weights["output_projection/bias"])
    heads = overrides.get("heads")
    if heads is None:
        told["num_classes"] = classes
    elif sum(heads.values()) != classes:
        raise UserError(f"heads: {heads} are {sum(heads.values())} classes, but the weights have {classes}")

    kernel = weights["embedding/kernel"].shape  # (t, h, w, C, D), or (h, w, C, D) for single frames
    told["tubelet_size"] = (1, *kernel[:2]) if len(kernel) == 4 else kernel[:3]
    told["embedding"] = "uniform_frames" if len(kernel) == 4 else "tubelet"
    told.update(_clip_size(weights, told, overrides, stem, class_token))

    config = ModelConfig(**{**told, **overrides})
    for name, value in told.items():
        if name in overrides and getattr(config, name) != value:
            raise UserError(f"{name}: {overrides[name]} asked for, but the weights say {value}")
    return config


def _clip_size(
    weights: Weights, told: dict[str, Any], overrides: dict[str, Any], stem: str, class_token: bool
) -> dict[str, Any]:
    """The clip that the positions are for: frames and picture, in agreement with the keywords."""
    positions = weights[f"{stem}/posembed_input/pos_embedding"].shape[1] - class_token
    if "image_size" not in overrides:
        raise UserError(
            f"the weights do not tell the picture's height and width ({positions} positions): give image_size"
        )
    size = overrides["image_size"]
    t, h, w = told["tubelet_size"]
    image_size = ModelConfig(image_size=size, tubelet_size=(1, h, w)).image_size
    places = math.prod(length // part for length, part in zip(image_size, (h, w), strict=True))

    if stem == "SpatialTransformer":
        if positions != places:
            raise UserError(f"image_size: {size} gives {places} positions, but the weights have {positions}")
        times = None
        if told["temporal_layers"]:
            times = weights["TemporalTransformer/posembed_input/pos_embedding"].shape[1] - class_token
    else:
        if positions % places:
            raise UserError(f"image_size: {size} gives {places} positions a frame; the weights have {positions} in all")
        times = positions // places

    found: dict[str, Any] = {"image_size": image_size}
    if told["embedding"] == "uniform_frames":
        for name in ("num_frames", "sampled_frames"):
            if name not in overrides:
                raise UserError(f"the weights embed single frames and do not tell how they are sampled: give {name}")
    elif times is not None:
        found["num_frames"] = times * t
    elif "num_frames" not in overrides:
        raise UserError("the weights have no temporal positions: give num_frames")
    if told["embedding"] == "uniform_frames" and times is not None:
        sampled = ModelConfig(
            embedding="uniform_frames",
            tubelet_size=told["tubelet_size"],
            image_size=image_size,
            num_frames=overrides["num_frames"],
            sampled_frames=overrides["sampled_frames"],
        ).grid[0]
        if sampled != times:
            raise UserError(
                f"sampled_frames: {overrides['sampled_frames']} of {overrides['num_frames']} frames give {sampled} "
                f"temporal positions, but the weights have {times}"
            )
    return found


def count_layers(weights: Weights, stem: str) -> int:
    """How many blocks the encoder of that name has."""
    return len({name.split("/")[1] for name in weights if name.startswith(f"{stem}/encoderblock_")})


def convert(weights: Weights, config: ModelConfig) -> dict[str, Tensor]:
    """Scenic's weights under our names and in our layout; names that are not known keep theirs."""
    class_token = config.pooling == "token"
    times, *places = config.grid
    state: dict[str, Tensor] = {}
    rest = dict(weights)

    kernel = rest.pop("embedding/kernel")
    kernel = kernel[None] if kernel.ndim == 4 else kernel
    state["embedding.weight"] = tensor(kernel.transpose(4, 3, 0, 1, 2))  # (t, h, w, C, D) → (D, C, t, h, w)
    state["embedding.bias"] = tensor(rest.pop("embedding/bias"))
    if config.variant == "factorised_encoder":
        stems = [("SpatialTransformer", "spatial_", (*places,))]
        if config.temporal_layers:
            stems.append(("TemporalTransformer", "temporal_", (times,)))
    else:
        stems = [("Transformer", "", (times, *places))]
    block = FACTORISED_BLOCK if config.variant == "factorised_self_attention" else BLOCK
    for stem, ours, grid in stems:
        token = rest.pop("cls" if not ours else f"cls_{stem}", None)
        positions = tensor(rest.pop(f"{stem}/posembed_input/pos_embedding")[0])
        if class_token and token is not None:
            state[f"model.{ours}positions.class_token"] = tensor(token.reshape(-1))
            state[f"model.{ours}positions.class_position"] = positions[0].clone()
            positions = positions[1:]
        state[f"model.{ours}positions.embedding"] = positions.reshape(*grid, -1).clone()
        state.update(convert_encoder(rest, stem, f"model.{ours}encoder", block))

    if "pre_logits/kernel" in rest:
        state["representation.weight"] = tensor(rest.pop("pre_logits/kernel").T)
        state["representation.bias"] = tensor(rest.pop("pre_logits/bias"))
    sizes = config.heads or {"classes": config.num_classes or 0}
    head_kernel, head_bias = rest.pop("output_projection/kernel"), rest.pop("output_projection/bias")
    start = 0
    for head, size in sizes.items():
        state[f"heads.{head}.weight"] = tensor(head_kernel[:, start : start + size].T)
        state[f"heads.{head}.bias"] = tensor(head_bias[start : start + size])
        start += size
    return state | {name: tensor(array) for name, array in rest.items()}


def convert_encoder(rest: Weights, stem: str, ours: str, block: dict[str, str]) -> dict[str, Tensor]:
    """The blocks and the last LayerNorm of one encoder; takes what it uses out of `rest`."""
    state = {
        f"{ours}.norm.weight": tensor(rest.pop(f"{stem}/encoder_norm/scale")),
        f"{ours}.norm.bias": tensor(rest.pop(f"{stem}/encoder_norm/bias")),
    }
    for layer in range(count_layers(rest, stem)):
        for theirs, name in block.items():
            source, target = f"{stem}/encoderblock_{layer}/{theirs}", f"{ours}.blocks.{layer}.{name}"
            if name.endswith("attention"):
                state.update(_convert_attention(rest, source, target))
            elif name.endswith("norm"):
                state[f"{target}.weight"] = tensor(rest.pop(f"{source}/scale"))
                state[f"{target}.bias"] = tensor(rest.pop(f"{source}/bias"))
            else:
                state[f"{target}.weight"] = tensor(rest.pop(f"{source}/kernel").T)
                state[f"{target}.bias"] = tensor(rest.pop(f"{source}/bias"))
    return state


def _convert_attention(rest: Weights, source: str, target: str) -> dict[str, Tensor]:
    """Three kernels (D, H, d) → one (H · 3 · d, D), whose rows run head by head."""
    parts = ("query", "key", "value")
    kernels = np.stack([rest.pop(f"{source}/{part}/kernel") for part in parts])  # (3, D, H, d)
    biases = np.stack([rest.pop(f"{source}/{part}/bias") for part in parts])  # (3, H, d)
    width = kernels.shape[1]
    return {
        f"{target}.qkv.weight": tensor(kernels.transpose(2, 0, 3, 1).reshape(-1, width)),
        f"{target}.qkv.bias": tensor(biases.transpose(1, 0, 2).reshape(-1)),
        f"{target}.out.weight": tensor(rest.pop(f"{source}/out/kernel").reshape(-1, width).T),
        f"{target}.out.bias": tensor(rest.pop(f"{source}/out/bias")),
    }


def tensor(array: np.ndarray) -> Tensor:
    """A float32 tensor of its own memory."""
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def fill(model: ViViT, state: dict[str, Tensor], source: str) -> None:
    """Put the weights into a model built on the meta device; every name and shape must fit.

    Raises:
        UserError: names are left over or missing, or a shape differs; the message names the first.
    """
    wanted = {name: tuple(parameter.shape) for name, parameter in model.state_dict().items()}
    for names, problem in ((wanted.keys() - state.keys(), "missing"), (state.keys() - wanted.keys(), "not expected")):
        if names:
            raise UserError(f"{source}: {problem}: {', '.join(sorted(names)[:3])} ({len(names)} in all)")
    for name, shape in wanted.items():
        if tuple(state[name].shape) != shape:
            raise UserError(f"{source}: {name} has the shape {tuple(state[name].shape)}, but the model wants {shape}")
    model.load_state_dict(state, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
