"""Token merging: similar tokens are merged in the first layers, so later layers have less to do. No training.

After Bolya et al. 2023 (arXiv 2210.09461). Between the attention and the MLP of a layer, the tokens are dealt out into
two halves. Each token of the first finds the most similar one of the second, by the cosine of their keys averaged over
the heads. The most similar pairs merge into their average, weighted by the number of tokens that each stands for.
Attention then counts a merged token as often as it stands for tokens (the logarithm of their number is added to its
scores), so merging equal tokens changes nothing. After the last layer, every original token gets the output of the
token that it was merged into, so whatever follows sees the usual shapes.

Shapes: B batch, R rows, T temporal positions, S spatial positions, N tokens, of which n are left, G groups in which
tokens merge, H heads, d width of a head, D width, F features.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vivit.errors import UserError
from vivit.model.dot_product import dot_product_attention
from vivit.model.encoder import Block, FactorisedBlock
from vivit.model.linear import linear
from vivit.model.vivit import FactorisedEncoder, ViViT

Over = Literal["space", "time", "both"]
# The first 1 / MERGING_LAYERS of the layers merge. With fewer layers it is faster, but less similar tokens merge.
MERGING_LAYERS = 3
MOST = 0.95


@dataclass(frozen=True)
class Merge:
    """How much is merged, and where."""

    ratio: float = 0.0
    """The fraction of the tokens that is merged into others, 0 to 0.95: 0.5 leaves half of them."""
    over: Over | None = None
    """Which tokens may merge: those of one temporal index, those of one place, or all. None: see `AXES`."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= MOST:
            raise UserError(f"merge: {self.ratio:g} is not a fraction of the tokens; use 0 to {MOST}")

    def __str__(self) -> str:
        return f"{self.ratio:g} ({self.over})" if self.over else f"{self.ratio:g}"


# Where each variant can merge, the default first. A factorised encoder's temporal encoder has few tokens. The attention
# of the last two needs a grid, so they merge whole places at all times, or whole times at all places.
AXES: dict[str, tuple[Over, ...]] = {
    "spatiotemporal": ("both", "space", "time"),
    "factorised_encoder": ("space",),
    "factorised_self_attention": ("space", "time"),
    "factorised_dot_product": ("space", "time"),
}


def merge_tokens(model: ViViT, merge: Merge) -> None:
    """Let a model merge tokens from now on, in eval mode, in place; a ratio of 0 undoes it.

    Raises:
        UserError: the model has no tokens to merge there.
    """
    config = model.config
    over, possible = merge.over or AXES[config.variant][0], AXES[config.variant]
    if over not in possible:
        kind, words = config.variant.replace("_", " "), " or ".join(possible)
        raise UserError(f"merge: a {kind} model can merge over {words}, not over {over}")
    encoder = model.encoder.spatial if isinstance(model.encoder, FactorisedEncoder) else model.encoder
    times, *places = config.grid
    spaces = math.prod(places)
    if merge.ratio == 0:
        encoder.merging = None
    elif config.variant in ("spatiotemporal", "factorised_encoder"):
        grid = (1, spaces) if config.variant == "factorised_encoder" else (times, spaces)
        encoder.merging = TokenMerging(merge.ratio, over, grid, config.pooling == "token")
    else:
        encoder.merging = GridMerging(merge.ratio, over)


