"""What a model looked at in a clip: its attention weights as a map over space and time.

A map is computed backwards. It starts from the pooling of the last encoder's tokens and goes through the attention of
each layer, last layer first: r is a row with a weight for each token, A the attention matrix averaged over the heads,
and r A moves these weights to the tokens that were attended to.

- raw: the last layer alone, r ← r A.
- rollout (Abnar & Zuidema 2020, arXiv 2005.00928): all layers, half of each being the residual, r ← (r + r A) / 2.
- gradient (after Chefer et al. 2021, arXiv 2103.15679): all layers, with A weighted by its effect on a class,
  r ← 0.1 r + 0.9 c r Ā with Ā = mean over heads of (∇A ⊙ A)⁺, and c such that c r Ā has the sum of r. (They add r Ā
  unscaled. But ∇A is small where many tokens are averaged, as in models 3 and 4, and r would hardly change.)

Attention over one axis is the same matrix with zeros for all other tokens, so this holds for all four models;
docs/attention.md has the formulas of each.

The fused kernels return no weights. Hooks keep the input of each attention, from which the weights are recomputed, a
block of queries at a time. The gradient of A follows from that of A V, which autograd has: ∇A = ∇(A V) Vᵀ. The full
matrix of all pairs of tokens never exists.

Shapes: B clips, T temporal positions, S spatial positions, N tokens, H heads, d width of a head, D = H · d; R rows of
n tokens that attend to each other.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vivit.errors import UserError
from vivit.labels import by_head
from vivit.model.attention import FactorisedDotProductAttention, SelfAttention, TemporalSelfAttention
from vivit.model.encoder import Encoder, encoders_of
from vivit.model.linear import linear
from vivit.model.vivit import FactorisedEncoder, ViViT

Method = Literal["raw", "rollout", "gradient"]
# Attention weights in memory at once, of all heads and rows.
MOST_WEIGHTS = 1 << 22
TINY = 1e-30
# The fraction of r that goes through a layer's attention; the rest is the residual. docs/log.md explains the 0.9.
THROUGH = {"raw": 1.0, "rollout": 0.5, "gradient": 0.9}


@dataclass
class _Attended:
    """What a call of an attention module used."""

    module: SelfAttention
    x: Tensor
    """Its input, (…, D)."""
    mixed: Tensor | None = None
    """What its heads gathered, (…, D), for the method "gradient"."""
    gradient: Tensor | None = None
    """Of the score, with respect to `mixed`."""


@dataclass
class _Encoded:
    """What an encoder used and returned."""

    encoder: Encoder
    layers: list[_Attended] = field(default_factory=list)
    """In the order of their calls."""
    tokens: Tensor = field(default_factory=lambda: torch.empty(0))
    """Before they are pooled, (R, N, D) or (B, T, S, D)."""
    gradient: Tensor | None = None
    """Of the score, with respect to `tokens`."""


def attention_maps(
    model: ViViT, clips: Tensor, method: Method = "gradient", classes: Mapping[str, Sequence[int]] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Where a model looked in each clip, and what it answered.

    Args:
        model: in eval mode, without token merging.
        clips: (B, frames, C, H, W) of the model's size, on its device; uint8 or floats in [-1, 1].
        classes: head → the class of each clip, whose logit the method "gradient" differentiates; with several heads,
            the sum of their logits. None: the best class of each head.

    Returns:
        (B, T, n_h, n_w) float32, each clip's map with a sum of 1, and head → logits (B, K).

    Raises:
        UserError: the model merges tokens, or nothing in a clip supports its class.
        ValueError: the clips have another size.
    """
    if any(encoder.merging is not None for encoder in encoders_of(model)):
        raise UserError("merge: merged tokens have no position in a map; leave merging out")
    with torch.set_grad_enabled(method == "gradient"), _watching(model, method) as (encoders, shares):
        logits = dict(by_head(model(clips)))
        if method == "gradient":
            shares = _add_gradients(_score(logits, classes, model.config.multi_label), encoders, shares)
    with torch.no_grad():
        found = _map(model, encoders, shares, method, len(clips))
    total = found.flatten(1).sum(dim=1)
    if not bool((total > 0).all()):
        raise UserError("gradient: nothing in a clip counts towards its class; choose another class, or rollout")
    found = found / total[:, None, None]
    return found.unflatten(2, model.config.grid[1:]), {head: values.detach() for head, values in logits.items()}


