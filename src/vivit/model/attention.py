"""Multi-head self-attention over all tokens, over one axis, or half the heads each (paper, section 3.3).

Shapes: B batch, T temporal positions, S spatial positions, N tokens, H heads, d width of a head, D = H · d.

One matrix computes queries, keys and values; its rows are ordered (H, 3, d), head by head. Its output is therefore
(…, T, S, H, 3, d), where S and H are adjacent: attention over time treats S · H as its heads, attention over space
treats B · T as its batch. Both are views, so no token is copied. `docs/log.md` has the measurements.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vivit.config import ModelConfig
from vivit.model.dot_product import dot_product_attention
from vivit.model.linear import linear


class SelfAttention(nn.Module):
    """Attention over the second to last axis: over all tokens of (B, N, D), or over space in (B, T, S, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.attention_dropout = config.attention_dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(linear(self.attend(linear(x, self.qkv), self.num_heads), self.proj))

    def attend(self, qkv: Tensor, num_heads: int) -> Tensor:
        """(…, N, H · 3 · d) → (…, N, D)."""
        *batch, tokens, width = qkv.shape
        heads = qkv.view(-1, tokens, num_heads, 3, width // (3 * num_heads))
        return self._attention(heads).view(*batch, tokens, width // 3)

    def _attention(self, heads: Tensor) -> Tensor:
        """Attention over the second axis: (B, N, H, 3, d) → (B, N, H · d)."""
        q, k, v = heads.permute(3, 0, 2, 1, 4).unbind(0)  # (B, N, H, 3, d) → 3 × (B, H, N, d)
        mixed = dot_product_attention(q, k, v, dropout=self.attention_dropout if self.training else 0.0)
        return mixed.transpose(1, 2).flatten(2)  # (B, H, N, d) → (B, N, H · d)


class TemporalSelfAttention(SelfAttention):
    """Attention over the temporal axis of (B, T, S, D): each token sees the tokens at its own spatial position."""

    def attend(self, qkv: Tensor, num_heads: int) -> Tensor:
        """(B, T, S, H · 3 · d) → (B, T, S, D)."""
        batch, times, places, width = qkv.shape
        heads = qkv.view(batch, times, places * num_heads, 3, width // (3 * num_heads))
        return self._attention(heads).view(batch, times, places, width // 3)


class FactorisedDotProductAttention(TemporalSelfAttention):
    """Half the heads over time, half over space (model 4); as in Scenic the first half attends over time."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, S, D) → (B, T, S, D)."""
        # Rows of the fused matrix are ordered by head, so each half of them is a matrix of its own.
        time_weight, space_weight = self.qkv.weight.chunk(2)
        time_bias, space_bias = self.qkv.bias.chunk(2)
        half = self.num_heads // 2
        over_time = self.attend(F.linear(x, time_weight, time_bias), half)
        over_space = SelfAttention.attend(self, F.linear(x, space_weight, space_bias), half)
        return self.dropout(linear(torch.cat([over_time, over_space], dim=-1), self.proj))