def counts(tokens: int, ratio: float, layers: int) -> list[int]:
    """How many tokens are left after each layer: each of the first layers merges the same fraction.

    These are a third of all layers, or more if that would merge more than half of the tokens in a layer.
    """
    merging = max(math.ceil(layers / MERGING_LAYERS), math.ceil(-math.log2(1 - ratio)))
    left = [tokens]
    for layer in range(1, layers + 1):
        wanted = round(tokens * (1 - ratio) ** (min(layer, merging) / merging))
        left.append(max(wanted, left[-1] - left[-1] // 2, 1))
    return left[1:]


def match(keys: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pair the tokens with the most similar keys, so that `count` of them, at least half, are left.

    Args:
        keys: (R, n, d).

    Returns:
        Indices of the tokens that stay, (R, count), in their new order; of those that merge, (R, n - count); and where
        each of these goes among those that stay.
    """
    keys = F.normalize(keys.float(), dim=-1)
    first, second = keys[:, ::2], keys[:, 1::2]
    similarity, partner = (first @ second.transpose(1, 2)).max(dim=-1)  # (R, n / 2)
    order = similarity.argsort(dim=-1, descending=True)
    merging, apart = order.tensor_split([keys.shape[1] - count], dim=1)
    others = torch.arange(1, keys.shape[1], 2, device=keys.device).expand(len(keys), -1)
    staying = torch.cat([apart.sort(dim=1).values * 2, others], dim=1)
    return staying, merging * 2, apart.shape[1] + partner.gather(1, merging)


class Merged:
    """Keeps track of what each token stands for while the tokens of some rows merge."""

    def __init__(self, rows: int, tokens: int, device: torch.device) -> None:
        self.sizes = torch.ones(rows, tokens, device=device)
        """(R, n): how many of the original tokens each stands for."""
        self._where = torch.arange(tokens, device=device).repeat(rows, 1)  # (R, N): which token each has become

    def merge(self, keys: Tensor, x: Tensor, count: int) -> Tensor:
        """Merge the tokens with the most similar keys, (R, n, d), until `count` are left: (R, n, F) → (R, count, F)."""
        staying, merging, into = match(keys, count)
        before, coming = self.sizes.gather(1, staying), self.sizes.gather(1, merging)
        self.sizes = before.scatter_add(1, into, coming)
        averaged = _rows(x, staying) * _column(before / self.sizes, x)
        averaged.index_add_(0, _flat(into, count), _rows(x, merging) * _column(coming / self.sizes.gather(1, into), x))

        became = torch.empty_like(self._where[:, : keys.shape[1]])
        became.scatter_(1, staying, torch.arange(count, device=x.device).expand(len(x), -1))
        became.scatter_(1, merging, into)
        self._where = became.gather(1, self._where)
        return averaged.view(len(x), count, -1)

    def undo(self, x: Tensor) -> Tensor:
        """Give each original token the value of the token it has become: (R, n, F) → (R, N, F)."""
        return _rows(x, self._where).view(len(x), -1, x.shape[2])


def _flat(index: Tensor, tokens: int) -> Tensor:
    """Indices (R, k) of the tokens of each row as indices of the tokens of all rows."""
    return (index + torch.arange(0, len(index) * tokens, tokens, device=index.device)[:, None]).flatten()


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """The tokens (R, k) of each row of x (R, n, F): (R · k, F)."""
    return x.flatten(0, 1)[_flat(index, x.shape[1])]


def _column(weights: Tensor, x: Tensor) -> Tensor:
    """(R, k) → (R · k, 1), in the precision of x."""
    return weights.flatten()[:, None].to(x.dtype)


def _attention(heads: Tensor, sizes: Tensor) -> Tensor:
    """Attention over n tokens that stand for several, (R, n): (R, n, H, 3, d) → (R, n, H · d)."""
    q, k, v = heads.permute(3, 0, 2, 1, 4).unbind(0)  # (R, n, H, 3, d) → 3 × (R, H, n, d)
    # With a bias for each key, the same for all queries, PyTorch still uses its fused kernel on the CPU.
    mixed = dot_product_attention(q, k, v, added=sizes.log().to(q.dtype)[:, None, None])
    return mixed.transpose(1, 2).flatten(2)  # (R, H, n, d) → (R, n, H · d)


class TokenMerging:
    """Runs the layers of models 1 and 2, where any token may merge except the class token, which comes first."""

    def __init__(self, ratio: float, over: Over, grid: tuple[int, int], class_token: bool) -> None:
        """grid: the temporal and spatial positions of a row's tokens."""
        self.ratio, self.over, self.grid, self.first = ratio, over, grid, int(class_token)

    def __call__(self, blocks: nn.ModuleList, x: Tensor) -> Tensor:
        """(R, N, D) → (R, N, D)."""
        rows, groups = len(x), {"both": 1, "space": self.grid[0], "time": self.grid[1]}[self.over]
        x = self._in_groups(x, self.grid)
        merged = Merged(rows * groups, (x.shape[1] - self.first) // groups, x.device)
        layers = [block for block in blocks if isinstance(block, Block)]
        for block, count in zip(layers, counts(merged.sizes.shape[1], self.ratio, len(blocks)), strict=True):
            heads = linear(block.norm1(x), block.attn.qkv)
            heads = heads.unflatten(2, (block.attn.num_heads, 3, -1))  # (R, n, H, 3, d)
            sizes = F.pad(merged.sizes.view(rows, -1), (self.first, 0), value=1.0)
            x = x + linear(_attention(heads, sizes), block.attn.proj)
            if count < merged.sizes.shape[1]:
                keys = heads[:, self.first :, :, 1].mean(dim=2)  # (R, n, d)
                tokens = merged.merge(self._grouped(keys, groups), self._grouped(x[:, self.first :], groups), count)
                x = torch.cat([x[:, : self.first], tokens.view(rows, -1, x.shape[2])], dim=1)
            x = x + block.mlp(block.norm2(x))
        tokens = merged.undo(self._grouped(x[:, self.first :], groups)).view(rows, -1, x.shape[2])
        return self._in_groups(torch.cat([x[:, : self.first], tokens], dim=1), self.grid[::-1])

    def _in_groups(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Make the tokens of a group adjacent: for groups of one place, the tokens in column-major order."""
        if self.over != "time":
            return x
        return torch.cat(
            [x[:, : self.first], x[:, self.first :].unflatten(1, grid).transpose(1, 2).flatten(1, 2)], dim=1
        )

    @staticmethod
    def _grouped(x: Tensor, groups: int) -> Tensor:
        """(R, G · n, D) → (R · G, n, D)."""
        return x.unflatten(1, (groups, -1)).flatten(0, 1)


class GridMerging:
    """Runs the layers of models 3 and 4, on a grid of tokens: places merge at all times, or times at all places."""

    def __init__(self, ratio: float, over: Over) -> None:
        self.ratio, self.over = ratio, over

    def __call__(self, blocks: nn.ModuleList, x: Tensor) -> Tensor:
        """(B, T, S, D) → (B, T, S, D)."""
        merged = Merged(len(x), x.shape[2 if self.over == "space" else 1], x.device)
        for block, count in zip(blocks, counts(merged.sizes.shape[1], self.ratio, len(blocks)), strict=True):
            if isinstance(block, FactorisedBlock):
                x, keys = self._in_turns(block, x, merged.sizes)
            else:
                assert isinstance(block, Block)
                x, keys = self._in_halves(block, x, merged.sizes)
            if count < merged.sizes.shape[1]:
                x = self._as_grid(merged.merge(keys, self._as_rows(x), count), x)
            norm = block.norm_mlp if isinstance(block, FactorisedBlock) else block.norm2
            x = x + block.mlp(norm(x))
        return self._as_grid(merged.undo(self._as_rows(x)), x)

    def _in_turns(self, block: FactorisedBlock, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """The attention of model 3, on its residual branches, and the keys of the tokens that may merge."""
        space, time = ("space", block.norm_space, block.attn_space), ("time", block.norm_time, block.attn_time)
        found: dict[str, Tensor] = {}
        for axis, norm, attention in (time, space) if block.time_first else (space, time):
            mixed, found[axis] = self._over(axis, attention.qkv(norm(x)), attention.num_heads, sizes)
            x = x + attention.proj(mixed)
        return x, found[self.over]

    def _in_halves(self, block: Block, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """The attention of model 4, whose first half of the heads attends over time."""
        attention, found, mixed = block.attn, {}, []
        for axis, qkv in zip(("time", "space"), attention.qkv(block.norm1(x)).chunk(2, dim=-1), strict=True):
            half, found[axis] = self._over(axis, qkv, attention.num_heads // 2, sizes)
            mixed.append(half)
        return x + attention.proj(torch.cat(mixed, dim=-1)), found[self.over]

    def _over(self, axis: str, qkv: Tensor, num_heads: int, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Attention over an axis: (B, T, S, H · 3 · d) → (B, T, S, H · d), and keys (B, n, F) of what is along it."""
        batch, times, places, width = qkv.shape
        heads = qkv.reshape(batch, times, places, num_heads, 3, -1)
        keys = heads[..., 1, :].mean(dim=3)  # (B, T, S, d)
        if axis == "space":
            heads, repeats = heads.flatten(0, 1), times  # (B · T, S, H, 3, d)
        else:
            heads, repeats = heads.flatten(2, 3), 1  # (B, T, S · H, 3, d)
        known = sizes if axis == self.over else torch.ones(batch, heads.shape[1], device=sizes.device)
        mixed = _attention(heads, known.repeat_interleave(repeats, dim=0))
        return mixed.view(batch, times, places, width // 3), self._as_rows(keys)

    def _as_rows(self, x: Tensor) -> Tensor:
        """(B, T, S, D) → (B, S, T · D) to merge places, (B, T, S · D) to merge times."""
        return (x.transpose(1, 2) if self.over == "space" else x).flatten(2)

    def _as_grid(self, rows: Tensor, like: Tensor) -> Tensor:
        """Undo `_as_rows`; the number of rows may have changed."""
        grid = rows.unflatten(2, (-1, like.shape[3]))
        return grid.transpose(1, 2).contiguous() if self.over == "space" else grid
