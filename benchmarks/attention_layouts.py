"""Speed of attention for different orders of the fused query-key-value rows.

    .venv/bin/python benchmarks/attention_layouts.py [CLIPS]

One attention layer of B/16x2 on 32 × 224 × 224 (T 16, S 196, H 12, d 64), with both projections, in float32: over
space, over time, and over each with half the heads. The layouts take turns in each round; medians of eight rounds
after a warm-up.
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

T, S, H, d = 16, 196, 12, 64
D = H * d
ROUNDS = 8
Layout = Callable[[Tensor, Tensor, Tensor], Tensor]


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def space_3_heads(x: Tensor, qkv: Tensor, out: Tensor) -> Tensor:
    """Rows (3, H, d): all queries, all keys, all values."""
    q, k, v = F.linear(x, qkv).view(-1, S, 3, H, d).permute(2, 0, 3, 1, 4).unbind(0)
    return F.linear(attend(q, k, v).transpose(1, 2).reshape(x.shape), out)


def space_heads_3(x: Tensor, qkv: Tensor, out: Tensor) -> Tensor:
    """Rows (H, 3, d): head by head."""
    q, k, v = F.linear(x, qkv).view(-1, S, H, 3, d).permute(3, 0, 2, 1, 4).unbind(0)
    return F.linear(attend(q, k, v).transpose(1, 2).reshape(x.shape), out)


def time_tokens_moved(x: Tensor, qkv: Tensor, out: Tensor) -> Tensor:
    """The official code: move the tokens to (B · S, T, D) and back."""
    moved = x.transpose(1, 2).reshape(-1, T, D)
    q, k, v = F.linear(moved, qkv).view(-1, T, 3, H, d).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = F.linear(attend(q, k, v).transpose(1, 2).reshape(-1, T, D), out)
    return mixed.view(-1, S, T, D).transpose(1, 2).contiguous()


def time_3_heads(x: Tensor, qkv: Tensor, out: Tensor) -> Tensor:
    """Rows (3, H, d): move queries, keys and values."""
    q, k, v = F.linear(x, qkv).view(-1, T, S, 3, H, d).permute(3, 0, 2, 4, 1, 5).reshape(3, -1, H, T, d).unbind(0)
    return F.linear(attend(q, k, v).view(-1, S, H, T, d).permute(0, 3, 1, 2, 4).reshape(x.shape), out)


def time_heads_3(x: Tensor, qkv: Tensor, out: Tensor) -> Tensor:
    """Rows (H, 3, d): treat S · H as heads, and move nothing."""
    q, k, v = F.linear(x, qkv).view(-1, T, S * H, 3, d).permute(3, 0, 2, 1, 4).unbind(0)
    return F.linear(attend(q, k, v).transpose(1, 2).reshape(x.shape), out)


def half_3_heads(x: Tensor, qkv: Tensor, out: Tensor) -> Tensor:
    """Rows (3, H, d): one product, then move the half over time."""
    parts = F.linear(x, qkv).view(-1, T, S, 3, H, d).unbind(3)
    over_time = attend(*(z[..., : H // 2, :].permute(0, 2, 3, 1, 4).reshape(-1, H // 2, T, d) for z in parts))
    over_time = over_time.view(-1, S, H // 2, T, d).permute(0, 3, 1, 2, 4)
    over_space = attend(*(z[..., H // 2 :, :].reshape(-1, S, H // 2, d).transpose(1, 2) for z in parts))
    over_space = over_space.transpose(1, 2).reshape(-1, T, S, H // 2, d)
    return F.linear(torch.cat([over_time, over_space], dim=-2).reshape(x.shape), out)


def half_heads_3(x: Tensor, qkv: Tensor, out: Tensor) -> Tensor:
    """Rows (H, 3, d): a product for each half of the rows, and nothing moves."""
    time_rows, space_rows = qkv.chunk(2)
    over_time = attend(*F.linear(x, time_rows).view(-1, T, S * H // 2, 3, d).permute(3, 0, 2, 1, 4).unbind(0))
    over_space = attend(*F.linear(x, space_rows).view(-1, S, H // 2, 3, d).permute(3, 0, 2, 1, 4).unbind(0))
    halves = [mixed.transpose(1, 2).reshape(*x.shape[:-1], D // 2) for mixed in (over_time, over_space)]
    return F.linear(torch.cat(halves, dim=-1), out)


def projections_alone(x: Tensor, qkv: Tensor, out: Tensor) -> Tensor:
    return F.linear(F.linear(x, qkv)[..., :D], out)


LAYOUTS: tuple[Layout, ...] = (
    space_3_heads,
    space_heads_3,
    time_tokens_moved,
    time_3_heads,
    time_heads_3,
    half_3_heads,
    half_heads_3,
    projections_alone,
)


def measure(clips: int, backward: bool) -> dict[str, float]:
    """Median milliseconds of each layout."""
    torch.manual_seed(0)
    x, qkv, out = torch.randn(clips, T, S, D), torch.randn(3 * D, D) * 0.02, torch.randn(D, D) * 0.02
    for tensor in (x, qkv, out):
        tensor.requires_grad_(backward)
    times: dict[str, list[float]] = {layout.__name__: [] for layout in LAYOUTS}
    for _ in range(ROUNDS + 1):
        for layout in LAYOUTS:
            begun = time.perf_counter()
            result = layout(x, qkv, out)
            if backward:
                result.sum().backward()
            times[layout.__name__].append(time.perf_counter() - begun)
    return {name: 1000 * statistics.median(taken[1:]) for name, taken in times.items()}


def main() -> None:
    clips = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {clips} clips")
    forward, both = measure(clips, backward=False), measure(clips, backward=True)
    print(f"{'':20s}{'forward':>10s}{'and backward':>16s}   ms")
    for name, milliseconds in forward.items():
        print(f"{name:20s}{milliseconds:10.1f}{both[name]:16.1f}")


if __name__ == "__main__":
    main()
