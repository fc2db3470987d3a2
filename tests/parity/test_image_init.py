"""Initialisation from an image ViT matches the official code and section 3.4 of the paper."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support import refused, tiny_model
from vivit.config import uniform_frame_indices
from vivit.errors import UserError
from vivit.model.vivit import ViViT
from vivit.weights.image_vit import TubeletInit, init_from_image_vit

REFERENCE = Path(__file__).parent / "reference"
IMAGE_VIT = REFERENCE / "image_init" / "vit32"
CASES = sorted(folder.name for folder in IMAGE_VIT.iterdir() if folder.is_dir())
SOURCES = ["checkpoint", "vit.npz"]
VARIANTS = {
    "joint": "spatiotemporal",
    "fe": "factorised_encoder",
    "fsa": "factorised_self_attention",
    "fdp": "factorised_dot_product",
}
INITS: dict[str, TubeletInit] = {
    "central_frame_initializer": "central_frame",
    "average_frame_initializer": "filter_inflation",
}
SIZES: dict[str, Any] = {
    "num_frames": 8,
    "image_size": 32,
    "tubelet_size": (2, 8, 8),
    "hidden_size": 32,
    "num_layers": 3,
    "num_heads": 4,
    "mlp_dim": 64,
    "num_classes": 5,
}


def build(**fields: Any) -> ViViT:
    return tiny_model(**{**SIZES, **fields}, std=0.2)


def image_vit(image: Tensor) -> tuple[Tensor, Tensor]:
    """A plain image ViT with the weights of vit.npz: (B, H, W, C) → the class token's representation, and logits."""
    with np.load(IMAGE_VIT / "vit.npz") as file:
        w = {name: torch.from_numpy(array) for name, array in file.items()}
    batch, height, width, channels = image.shape
    patch = w["embedding/kernel"].shape[0]
    patches = image.reshape(batch, height // patch, patch, width // patch, patch, channels)
    x = torch.einsum("brpcqe,pqed->brcd", patches, w["embedding/kernel"]) + w["embedding/bias"]
    x = torch.cat([w["cls"].expand(batch, -1, -1), x.flatten(1, 2)], dim=1)
    x = x + w["Transformer/posembed_input/pos_embedding"]

    def norm(x: Tensor, name: str) -> Tensor:
        deviation = (x.var(dim=-1, keepdim=True, correction=0) + 1e-6).sqrt()
        return (x - x.mean(dim=-1, keepdim=True)) / deviation * w[f"{name}/scale"] + w[f"{name}/bias"]

    for layer in range(3):
        block = f"Transformer/encoderblock_{layer}"
        attention, mlp = f"{block}/MultiHeadDotProductAttention_1", f"{block}/MlpBlock_3"
        y = norm(x, f"{block}/LayerNorm_0")
        q, k, v = (
            torch.einsum("bni,ihd->bnhd", y, w[f"{attention}/{part}/kernel"]) + w[f"{attention}/{part}/bias"]
            for part in ("query", "key", "value")
        )
        shares = (torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5).softmax(dim=-1)
        mixed = torch.einsum("bhqk,bkhd->bqhd", shares, v)
        x = x + torch.einsum("bqhd,hdo->bqo", mixed, w[f"{attention}/out/kernel"]) + w[f"{attention}/out/bias"]
        y = norm(x, f"{block}/LayerNorm_2")
        y = F.gelu(y @ w[f"{mlp}/Dense_0/kernel"] + w[f"{mlp}/Dense_0/bias"], approximate="tanh")
        x = x + y @ w[f"{mlp}/Dense_1/kernel"] + w[f"{mlp}/Dense_1/bias"]
    representation = norm(x, "Transformer/encoder_norm")[:, 0]
    return representation, representation @ w["head/kernel"] + w["head/bias"]


def test_the_plain_image_vit_gives_the_official_logits() -> None:
    with np.load(IMAGE_VIT / "io.npz") as io:
        image, expected = torch.from_numpy(io["image"]), torch.from_numpy(io["logits"])
    _, logits = image_vit(image)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("case", CASES)
def test_official_kernel_positions_and_features(case: str, source: str) -> None:
    official = json.loads((IMAGE_VIT / case / "config.json").read_text())
    with np.load(IMAGE_VIT / case / "io.npz") as file:
        io = dict(file)
    uniform = official["embedding"] == "uniform"
    model = build(
        variant=VARIANTS[official["variant"]],
        num_frames=official["num_frames"],
        image_size=official["image_size"],
        tubelet_size=(official["tubelet_frames"], 8, 8),
        embedding="uniform_frames" if uniform else "tubelet",
        sampled_frames=official["n_sampled_frames"],
        attention_order=official["attention_order"],
        pooling="mean" if official.get("classifier") == "gap" else None,
    )
    init_from_image_vit(model, IMAGE_VIT / source, INITS[official["tubelet_init"]])

    state = model.state_dict()
    kernel = state["embedding.weight"].permute(2, 3, 4, 1, 0).numpy()  # (D, C, t, h, w) → (t, h, w, C, D)
    np.testing.assert_array_equal(kernel[0] if uniform else kernel, io["embedding_kernel"].astype(np.float32))
    prefix = "encoder.spatial.positions." if official["variant"] == "fe" else "encoder.positions."
    positions = state[f"{prefix}embedding"].flatten(0, -2)
    if f"{prefix}class_position" in state:
        positions = torch.cat([state[f"{prefix}class_position"][None], positions])
    np.testing.assert_allclose(positions.numpy(), io["pos_embedding"][0], rtol=0, atol=2e-7)

    if official["variant"] == "fe":  # its temporal encoder is random, so its features are too
        assert "features" not in io
        return
    with torch.no_grad():
        features = model.features(torch.from_numpy(io["video"]).permute(0, 1, 4, 2, 3)).numpy()
    assert np.abs(features - io["features"]).max() <= 1e-5 * np.abs(io["features"]).max()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("tubelet_init", ["central_frame", "filter_inflation"])
@pytest.mark.parametrize(
    "fields",
    [
        {"tubelet_size": (2, 8, 8)},
        {"tubelet_size": (4, 8, 8)},
        {"tubelet_size": (1, 8, 8), "temporal_layers": 0},
        {"embedding": "uniform_frames", "sampled_frames": 3, "tubelet_size": (1, 8, 8)},
    ],
    ids=["two frames", "four frames", "one frame, baseline", "uniform"],
)
def test_a_still_video_is_seen_as_the_image_is(source: str, tubelet_init: TubeletInit, fields: dict[str, Any]) -> None:
    with np.load(IMAGE_VIT / "io.npz") as io:
        image = torch.from_numpy(io["image"])
    expected, _ = image_vit(image)
    model = build(variant="factorised_encoder", **fields)
    init_from_image_vit(model, IMAGE_VIT / source, tubelet_init)

    video = image.permute(0, 3, 1, 2)[:, None].repeat(1, 8, 1, 1, 1)
    encoded: list[Tensor] = []
    model.get_submodule("encoder.spatial.norm").register_forward_hook(lambda *call: encoded.append(call[-1]))
    with torch.no_grad():
        features = model.features(video)
    times = model.config.grid[0]
    representations = encoded[0][:, 0].unflatten(0, (len(image), times))
    atol = 1e-5 * float(expected.abs().max())
    for time in range(times):
        torch.testing.assert_close(representations[:, time], expected, rtol=0, atol=atol)
    if model.config.temporal_layers == 0:
        torch.testing.assert_close(features, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("attention_order", ["space_time", "time_space"])
def test_attention_over_time_starts_at_nothing_and_learns(source: str, attention_order: str) -> None:
    model = build(variant="factorised_self_attention", attention_order=attention_order)
    init_from_image_vit(model, IMAGE_VIT / source)
    blocks = [f"encoder.blocks.{layer}" for layer in range(3)]
    branches: list[Tensor] = []
    for block in blocks:
        model.get_submodule(f"{block}.attn_time").register_forward_hook(lambda *call: branches.append(call[-1]))
    torch.manual_seed(1)
    video, direction = torch.rand(2, 8, 3, 32, 32) * 2 - 1, torch.randn(2, 32)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    (model.features(video) * direction).sum().backward()
    assert len(branches) == 3
    assert all(torch.count_nonzero(branch) == 0 for branch in branches)
    for block in blocks:
        assert_nonzero_gradient(model.get_parameter(f"{block}.attn_time.proj.weight").grad)
        assert_nonzero_gradient(model.get_parameter(f"{block}.attn_time.proj.bias").grad)
    optimizer.step()
    optimizer.zero_grad()
    (model.features(video) * direction).sum().backward()
    for block in blocks:
        gradient = model.get_parameter(f"{block}.attn_time.qkv.weight").grad
        assert gradient is not None
        for part in gradient.view(4, 3, 8, 32).unbind(1):
            assert_nonzero_gradient(part)


def assert_nonzero_gradient(gradient: Tensor | None) -> None:
    assert gradient is not None
    assert gradient.isfinite().all()
    assert torch.count_nonzero(gradient) > 0.9 * gradient.numel()


@pytest.mark.parametrize("variant", VARIANTS.values())
def test_what_the_image_model_does_not_have_stays(variant: str) -> None:
    model = build(variant=variant, heads={"verb": 3, "noun": 5}, num_classes=None)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    init_from_image_vit(model, IMAGE_VIT / "vit.npz")
    kept = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}

    expected = {name for name in before if name.startswith("heads.")}
    if variant == "factorised_encoder":
        expected |= {name for name in before if name.startswith("encoder.temporal.")}
    if variant == "factorised_self_attention":
        expected |= {name for name in before if ".norm_time." in name or ".attn_time.qkv." in name}
    assert kept == expected


def test_random_tubelets_leave_the_embedding_alone_and_take_the_rest() -> None:
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    init_from_image_vit(model, IMAGE_VIT / "vit.npz", "random")
    kept = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert kept == {"embedding.weight", "embedding.bias", "heads.classes.weight", "heads.classes.bias"}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 64}, r"32.*64"),
        ({"mlp_dim": 128}, r"64.*128"),
        ({"num_layers": 2}, r"3 layers.* 2"),
        ({"num_heads": 8}, r"4 heads.* 8"),
        ({"tubelet_size": (2, 16, 16)}, r"8, 8.*16, 16"),
    ],
)
@pytest.mark.parametrize("variant", VARIANTS.values())
def test_other_sizes_are_refused_and_change_nothing(
    variant: str, fields: dict[str, Any], message: str, source: str
) -> None:
    model = build(variant=variant, **fields)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refused(lambda: init_from_image_vit(model, IMAGE_VIT / source), f"{source}.*{message}")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_unknown_way_to_start_is_refused() -> None:
    with pytest.raises(UserError, match=r"tubelet_init.*'middle'"):
        init_from_image_vit(build(), IMAGE_VIT / "vit.npz", "middle")  # type: ignore[arg-type]


