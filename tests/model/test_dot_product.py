"""Attention in blocks equals the plain formula, and the fused kernel runs where it must."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, cpu

from tests.support import random_clips, tiny_model
from vivit.config import Variant
from vivit.inference.merging import Merge, merge_tokens
from vivit.inference.speed import attention_of
from vivit.model import dot_product
from vivit.model.dot_product import dot_product_attention


@pytest.fixture(autouse=True)
def one_thread_of_a_processor_for_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a size that divides nothing, on whatever processor runs this."""
    monkeypatch.setattr(dot_product, "SCORES_OF_ONE_THREAD", 5_000)
    monkeypatch.setattr(dot_product, "SCORES_OF_SEVERAL", 5_000)
    monkeypatch.setattr(cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)


def queries_keys_values(tokens: int, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    """As the models have them: views of (B, N, H, 3, d)."""
    heads = torch.randn(3, tokens, 5, 3, 24, generator=torch.Generator().manual_seed(tokens)).to(dtype)
    q, k, v = heads.permute(3, 0, 2, 1, 4).unbind(0)
    return q, k, v


# Several matrices in a block, one, and a part of one.
@pytest.mark.parametrize("tokens", [33, 61, 190])
@pytest.mark.parametrize("masked", [False, True])
def test_blocks_equal_the_formula(tokens: int, masked: bool) -> None:
    q, k, v = queries_keys_values(tokens)
    added = (torch.arange(3 * tokens) % 7).log1p().bfloat16().view(3, 1, 1, tokens) if masked else None
    with torch.inference_mode():
        found = dot_product_attention(q, k, v, added)
        kernel = torch.nn.functional.scaled_dot_product_attention(q, k, v, added)
    scores = q.double() @ k.double().mT / 24**0.5
    exact = (scores if added is None else scores + added.double()).softmax(dim=-1) @ v.double()
    assert found.shape == exact.shape and found.dtype == torch.bfloat16
    error, of_kernel = ((each.double() - exact).abs().max() for each in (found, kernel))
    assert 0 < error < 5 * of_kernel < 0.05
    assert not torch.equal(found, kernel)  # or it was the kernel


NOT_IN_BLOCKS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "gradients": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no oneDNN": lambda: torch.backends.mkldnn.flags(enabled=False),
}


@pytest.mark.parametrize("why", NOT_IN_BLOCKS)
def test_the_kernel_runs_where_blocks_would_be_wrong_or_slow(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def kinds(q: Tensor, k: Tensor, v: Tensor) -> str:
        return attention_of(lambda: dot_product_attention(q, k, v)).split()[0]

    q, k, v = queries_keys_values(40)
    assert kinds(q, k, v) == "plain"
    with NOT_IN_BLOCKS[why]():
        kernel = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        assert torch.equal(dot_product_attention(q, k, v), kernel)
    assert kinds(*queries_keys_values(40, torch.float32)) == "flash"
    assert kinds(*queries_keys_values(20)) == "flash"
    monkeypatch.setattr(cpu, "_is_amx_tile_supported", lambda: True)
    assert kinds(q, k, v) == "flash"


@pytest.mark.parametrize(
    "variant", ["spatiotemporal", "factorised_encoder", "factorised_self_attention", "factorised_dot_product"]
)
@pytest.mark.parametrize("merged", [False, True])
def test_whole_models_answer_as_before(variant: Variant, merged: bool) -> None:
    model = tiny_model(variant=variant, image_size=96).bfloat16()
    clips = random_clips(model.config)
    if merged:
        merge_tokens(model, Merge(0.2))
    assert "plain" in attention_of(lambda: model(clips))
    with torch.inference_mode():
        blocks = model(clips)
        with torch.backends.mkldnn.flags(enabled=False):
            plain = model(clips)
    torch.testing.assert_close(blocks, plain, rtol=0, atol=0.06 * plain.abs().max().item())


def test_exported_programs_hold_one_operation() -> None:
    model = tiny_model(image_size=96).bfloat16()
    clips = random_clips(model.config)
    with torch.inference_mode():
        program = torch.export.export(model, (clips,))
    names = [str(node.target) for node in program.graph.nodes]
    assert any("scaled_dot_product" in name for name in names) and not any("softmax" in name for name in names)
