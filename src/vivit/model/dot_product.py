"""Scaled dot-product attention: PyTorch's fused kernel, or plain products in blocks where those are faster.

On a CPU without AMX, the fused kernel is no faster in bf16 than in float32, while oneDNN's products are twice as fast.
`docs/log.md` has the speedup of the blocks, and the cost of rounding their scores to bf16.

Shapes: B batch, H heads, N tokens, d width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, cpu

# Scores in a block. With one thread, a block stays in its cache; with several, each operation waits for the slowest
# thread, so blocks are larger and fewer.
SCORES_OF_ONE_THREAD, SCORES_OF_SEVERAL = 1 << 20, 1 << 24
FEWEST = 32  # tokens; with fewer, most of the time is overhead of operations


def dot_product_attention(q: Tensor, k: Tensor, v: Tensor, added: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """softmax(q kᵀ / √d + added) v, with three tensors of (B, H, N, d) → (B, H, N, d).

    Args:
        added: (B, 1, 1, N), a bias for each key.
        dropout: the fraction of the weights set to zero.
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
        and not torch.is_grad_enabled()  # autograd would keep every block
        and not torch.is_autocast_enabled("cpu")  # autocast computes softmax in float32
        and not cpu._is_amx_tile_supported()
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _in_blocks(q: Tensor, k: Tensor, v: Tensor, added: Tensor | None) -> Tensor:
    batch, heads, tokens, width = q.shape
    # Products are faster on contiguous copies than on views.
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
