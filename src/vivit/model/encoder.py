"""Transformer blocks and encoders: pre-norm, GELU, stochastic depth on every residual branch.

Shapes: B batch, T temporal positions, S spatial positions, N tokens, D width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vivit.config import ModelConfig
from vivit.model.attention import FactorisedDotProductAttention, SelfAttention, TemporalSelfAttention

GELU = {"gelu_tanh": "tanh", "gelu": "none"}  # PyTorch's names for the forms of GELU


class StochasticDepth(nn.Module):
    """Drops a residual branch for some of the examples in training (Scenic: `EncoderBlock.get_drop_pattern`).

    As in the official code the branches that stay are not scaled up.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor, examples: int) -> Tensor:
        """branch: (B, …), or (B · T, …) where each example has T rows that are kept or dropped together."""
        if not self.training or self.rate == 0.0:
            return branch
        keep = torch.rand(examples, device=branch.device) >= self.rate
        keep = keep.repeat_interleave(len(branch) // examples, output_size=len(branch))
        return branch * keep.view(-1, *[1] * (branch.ndim - 1))

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class MLP(nn.Module):
    """Two layers with GELU between them: in its tanh form, which Flax has by default, or exact."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.hidden_size, config.mlp_dim)
        self.activation = nn.GELU(approximate=GELU[config.activation])
        self.out = nn.Linear(config.mlp_dim, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.out(self.dropout(self.activation(self.hidden(x)))))


class AttentionBranch(nn.Module):
    """LayerNorm, attention, dropout: one residual branch."""

    def __init__(self, config: ModelConfig, attention: type[SelfAttention]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.attention = attention(config.hidden_size, config.num_heads, config.attention_dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.attention(self.norm(x)))


class MLPBranch(nn.Module):
    """LayerNorm, MLP: one residual branch."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.norm(x))


class Block(nn.Module):
    """Attention and MLP, each beside a residual connection: a layer of models 1, 2 and 4."""

    def __init__(
        self, config: ModelConfig, stochastic_depth: float, attention: type[SelfAttention] = SelfAttention
    ) -> None:
        super().__init__()
        self.attention = AttentionBranch(config, attention)
        self.mlp = MLPBranch(config)
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, x: Tensor, examples: int) -> Tensor:
        x = x + self.stochastic_depth(self.attention(x), examples)
        return x + self.stochastic_depth(self.mlp(x), examples)


class DotProductBlock(Block):
    """A layer of model 4: half the heads attend over space, half over time."""

    def __init__(self, config: ModelConfig, stochastic_depth: float) -> None:
        super().__init__(config, stochastic_depth, FactorisedDotProductAttention)


class FactorisedBlock(nn.Module):
    """A layer of model 3: attention over space, attention over time (in either order), then the MLP."""

    def __init__(self, config: ModelConfig, stochastic_depth: float) -> None:
        super().__init__()
        self.space = AttentionBranch(config, SelfAttention)
        self.time = AttentionBranch(config, TemporalSelfAttention)
        self.mlp = MLPBranch(config)
        self.stochastic_depth = StochasticDepth(stochastic_depth)
        self.time_first = config.attention_order == "time_space"

    def forward(self, x: Tensor, examples: int) -> Tensor:
        for attention in (self.time, self.space) if self.time_first else (self.space, self.time):
            x = x + self.stochastic_depth(attention(x), examples)
        return x + self.stochastic_depth(self.mlp(x), examples)


class Encoder(nn.Module):
    """A stack of blocks and a LayerNorm. The rate of stochastic depth grows linearly from 0 at the first block.

    `activation_checkpointing`, to be set from outside, keeps only each block's input in training and computes the block
    a second time for its gradients, to the very same values: less memory, more time.
    """

    def __init__(
        self, config: ModelConfig, num_layers: int, block: Callable[[ModelConfig, float], nn.Module] = Block
    ) -> None:
        super().__init__()
        last = max(num_layers - 1, 1)
        self.blocks = nn.ModuleList(block(config, config.stochastic_depth * i / last) for i in range(num_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.activation_checkpointing = False

    def forward(self, x: Tensor, examples: int) -> Tensor:
        """Encode tokens; the shape stays.

        Args:
            x: (B, N, D) or (B, T, S, D); the factorised encoder's spatial tokens are (B · T, N, D).
            examples: how many clips the first axis holds.
        """
        checkpointed = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpoint(block, x, examples, use_reentrant=False) if checkpointed else block(x, examples)
        return self.norm(x)