@contextmanager
def _watching(model: ViViT, method: Method) -> Iterator[tuple[list[_Encoded], list[Tensor]]]:
    """Record the inputs and outputs of a model's attention and encoders; the lists fill while it runs."""
    found = [_Encoded(encoder) for encoder in encoders_of(model)]
    shares: list[Tensor] = []

    def keep(layers: list[_Attended], module: SelfAttention) -> Any:
        return module.register_forward_pre_hook(lambda _, x: layers.append(_Attended(module, x[0])))

    def keep_mixed(layers: list[_Attended], module: SelfAttention) -> Any:
        def hook(_: nn.Module, mixed: tuple[Tensor]) -> None:
            layers[-1].mixed = mixed[0]

        return module.proj.register_forward_pre_hook(hook)

    def keep_tokens(encoded: _Encoded) -> Any:
        def hook(_: nn.Module, x: Any, tokens: Tensor) -> None:
            encoded.tokens = tokens

        return encoded.encoder.norm.register_forward_hook(hook)

    with ExitStack() as hooks:
        for encoded in found:
            hooks.callback(keep_tokens(encoded).remove)
            blocks = encoded.encoder.blocks[-1:] if method == "raw" else encoded.encoder.blocks
            for module in (module for module in blocks.modules() if isinstance(module, SelfAttention)):
                hooks.callback(keep(encoded.layers, module).remove)
                if method == "gradient":
                    hooks.callback(keep_mixed(encoded.layers, module).remove)
        if method == "gradient":  # the model's weights may be frozen
            start = model.embedding.register_forward_hook(lambda _, x, tokens: tokens.requires_grad_())
            hooks.callback(start.remove)
        if model.pooler is not None:
            hooks.callback(model.pooler.softmax.register_forward_hook(lambda _, x, out: shares.append(out)).remove)
        yield found, shares


def _score(logits: Mapping[str, Tensor], classes: Mapping[str, Sequence[int]] | None, multi_label: bool) -> Tensor:
    """The score to differentiate: the logits of the classes, summed over heads and clips.

    If classes exclude each other, less the mean of the head: a number added to all logits changes no answer.
    """
    total = torch.zeros(())
    for head, values in logits.items():
        if classes is not None and head not in classes:
            continue
        chosen = values.argmax(dim=1) if classes is None else torch.tensor(classes[head], device=values.device)
        of_classes = values.gather(1, chosen[:, None]).sum()
        total = total.to(values) + of_classes
        if not multi_label:
            total = total - values.mean(dim=1).sum()
    return total


def _add_gradients(score: Tensor, encoders: Sequence[_Encoded], shares: Sequence[Tensor]) -> list[Tensor]:
    """Give each layer and encoder its gradient; returns the pooling weights times theirs, negative products as 0."""
    wanted = [*shares]
    for encoded in encoders:
        wanted += [encoded.tokens, *(layer.mixed for layer in encoded.layers if layer.mixed is not None)]
    gradients = iter(torch.autograd.grad(score, wanted))
    weighted = [(share * next(gradients)).detach().clamp(min=0) for share in shares]
    for encoded in encoders:
        encoded.gradient = next(gradients)
        for layer in encoded.layers:
            layer.gradient = next(gradients)
    return weighted


def _map(model: ViViT, encoders: Sequence[_Encoded], shares: Sequence[Tensor], method: Method, clips: int) -> Tensor:
    """(B, T, S), not yet with a sum of 1."""
    *before, last = encoders
    times, height, width = model.config.grid
    start = None
    if shares:  # of attentive pooling, (B, H, N)
        start = shares[0].float().mean(dim=1).view(last.tokens.shape[:-1])
    r = _through(last, method, start)
    two = isinstance(model.encoder, FactorisedEncoder)
    if before:
        # The output of the spatial encoder for each temporal index is a token of the temporal one.
        within = _through(before[0], method)
        r = within / within.sum(dim=1, keepdim=True).clamp(min=TINY) * r[:, -times:].reshape(-1, 1)
    elif two and start is None and method == "gradient" and last.encoder.positions.class_token is not None:
        # The mean of the class tokens of all temporal indices; those that support the class count.
        r = r * _contributions(last).sum(dim=1, keepdim=True)
    if two:
        return r[:, -height * width :].reshape(clips, times, -1)  # (B · T, [1 +] S) → (B, T, S)
    return r.flatten(1)[:, -times * height * width :].view(clips, times, -1)


def _contributions(encoded: _Encoded) -> Tensor:
    """How far each token in a mean supports the class, 0 if it does not: (…, D) → (…)."""
    assert encoded.gradient is not None
    return (encoded.tokens.detach().float() * encoded.gradient.float()).sum(dim=-1).clamp(min=0)


