"""A linear layer and the GELU after it: plain PyTorch, or one call of oneDNN where that is faster.

PyTorch multiplies, adds the bias and applies GELU in separate passes over memory; oneDNN does all three while the
values are in the cache. `torch.compile` makes the same call; no public function does. `docs/log.md` has the speedup.
"""

import torch
from torch import Tensor, nn

ORDINARY = (Tensor, nn.Parameter)  # rather than quantised, sharded, or traced


def linear(x: Tensor, layer: nn.Module, activation: nn.GELU | None = None) -> Tensor:
    """Apply a linear layer, and then the activation if there is one: (…, in) → (…, out)."""
    if type(layer) is nn.Linear and _is_quicker_at_once(x, layer, activation):
        how, form = ("none", "") if activation is None else ("gelu", activation.approximate)
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, how, [], form)
    x = layer(x)
    return x if activation is None else activation(x)


def _is_quicker_at_once(x: Tensor, layer: nn.Linear, activation: nn.GELU | None) -> bool:
    """Whether one call of oneDNN computes the same, and is faster."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # exporters do not know the operator
        return False
    # In float32 without an activation, MKL is as fast.
    kinds = (torch.bfloat16,) if activation is None else (torch.bfloat16, torch.float32)
    return (
        x.device.type == "cpu"
        and x.dtype == layer.weight.dtype
        and x.dtype in kinds
        and type(x) in ORDINARY
        and type(layer.weight) in ORDINARY
        and x.numel() > 0
        # The operator has no gradient, ignores autocast, cannot be counted by a dispatch mode and bypasses hooks.
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch._C._len_torch_dispatch_stack() == 0
        and not any(part._forward_hooks or part._forward_pre_hooks for part in (layer, activation) if part is not None)
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and (x.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
