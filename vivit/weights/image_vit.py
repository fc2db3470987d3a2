"""Initialisation from an image ViT (paper, section 3.4; Scenic: `model_utils.initialise_from_train_state`)."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vivit.errors import UserError
from vivit.model.vivit import ViViT
from vivit.weights.positions import repeat_in_time, resize_positions
from vivit.weights.scenic import BLOCK, Weights, convert_encoder, count_layers, read_scenic, tensor

TubeletInit = Literal["central_frame", "filter_inflation", "random"]

# Google's public ViT files number the parts of a block differently from Scenic's checkpoints.
GOOGLE_NAMES = {
    "LayerNorm_2/": "LayerNorm_1/",
    "MultiHeadDotProductAttention_1/": "MultiHeadDotProductAttention_0/",
    "MlpBlock_3/": "MlpBlock_0/",
}


def init_from_image_vit(model: ViViT, source: str | Path, tubelet_init: TubeletInit = "central_frame") -> None:
    """Start a video model, in place, from an image ViT; the heads and what has no counterpart stay as they are.

    Positions are repeated at every temporal index, interpolated over space first where the grids differ. Model 2's
    spatial encoder is the image model whole, class token included (the official code leaves that at zero). Model 3
    takes the image model's attention over space; its attention over time gives nothing at the start. For that the
    paper zeroes all its weights, but then no gradient ever reaches them, save the output's bias: a product of zeros
    has zero slopes. Here only the output projection is zero, which is the same function and learns.

    Args:
        model: any variant, of the image model's width, depth, heads and patch.
        source: a Scenic checkpoint, or a .npz under the key names of Google's public ViT files.
        tubelet_init: `central_frame` puts the image kernel at the middle frame ⌊t/2⌋ of the tubelet and zeros
            elsewhere (equation 9), `filter_inflation` gives each frame 1/t of it (equation 8), `random` leaves it.

    Raises:
        UserError: the file is no image ViT, or of other sizes than the model; the message names both.
    """
    if tubelet_init not in ("central_frame", "filter_inflation", "random"):
        raise UserError(f'tubelet_init: "central_frame", "filter_inflation" or "random", not {tubelet_init!r}')
    weights = read_image_vit(source)
    try:
        state = _convert(weights, model, tubelet_init, str(source))
    except KeyError as error:
        raise UserError(f"{source}: not an image ViT: {error.args[0]} missing") from None
    parameters = model.state_dict()
    for name, value in state.items():
        if name not in parameters:
            raise UserError(f"{source}: {name} has no place in the model")
        if parameters[name].shape != value.shape:
            raise UserError(
                f"{source}: {name} is {tuple(value.shape)} in the image model and {tuple(parameters[name].shape)} here"
            )
    model.load_state_dict(state, strict=False)


def read_image_vit(source: str | Path) -> Weights:
    """An image ViT's weights under Scenic's names. Raises UserError where the file is none."""
    if Path(source).suffix == ".npz":
        try:
            with np.load(source, allow_pickle=False) as file:
                weights = dict(file)
        except OSError as error:
            raise UserError(f"{source}: {error.strerror or 'not a .npz file'}") from None
        except Exception:  # numpy and zipfile raise many kinds on damaged files
            raise UserError(f"{source}: not a .npz file of plain arrays") from None
        for google, scenic in GOOGLE_NAMES.items():
            weights = {name.replace(google, scenic): array for name, array in weights.items()}
    else:
        weights = read_scenic(source)
    missing = {"embedding/kernel", "embedding/bias", "Transformer/posembed_input/pos_embedding"} - weights.keys()
    if missing:
        raise UserError(f"{source}: not an image ViT: {', '.join(sorted(missing))} missing")
    if weights["embedding/kernel"].ndim != 4:
        raise UserError(f"{source}: a video model, not an image ViT")
    return weights


def _convert(weights: Weights, model: ViViT, tubelet_init: TubeletInit, source: str) -> dict[str, Tensor]:
    """The image model's weights under the names of the video model's parameters."""
    config = model.config
    if (layers := count_layers(weights, "Transformer")) != config.num_layers:
        raise UserError(f"{source}: has {layers} layers, but the model {config.num_layers}")
    heads = weights["Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"].shape[1]
    if heads != config.num_heads:
        raise UserError(f"{source}: has {heads} heads, but the model {config.num_heads}")
    prefix = "model.spatial_" if config.variant == "factorised_encoder" else "model."

    state = convert_encoder(dict(weights), "Transformer", f"{prefix}encoder", BLOCK)
    if config.variant == "factorised_self_attention":
        state = {name.replace(".attention.", ".space.", 1): value for name, value in state.items()}
        for layer in range(config.num_layers):
            out = f"model.encoder.blocks.{layer}.time.attention.out"
            state[f"{out}.weight"] = torch.zeros(config.hidden_size, config.hidden_size)
            state[f"{out}.bias"] = torch.zeros(config.hidden_size)

    positions = tensor(weights["Transformer/posembed_input/pos_embedding"][0])
    if "cls" in weights:
        if config.pooling == "token":
            state[f"{prefix}positions.class_token"] = tensor(weights["cls"].reshape(-1))
            state[f"{prefix}positions.class_position"] = positions[0]
        positions = positions[1:]
    side = int(len(positions) ** 0.5)
    if side * side != len(positions):
        raise UserError(f"{source}: its {len(positions)} positions are not of a square picture")
    times, *places = config.grid
    grid = resize_positions(positions.unflatten(0, (side, side)), (places[0], places[1]))
    state[f"{prefix}positions.embedding"] = (
        grid if config.variant == "factorised_encoder" else repeat_in_time(grid, times)
    )

    if config.representation_size is not None and "pre_logits/kernel" in weights:
        state["representation.weight"] = tensor(weights["pre_logits/kernel"].T)
        state["representation.bias"] = tensor(weights["pre_logits/bias"])
    if tubelet_init != "random":
        image_kernel = tensor(weights["embedding/kernel"].transpose(3, 2, 0, 1))  # (h, w, C, D) → (D, C, h, w)
        state["embedding.weight"] = inflate(image_kernel, config.tubelet_size[0], tubelet_init)
        state["embedding.bias"] = tensor(weights["embedding/bias"])
    return state


def inflate(kernel: Tensor, frames: int, how: Literal["central_frame", "filter_inflation"]) -> Tensor:
    """(D, C, h, w) → (D, C, frames, h, w), by equation 8 or 9 of the paper."""
    if how == "filter_inflation":
        return torch.stack([kernel / frames] * frames, dim=2)
    inflated = kernel.new_zeros(*kernel.shape[:2], frames, *kernel.shape[2:])
    inflated[:, :, frames // 2] = kernel
    return inflated
