"""Every kind of weights is recognised, converted and described."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification, VivitConfig, VivitForVideoClassification
from transformers.utils import logging

from tests.support import refused
from vivit.config import ModelConfig, Preprocessing
from vivit.errors import UserError
from vivit.model.vivit import ViViT
from vivit.weights.adapt import TubeletInit
from vivit.weights.convert import convert, open_any
from vivit.weights.describe import describe, multiply_adds
from vivit.weights.source import Source
from vivit.weights.store import load, save

REFERENCE = Path(__file__).resolve().parents[1] / "parity" / "reference"
SCENIC, IMAGE_VIT = REFERENCE / "scenic", REFERENCE / "image_init" / "vit32"
CASES = sorted(folder.name for folder in SCENIC.iterdir())
VARIANTS = {
    "joint": "spatiotemporal",
    "fe": "factorised_encoder",
    "fe_avg": "factorised_encoder",
    "fsa": "factorised_self_attention",
    "fdp": "factorised_dot_product",
}
SIZES: dict[str, Any] = {
    "num_frames": 8,
    "image_size": (32, 48),
    "tubelet_size": (2, 8, 8),
    "hidden_size": 32,
    "num_layers": 3,
    "num_heads": 4,
    "mlp_dim": 48,
}
OF_TRANSFORMERS: dict[str, Any] = {
    "image_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


def open_model(source: Path, tubelet_init: TubeletInit | None = None, **fields: Any) -> ViViT:
    return open_any(source, tubelet_init, **fields).model


def is_image_vit(source: Path, fields: dict[str, Any]) -> bool:
    return Source.find(source, "sampled_frames" in fields).kind == "image ViT"


@pytest.fixture(autouse=True, scope="module")
def _quiet_transformers() -> Iterator[None]:
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


def noisy(model: Any) -> Any:
    """A model with noise in every weight, so that a missing one shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def build(**fields: Any) -> ViViT:
    counts = {} if "heads" in fields else {"num_classes": 7}
    model: ViViT = noisy(ViViT(ModelConfig(**{**SIZES, **counts, **fields})))
    return model


def result(model: ViViT, video: Tensor) -> Tensor:
    with torch.no_grad():
        logits = model(video)
    return torch.cat(list(logits.values()), dim=1) if isinstance(logits, dict) else logits


def close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


# Kinds of weights.


def test_ours(tmp_path: Path) -> None:
    model = build()
    save(model, tmp_path)
    (tmp_path / "checkpoints").mkdir()  # as in a run
    assert not is_image_vit(tmp_path, {})
    video = torch.rand(1, 8, 3, 32, 48)
    close(result(open_model(tmp_path), video), result(model, video))


def test_video_model_of_transformers(tmp_path: Path) -> None:
    theirs = noisy(VivitForVideoClassification(VivitConfig(**OF_TRANSFORMERS, num_frames=4, tubelet_size=[2, 8, 8])))
    theirs.save_pretrained(tmp_path)
    assert not is_image_vit(tmp_path, {})
    video = torch.rand(1, 4, 3, 32, 32)
    with torch.no_grad():
        close(result(open_model(tmp_path), video), theirs(video).logits)
    # The weights alone do not determine the model, and are no image model's.
    assert not is_image_vit(tmp_path / "model.safetensors", {})
    refused(lambda: open_model(tmp_path / "model.safetensors"), "model.safetensors", "give the folder")


@pytest.mark.parametrize("case", CASES)
def test_video_models_of_scenic(case: str) -> None:
    official = json.loads((SCENIC / case / "config.json").read_text())
    fields: dict[str, Any] = {"variant": VARIANTS[official["variant"]], "image_size": tuple(official["image_size"])}
    if official["variant"] == "fsa":
        fields["attention_order"] = official["attention_order"]
    if official["variant"] == "fe_avg" or official["embedding"] == "uniform":
        fields["num_frames"] = official["num_frames"]
    if official["embedding"] == "uniform":
        fields["sampled_frames"] = official["n_sampled_frames"]
    path = SCENIC / case / "checkpoint"
    assert not is_image_vit(path, fields)
    with np.load(SCENIC / case / "io.npz") as io:
        video, expected = torch.from_numpy(io["video"]).permute(0, 1, 4, 2, 3), torch.from_numpy(io["logits"])
    close(result(open_model(path, **fields), video), expected)


@pytest.mark.parametrize("case", ["joint_uniform", "fe_uniform", "fsa_uniform"])
def test_a_video_model_of_uniform_frames_is_not_quietly_taken_for_an_image_model(case: str) -> None:
    # Unless sampled_frames is given, the weights look like those of an image model.
    try:
        model = open_model(SCENIC / case / "checkpoint")
    except UserError as error:
        # The note says which keyword to give.
        assert re.search(r"sampled.frames|image.size|attention.order", str(error)), str(error)
        return
    assert any(re.search(r"sampled.frames", line) for line in model.origin), model.origin


