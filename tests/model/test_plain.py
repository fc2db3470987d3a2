"""The network equals a plain formulation of the paper: einsum and Python loops over the axes."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support import random_weights, tiny_config
from vivit.config import ModelConfig
from vivit.model.vivit import ViViT

Weights = dict[str, Tensor]

UNIFORM = {"embedding": "uniform_frames", "num_frames": 10, "sampled_frames": 4}
ATTENTIVE = {"attentive_pooling": True}
UNIFORM_INDICES = [2, 4, 6, 8]  # a step of 10 / (4 + 1)

CASES: dict[str, dict[str, Any]] = {
    "spatiotemporal": {},
    "spatiotemporal, mean": {"pooling": "mean"},
    "spatiotemporal, uniform": UNIFORM,
    "spatiotemporal, representation": {"representation_size": 7},
    "factorised_encoder": {"temporal_layers": 2},
    "factorised_encoder, mean": {"pooling": "mean", "temporal_layers": 1},
    "factorised_encoder, uniform": {**UNIFORM, "representation_size": 7},
    "factorised_encoder, baseline": {"temporal_layers": 0},
    "factorised_encoder, baseline, mean": {"temporal_layers": 0, "pooling": "mean"},
    "factorised_self_attention": {"attention_order": "space_time"},
    "factorised_self_attention, time first": {"attention_order": "time_space"},
    "factorised_self_attention, uniform": {**UNIFORM, "attention_order": "time_space"},
    "factorised_dot_product": {},
    "factorised_dot_product, uniform": UNIFORM,
    "factorised_dot_product, representation": {"representation_size": 7, "tubelet_size": (3, 8, 4)},
    "spatiotemporal, attentive": ATTENTIVE,
    "spatiotemporal, mean, attentive": {**ATTENTIVE, "pooling": "mean", "representation_size": 7},
    "factorised_encoder, attentive": {**ATTENTIVE, "temporal_layers": 2},
    "factorised_encoder, baseline, attentive": {**ATTENTIVE, "temporal_layers": 0},
    "factorised_self_attention, attentive": {**ATTENTIVE, **UNIFORM, "attention_order": "space_time"},
    "factorised_dot_product, attentive": ATTENTIVE,
}


def build(case: str) -> ViViT:
    """A model in float64, so that only a wrong formula makes a difference."""
    return random_weights(ViViT(tiny_config(variant=case.split(",")[0], **CASES[case])).double()).eval()


def random_video(config: ModelConfig) -> Tensor:
    shape = (2, config.num_frames, 3, *config.image_size)
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def part(w: Weights, prefix: str) -> Weights:
    return {name.removeprefix(f"{prefix}."): value for name, value in w.items() if name.startswith(f"{prefix}.")}


def norm(x: Tensor, w: Weights) -> Tensor:
    deviation = (x.var(dim=-1, keepdim=True, correction=0) + 1e-6).sqrt()
    return (x - x.mean(dim=-1, keepdim=True)) / deviation * w["weight"] + w["bias"]


def queries_keys_values(x: Tensor, w: Weights, heads: int) -> tuple[Tensor, ...]:
    """(…, D) → 3 × (…, H, d); the fused rows are ordered (H, 3, d)."""
    width = x.shape[-1]
    kernel = w["qkv.weight"].reshape(heads, 3, width // heads, width)
    bias = w["qkv.bias"].reshape(heads, 3, width // heads)
    return tuple(torch.einsum("...i,hdi->...hd", x, kernel[:, i]) + bias[:, i] for i in range(3))


def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, N, H, d) each → (B, N, H, d)."""
    shares = (torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5).softmax(dim=-1)
    return torch.einsum("bhqk,bkhd->bqhd", shares, v)


def mix_over_space(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, T, S, H, d) each, one temporal index after the other."""
    return torch.stack([mix(q[:, t], k[:, t], v[:, t]) for t in range(q.shape[1])], dim=1)


def mix_over_time(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, T, S, H, d) each, one spatial position after the other."""
    return torch.stack([mix(q[:, :, s], k[:, :, s], v[:, :, s]) for s in range(q.shape[2])], dim=2)