def assert_refused(path: Path, message: str = "") -> None:
    refused(lambda: init_from_image_vit(build(), path), f"{path.name}.*{message}")


def test_a_video_model_is_no_image_model() -> None:
    assert_refused(REFERENCE / "scenic" / "joint" / "checkpoint", "video model")


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".bin"])
def test_files_that_are_no_weights(suffix: str, tmp_path: Path) -> None:
    whole = (IMAGE_VIT / "vit.npz").read_bytes()
    damaged = bytearray(whole)
    for place in range(100, len(whole) - 20_000, 500):
        damaged[place] ^= 0xFF
    contents = {
        "empty": b"",
        "text": b"These are not weights.\n" * 100,
        "random": np.random.default_rng(0).bytes(1000),
        "truncated": whole[: len(whole) // 2],
        "start": whole[:10],
        "damaged": bytes(damaged),
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(content)
        assert_refused(path)
    assert_refused(tmp_path / f"nowhere{suffix}", "no such file")


def test_one_array_or_pickled_objects_are_no_weights(tmp_path: Path) -> None:
    array = tmp_path / "array.npz"
    with array.open("wb") as file:
        np.save(file, np.zeros(3))
    assert_refused(array)
    objects = tmp_path / "objects.npz"
    np.savez(objects, kernel=np.array([object()], dtype=object))
    assert_refused(objects)
    other = tmp_path / "other.npz"
    np.savez(other, a=np.zeros(3))
    assert_refused(other, "not an image ViT")


@pytest.mark.parametrize(
    "lost",
    [
        "Transformer/encoder_norm/scale",
        "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel",
        "Transformer/encoderblock_1/MlpBlock_3/Dense_1/bias",
    ],
)
def test_a_lost_parameter_is_an_error(lost: str, tmp_path: Path) -> None:
    with np.load(IMAGE_VIT / "vit.npz") as file:
        weights = {name: array for name, array in file.items() if name != lost}
    path = tmp_path / "lossy.npz"
    np.savez(path, **weights)
    assert_refused(path, lost.split("/")[-1])


def test_positions_of_no_square_are_refused(tmp_path: Path) -> None:
    with np.load(IMAGE_VIT / "vit.npz") as file:
        weights = dict(file)
    weights["Transformer/posembed_input/pos_embedding"] = np.zeros((1, 16, 32), np.float32)
    path = tmp_path / "oblong.npz"
    np.savez(path, **weights)
    assert_refused(path, "15 positions")


def test_uniform_indices_are_the_official_ones() -> None:
    with np.load(REFERENCE / "uniform_indices.npz") as table:
        rows = list(zip(table["T"], table["n"], table["length"], table["indices"], strict=True))
    assert len(rows) == 64 * 65 // 2
    for num_frames, sampled_frames, length, indices in rows:
        assert uniform_frame_indices(int(num_frames), int(sampled_frames)) == indices[:length].tolist()