def _through(encoded: _Encoded, method: Method, start: Tensor | None = None) -> Tensor:
    """Weights of the tokens that go into an encoder, (R, N) or (B, T, S), from those of its output."""
    r = _start(encoded, method) if start is None else start
    for layer in reversed(encoded.layers):
        through = _through_layer(r, layer)
        if method == "gradient":
            through = through * (_sums(r) / _sums(through).clamp(min=TINY))
        r = torch.lerp(r, through, THROUGH[method])
    return r


def _sums(r: Tensor) -> Tensor:
    """The sum of each row, in a shape that broadcasts with (R, N) or (B, T, S)."""
    return r.flatten(1).sum(dim=1).view(-1, *[1] * (r.ndim - 1))


def _start(encoded: _Encoded, method: Method) -> Tensor:
    """How the encoder's output is pooled: all weight is on the class token, or each token has a share of the mean."""
    shape, device = encoded.tokens.shape[:-1], encoded.tokens.device
    if encoded.encoder.positions.class_token is not None:
        r = torch.zeros(shape, device=device)
        r[:, 0] = 1
        return r
    if method == "gradient":
        return _contributions(encoded)
    return torch.full(shape, 1 / shape[1:].numel(), device=device)


def _through_layer(r: Tensor, layer: _Attended) -> Tensor:
    """r A of an attention module; if its heads attend over different axes, the mean over all of them."""
    parts = list(_heads(layer))
    found = torch.zeros_like(r)
    for over_time, heads, gradient in parts:
        rows = r.transpose(1, 2) if over_time else r  # (B, T, S) → (B, S, T)
        mixed = _mixed(rows.reshape(-1, rows.shape[-1]), heads, gradient).view(rows.shape)
        found += mixed.transpose(1, 2) if over_time else mixed
    return found / len(parts)


def _heads(layer: _Attended) -> Iterator[tuple[bool, Tensor, Tensor | None]]:
    """The heads that attend over one axis: whether it is time, (R, n, H, 3, d), and the gradient, (R, n, H, d)."""
    module, gradient = layer.module, layer.gradient
    qkv = linear(layer.x.detach(), module.qkv)
    if isinstance(module, FactorisedDotProductAttention):
        halves = [None, None] if gradient is None else gradient.chunk(2, dim=-1)
        for over_time, part, of_part in zip((True, False), qkv.chunk(2, dim=-1), halves, strict=True):
            yield over_time, *_rows(part, of_part, module.num_heads // 2, over_time)
    else:
        over_time = isinstance(module, TemporalSelfAttention)
        yield over_time, *_rows(qkv, gradient, module.num_heads, over_time)


def _rows(qkv: Tensor, gradient: Tensor | None, num_heads: int, over_time: bool) -> tuple[Tensor, Tensor | None]:
    """(…, n, H · 3 · d) → (R, n, H, 3, d), or over time (B, T, S, H · 3 · d) → (B · S, T, H, 3, d); so the gradient."""
    heads = qkv.unflatten(-1, (num_heads, 3, -1))
    of_heads = None if gradient is None else gradient.unflatten(-1, (num_heads, -1))
    if over_time:
        heads = heads.transpose(1, 2)
        of_heads = None if of_heads is None else of_heads.transpose(1, 2)
    return heads.flatten(0, -5), None if of_heads is None else of_heads.flatten(0, -4)


def _mixed(r: Tensor, heads: Tensor, gradient: Tensor | None) -> Tensor:
    """r A, where A is the mean over the heads, or r Ā if there is a gradient: (R, n) → (R, n)."""
    q, k, v = heads.float().permute(3, 0, 2, 1, 4).unbind(0)  # (R, n, H, 3, d) → 3 × (R, H, n, d)
    rows, num_heads, count, width = q.shape
    keys = k.transpose(2, 3) / width**0.5
    found = torch.zeros_like(r)
    for at in range(0, count, block := max(1, MOST_WEIGHTS // (rows * num_heads * count))):
        weights = (q[:, :, at : at + block] @ keys).softmax(dim=-1)  # (R, H, block, n)
        if gradient is not None:
            of_block = gradient[:, at : at + block].transpose(1, 2).float()  # (R, block, H, d) → (R, H, block, d)
            weights = (weights * (of_block @ v.transpose(2, 3))).clamp_(min=0)
        found += torch.einsum("rq,rhqk->rk", r[:, at : at + block], weights) / num_heads
    return found
