"""The paper's four models as anybody would write them: a Conv3d, one layer each for queries, keys and values, permutes.

`PlainViViT.of(model)` has the weights of a `vivit.ViViT` and gives its logits. Benchmarks compare it with ours to show
what the faster code saves. It has only the default pooling of each variant.

Shapes: B batch, T temporal positions, S spatial positions, N tokens, H heads, d width of a head, D = H · d.
"""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vivit.config import ModelConfig
from vivit.model.encoder import GELU
from vivit.model.vivit import ViViT


class Attention(nn.Module):
    """Attention over all tokens of (B, N, D), over one axis of (B, T, S, D), or with half the heads over each."""

    def __init__(self, config: ModelConfig, over: str) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.over = config.num_heads, over
        self.query, self.key, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)) for layer in (self.query, self.key, self.value))
        if self.over == "space and time":
            half = self.heads // 2
            over_time = self.mix("time", *(z[..., :half, :] for z in (q, k, v)))
            over_space = self.mix("space", *(z[..., half:, :] for z in (q, k, v)))
            return self.proj(torch.cat([over_time, over_space], dim=-2).flatten(-2))
        return self.proj(self.mix(self.over, q, k, v).flatten(-2))

    def mix(self, over: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, N, H, d) each, or (B, T, S, H, d), and the same shape back."""
        if over == "time":  # (B, T, S, H, d) → (B, S, T, H, d), and back
            return self.mix("space", *(z.transpose(1, 2).contiguous() for z in (q, k, v))).transpose(1, 2)
        if over == "space":  # (B, T, S, H, d) → (B · T, S, H, d), and back
            return self.mix("all", *(z.flatten(0, 1) for z in (q, k, v))).view_as(q)
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))  # (B, N, H, d) → (B, H, N, d)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous()


class Block(nn.Module):
    """One or two attentions and an MLP, each after a LayerNorm and on a residual branch."""

    def __init__(self, config: ModelConfig, overs: tuple[str, ...]) -> None:
        super().__init__()
        width = config.hidden_size
        self.norms = nn.ModuleList(nn.LayerNorm(width, config.norm_eps) for _ in (*overs, "mlp"))
        self.attentions = nn.ModuleList(Attention(config, over) for over in overs)
        activation = nn.GELU(approximate=GELU[config.activation])
        self.mlp = nn.Sequential(nn.Linear(width, config.mlp_dim), activation, nn.Linear(config.mlp_dim, width))

    def forward(self, x: Tensor) -> Tensor:
        for norm, branch in zip(self.norms, (*self.attentions, self.mlp), strict=True):
            x = x + branch(norm(x))
        return x


class Encoder(nn.Module):
    """Positions, a class token if the variant has one, blocks, a LayerNorm."""

    def __init__(self, config: ModelConfig, grid: tuple[int, ...], layers: int) -> None:
        super().__init__()
        overs = {"factorised_self_attention": ("space", "time"), "factorised_dot_product": ("space and time",)}
        self.positions = nn.Parameter(torch.zeros(*grid, config.hidden_size))
        has_token = config.pooling == "token"
        self.class_token = nn.Parameter(torch.zeros(config.hidden_size)) if has_token else None
        self.blocks = nn.Sequential(*(Block(config, overs.get(config.variant, ("all",))) for _ in range(layers)))
        self.norm = nn.LayerNorm(config.hidden_size, config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *grid, D) → (B, D)."""
        x = x + self.positions
        if self.class_token is None:
            return self.norm(self.blocks(x)).flatten(1, -2).mean(dim=1)
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x.flatten(1, -2)], dim=1)
        return self.norm(self.blocks(x))[:, 0]


class PlainViViT(nn.Module):
    """Models 1 to 4."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        times, height, width = config.grid
        self.embedding = nn.Conv3d(3, config.hidden_size, config.tubelet_size, config.tubelet_size)
        self.temporal = None
        if config.variant == "factorised_encoder":
            self.encoder = Encoder(config, (height * width,), config.num_layers)
            self.temporal = Encoder(config, (times,), config.temporal_layers or 0)
        else:
            self.encoder = Encoder(config, (times, height * width), config.num_layers)
        self.head = nn.Linear(config.hidden_size, config.num_classes or 0)

    def forward(self, video: Tensor) -> Tensor:
        """(B, frames, C, height, width) in [−1, 1] → (B, K)."""
        x = self.embedding(video.transpose(1, 2))  # (B, C, frames, …) → (B, D, T, n_h, n_w)
        x = x.flatten(3).permute(0, 2, 3, 1)  # → (B, T, S, D)
        if self.temporal is None:
            return self.head(self.encoder(x))
        batch, times, *_ = x.shape
        frames = self.encoder(x.flatten(0, 1)).unflatten(0, (batch, times))  # (B · T, D) → (B, T, D)
        return self.head(self.temporal(frames))

    @classmethod
    @torch.no_grad()
    def of(cls, model: ViViT) -> Self:
        """The same model, with copies of its weights."""
        weights = model.state_dict()
        plain = cls(model.config)

        def copy(module: nn.Module, name: str) -> None:
            for parameter in module._parameters:
                module.get_parameter(parameter).copy_(weights[f"{name}.{parameter}"])

        def copy_attention(attention: Attention, name: str) -> None:
            copy(attention.proj, f"{name}.proj")
            for parameter in ("weight", "bias"):
                # Fused rows are ordered (H, 3, d).
                fused = weights[f"{name}.qkv.{parameter}"].unflatten(0, (attention.heads, 3, -1))
                for place, layer in enumerate((attention.query, attention.key, attention.value)):
                    layer.get_parameter(parameter).copy_(fused[:, place].flatten(0, 1))

        def copy_encoder(encoder: Encoder, name: str) -> None:
            encoder.positions.copy_(weights[f"{name}.positions.embedding"].view_as(encoder.positions))
            if encoder.class_token is not None:
                parts = ("class_token", "class_position")
                encoder.class_token.copy_(sum(weights[f"{name}.positions.{part}"] for part in parts))
            for number, block in enumerate(encoder.blocks):
                assert isinstance(block, Block)
                two = len(block.attentions) == 2
                names = ["norm_space", "norm_time", "norm_mlp"] if two else ["norm1", "norm2"]
                attentions = ["attn_space", "attn_time"] if two else ["attn"]
                for norm, own in zip(block.norms, names, strict=True):
                    copy(norm, f"{name}.blocks.{number}.{own}")
                for attention, own in zip(block.attentions, attentions, strict=True):
                    assert isinstance(attention, Attention)
                    copy_attention(attention, f"{name}.blocks.{number}.{own}")
                copy(block.mlp[0], f"{name}.blocks.{number}.mlp.fc1")
                copy(block.mlp[2], f"{name}.blocks.{number}.mlp.fc2")
            copy(encoder.norm, f"{name}.norm")

        copy(plain.embedding, "embedding")
        if plain.temporal is None:
            copy_encoder(plain.encoder, "encoder")
        else:
            copy_encoder(plain.encoder, "encoder.spatial")
            copy_encoder(plain.temporal, "encoder.temporal")
        copy(plain.head, "heads.classes")
        return plain.eval()