def image_positions(model: ViViT) -> Tensor:
    """Positions (n_h, n_w, D) of the image model, after checking that all temporal indices have them."""
    positions = model.state_dict()["encoder.positions.embedding"]
    assert torch.equal(positions, positions[:1].expand_as(positions))
    return positions[0]


@pytest.mark.parametrize("name", ["vit.npz", "checkpoint"])
def test_image_models_of_google_and_scenic(name: str) -> None:
    assert is_image_vit(IMAGE_VIT / name, {})
    model = open_model(IMAGE_VIT / name, num_frames=8)
    with np.load(IMAGE_VIT / "joint_central" / "io.npz") as io:
        video, expected = torch.from_numpy(io["video"]).permute(0, 1, 4, 2, 3), torch.from_numpy(io["features"])
    with torch.no_grad():
        close(model.features(video), expected)
    inflated = open_model(IMAGE_VIT / name, "filter_inflation", num_frames=8)
    kernel = inflated.state_dict()["embedding.weight"]
    assert torch.equal(kernel[:, :, 0], kernel[:, :, 1])


def test_image_model_of_google_for_uniform_frames() -> None:
    fields: dict[str, Any] = {"sampled_frames": 4, "num_frames": 12}
    assert is_image_vit(IMAGE_VIT / "vit.npz", fields)
    model = open_model(IMAGE_VIT / "vit.npz", **fields)
    with np.load(IMAGE_VIT / "joint_uniform" / "io.npz") as io:
        video, expected = torch.from_numpy(io["video"]).permute(0, 1, 4, 2, 3), torch.from_numpy(io["features"])
    with torch.no_grad():
        close(model.features(video), expected)


def test_image_model_of_transformers(tmp_path: Path) -> None:
    theirs = noisy(ViTForImageClassification(ViTConfig(**OF_TRANSFORMERS, patch_size=8)))
    theirs.save_pretrained(tmp_path)
    expected = (
        dict(theirs.named_parameters())["vit.embeddings.position_embeddings"].detach()[0, 1:].unflatten(0, (4, 4))
    )
    for source in (tmp_path, tmp_path / "model.safetensors"):
        assert is_image_vit(source, {})
        torch.testing.assert_close(image_positions(open_model(source)), expected, rtol=0, atol=0)
    uniform = open_model(tmp_path, num_frames=8, sampled_frames=4)
    assert (uniform.config.embedding, uniform.config.grid) == ("uniform_frames", (4, 4, 4))


def timm_weights(width: int = 96, depth: int = 2, patch: int = 8, grid: int = 4) -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + grid * grid, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (10, width),
        "head.bias": (10,),
    }
    parts = {
        "norm1": (width,),
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "norm2": (width,),
        "mlp.fc1": (2 * width, width),
        "mlp.fc2": (width, 2 * width),
    }
    for layer in range(depth):
        for part, shape in parts.items():
            shapes[f"blocks.{layer}.{part}.weight"] = shape
            shapes[f"blocks.{layer}.{part}.bias"] = shape[:1]
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_image_model_of_timm(tmp_path: Path) -> None:
    weights = timm_weights()
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224"}))
    for source in (tmp_path, tmp_path / "model.safetensors"):
        assert is_image_vit(source, {})
        model = open_model(source)
        # Models named tiny have three heads, whatever their width.
        assert model.config.num_heads == 3
        expected = weights["pos_embed"][0, 1:].unflatten(0, (4, 4))
        torch.testing.assert_close(image_positions(model), expected, rtol=0, atol=0)
    (tmp_path / "config.json").unlink()
    (tmp_path / "model.safetensors").rename(tmp_path / "deit.safetensors")
    assert is_image_vit(tmp_path / "deit.safetensors", {})
    assert open_model(tmp_path / "deit.safetensors").config.hidden_size == 96


def test_other_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    save_file({"bert.embeddings.word_embeddings.weight": torch.zeros(2, 2)}, tmp_path / "bert" / "model.safetensors")
    refused(lambda: open_model(tmp_path / "bert"), "bert: a bert model", "image ViTs")
    (tmp_path / "empty").mkdir()
    refused(lambda: open_model(tmp_path / "empty"), "empty", "config.json")
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))
    refused(lambda: open_model(tmp_path / "clip.mp4"), "clip.mp4", "weights")


def test_a_video_models_kernel_is_not_drawn_anew(tmp_path: Path) -> None:
    save(build(), tmp_path)
    refused(lambda: open_model(tmp_path, "random"), "tubelet.init")
    assert not torch.equal(
        open_model(IMAGE_VIT / "vit.npz", "random").state_dict()["embedding.weight"],
        open_model(IMAGE_VIT / "vit.npz", "random").state_dict()["embedding.weight"],
    )


