"""For every known kind of image ViT, a video model that starts from it sees each frame as the image model does.

transformers is the partner for its own files, the plain image ViT below for timm's, the official logits for Google's
and Scenic's. Models run in double precision, so that the wrong form of GELU or another epsilon shows.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    DeiTConfig,
    DeiTModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
)
from transformers.utils import logging

import vivit
from tests.support import random_weights, refused, tiny_model
from vivit.config import ModelConfig
from vivit.model.vivit import ViViT
from vivit.weights.image_vit import TubeletInit, from_image_vit, init_from_image_vit

logging.set_verbosity_error()
logging.disable_progress_bar()

REFERENCE = Path(__file__).parent / "reference" / "image_init" / "vit32"
WIDTH, LAYERS, HEADS, MLP = 32, 2, 4, 64
SIZES: dict[str, Any] = {
    "variant": "factorised_encoder",
    "num_frames": 8,
    "image_size": (16, 24),
    "tubelet_size": (2, 8, 8),
    "hidden_size": WIDTH,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "mlp_dim": MLP,
    "num_classes": 5,
}
# No source has these, so they remain only if GELU and epsilon are not replaced.
OTHER_EPS = 1e-3
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@dataclass(frozen=True)
class Source:
    """An image ViT on disk."""

    path: Path
    see: Callable[[Tensor], Tensor]
    """(N, 3, H, W) in double precision → the class token's representation, (N, D)."""
    weights: dict[str, Tensor]
    """Its weights under timm's names, with fused queries, keys and values."""
    image_size: tuple[int, int] = (16, 24)
    patch: tuple[int, int] = (8, 8)
    activation: Literal["gelu", "gelu_tanh"] = "gelu"
    norm_eps: float = 1e-6

    def build(self, **fields: Any) -> ViViT:
        """A video model with the source's sizes, but another form of GELU and another epsilon."""
        frames = fields.pop("tubelet_frames", 2)
        other = "gelu" if self.activation == "gelu_tanh" else "gelu_tanh"
        return build(
            **{
                "image_size": self.image_size,
                "tubelet_size": (frames, *self.patch),
                "activation": other,
                "norm_eps": OTHER_EPS,
                **fields,
            }
        )


def build(**fields: Any) -> ViViT:
    return tiny_model(**{**SIZES, **fields}, std=0.2)


def hf_config(**fields: Any) -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": MLP,
        "image_size": (16, 24),
        "patch_size": 8,
        **fields,
    }


def hf(
    folder: Path,
    kind: Any = ViTModel,
    *,
    saving: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    pickled: bool = False,
    **fields: Any,
) -> Source:
    """A ViT of transformers, saved by transformers."""
    model = kind(ViTConfig(**hf_config(**fields))).eval()
    random_weights(model, std=0.2, seed=1)
    model.to(dtype).save_pretrained(folder, **(saving or {}))
    if pickled:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    model = model.double()
    base = getattr(model, "vit", model)
    size, patch = base.config.image_size, base.config.patch_size
    return Source(
        folder,
        lambda frames: base(frames).last_hidden_state[:, 0],
        under_timm_names(base),
        (size, size) if isinstance(size, int) else tuple(size),
        (patch, patch) if isinstance(patch, int) else tuple(patch),
        "gelu" if base.config.hidden_act in ("gelu", "gelu_python") else "gelu_tanh",
        base.config.layer_norm_eps,
    )


