"""Attention over few tokens in one Triton kernel, beside the plain version.

The temporal attention of models 2, 3 and 4 has 16 or 17 tokens and up to thousands of heads, so it does little else
than read and write memory. PyTorch's kernels compute tiles of 64 or 128 queries of one head. Here the rows of a tile
are the tokens of as many heads as fit, and scores between different heads are masked. Queries, keys and values are read
where the fused product left them; the output is laid out as the projection reads it.

Shapes: B batch, H heads, N tokens, d width of a head.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    q,
    k,
    v,
    out,
    pairs,  # of clip and head: B · H
    heads,
    batch_stride,
    head_stride,
    token_stride,
    scale,  # for powers of two
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,  # the width, rounded up to a power of two
):
    together: tl.constexpr = ROWS // TOKENS
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    place, token = row // TOKENS, row % TOKENS
    pair = tl.program_id(0) * together + place
    batch, head = (pair // heads).to(tl.int64), pair % heads
    exists = ((place < together) & (pair < pairs))[:, None] & (column < WIDTH)[None, :]

    read = (batch * batch_stride + head * head_stride + token * token_stride)[:, None] + column[None, :]
    queries = tl.load(q + read, mask=exists, other=0.0)
    keys = tl.load(k + read, mask=exists, other=0.0)
    values = tl.load(v + read, mask=exists, other=0.0)

    scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale  # float32
    scores = tl.where(place[:, None] == place[None, :], scores, float("-inf"))
    weights = tl.exp2(scores - tl.max(scores, axis=1)[:, None])
    mixed = tl.dot(weights.to(values.dtype), values, input_precision="ieee") / tl.sum(weights, axis=1)[:, None]

    write = ((batch * TOKENS + token) * heads + head)[:, None] * WIDTH + column[None, :]
    tl.store(out + write, mixed.to(out.dtype.element_ty), mask=exists)


def short_attention(q: Tensor, k: Tensor, v: Tensor, rows: int = 64) -> Tensor:
    """softmax(q kᵀ / √d) v with the kernel: three tensors of (B, H, N, d) → (B, H, N, d), a view of (B, N, H · d).

    Args:
        q, k, v: with the same strides, and the values of a head contiguous.
        rows: of a tile; a power of two, at least 16 and the number of tokens.
    """
    batch, heads, tokens, width = q.shape
    assert tokens <= rows and q.stride() == k.stride() == v.stride() and q.stride(3) == 1
    out = q.new_empty(batch, tokens, heads, width)
    pairs = batch * heads
    _kernel[(triton.cdiv(pairs, rows // tokens),)](
        *(q, k, v, out, pairs, heads, *q.stride()[:3], math.log2(math.e) / math.sqrt(width)),
        TOKENS=tokens,
        WIDTH=width,
        ROWS=rows,
        COLUMNS=max(16, triton.next_power_of_2(width)),
        num_warps=rows // 16,
        num_stages=1,
    )
    return out.transpose(1, 2)


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same in float32, with two products and a softmax."""
    scores = torch.einsum("bhnd,bhmd->bhnm", q.float(), k.float()) / math.sqrt(q.shape[3])
    return torch.einsum("bhnm,bhmd->bhnd", scores.softmax(dim=-1), v.float())