def test_convert_returns_what_it_writes(tmp_path: Path) -> None:
    save(build(), tmp_path / "old")
    model, notes = convert(tmp_path / "old", tmp_path / "new", num_frames=4, classes=["a", "b"])
    written = load(tmp_path / "new")
    video = torch.rand(1, 4, 3, 32, 48)
    close(result(written, video), result(model, video))
    assert (written.config, written.classes, written.origin) == (model.config, model.classes, model.origin)
    assert notes == written.origin
    assert len(notes) == 2


# Descriptions.

KINDS: list[dict[str, Any]] = [
    {},
    {"pooling": "mean"},
    {"representation_size": 24},
    {"heads": {"verb": 3, "noun": 4}},
    {"embedding": "uniform_frames", "sampled_frames": 5},
    {"variant": "factorised_encoder", "temporal_layers": 2},
    {"variant": "factorised_encoder", "temporal_layers": 0},
    {"variant": "factorised_self_attention"},
    {"variant": "factorised_dot_product"},
]


def cost_by_hand(config: ModelConfig) -> int:
    """Multiply-adds of one clip from its sizes: rows × columns × inner length of every matrix product."""
    times, rows, columns = config.grid
    places, width = rows * columns, config.hidden_size
    token = int(config.pooling == "token")

    def layers(count: int | None, tokens: int, attention: int) -> int:
        dense = 4 * width * width + 2 * width * config.mlp_dim
        return (count or 0) * (tokens * dense + 2 * width * attention)

    total = times * places * 3 * math.prod(config.tubelet_size) * width
    if config.variant == "spatiotemporal":
        tokens = times * places + token
        total += layers(config.num_layers, tokens, tokens**2)
    elif config.variant == "factorised_encoder":
        total += times * layers(config.num_layers, places + token, (places + token) ** 2)
        total += layers(config.temporal_layers, times + token, (times + token) ** 2)
    else:
        both = times * places**2 + places * times**2
        if config.variant == "factorised_dot_product":
            total += layers(config.num_layers, times * places, both // 2)  # each in half the heads
        else:
            total += layers(config.num_layers, times * places, both)
            total += config.num_layers * times * places * 4 * width**2  # a second attention's projections
    representation = config.representation_size
    outputs = sum(config.class_counts.values())
    return total + (width * outputs if representation is None else representation * (width + outputs))


@pytest.mark.parametrize("fields", KINDS)
def test_cost_is_that_of_the_matrix_products(fields: dict[str, Any]) -> None:
    config = build(**fields).config
    assert multiply_adds(config) == cost_by_hand(config)


@pytest.mark.parametrize("fields", KINDS)
def test_description_agrees_with_the_file(tmp_path: Path, fields: dict[str, Any]) -> None:
    model = build(**fields)
    save(model, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        count = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    about = dict(describe(load(tmp_path)))
    assert about["parameters"] == f"{count:,}"
    config = model.config
    assert about["variant"].replace(" ", "_") == config.variant
    assert about["clip"] == "8 frames of 32 × 48"
    assert about["tokens"].startswith(" × ".join(map(str, config.grid)))
    amount, unit = re.findall(r"^([\d.]+) ([kMG])\b", about["multiply-adds"])[0]
    scale = {"k": 1e3, "M": 1e6, "G": 1e9}[unit]
    assert float(amount) * scale == pytest.approx(cost_by_hand(config), rel=1e-2)


def test_description_tells_names_numbers_and_steps() -> None:
    names = [f"class {i}" for i in range(7)]
    model = ViViT(
        ModelConfig(**SIZES, num_classes=7),
        classes={"classes": names},
        preprocessing=Preprocessing(frame_stride=3, resize=56, short_clips="pad"),
        origin=("one step", "another step"),
    )
    assert [value for name, value in describe(model) if name == "origin"] == ["one step", "another step"]
    about = dict(describe(model))
    assert about["classes"].startswith("7: class 0, class 1")
    for part in ("third", "56", "repeat their last frame"):
        assert part in about["preprocessing"]

    about = dict(describe(build(heads={"verb": 3, "noun": 4})))
    assert (about["head verb"], about["head noun"]) == ("3: without names", "4: without names")
    assert about["origin"] == "trained from scratch"


@pytest.mark.parametrize(
    ("stride", "words"),
    [(1, "every frame"), (2, "every second frame"), (4, "one frame of 4"), (21, "one frame of 21")],
)
def test_description_tells_the_stride(stride: int, words: str) -> None:
    model = ViViT(ModelConfig(**SIZES), preprocessing=Preprocessing(frame_stride=stride, resize=56))
    assert words in dict(describe(model))["preprocessing"]