def dinov2(folder: Path, kind: Any = Dinov2Model, *, saving: dict[str, Any] | None = None, **fields: Any) -> Source:
    """A DINOv2 of transformers, saved by transformers; its LayerScale is far from one."""
    about = {**hf_config(), "image_size": 24, "mlp_ratio": MLP // WIDTH, "layer_norm_eps": 1e-6, **fields}
    model = kind(Dinov2Config(**about)).eval()
    random_weights(model, std=0.2, seed=1)
    for name, parameter in model.named_parameters():
        if "lambda1" in name:
            parameter.data = powers_of_two(WIDTH)
    model.save_pretrained(folder, **(saving or {}))
    model = model.double()
    base = getattr(model, "dinov2", model)
    state = {name: value.float() for name, value in base.state_dict().items()}
    names = {"norm1": "norm1", "norm2": "norm2", "attention.o_proj": "attn.proj"}
    names |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    scales = {"attention.o_proj": "layer_scale1.lambda1", "mlp.fc2": "layer_scale2.lambda1"}
    weights = {
        "cls_token": state["embeddings.cls_token"],
        "pos_embed": state["embeddings.position_embeddings"],
        "patch_embed.proj.weight": state["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": state["embeddings.patch_embeddings.projection.bias"],
        **{f"norm.{part}": state[f"layernorm.{part}"] for part in ("weight", "bias")},
    }
    for layer in range(LAYERS):
        old, new = f"encoder.layer.{layer}", f"blocks.{layer}"
        for part in ("weight", "bias"):
            for theirs, ours in names.items():
                value = state[f"{old}.{theirs}.{part}"]
                if theirs in scales:  # each output is scaled
                    scale = state[f"{old}.{scales[theirs]}"]
                    value = torch.diag(scale) @ value if part == "weight" else scale * value
                weights[f"{new}.{ours}.{part}"] = value
            rows = [state[f"{old}.attention.{x}_proj.{part}"] for x in "qkv"]
            weights[f"{new}.attn.qkv.{part}"] = torch.cat(rows)
    return Source(folder, lambda frames: base(frames).last_hidden_state[:, 0], weights, (24, 24))


def powers_of_two(count: int) -> Tensor:
    """Factors that float32 multiplies without rounding, from 1/8 to 1, half of them negative."""
    return 2.0 ** -(torch.arange(count) % 4) * (1 - torch.arange(count) // 4 % 2 * 2)


def under_timm_names(model: Any) -> dict[str, Tensor]:
    """The weights of a ViT of transformers under timm's names."""
    theirs = {name: value.float() for name, value in model.state_dict().items()}
    ours = {
        "cls_token": theirs["embeddings.cls_token"],
        "pos_embed": theirs["embeddings.position_embeddings"],
        "patch_embed.proj.weight": theirs["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": theirs["embeddings.patch_embeddings.projection.bias"],
    }
    names = {
        "attention.o_proj": "attn.proj",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for part in ("weight", "bias"):
        ours[f"norm.{part}"] = theirs[f"layernorm.{part}"]
        for layer in range(model.config.num_hidden_layers):
            for name, timm_name in names.items():
                ours[f"blocks.{layer}.{timm_name}.{part}"] = theirs[f"layers.{layer}.{name}.{part}"]
            names_of_rows = [f"layers.{layer}.attention.{x}_proj.{part}" for x in "qkv"]
            if names_of_rows[0] in theirs:
                ours[f"blocks.{layer}.attn.qkv.{part}"] = torch.cat([theirs[name] for name in names_of_rows])
    return ours


def timm_weights(
    positions: int,
    others: dict[str, tuple[int, ...]] | None = None,
    *,
    width: int = WIDTH,
    qkv_bias: bool = True,
) -> dict[str, Tensor]:
    """Random weights under timm's names; `others` are names and shapes of optional parts."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, positions, width),
        "patch_embed.proj.weight": (width, 3, 8, 8),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (7, width),
        "head.bias": (7,),
        **(others or {}),
    }
    for layer in range(LAYERS):
        linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        linear |= {"mlp.fc1": (MLP, width), "mlp.fc2": (width, MLP)}
        for name, shape in linear.items():
            shapes[f"blocks.{layer}.{name}.weight"] = shape
            if qkv_bias or name != "attn.qkv":
                shapes[f"blocks.{layer}.{name}.bias"] = shape[:1]
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{layer}.{name}.weight": (width,), f"blocks.{layer}.{name}.bias": (width,)}
    torch.manual_seed(2)
    return {name: torch.randn(shape) * 0.2 for name, shape in shapes.items()}


def plain_vit(weights: dict[str, Tensor], heads: int, images: Tensor) -> Tensor:
    """A plain image ViT: (N, 3, H, W) → the representations of all tokens, (N, 1 + S, D)."""
    w = {name: value.double() for name, value in weights.items()}
    kernel = w["patch_embed.proj.weight"]
    width, patch = len(kernel), kernel.shape[2:]
    x = F.conv2d(images, kernel, w["patch_embed.proj.bias"], stride=tuple(patch)).flatten(2).mT
    tokens = [w[name].expand(len(x), 1, width) for name in ("cls_token",) if name in w]
    if w["pos_embed"].shape[1] == x.shape[1]:
        x = torch.cat([*tokens, x + w["pos_embed"]], dim=1)
    else:
        x = torch.cat([*tokens, x], dim=1) + w["pos_embed"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def scaled(x: Tensor, name: str) -> Tensor:
        return x * w[name] if name in w else x

    for layer in range(sum(name.endswith("norm1.weight") for name in w)):
        block = f"blocks.{layer}"
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(
            2, 0, 3, 1, 4
        )  # (N, 1 + S, 3 · H · d) → 3 × (N, H, 1 + S, d)
        shares = (q @ k.mT * (width / heads) ** -0.5).softmax(dim=-1)
        x = x + scaled(linear((shares @ v).transpose(1, 2).flatten(2), f"{block}.attn.proj"), f"{block}.ls1.gamma")
        hidden = F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + scaled(linear(hidden, f"{block}.mlp.fc2"), f"{block}.ls2.gamma")
    return norm(x, "norm")


def timm_source(path: Path, weights: dict[str, Tensor], heads: int = HEADS) -> Source:
    return Source(path, lambda images: plain_vit(weights, heads, images)[:, 0], weights, image_size=(24, 24))


def timm(folder: Path, *, separate: bool = False, qkv_bias: bool = True, positions: int = 10) -> Source:
    """timm's weights in a single file."""
    weights = timm_weights(positions, qkv_bias=qkv_bias)
    stored = {}
    for name, value in weights.items():
        if separate and ".qkv." in name:
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                stored[name.replace("qkv", f"{part}_proj")] = rows.contiguous()
        else:
            stored[name] = value
    path = folder / "vit.safetensors"
    save_file(stored, path)
    return timm_source(path, weights)


def timm_folder(folder: Path, about: dict[str, Any] | None = None) -> Source:
    """A folder of timm: weights and a config.json."""
    weights = timm_weights(10)
    save_file(weights, folder / "model.safetensors")
    about = {"architecture": "vit_mini", "num_classes": 7, **(about or {})}
    (folder / "config.json").write_text(json.dumps(about))
    return timm_source(folder, weights)


def timm_pickle(folder: Path) -> Source:
    """A file like DeiT's and DINO's own."""
    weights = timm_weights(10)
    path = folder / "vit.pth"
    torch.save({"model": weights, "epoch": 3}, path)
    return timm_source(path, weights)


def minus_one_to_one(make: Callable[[Path], Source]) -> Callable[[Path], Source]:
    """A source whose processor wants pixels in [-1, 1], where ImageNet's mean and deviation would be assumed."""

    def with_processor(folder: Path) -> Source:
        source = make(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
        return source

    return with_processor


def timm_layer_scale(folder: Path) -> Source:
    """timm's names of DINOv2 and DeiT III."""
    scales = {f"blocks.{layer}.ls{i}.gamma": (WIDTH,) for layer in range(LAYERS) for i in (1, 2)}
    weights = timm_weights(10, {**scales, "mask_token": (1, WIDTH)})
    weights |= {name: powers_of_two(WIDTH) for name in scales}
    save_file(weights, folder / "model.safetensors")
    about = {"architecture": "vit_mini", "mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "config.json").write_text(json.dumps(about))
    return timm_source(folder, weights)


SOURCES: dict[str, Callable[[Path], Source]] = {
    "transformers": hf,
    "transformers, tanh, a head": partial(
        hf, kind=ViTForImageClassification, hidden_act="gelu_new", layer_norm_eps=1e-6, image_size=(24, 16)
    ),
    "transformers, square, epsilon 1e-6": partial(hf, image_size=16, layer_norm_eps=1e-6),
    "transformers, patches not square": partial(hf, patch_size=(8, 4)),
    "transformers, names of today": partial(hf, saving={"save_original_format": False}),
    "transformers, names of today, a head": partial(
        hf, kind=ViTForImageClassification, saving={"save_original_format": False}
    ),
    "transformers, a masked image model": partial(hf, kind=ViTForMaskedImageModeling),
    "transformers, shards": partial(hf, saving={"max_shard_size": "20KB"}),
    "transformers, no bias": partial(hf, qkv_bias=False),
    "transformers, no bias, names of today": partial(hf, qkv_bias=False, saving={"save_original_format": False}),
    "transformers, bfloat16": partial(hf, dtype=torch.bfloat16),
    "transformers, a pickle": partial(hf, kind=ViTForImageClassification, pickled=True),
    "timm, fused": timm,
    "timm, separate": partial(timm, separate=True),
    "timm, no bias": partial(timm, qkv_bias=False),
    "timm, separate, no bias": partial(timm, separate=True, qkv_bias=False),
    "timm, class token without a position": partial(timm, positions=9),
    "timm, a folder": timm_folder,
    "timm's names, a pickle": timm_pickle,
    "timm, LayerScale": timm_layer_scale,
    "DINOv2": minus_one_to_one(dinov2),
    "DINOv2, a head, names of today": minus_one_to_one(
        partial(dinov2, kind=Dinov2ForImageClassification, saving={"save_original_format": False})
    ),
}


def random_video(model: ViViT, clips: int = 2) -> Tensor:
    torch.manual_seed(3)
    config = model.config
    return torch.rand(clips, config.num_frames, 3, *config.image_size, dtype=torch.double) * 2 - 1


def spatial_tokens(model: ViViT, video: Tensor) -> Tensor:
    """The output tokens of the spatial encoder, (B, T, 1 + S, D)."""
    encoded: list[Tensor] = []
    encoder = model.get_submodule("encoder.spatial.norm")
    handle = encoder.register_forward_hook(lambda *call: encoded.append(call[-1]))
    with torch.no_grad():
        model.features(video)
    handle.remove()
    return encoded[0].unflatten(0, (len(video), -1))


@torch.no_grad()
def see_frames(source: Source, frames: Tensor) -> Tensor:
    """(B, T, 3, H, W) → the image model's representation of each, (B, T, D)."""
    return source.see(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def assert_sees_middle_frames(model: ViViT, source: Source, tolerance: float = 1e-10) -> None:
    """Check that each temporal index has the image model's class token of the tubelet's frame ⌊t/2⌋."""
    model = model.double()
    video = random_video(model)
    frames = model.config.tubelet_size[0]
    expected = see_frames(source, video[:, frames // 2 :: frames])
    assert_near(spatial_tokens(model, video)[:, :, 0], expected, tolerance)


@pytest.mark.parametrize("name", SOURCES)
def test_the_middle_frame_of_each_tubelet_is_seen_as_the_image_model_sees_it(name: str, tmp_path: Path) -> None:
    source = SOURCES[name](tmp_path)
    model = source.build().double()
    init_from_image_vit(model, source.path, "central_frame")
    assert_sees_middle_frames(model, source)


@pytest.mark.parametrize("name", SOURCES)
def test_each_frame_of_a_still_video_is_seen_as_the_image_model_sees_it(name: str, tmp_path: Path) -> None:
    source = SOURCES[name](tmp_path)
    model = source.build().double()
    init_from_image_vit(model, source.path, "filter_inflation")
    video = random_video(model)[:, :1].expand(-1, 8, -1, -1, -1).contiguous()
    assert_near(spatial_tokens(model, video)[:, :, 0], see_frames(source, video[:, :4]))


@pytest.mark.parametrize("frames", [1, 3, 4])
@pytest.mark.parametrize("name", ["transformers, tanh, a head", "timm, separate"])
def test_the_middle_frame_of_tubelets_of_other_lengths(name: str, frames: int, tmp_path: Path) -> None:
    source = SOURCES[name](tmp_path)
    model = source.build(num_frames=12, tubelet_frames=frames).double()
    init_from_image_vit(model, source.path)
    assert_sees_middle_frames(model, source)


@pytest.mark.parametrize("file", ["vit.npz", "checkpoint"])
def test_official_logits_of_the_middle_frames(file: str) -> None:
    with np.load(REFERENCE / "io.npz") as io:
        image, logits = torch.from_numpy(io["image"]).permute(0, 3, 1, 2), torch.from_numpy(io["logits"])
    with np.load(REFERENCE / "vit.npz") as weights:
        kernel, bias = torch.from_numpy(weights["head/kernel"]), torch.from_numpy(weights["head/bias"])
    fields = {"image_size": 32, "num_layers": 3, "activation": "gelu", "norm_eps": OTHER_EPS}
    model = build(**fields, num_frames=4 * len(image), tubelet_size=(4, 8, 8)).double()
    init_from_image_vit(model, REFERENCE / file)
    video = random_video(model, clips=1)
    video[0, 2::4] = image.double()
    seen = spatial_tokens(model, video)[0, :, 0] @ kernel.double() + bias.double()
    assert_near(seen, logits.double(), 1e-5)


@pytest.mark.parametrize("hidden_act", ["gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_python"])
def test_every_name_of_gelu_that_transformers_has(hidden_act: str, tmp_path: Path) -> None:
    source = hf(tmp_path, hidden_act=hidden_act)
    model = source.build().double()
    init_from_image_vit(model, source.path)
    assert_sees_middle_frames(model, source, tolerance=1e-8)  # gelu_fast has √(2/π) to ten digits


def test_what_is_not_taken_and_what_is_not_there_is_said(tmp_path: Path) -> None:
    image = hf(tmp_path / "image").path
    report = init_from_image_vit(build(variant="spatiotemporal", pooling="mean"), image)
    assert "not used: the image model's class token; the video model has none" in report
    assert "not used: the image model's layer before its head (pre_logits, pooler)" in report
    assert "not from the image model: heads" in report
    report = init_from_image_vit(build(representation_size=WIDTH), image)
    assert not [line for line in report if line.startswith("not used")]
    assert [line for line in report if line == "not from the image model: encoder.temporal, heads"]

    weights = timm_weights(9)
    del weights["cls_token"]
    save_file(weights, tmp_path / "vit.safetensors")
    report = init_from_image_vit(build(variant="spatiotemporal", image_size=24), tmp_path / "vit.safetensors")
    assert "not used: head.bias, head.weight" in report
    assert [line for line in report if re.search("not from the image model: .*positions.class_token", line)]


def test_an_image_model_without_a_class_token_is_seen_as_its_mean(tmp_path: Path) -> None:
    weights = timm_weights(9)
    del weights["cls_token"]
    save_file(weights, tmp_path / "vit.safetensors")
    model = build(image_size=24, pooling="mean").double()
    init_from_image_vit(model, tmp_path / "vit.safetensors")
    video = random_video(model)
    expected = plain_vit(weights, HEADS, video[:, 1::2].flatten(0, 1)).mean(dim=1).unflatten(0, (2, 4))
    assert_near(spatial_tokens(model, video).mean(dim=2), expected)


VARIANTS: dict[str, dict[str, Any]] = {
    "joint": {"variant": "spatiotemporal"},
    "joint, mean": {"variant": "spatiotemporal", "pooling": "mean"},
    "fe": {},
    "fsa": {"variant": "factorised_self_attention"},
    "fsa, time first": {"variant": "factorised_self_attention", "attention_order": "time_space"},
    "fdp": {"variant": "factorised_dot_product"},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["transformers", "transformers, names of today", "timm, fused", "timm, separate"])
def test_every_variant_takes_the_same_weights(name: str, variant: str, tmp_path: Path) -> None:
    source = SOURCES[name](tmp_path)
    model = source.build(**VARIANTS[variant])
    init_from_image_vit(model, source.path)

    state, theirs = model.state_dict(), source.weights
    fe, fsa = model.config.variant == "factorised_encoder", model.config.variant == "factorised_self_attention"
    prefix = "encoder.spatial." if fe else "encoder."
    kernel = state["embedding.weight"]
    assert torch.equal(kernel[:, :, 1], theirs["patch_embed.proj.weight"])
    assert torch.count_nonzero(kernel[:, :, 0]) == 0
    assert torch.equal(state["embedding.bias"], theirs["patch_embed.proj.bias"])

    height, width = model.config.grid[1:]
    positions = theirs["pos_embed"][0, 1:].view(height, width, WIDTH)
    embedding = state[f"{prefix}positions.embedding"]
    for places in [embedding] if fe else list(embedding):
        assert torch.equal(places, positions)
    if model.config.pooling == "token":
        assert torch.equal(state[f"{prefix}positions.class_token"], theirs["cls_token"][0, 0])
        assert torch.equal(state[f"{prefix}positions.class_position"], theirs["pos_embed"][0, 0])

    for part in ("weight", "bias"):
        assert torch.equal(state[f"{prefix}norm.{part}"], theirs[f"norm.{part}"])
        for layer in range(LAYERS):
            ours = f"{prefix}blocks.{layer}"
            attention = f"{ours}.attn_space" if fsa else f"{ours}.attn"
            modules = {
                f"{ours}.norm_space" if fsa else f"{ours}.norm1": "norm1",
                f"{attention}.proj": "attn.proj",
                f"{ours}.norm_mlp" if fsa else f"{ours}.norm2": "norm2",
                f"{ours}.mlp.fc1": "mlp.fc1",
                f"{ours}.mlp.fc2": "mlp.fc2",
            }
            for our_name, their_name in modules.items():
                assert torch.equal(state[f"{our_name}.{part}"], theirs[f"blocks.{layer}.{their_name}.{part}"]), our_name
            rows = state[f"{attention}.qkv.{part}"]
            depth = WIDTH // HEADS
            for number, their_rows in enumerate(theirs[f"blocks.{layer}.attn.qkv.{part}"].chunk(3)):
                for head in range(HEADS):
                    start = (3 * head + number) * depth
                    assert torch.equal(rows[start : start + depth], their_rows[head * depth : (head + 1) * depth]), (
                        f"{layer}, head {head}, {'qkv'[number]}"
                    )


@pytest.mark.parametrize("variant", ["joint", "fe", "fsa", "fdp"])
@pytest.mark.parametrize(
    ("hidden_act", "eps", "said"),
    [
        ("gelu", 1e-12, "GELU in its exact form and LayerNorms' epsilon 1e-12"),
        ("gelu_new", 0.05, "GELU in its tanh form and LayerNorms' epsilon 0.05"),
    ],
)
def test_the_form_of_gelu_and_epsilon_travel_with_the_model(
    hidden_act: str, eps: float, said: str, variant: str, tmp_path: Path
) -> None:
    source = hf(tmp_path / "image", hidden_act=hidden_act, layer_norm_eps=eps)
    model = source.build(**VARIANTS[variant]).double()
    before = model.config
    report = init_from_image_vit(model, source.path)
    assert model.config == before.model_copy(update={"activation": source.activation, "norm_eps": eps})
    assert report == model.origin[1:]
    assert [line for line in report if line.startswith(said)]
    assert {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)} == {eps}

    vivit.save(model, tmp_path / "video")
    loaded = vivit.load(tmp_path / "video")
    assert loaded.config == model.config
    assert [line for line in loaded.origin if line.startswith(said)]
    video = random_video(model)
    with torch.no_grad():
        features = model.features(video)
        assert_near(loaded.features(video), features, 1e-14)
        # A model built with the source's own form has the same features, so nothing of the other form remains.
        built = build(**{**VARIANTS[variant], "activation": source.activation, "norm_eps": eps}).double()
        report = init_from_image_vit(built, source.path)
        assert_near(built.features(video), features, 1e-14)
        assert not [line for line in report if "GELU" in line]
        # The other form would make a difference.
        other = source.build(**VARIANTS[variant]).double()
        other.load_state_dict(model.state_dict())
        assert (other.features(video) - features).abs().max() > 1e-6 * features.abs().max()


def normalised(mean: Sequence[float], std: Sequence[float], pixels: Tensor) -> Tensor:
    shape = (1, 1, 3, 1, 1)
    return (pixels - torch.tensor(mean).double().view(shape)) / torch.tensor(std).double().view(shape)


PIXELS: dict[str, tuple[dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "ImageNet's": (
        {
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": IMAGENET_MEAN,
            "image_std": IMAGENET_STD,
        },
        lambda pixels: normalised(IMAGENET_MEAN, IMAGENET_STD, pixels / 255),
    ),
    "as old files have it": (
        {"do_normalize": True, "do_resize": True, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD, "size": 16},
        lambda pixels: normalised(IMAGENET_MEAN, IMAGENET_STD, pixels / 255),
    ),
    "between 0 and 1": (
        {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": False},
        lambda pixels: pixels / 255,
    ),
    "one number for all channels": (
        {"do_rescale": True, "rescale_factor": 1 / 255, "image_mean": 0.4, "image_std": 0.3},
        lambda pixels: (pixels / 255 - 0.4) / 0.3,
    ),
    "of bytes": (
        {
            "do_rescale": False,
            "do_normalize": True,
            "image_mean": [124.0, 116.0, 104.0],
            "image_std": [58.0, 57.0, 50.0],
        },
        lambda pixels: normalised([124.0, 116.0, 104.0], [58.0, 57.0, 50.0], pixels),
    ),
}


def assert_normalises(model: ViViT, source: Source, wanted: Callable[[Tensor], Tensor]) -> None:
    model = model.double()
    torch.manual_seed(4)
    video = torch.randint(0, 256, (2, 8, 3, *source.image_size), dtype=torch.uint8)
    expected = see_frames(source, wanted(video[:, 1::2].double()))
    assert_near(spatial_tokens(model, video)[:, :, 0], expected, 1e-5)
    # The same pixels in [−1, 1].
    assert_near(spatial_tokens(model, video.double() / 127.5 - 1)[:, :, 0], expected, 1e-5)


@pytest.mark.parametrize("case", PIXELS)
def test_the_first_layer_takes_over_the_normalisation_of_transformers(case: str, tmp_path: Path) -> None:
    processor, wanted = PIXELS[case]
    source = hf(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    model = source.build().double()
    report = init_from_image_vit(model, source.path)
    assert_normalises(model, source, wanted)
    assert [line for line in report if "normalises pixels" in line]


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("tubelet_init", ["central_frame", "filter_inflation"])
def test_the_first_layer_takes_over_the_normalisation_of_timm(
    tubelet_init: TubeletInit, nested: bool, tmp_path: Path
) -> None:
    pixels = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    source = timm_folder(tmp_path, {"pretrained_cfg": pixels} if nested else pixels)
    model = source.build(tubelet_frames=2 if tubelet_init == "central_frame" else 1).double()
    report = init_from_image_vit(model, source.path, tubelet_init)
    assert [line for line in report if "normalises pixels" in line]
    if tubelet_init == "central_frame":
        assert_normalises(model, source, PIXELS["ImageNet's"][1])
        return
    video = torch.randint(0, 256, (1, 8, 3, 24, 24), dtype=torch.uint8)
    expected = see_frames(source, PIXELS["ImageNet's"][1](video.double()))
    assert_near(spatial_tokens(model, video)[:, :, 0], expected, 1e-5)


@pytest.mark.parametrize("kind", ["transformers", "timm"])
def test_pixels_in_minus_one_to_one_change_nothing(kind: str, tmp_path: Path) -> None:
    half = [0.5] * 3
    if kind == "timm":
        source = timm_folder(tmp_path, {"pretrained_cfg": {"mean": half, "std": half}})
    else:
        source = hf(tmp_path)
        processor = {"do_rescale": True, "rescale_factor": 1 / 255, "image_mean": half, "image_std": half}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    model = source.build()
    report = init_from_image_vit(model, source.path)
    kernel, bias = (source.weights[f"patch_embed.proj.{part}"] for part in ("weight", "bias"))
    assert torch.equal(model.state_dict()["embedding.weight"][:, :, 1], kernel)
    assert torch.equal(model.state_dict()["embedding.bias"], bias)
    assert not [line for line in report if "pixels" in line]


def test_a_first_layer_that_is_left_alone_is_not_said_to_normalise(tmp_path: Path) -> None:
    source = timm_folder(tmp_path, {"pretrained_cfg": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}})
    model = source.build()
    report = init_from_image_vit(model, source.path, "random")
    assert not [line for line in report if "normalises pixels" in line]


def test_a_distilled_model_of_transformers_is_read_without_its_distillation_token(tmp_path: Path) -> None:
    image = DeiTModel(DeiTConfig(**hf_config())).eval()
    random_weights(image, std=0.2, seed=1)
    image.save_pretrained(tmp_path)
    image = image.double()

    def see(frames: Tensor) -> Tensor:
        x = image.embeddings(frames)
        x = torch.cat([x[:, :1], x[:, 2:]], dim=1)
        for layer in image.layers:
            x = layer(x)
        return image.layernorm(x)[:, 0]

    source = Source(tmp_path, see, {}, norm_eps=1e-12)
    model = source.build().double()
    report = init_from_image_vit(model, tmp_path)
    assert [line for line in report if "distillation token is left out" in line]
    rows = image.embeddings.position_embeddings[0]
    assert torch.equal(model.state_dict()["encoder.spatial.positions.class_position"], rows[0])
    assert torch.equal(model.state_dict()["encoder.spatial.positions.embedding"], rows[2:].view(2, 3, WIDTH))
    assert_sees_middle_frames(model, source)


def test_registers_and_swiglu_of_dinov2_are_refused_in_one_line(tmp_path: Path) -> None:
    about = {**hf_config(), "image_size": 24, "num_register_tokens": 2}
    Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**about)).save_pretrained(tmp_path / "registers")
    assert_refused(build(image_size=24), tmp_path / "registers", "has register tokens.* without registers")
    Dinov2Model(Dinov2Config(**hf_config(image_size=24, use_swiglu_ffn=True))).save_pretrained(tmp_path / "giant")
    assert_refused(build(image_size=24), tmp_path / "giant", "has SwiGLU MLPs")


def test_a_dinov2_that_says_nothing_of_its_pixels_wants_imagenets(tmp_path: Path) -> None:
    source = dinov2(tmp_path)
    model = source.build().double()
    notes = init_from_image_vit(model, tmp_path)
    assert any("ImageNet's mean and deviation assumed" in note for note in notes)
    assert_normalises(model, source, lambda frames: normalised(IMAGENET_MEAN, IMAGENET_STD, frames / 255))


def test_a_dinov2_of_large_pictures_makes_a_video_model_of_the_usual_size(tmp_path: Path) -> None:
    path = dinov2(tmp_path, image_size=518, patch_size=14).path
    model = from_image_vit(path, variant="factorised_encoder", num_frames=4)
    assert model.config.image_size == (224, 224)
    assert "positions resized from 37 × 37 to 16 × 16" in model.origin
    assert from_image_vit(path, variant="factorised_encoder", num_frames=4, image_size=518).config.grid == (2, 37, 37)


def test_the_first_layers_of_an_image_model(tmp_path: Path) -> None:
    source = hf(tmp_path)
    model = from_image_vit(tmp_path, variant="factorised_encoder", num_frames=8, num_layers=1)
    assert "the first 1 of the image model's 2 layers" in model.origin
    whole = from_image_vit(tmp_path, variant="factorised_encoder", num_frames=8)
    state, theirs = model.state_dict(), whole.state_dict()
    assert [name for name in theirs.keys() - state.keys() if not name.startswith("encoder.spatial.blocks.1.")] == []
    taken = [name for name in state if not name.startswith("encoder.temporal")]
    assert all(torch.equal(state[name], theirs[name]) for name in taken)
    refused(lambda: init_from_image_vit(model, source.path), "from_image_vit with num_layers=1 takes the first ones")


def test_a_distilled_model_of_timm_is_read_without_its_distillation_token(tmp_path: Path) -> None:
    weights = timm_weights(11, {"dist_token": (1, 1, WIDTH), "head_dist.weight": (7, WIDTH), "head_dist.bias": (7,)})
    torch.save({"model": weights}, tmp_path / "deit.pth")
    without = {**weights, "pos_embed": torch.cat([weights["pos_embed"][:, :1], weights["pos_embed"][:, 2:]], dim=1)}
    source = timm_source(tmp_path / "deit.pth", without)
    model = source.build().double()
    report = init_from_image_vit(model, source.path)
    assert [line for line in report if "distillation token is left out" in line]
    assert_sees_middle_frames(model, source)


@pytest.mark.parametrize("variant", ["joint", "fe", "fsa", "fdp"])
@pytest.mark.parametrize("image_size", [(40, 48), (16, 48), (32, 8)])
def test_positions_of_another_grid_are_scipys(image_size: tuple[int, int], variant: str, tmp_path: Path) -> None:
    source = hf(tmp_path)
    model = source.build(**VARIANTS[variant], image_size=image_size)
    report = init_from_image_vit(model, source.path)
    rows = source.weights["pos_embed"][0]
    height, width = image_size[0] // 8, image_size[1] // 8
    grid = rows[1:].view(2, 3, WIDTH).double().numpy()
    expected = torch.from_numpy(scipy.ndimage.zoom(grid, (height / 2, width / 3, 1), order=1))
    state, fe = model.state_dict(), variant == "fe"
    prefix = "encoder.spatial." if fe else "encoder."
    embedding = state[f"{prefix}positions.embedding"]
    for places in [embedding] if fe else list(embedding):
        assert_near(places.double(), expected, 1e-6)
    if model.config.pooling == "token":
        assert torch.equal(state[f"{prefix}positions.class_position"], rows[0])
    assert f"positions resized from 2 × 3 to {height} × {width}" in report


def test_positions_of_the_same_grid_are_not_said_to_be_resized(tmp_path: Path) -> None:
    source = hf(tmp_path)
    assert not [line for line in init_from_image_vit(source.build(), source.path) if "resized" in line]


@pytest.mark.parametrize("width", [WIDTH, 20])
def test_the_pooler_is_the_representation_of_a_model_that_has_one(width: int, tmp_path: Path) -> None:
    image = ViTModel(ViTConfig(**hf_config(pooler_output_size=width))).eval()
    random_weights(image, std=0.2, seed=1)
    image.save_pretrained(tmp_path)
    model = build(num_frames=2, temporal_layers=0, representation_size=width, norm_eps=OTHER_EPS).double()
    init_from_image_vit(model, tmp_path)
    video = random_video(model)
    with torch.no_grad():  # the second frame of the only tubelet
        assert_near(model.features(video), image.double()(video[:, 1]).pooler_output)


@pytest.mark.parametrize("size", [None, 20])
def test_pre_logits_are_the_representation_of_a_model_that_has_one(size: int | None, tmp_path: Path) -> None:
    weights = timm_weights(10, {"pre_logits.fc.weight": (20, WIDTH), "pre_logits.fc.bias": (20,)})
    save_file(weights, tmp_path / "vit.safetensors")
    with np.load(REFERENCE / "vit.npz") as file:
        google = dict(file)
    google["pre_logits/kernel"] = weights["pre_logits.fc.weight"].T.numpy()
    google["pre_logits/bias"] = weights["pre_logits.fc.bias"].numpy()
    np.savez(tmp_path / "vit.npz", **google)
    for model, path in (
        (build(image_size=24, representation_size=size), tmp_path / "vit.safetensors"),
        (build(image_size=32, num_layers=3, representation_size=size), tmp_path / "vit.npz"),
    ):
        init_from_image_vit(model, path)
        if size is None:
            assert model.representation is None
        else:
            assert model.representation is not None
            assert torch.equal(model.representation.weight, weights["pre_logits.fc.weight"])
            assert torch.equal(model.representation.bias, weights["pre_logits.fc.bias"])


def test_a_representation_that_the_image_model_does_not_have_stays(tmp_path: Path) -> None:
    source = hf(tmp_path, kind=ViTForImageClassification)
    model = source.build(representation_size=20)
    before = {name: value.clone() for name, value in model.state_dict().items() if name.startswith("representation")}
    init_from_image_vit(model, source.path)
    assert len(before) == 2
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def assert_refused(model: ViViT, path: Path, message: str, named: Path | None = None) -> None:
    """Check for one line that names the file (or `named`), and that the model did not change."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config, origin = model.config, model.origin
    refused(lambda: init_from_image_vit(model, path), f"{re.escape(str(named or path))}.*{message}")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.config, model.origin) == (config, origin)
    for module in model.modules():
        assert not isinstance(module, nn.LayerNorm) or module.eps == config.norm_eps


@pytest.mark.parametrize("kind", ["transformers", "timm, separate", "timm's names, a pickle"])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 64}, r"32\b.*64"),
        ({"num_layers": 3}, "2 layers.* 3"),
        ({"num_layers": 1}, "2 layers.* 1"),
        ({"mlp_dim": 128}, r"64\b.*128"),
        ({"tubelet_size": (2, 4, 4)}, r"8, 8\b.*4, 4"),
        ({"tubelet_size": (2, 8, 4)}, r"8, 8\b.*8, 4"),
    ],
)
def test_other_sizes_than_the_models_are_refused(
    fields: dict[str, Any], message: str, kind: str, tmp_path: Path
) -> None:
    source = SOURCES[kind](tmp_path)
    assert_refused(source.build(**fields), source.path, message)


def test_other_heads_are_refused_where_the_source_tells_them(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    source = hf(tmp_path / "hf")
    assert_refused(source.build(num_heads=8), source.path, "4 heads.* 8")
    (tmp_path / "timm").mkdir()
    weights = timm_weights(10, width=48)
    save_file(weights, tmp_path / "timm" / "model.safetensors")
    (tmp_path / "timm" / "config.json").write_text(json.dumps({"architecture": "deit_tiny_patch16_224"}))
    source = timm_source(tmp_path / "timm", weights, heads=3)
    assert_refused(source.build(hidden_size=48, num_heads=4), source.path, "3 heads.* 4")
    model = source.build(hidden_size=48, num_heads=3).double()
    init_from_image_vit(model, source.path)
    assert_sees_middle_frames(model, source)


def without(*names: str) -> Callable[[dict[str, Tensor]], None]:
    def edit(weights: dict[str, Tensor]) -> None:
        for name in names:
            del weights[name]

    return edit


def having(name: str, *shape: int) -> Callable[[dict[str, Tensor]], None]:
    def edit(weights: dict[str, Tensor]) -> None:
        weights[name] = torch.ones(shape)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (having("blocks.0.ls1.gamma", WIDTH), r"missing: blocks\.0\.ls2\.gamma"),
        (having("blocks.1.ls1.gamma", WIDTH), r"not expected: blocks\.1\.ls1\.gamma"),
        (having("blocks.1.attn.q_norm.weight", WIDTH // HEADS), r"not expected: blocks\.1\.attn\.q_norm\.weight"),
        (having("reg_token", 1, 4, WIDTH), "has register tokens"),
        (having("register_tokens", 1, 4, WIDTH), "has register tokens"),
        (having("blocks.0.mlp.fc1.weight", 2 * MLP, WIDTH), "has SwiGLU MLPs"),
        (having("blocks.0.mlp.w12.weight", 2 * MLP, WIDTH), "has SwiGLU MLPs"),
        (having("norm_pre.weight", WIDTH), "not expected: norm_pre.weight"),
        (without("blocks.1.norm2.bias"), r"missing: blocks\.1\.norm2\.bias"),
        (without("blocks.0.attn.qkv.weight"), r"missing: blocks\.0\.attn\.[kqv]"),
        (without("blocks.1.attn.qkv.bias"), r"missing: blocks\.1\.attn\.qkv\.bias"),
        (without("blocks.0.attn.qkv.bias"), r"not expected: blocks\.1\.attn\.qkv\.bias"),
        (without("blocks.0.mlp.fc1.weight"), r"blocks\.0\.mlp\.fc1\.weight missing"),
        (without("pos_embed"), "pos_embed missing"),
        (without("patch_embed.proj.bias"), r"missing: patch_embed\.proj\.bias"),
        (without("norm.weight", "norm.bias"), r"missing: norm\.bias, norm\.weight"),
        (having("blocks.1.mlp.fc2.weight", MLP, WIDTH), r"blocks\.1\.mlp\.fc2\.weight.*64, 32.*32, 64"),
        (having("blocks.1.attn.qkv.weight", 3 * WIDTH, 16), r"blocks\.1\.attn\.qkv\.weight.*96, 16.*96, 32"),
        (having("blocks.0.norm1.weight", 1, WIDTH), r"blocks\.0\.norm1\.weight.*1, 32"),
        (having("blocks.0.mlp.fc1.weight", 63, WIDTH), r"blocks\.\d\.mlp\.fc"),
        (having("cls_token", 1, 2, WIDTH), r"cls_token.*1, 2, 32"),
        (having("pos_embed", 1, 12, WIDTH), "positions do not form a square"),
        (having("pos_embed", 1, 0, WIDTH), "positions do not form a square"),
        (having("pos_embed", 10, WIDTH), "other shapes"),
        (having("pos_embed", 1, 10, 16), r"pos_embed.*1, 10, 16"),
        (having("patch_embed.proj.weight", WIDTH, 1, 8, 8), r"patch_embed\.proj\.weight.*32, 1, 8, 8"),
        (having("patch_embed.proj.weight", WIDTH, 3, 0, 8), r"tubelet_size"),
        (having("patch_embed.proj.weight", WIDTH, 3, 2, 8, 8), "video model"),
        (having("blocks.7.norm1.weight", WIDTH), r"missing: blocks\.2\."),
    ],
)
def test_weights_that_are_not_a_whole_image_vit_are_refused(
    edit: Callable[[dict[str, Tensor]], None], message: str, tmp_path: Path
) -> None:
    weights = timm_weights(10)
    edit(weights)
    path = tmp_path / "vit.safetensors"
    save_file(weights, path)
    assert_refused(build(image_size=24), path, message)


@pytest.mark.parametrize("original", [True, False])
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (having("layer_scale1.lambda1", WIDTH), r"not expected: layer_scale1\.lambda1"),
        (having("embeddings.register_tokens", 1, 4, WIDTH), "has register tokens"),
        (without("layernorm.weight"), "missing: layernorm.weight"),
        (without("embeddings.position_embeddings"), "embeddings.position_embeddings missing"),
        (without("embeddings.cls_token"), r"missing.*embeddings\.cls_token|embeddings\.cls_token.*missing"),
        (having("embeddings.position_embeddings", 1, 9, WIDTH), r"position_embeddings.*1, 9, 32.*1, 7, 32"),
        (having("embeddings.cls_token", WIDTH), r"cls_token.*\(32,\).*1, 1, 32"),
    ],
)
def test_folders_of_transformers_that_are_not_a_whole_image_vit_are_refused(
    edit: Callable[[dict[str, Tensor]], None], message: str, original: bool, tmp_path: Path
) -> None:
    hf(tmp_path, saving={"save_original_format": original})
    weights = load_file(tmp_path / "model.safetensors")
    edit(weights)
    save_file(weights, tmp_path / "model.safetensors")
    assert_refused(build(), tmp_path, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not supported"),
        ({"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu' is not supported"),
        ({"hidden_act": ["gelu"]}, "hidden_act.*not supported"),
        ({"num_attention_heads": 5}, "5 heads do not divide hidden_size 32"),
        ({"num_attention_heads": 0}, "num_heads"),
        ({"num_hidden_layers": 10**9}, "num_layers"),
        ({"num_hidden_layers": 10**30}, "num_layers"),
        ({"num_hidden_layers": 1000}, "too few for 1000 layers"),
        ({"num_hidden_layers": 0}, "num_layers"),
        ({"num_hidden_layers": -1}, "num_layers"),
        ({"num_hidden_layers": "many"}, "num_layers"),
        ({"num_hidden_layers": 3}, r"missing: .*2\."),
        ({"num_hidden_layers": 1}, r"not expected: .*1\."),
        ({"hidden_size": 64}, "32.*64"),
        ({"hidden_size": 10**18}, "hidden_size"),
        ({"intermediate_size": 1 << 24}, "64.*16777216"),
        ({"layer_norm_eps": "small"}, "norm_eps"),
        ({"layer_norm_eps": -1}, "norm_eps"),
        ({"qkv_bias": False}, "not expected: .*bias"),
        ({"image_size": 16}, r"position_embeddings.*1, 7, 32.*1, 5, 32"),
        ({"image_size": [16, 24, 8]}, ""),
        ({"image_size": 4}, ""),
        ({"image_size": None}, "6 positions do not form a square"),
    ],
)
def test_a_config_that_is_not_of_the_weights_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    hf(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert_refused(build(), tmp_path, message)


PROCESSORS: dict[str, dict[str, Any]] = {
    "no deviation": {"mean": IMAGENET_MEAN, "std": [0.0, 0.0, 0.0]},
    "two channels": {"mean": IMAGENET_MEAN[:2], "std": IMAGENET_STD[:2]},
    "words": {"mean": ["a", "b", "c"], "std": IMAGENET_STD},
}


@pytest.mark.parametrize("case", PROCESSORS)
@pytest.mark.parametrize("kind", ["transformers", "timm"])
def test_a_normalisation_that_cannot_be_is_refused(kind: str, case: str, tmp_path: Path) -> None:
    pixels = PROCESSORS[case]
    if kind == "timm":
        source = timm_folder(tmp_path, {"pretrained_cfg": pixels})
    else:
        source = hf(tmp_path)
        processor = {"image_mean": pixels["mean"], "image_std": pixels["std"]}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert_refused(source.build(), source.path, "how it scales and normalises pixels is not understood")


def test_a_damaged_processor_is_refused(tmp_path: Path) -> None:
    source = hf(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text("{")
    assert_refused(source.build(), source.path, "not JSON", path)


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    source = hf(tmp_path)
    (tmp_path / "config.json").unlink()
    assert_refused(source.build(), tmp_path, "No such file", tmp_path / "config.json")
    (tmp_path / "config.json").write_text("[]")
    assert_refused(source.build(), tmp_path, "not a JSON object", tmp_path / "config.json")
    for file in tmp_path.iterdir():
        file.unlink()
    assert_refused(source.build(), tmp_path, "not a complete model folder")


def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    source = hf(tmp_path, saving={"max_shard_size": "20KB"})
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first = next(iter(index["weight_map"]))
    index["weight_map"][first] = "../vit.safetensors"
    path.write_text(json.dumps(index))
    assert_refused(source.build(), tmp_path, "not the name of a file in its folder", path)


def test_video_models_are_refused(tmp_path: Path) -> None:
    video = build(variant="spatiotemporal")
    vivit.save(video, tmp_path / "ours")
    vivit.to_huggingface(video, tmp_path / "theirs")
    assert_refused(build(), tmp_path / "ours", "not an image ViT")
    assert_refused(build(), tmp_path / "ours" / "model.safetensors", "not an image ViT")
    assert_refused(build(), tmp_path / "theirs", "video model, not an image ViT")


class NotWeights:
    """An object that only executing a pickle would give."""


def test_a_pickle_of_more_than_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vit.pth"
    torch.save({"model": timm_weights(10), "args": NotWeights()}, path)
    assert_refused(build(image_size=24), path, "holds more than weights")


def test_a_pickle_of_an_old_pytorch_is_refused_as_such(tmp_path: Path) -> None:
    path = tmp_path / "vit.pth"
    torch.save({"model": timm_weights(10)}, path, _use_new_zipfile_serialization=False)
    assert_refused(build(image_size=24), path, "old PyTorch file")


@pytest.mark.parametrize("name", SOURCES)
def test_a_new_model_has_the_fields_of_the_image_model(name: str, tmp_path: Path) -> None:
    source = SOURCES[name](tmp_path)
    # timm's weights do not tell the number of heads.
    fields: dict[str, Any] = {"num_heads": HEADS} if name.startswith("timm") else {}
    model = from_image_vit(source.path, variant="factorised_encoder", num_frames=8, **fields)
    assert model.config == ModelConfig(
        variant="factorised_encoder",
        num_frames=8,
        image_size=source.image_size,
        tubelet_size=(2, *source.patch),
        hidden_size=WIDTH,
        num_layers=LAYERS,
        num_heads=HEADS,
        mlp_dim=MLP,
        activation=source.activation,
        norm_eps=source.norm_eps,
    )
    assert not model.training
    assert not [line for line in model.origin if "GELU" in line or "resized" in line]
    assert_sees_middle_frames(model, source)


def test_heads_as_wide_as_published_models_have_them_where_nothing_tells(tmp_path: Path) -> None:
    weights = timm_weights(10, width=128)
    save_file(weights, tmp_path / "vit.safetensors")
    model = from_image_vit(tmp_path / "vit.safetensors", variant="factorised_encoder", num_frames=8)
    assert model.config.num_heads == 2
    assert_sees_middle_frames(model, timm_source(tmp_path / "vit.safetensors", weights, heads=2))


def test_heads_of_a_size_that_timms_config_names(tmp_path: Path) -> None:
    weights = timm_weights(10, width=48)
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_small_patch16_224"}))
    model = from_image_vit(tmp_path, variant="factorised_encoder", num_frames=8)
    assert model.config.num_heads == 6
    assert_sees_middle_frames(model, timm_source(tmp_path, weights, heads=6))


def test_a_new_model_of_other_fields_and_named_classes(tmp_path: Path) -> None:
    source = hf(tmp_path / "image")
    model = from_image_vit(
        source.path,
        "filter_inflation",
        variant="factorised_self_attention",
        num_frames=12,
        tubelet_size=(3, 8, 8),
        image_size=(24, 32),
        classes=["wave", "jump", "fall"],
    )
    config = model.config
    assert (config.variant, config.num_frames, config.grid) == ("factorised_self_attention", 12, (4, 3, 4))
    assert config.num_classes == 3
    assert model.classes == {"classes": ("wave", "jump", "fall")}
    assert "positions resized from 2 × 3 to 3 × 4" in model.origin
    kernel = source.weights["patch_embed.proj.weight"] / 3
    for frame in model.embedding.weight.detach().unbind(2):
        torch.testing.assert_close(frame, kernel, rtol=1e-6, atol=0)

    vivit.save(model, tmp_path / "video")
    loaded = vivit.load(tmp_path / "video")
    assert (loaded.config, loaded.classes) == (model.config, model.classes)
    video = random_video(model).float()
    with torch.no_grad():
        assert_near(loaded.features(video), model.features(video), 1e-6)
        # Before training, all logits are zero.
        assert torch.count_nonzero(loaded(video)) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 64}, r"32\b.*64"),
        ({"num_layers": 3}, "2 layers.* 3"),
        ({"num_heads": 8}, "4 heads.* 8"),
        ({"num_heads": 5}, "5 heads do not divide"),
        ({"mlp_dim": 128}, r"64\b.*128"),
        ({"tubelet_size": (2, 4, 4)}, r"8, 8\b.*4, 4"),
        ({"num_frames": 7}, "num_frames: 7 is not a multiple"),
        ({"image_size": 20}, "image_size"),
        ({"variant": "factorised_encoder", "depth": 3}, "depth"),
        ({"classes": ["wave", "jump"], "num_classes": 3}, "classes"),
        ({"classes": ["wave", "jump"], "heads": {"verb": 2}}, "classes"),
        ({"variant": "cnn"}, "variant"),
    ],
)
def test_fields_that_contradict_the_image_model_or_each_other_are_refused(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = hf(tmp_path)
    refused(
        lambda: from_image_vit(source.path, **{"num_frames": 8, **fields}), f"{re.escape(str(tmp_path))}.*{message}"
    )
