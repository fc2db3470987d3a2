"""A linear layer and its activation in one call equal the plain lines, and the plain lines run where they must."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.support import random_clips, tiny_model
from vivit.model.linear import linear
from vivit.model.vivit import ViViT


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The inputs of the calls of oneDNN that were made."""
    made: list[Tensor] = []
    fused = torch.ops.mkldnn._linear_pointwise

    def noted(x: Tensor, *rest: Any) -> Tensor:
        made.append(x)
        return fused(x, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", noted)
    return made


def layer_and_input(dtype: torch.dtype, bias: bool = True) -> tuple[nn.Linear, Tensor]:
    torch.manual_seed(0)
    layer = nn.Linear(48, 80, bias=bias).to(dtype)
    x = torch.randn(2, 48, 33).transpose(1, 2).to(dtype)  # as no product left it
    return layer, x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("form", ["tanh", "none", None])
@pytest.mark.parametrize("bias", [True, False])
def test_one_call_equals_the_plain_lines(dtype: torch.dtype, form: str | None, bias: bool, calls: list[Tensor]) -> None:
    layer, x = layer_and_input(dtype, bias)
    activation = None if form is None else nn.GELU(form)
    with torch.no_grad():
        found = linear(x, layer, activation)
        # Of the same 16-bit numbers, but in float64.
        expected = layer.double()(x.double())
        expected = expected if activation is None else activation(expected)
        plain = expected.to(dtype)
    assert found.dtype == dtype and found.shape == plain.shape
    # float32 and bf16 round the result; bf16 may round the product before GELU, too.
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(found, plain, rtol=tolerance, atol=tolerance * expected.abs().max().item())
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    kinds = {torch.bfloat16: supported, torch.float32: form is not None, torch.float64: False}
    assert len(calls) == kinds[dtype]


def hooked(layer: nn.Linear) -> AbstractContextManager[Any]:
    return layer.register_forward_hook(lambda module, inputs, output: None)


NOT_FUSED: dict[str, Callable[[nn.Linear], AbstractContextManager[Any]]] = {
    "gradients": lambda layer: torch.enable_grad(),
    "autocast": lambda layer: torch.autocast("cpu", torch.bfloat16),
    "counting": lambda layer: FlopCounterMode(display=False),
    "hooks": hooked,
    "no oneDNN": lambda layer: torch.backends.mkldnn.flags(enabled=False),
}


@pytest.mark.parametrize("why", NOT_FUSED)
def test_the_plain_lines_run_where_one_call_would_be_wrong(why: str, calls: list[Tensor]) -> None:
    layer, x = layer_and_input(torch.float32)
    with torch.no_grad():
        linear(x, layer, nn.GELU())
        assert len(calls) == 1
        with NOT_FUSED[why](layer):
            linear(x, layer, nn.GELU())
        assert len(calls) == 1
        linear(x[:0], layer, nn.GELU())
        linear(x, nn.Sequential(layer), nn.GELU())  # such as an adapter around it
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "variant", ["spatiotemporal", "factorised_encoder", "factorised_self_attention", "factorised_dot_product"]
)
def test_whole_models_answer_as_before(variant: Any, dtype: torch.dtype, calls: list[Tensor]) -> None:
    model: ViViT = tiny_model(variant=variant).to(dtype)
    clips = random_clips(model.config)
    with torch.inference_mode():
        fast = model(clips)
        assert calls
        with torch.backends.mkldnn.flags(enabled=False):
            plain = model(clips)
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(fast, plain, rtol=0, atol=tolerance * plain.abs().max().item())


def test_exported_programs_hold_the_plain_lines(calls: list[Tensor]) -> None:
    model = tiny_model().bfloat16()
    clips = random_clips(model.config)
    with torch.inference_mode():
        program = torch.export.export(model, (clips,))
    names = [str(node.target) for node in program.graph.nodes]
    assert any("gelu" in name for name in names) and not any("mkldnn" in name for name in names)
    assert not calls
