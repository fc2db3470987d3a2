"""Attentive pooling: a learned query gathers what it needs from all tokens of an encoder.

It is how V-JEPA compares frozen video encoders (Bardes et al. 2024, arXiv 2404.08471): cross-attention with one query,
then an MLP, each on a residual branch.

Shapes: B batch, T temporal positions, N tokens, H heads, d width of a head, D = H · d.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vivit.config import ModelConfig
from vivit.model.embedding import resize_positions
from vivit.model.encoder import MLP, layer_norm


class AttentivePooling(nn.Module):
    """A query that attends to all tokens, then an MLP.

    A temporal position embedding is added first, because the tokens of an image model lack one. It starts at zero.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.timeless = int(config.pooling == "token" and config.temporal_layers != 0)
        """Leading tokens without a time: the class token, unless each temporal index has its own."""
        self.query = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(config.grid[0], width))
        # Without scale and shift: the kernel and bias of the keys and values can express both.
        self.norm1 = nn.LayerNorm(width, eps=config.norm_eps, elementwise_affine=False)
        self.kv = nn.Linear(width, 2 * width)
        self.softmax = nn.Softmax(dim=-1)  # a module, so that a hook sees the weights
        self.proj = nn.Linear(width, width)
        self.norm2 = layer_norm(config)
        self.mlp = MLP(config)

    def forward(self, tokens: Tensor, times: int) -> Tensor:
        """(B, N, D) → (B, D); the tokens are ordered by temporal index, of which there are `times`."""
        return self.gather(self.norm1(tokens), times)

    def gather(self, x: Tensor, times: int) -> Tensor:
        """All that follows `norm1`, which has no parameters: (B, N, D) → (B, D)."""
        each = (x.shape[1] - self.timeless) // times
        positions = resize_positions(self.positions, (times,))
        positions = positions[:, None].expand(-1, each, -1).flatten(0, 1)  # (T, D) → (T · S, D)
        positions = F.pad(positions, (0, 0, self.timeless, 0))  # → (N, D)
        x = self.query + self.proj(self._attention(x, positions))
        return x + self.mlp(self.norm2(x))

    def _attention(self, x: Tensor, positions: Tensor) -> Tensor:
        """The heads' attention over `x + positions`: (B, N, D), (N, D) → (B, D).

        As there is only one query, the key matrix is applied to it, and the value matrix to the weighted sum of the
        tokens. The result is the same, without a key and a value for each token. Tokens and positions are not added up
        either, so frozen tokens need no gradient. The key bias is left out: it adds the same number to all scores of a
        head, which changes no weight.
        """
        key, value = self.kv.weight.unflatten(0, (2, self.num_heads, -1))  # (2 · D, D) → 2 × (H, d, D)
        query = self.query.view(self.num_heads, 1, -1)  # (H, 1, d)
        query = (query @ key).squeeze(1) / math.sqrt(query.shape[-1])  # (H, D)
        # A batched product: the gradient of a single product over all tokens takes ten times as long.
        scores = query.expand(x.shape[0], -1, -1) @ x.transpose(1, 2) + query @ positions.T  # (B, H, N)
        weights = self.softmax(scores)
        gathered = weights @ x + weights @ positions  # (B, H, D)
        # (B, H, 1, D) · (H, D, d) → (B, H, 1, d) → (B, D)
        return (gathered[:, :, None] @ value.transpose(1, 2)).flatten(1) + self.kv.bias[x.shape[-1] :]

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw fresh weights: the query N(0, 0.02²), kernels Xavier-uniform, biases and the embedding of time zero."""
        nn.init.normal_(self.query, std=0.02)
        nn.init.zeros_(self.positions)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        # The kernels of keys and values are two matrices.
        for kernel in (*self.kv.weight.chunk(2), self.proj.weight, self.mlp.fc1.weight, self.mlp.fc2.weight):
            nn.init.xavier_uniform_(kernel)
