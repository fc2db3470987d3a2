"""Models in the precision that is chosen for inference."""

from typing import Any

import pytest
import torch

from tests.support import random_weights, refused, tiny_config
from vivit.inference.prepare import prepare
from vivit.labels import by_head
from vivit.model.vivit import ViViT

VARIANTS: list[dict[str, Any]] = [
    {"variant": "spatiotemporal", "pooling": "mean", "representation_size": 8},
    {"variant": "factorised_encoder", "temporal_layers": 1, "adapter_size": 4},
    {"variant": "factorised_self_attention", "pooling": "mean", "heads": {"verb": 3, "noun": 4}},
    {"variant": "factorised_dot_product", "pooling": "mean", "attentive_pooling": True},
]


@pytest.mark.parametrize("fields", VARIANTS, ids=lambda fields: fields["variant"])
def test_bf16_converts_the_weights_and_changes_the_logits_a_little(fields: dict[str, Any]) -> None:
    config = tiny_config(**fields)
    model = random_weights(ViViT(config), std=0.2).eval()
    clips = torch.randint(256, (8, config.num_frames, 3, *config.image_size), dtype=torch.uint8)
    with torch.inference_mode():
        expected = by_head(model(clips))
        assert prepare(model, "cpu", "bf16").precision == "bf16"
        found = by_head(model(clips))
    kinds = {name.split(".")[0]: parameter.dtype for name, parameter in model.named_parameters()}
    assert kinds.pop("heads") == torch.float32
    assert set(kinds.values()) == {torch.bfloat16}
    for head, values in expected.items():
        assert found[head].dtype == torch.float32
        difference = (found[head] - values).abs()
        assert 0 < difference.mean() < 0.03 * values.std()


def test_f32_is_what_weights_of_16_bits_become() -> None:
    model = ViViT(tiny_config()).bfloat16()
    assert str(prepare(model, "cpu", "f32")) == "f32"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_int8_is_for_exported_models() -> None:
    assert "vivit export MODEL OUT --int8" in refused(lambda: prepare(ViViT(tiny_config()), "cpu", "int8"))
