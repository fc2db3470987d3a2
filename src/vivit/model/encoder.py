"""Transformer blocks and encoders: pre-norm, GELU, stochastic depth on every residual branch.

Shapes: B batch, T temporal positions, S spatial positions, N tokens, D width; R rows of the first axis, which are
clips or, in the factorised encoder's spatial encoder, the B · T temporal indices of all clips.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vivit.config import ModelConfig
from vivit.model.attention import FactorisedDotProductAttention, SelfAttention, TemporalSelfAttention
from vivit.model.embedding import Positions
from vivit.model.linear import linear

GELU = {"gelu_tanh": "tanh", "gelu": "none"}  # PyTorch's names for the forms of GELU


class StochasticDepth(nn.Module):
    """Drops a residual branch for some of the clips in training (Scenic: `EncoderBlock.get_drop_pattern`).

    As in the official code, the branches that stay are not scaled up.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor, clips: int) -> Tensor:
        """branch: (R, …); the R / clips rows of one clip are kept or dropped together."""
        if not self.training or self.rate == 0.0:
            return branch
        rows = branch.shape[0]
        keep = torch.rand(clips, device=branch.device) >= self.rate
        keep = keep.repeat_interleave(rows // clips, output_size=rows)
        return branch * keep.view(-1, *[1] * (branch.ndim - 1))

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def layer_norm(config: ModelConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps)


class MLP(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.mlp_dim)
        self.activation = nn.GELU(approximate=GELU[config.activation])
        self.fc2 = nn.Linear(config.mlp_dim, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(linear(self.dropout(linear(x, self.fc1, self.activation)), self.fc2))


class Block(nn.Module):
    """A layer of models 1, 2 and 4: attention, then the MLP, each on a residual branch."""

    def __init__(self, config: ModelConfig, stochastic_depth: float) -> None:
        super().__init__()
        attention = FactorisedDotProductAttention if config.variant == "factorised_dot_product" else SelfAttention
        self.norm1 = layer_norm(config)
        self.attn = attention(config)
        self.norm2 = layer_norm(config)
        self.mlp = MLP(config)
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, x: Tensor, clips: int) -> Tensor:
        x = x + self.stochastic_depth(self.attn(self.norm1(x)), clips)
        return x + self.stochastic_depth(self.mlp(self.norm2(x)), clips)


class FactorisedBlock(nn.Module):
    """A layer of model 3: attention over space and attention over time, in the configured order, then the MLP."""

    def __init__(self, config: ModelConfig, stochastic_depth: float) -> None:
        super().__init__()
        self.norm_space = layer_norm(config)
        self.attn_space = SelfAttention(config)
        self.norm_time = layer_norm(config)
        self.attn_time = TemporalSelfAttention(config)
        self.norm_mlp = layer_norm(config)
        self.mlp = MLP(config)
        self.stochastic_depth = StochasticDepth(stochastic_depth)
        self.time_first = config.attention_order == "time_space"

    def forward(self, x: Tensor, clips: int) -> Tensor:
        space, time = (self.norm_space, self.attn_space), (self.norm_time, self.attn_time)
        for norm, attn in (time, space) if self.time_first else (space, time):
            x = x + self.stochastic_depth(attn(norm(x)), clips)
        return x + self.stochastic_depth(self.mlp(self.norm_mlp(x)), clips)


class Encoder(nn.Module):
    """Positions, a stack of blocks and a LayerNorm. The rate of stochastic depth grows linearly from 0 at the first.

    Set `activation_checkpointing` from outside to keep only each block's input in training and recompute the block for
    its gradients, which stay the same: less memory, more time. Set `merging` from outside to replace how the blocks run
    in eval mode; see `vivit.inference.merging`.
    """

    def __init__(self, config: ModelConfig, grid: tuple[int, ...], layers: int, token_dropping: float = 0.0) -> None:
        super().__init__()
        block = FactorisedBlock if config.variant == "factorised_self_attention" else Block
        last = max(layers - 1, 1)
        self.positions = Positions(grid, config.hidden_size, config.pooling == "token", token_dropping)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(block(config, config.stochastic_depth * i / last) for i in range(layers))
        self.norm = layer_norm(config)
        self.activation_checkpointing = False
        self.merging: Callable[[nn.ModuleList, Tensor], Tensor] | None = None

    def forward(self, tokens: Tensor, clips: int | None = None) -> Tensor:
        """(R, *grid, D) → (R, D), see `pool`.

        clips: how many clips the rows belong to; by default each row is one.
        """
        return self.pool(self.all_tokens(tokens, clips))

    def all_tokens(self, tokens: Tensor, clips: int | None = None) -> Tensor:
        """(R, *grid, D) → (R, N, D), or (R, 1 + N, D) with a class token."""
        return self.encode(self.positions(tokens), clips or tokens.shape[0])

    def pool(self, x: Tensor) -> Tensor:
        """(R, N, D) → (R, D): the class token if there is one, else the mean of the tokens."""
        return x.mean(dim=1) if self.positions.class_token is None else x[:, 0]

    def encode(self, x: Tensor, clips: int) -> Tensor:
        """Run dropout, the blocks and the LayerNorm on tokens that have their positions; the shape stays."""
        if self.merging is not None and not self.training:
            return self.norm(self.merging(self.blocks, x))
        x = self.dropout(x)
        checkpointed = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpoint(block, x, clips, use_reentrant=False) if checkpointed else block(x, clips)
        return self.norm(x)


def encoders_of(model: nn.Module) -> list[Encoder]:
    """The encoders of a model, in the order that tokens pass through them; a factorised encoder has two."""
    return [module for module in model.modules() if isinstance(module, Encoder)]