def mix_half_and_half(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, T, S, H, d) each: the first heads over time, the others over space."""
    half = q.shape[3] // 2
    over_time = mix_over_time(q[..., :half, :], k[..., :half, :], v[..., :half, :])
    over_space = mix_over_space(q[..., half:, :], k[..., half:, :], v[..., half:, :])
    return torch.cat([over_time, over_space], dim=3)


def attend(x: Tensor, w: Weights, heads: int, how: Any) -> Tensor:
    mixed = how(*queries_keys_values(x, w, heads))
    return mixed.flatten(-2) @ w["proj.weight"].T + w["proj.bias"]


def mlp(x: Tensor, w: Weights) -> Tensor:
    x = x @ w["fc1.weight"].T + w["fc1.bias"]
    x = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    return x @ w["fc2.weight"].T + w["fc2.bias"]


def encode(x: Tensor, w: Weights, layers: int, heads: int, attentions: dict[str, tuple[str, Any]]) -> Tensor:
    """attentions: name of the LayerNorm → name of the attention, and how it mixes tokens."""
    for layer in range(layers):
        block = part(w, f"blocks.{layer}")
        for norm_name, (name, how) in attentions.items():
            x = x + attend(norm(x, part(block, norm_name)), part(block, name), heads, how)
        x = x + mlp(norm(x, part(block, "norm2" if "norm1" in attentions else "norm_mlp")), part(block, "mlp"))
    return norm(x, part(w, "norm"))


def encode_tokens(x: Tensor, w: Weights, layers: int, heads: int, pool: bool = True) -> Tensor:
    """(B, N, D) → (B, D) or all tokens: add positions and a class token if there is one, encode, pool."""
    p = part(w, "positions")
    x = x + p["embedding"].reshape(-1, x.shape[-1])
    if "class_token" in p:
        token = (p["class_token"] + p["class_position"]).repeat(len(x), 1, 1)
        x = torch.cat([token, x], dim=1)
    x = encode(x, w, layers, heads, {"norm1": ("attn", mix)})
    if not pool:
        return x
    return x[:, 0] if "class_token" in p else x.mean(dim=1)


def attentive_pooling(x: Tensor, w: Weights, heads: int, times: list[int | None]) -> Tensor:
    """(B, N, D) → (B, D), with the keys and values of all tokens; times: the temporal index of each token."""
    width = x.shape[-1]
    time = torch.stack([torch.zeros_like(w["query"]) if t is None else w["positions"][t] for t in times])
    plain_norm = {"weight": torch.ones(width, dtype=x.dtype), "bias": torch.zeros(width, dtype=x.dtype)}
    x = norm(x, plain_norm) + time
    keys, values = (x @ w["kv.weight"].T + w["kv.bias"]).split(width, dim=-1)
    queries = w["query"].repeat(len(x), 1, 1)
    mixed = mix(*(one.unflatten(-1, (heads, width // heads)) for one in (queries, keys, values)))
    x = w["query"] + mixed[:, 0].flatten(1) @ w["proj.weight"].T + w["proj.bias"]
    return x + mlp(norm(x, part(w, "norm2")), part(w, "mlp"))


def plain(w: Weights, config: ModelConfig, video: Tensor) -> Tensor:
    """Logits of (B, frames, C, H, W)."""
    heads, layers = config.num_heads, config.num_layers
    if config.embedding == "uniform_frames":
        video = video[:, UNIFORM_INDICES]
    x = F.conv3d(video.transpose(1, 2), w["embedding.weight"], w["embedding.bias"], stride=config.tubelet_size)
    x = x.permute(0, 2, 3, 4, 1).flatten(2, 3)  # (B, D, T, n_h, n_w) → (B, T, S, D)
    encoder = part(w, "encoder")
    pool, (_, steps, places, _) = not config.attentive_pooling, x.shape
    of_tokens: list[int | None] = [t for t in range(steps) for _ in range(places)]
    if config.variant == "spatiotemporal":
        x = encode_tokens(x.flatten(1, 2), encoder, layers, heads, pool)
        of_tokens = [None, *of_tokens] if config.pooling == "token" else of_tokens
    elif config.variant == "factorised_encoder":
        to_one = bool(pool or config.temporal_layers)
        frames = [encode_tokens(x[:, t], part(encoder, "spatial"), layers, heads, to_one) for t in range(steps)]
        if config.temporal_layers:
            of_tokens = [None, *range(steps)]
            x = torch.stack(frames, dim=1)
            x = encode_tokens(x, part(encoder, "temporal"), config.temporal_layers, heads, pool)
        elif pool:
            x = torch.stack(frames, dim=1).mean(dim=1)
        else:
            of_tokens = [t for t in range(steps) for _ in range(1 + places)]
            x = torch.cat(frames, dim=1)
    else:
        space, time = ("attn_space", mix_over_space), ("attn_time", mix_over_time)
        attentions: dict[str, tuple[str, Any]] = {"norm1": ("attn", mix_half_and_half)}
        if config.attention_order == "space_time":
            attentions = {"norm_space": space, "norm_time": time}
        if config.attention_order == "time_space":
            attentions = {"norm_time": time, "norm_space": space}
        x = x + encoder["positions.embedding"].flatten(1, 2)
        x = encode(x, encoder, layers, heads, attentions)
        x = x.mean(dim=(1, 2)) if pool else x.flatten(1, 2)
    if config.attentive_pooling:
        x = attentive_pooling(x, part(w, "pooler"), heads, of_tokens)
    if "representation.weight" in w:
        x = torch.tanh(x @ w["representation.weight"].T + w["representation.bias"])
    return x @ w["heads.classes.weight"].T + w["heads.classes.bias"]


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients(case: str) -> None:
    model = build(case)
    video = random_video(model.config)
    weights = {name: value.clone().requires_grad_() for name, value in model.state_dict().items()}
    expected = plain(weights, model.config, video)
    logits = model(video)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)

    direction = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (expected * direction).sum().backward()
    (logits * direction).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(gradients, {name: weights[name].grad for name in gradients}, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("case", ["spatiotemporal", "spatiotemporal, uniform", "factorised_dot_product"])
def test_bytes_are_the_same_pixels(case: str) -> None:
    model = build(case).float()
    shape = (2, model.config.num_frames, 3, *model.config.image_size)
    video = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    before = video.clone()
    with torch.no_grad():
        torch.testing.assert_close(model(video), model(video / 127.5 - 1), rtol=1e-5, atol=1e-5)
    assert torch.equal(video, before)


def test_channels_last_memory_is_the_same_clip() -> None:
    model = build("spatiotemporal")
    video = random_video(model.config)
    other_layout = video.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    assert not other_layout.is_contiguous()
    with torch.no_grad():
        torch.testing.assert_close(model(other_layout), model(video), rtol=1e-12, atol=1e-12)
