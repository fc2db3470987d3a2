"""Scaled dot-product attention: PyTorch's fused kernel, and plain products in blocks where those are quicker.

On a CPU without AMX, the fused kernel is no quicker in bf16 than in float32, while the products of oneDNN are twice as
quick. `docs/log.md` has what the blocks gain, and what it costs to round their scores to bf16.

Shapes: B batch, H heads, N tokens, d width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, cpu

# Scores at once. Those of one thread stay in its cache; with several, each operation waits for the slowest thread, so
# there are to be few of them.
SCORES_OF_ONE_THREAD, SCORES_OF_SEVERAL = 1 << 20, 1 << 24
FEWEST = 32  # tokens; with fewer, most of the time goes into starting operations


def dot_product_attention(q: Tensor, k: Tensor, v: Tensor, added: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """softmax(q kᵀ / √d + added) v, with three tensors of (B, H, N, d) → (B, H, N, d).

    Args:
        added: (B, 1, 1, N), a number for each key.
        dropout: the part of the weights that becomes zero.
    """
    if dropout == 0.0 and _is_quicker_in_blocks(q):
        return _in_blocks(q, k, v, added)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=added, dropout_p=dropout)


def _is_quicker_in_blocks(q: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # exported models keep one operation
        return False
    return (
        q.device.type == "cpu"
        and q.dtype == torch.bfloat16
        and q.shape[2] >= FEWEST
        and not torch.is_grad_enabled()  # the blocks would all be kept for the gradients
        and not torch.is_autocast_enabled("cpu")  # it computes a softmax in float32
        and not cpu._is_amx_tile_supported()
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _in_blocks(q: Tensor, k: Tensor, v: Tensor, added: Tensor | None) -> Tensor:
    batch, heads, tokens, width = q.shape
    # One copy of each makes the products quicker than they are on views.
    q = (q * width**-0.5).flatten(0, 1)  # (B · H, N, d)
    k = k.transpose(2, 3).contiguous().flatten(0, 1)  # (B · H, d, N)
    v = v.contiguous().flatten(0, 1)
    added = None if added is None else added.expand(-1, heads, -1, -1).flatten(0, 1)  # (B · H, 1, N)
    mixed = torch.empty_like(v)
    most = SCORES_OF_ONE_THREAD if torch.get_num_threads() == 1 else SCORES_OF_SEVERAL
    together, rows = max(1, most // tokens**2), max(1, most // tokens)
    for first in range(0, batch * heads, together):
        some = slice(first, first + together)
        for row in range(0, tokens, rows):
            scores = q[some, row : row + rows] @ k[some]
            if added is not None:
                scores += added[some]
            mixed[some, row : row + rows] = scores.softmax(dim=-1) @ v[some]
    return mixed.view(batch, heads, tokens, width)
