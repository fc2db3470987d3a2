"""Blocks computed again for their gradients give the same numbers with less memory."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tests.support import tiny_model
from vivit.config import Variant
from vivit.model.encoder import Encoder
from vivit.model.vivit import ViViT

CHANCE: dict[str, Any] = dict.fromkeys(("dropout", "attention_dropout", "stochastic_depth", "token_dropping"), 0.3)
each_variant = pytest.mark.parametrize("variant", get_args(Variant))


def build(variant: Variant, checkpointing: bool) -> ViViT:
    """A small model in training mode, with dropout, stochastic depth and token dropping all on."""
    model = tiny_model(variant=variant, num_frames=4, image_size=32, num_layers=3, **CHANCE)
    for encoder in encoders(model):
        encoder.activation_checkpointing = checkpointing
    return model.train()


def encoders(model: ViViT) -> list[Encoder]:
    return [module for module in model.modules() if isinstance(module, Encoder)]


def random_video() -> Tensor:
    return torch.randint(0, 256, (3, 4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def step(model: ViViT, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor], Tensor, int]:
    """Logits, gradients, the next random number, and the bytes saved for the gradients."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(7)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = model(random_video())
        following = torch.rand(1)
        size = sum(kept.values())
    logits.float().square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), gradients, following, size


@each_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradients_are_the_very_same_with_all_chance_on(variant: Variant, dtype: torch.dtype) -> None:
    logits, gradients, following, kept = step(build(variant, checkpointing=False), dtype)
    again, same_gradients, same_following, less = step(build(variant, checkpointing=True), dtype)
    assert torch.equal(again, logits)
    assert torch.equal(same_following, following)
    assert same_gradients.keys() == gradients.keys()
    assert all(torch.equal(same_gradients[name], gradient) for name, gradient in gradients.items())
    assert sum(gradient.count_nonzero() > 0 for gradient in gradients.values()) > len(gradients) / 2
    assert less < kept / 2


@each_variant
def test_blocks_run_twice_in_training_and_once_where_no_gradient_is_wanted(variant: Variant) -> None:
    model, calls = build(variant, checkpointing=True), 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    blocks = [block for encoder in encoders(model) for block in encoder.blocks]
    for block in blocks:
        block.register_forward_pre_hook(count)
    model(random_video()).sum().backward()
    assert calls == 2 * len(blocks)
    calls = 0
    with torch.no_grad():
        model(random_video())
    model.eval()(random_video()).sum().backward()
    assert calls == 2 * len(blocks)


def test_compiled_blocks_are_checkpointed_too() -> None:
    results = []
    for checkpointing in (False, True):
        torch.compiler.reset()
        model = build("factorised_self_attention", checkpointing)
        for encoder in encoders(model):
            for block in encoder.blocks:
                block.compile(fullgraph=True, backend="aot_eager")
        results.append(step(model, torch.float32))
    (logits, gradients, _, kept), (again, same_gradients, _, less) = results
    assert torch.equal(again, logits)
    assert all(torch.equal(same_gradients[name], gradient) for name, gradient in gradients.items())
    assert less < kept / 2
