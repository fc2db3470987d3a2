"""A part against the whole, and what training it changes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vivit.config import ModelConfig
from vivit.errors import UserError
from vivit.model.vivit import ViViT
from vivit.training.frozen import TemporalPart, factorised_encoder_of, frame_features, freeze_spatial
from vivit.weights.store import load

SIZES: dict[str, Any] = {
    "variant": "factorised_encoder",
    "num_frames": 6,
    "image_size": (16, 24),
    "tubelet_size": (2, 8, 8),
    "hidden_size": 16,
    "num_layers": 3,
    "num_heads": 4,
    "mlp_dim": 24,
    "temporal_layers": 2,
    "num_classes": 5,
}
SPATIAL = ("embedding.", "model.spatial_")
each_kind = pytest.mark.parametrize(
    "fields",
    [
        {},
        {"adapter_size": 4, "representation_size": 7, "heads": {"verb": 3, "noun": 4}, "num_classes": None},
        {"pooling": "mean", "adapter_size": 4},
    ],
    ids=["plain", "adapter and heads", "mean"],
)


def build(**fields: Any) -> ViViT:
    """A small model, every weight of it random."""
    model = ViViT(ModelConfig(**{**SIZES, **fields}))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model


def clips(model: ViViT, batch: int = 3) -> Tensor:
    shape = (batch, model.config.num_frames, 3, *model.config.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def assert_close(one: Tensor | dict[str, Tensor], other: Tensor | dict[str, Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@each_kind
def test_spatial_and_temporal_part_are_the_whole(fields: dict[str, Any]) -> None:
    model = build(**fields).eval()
    part = freeze_spatial(model, initialise_temporal=False)
    assert_close(part(frame_features(model, clips(model))), model(clips(model)))


@each_kind
def test_the_part_has_the_models_own_parameters_under_their_names(fields: dict[str, Any]) -> None:
    model = build(**fields)
    part = freeze_spatial(model, initialise_temporal=True)
    whole = dict(model.named_parameters())
    of_part = dict(part.named_parameters())
    assert of_part.keys() == {name for name in whole if not name.startswith(SPATIAL)}
    assert all(whole[name] is parameter for name, parameter in of_part.items())
    assert {name for name, parameter in whole.items() if parameter.requires_grad} == of_part.keys()


def test_training_the_part_trains_the_model_and_leaves_the_spatial_encoder_as_it_was() -> None:
    model = build(adapter_size=4, dropout=0.3, stochastic_depth=0.3)
    part = freeze_spatial(model, initialise_temporal=True).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.5)
    features = frame_features(model, clips(model))
    for _ in range(3):
        optimiser.zero_grad()
        loss: Tensor = torch.nn.functional.cross_entropy(part(features), torch.tensor([0, 1, 2]))
        loss.backward()
        optimiser.step()
    same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert same == {name for name in before if name.startswith(SPATIAL)}
    model.eval()
    part.eval()
    assert_close(part(features), model(clips(model)))


def test_gradients_through_the_whole_reach_only_what_is_not_frozen() -> None:
    model = build(adapter_size=4)
    freeze_spatial(model, initialise_temporal=False)
    model(clips(model)).sum().backward()
    assert all((parameter.grad is None) == name.startswith(SPATIAL) for name, parameter in model.named_parameters())


@pytest.mark.parametrize(("temporal", "spatial", "copied"), [(2, 3, {0: 1, 1: 2}), (4, 3, {1: 0, 2: 1, 3: 2})])
def test_temporal_blocks_start_as_the_last_spatial_ones(temporal: int, spatial: int, copied: dict[int, int]) -> None:
    model = build(temporal_layers=temporal, num_layers=spatial)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    freeze_spatial(model, initialise_temporal=True)
    for name, value in model.state_dict().items():
        source = name
        if name.startswith("model.temporal_encoder."):
            source = name.replace("temporal", "spatial")
            for ours, theirs in copied.items():
                if name.startswith(f"model.temporal_encoder.blocks.{ours}."):
                    source = source.replace(f"blocks.{ours}.", f"blocks.{theirs}.")
                    break
            else:
                source = source if ".blocks." not in name else name
        assert torch.equal(value, fresh[source]), name


def test_features_are_without_dropout_and_leave_the_modes_as_they_were() -> None:
    model = build(dropout=0.5, stochastic_depth=0.5, token_dropping=0.5)
    part = freeze_spatial(model, initialise_temporal=False).train()
    model.model.get_submodule("spatial_encoder").eval()
    modes = {name: module.training for name, module in model.named_modules()}
    features = frame_features(model, clips(model))
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.equal(features, frame_features(model.eval(), clips(model)))
    assert not torch.equal(part.train()(features), part(features))


def test_features_in_half_precision_are_nearly_the_same() -> None:
    model = build()
    full, half = (frame_features(model, clips(model), dtype) for dtype in (torch.float32, torch.bfloat16))
    assert half.dtype == torch.float32
    assert 0 < (full - half).norm() / full.norm() < 0.05


def test_a_frozen_model_with_an_adapter_is_the_same_out_of_its_folder(tmp_path: Path) -> None:
    model = build(adapter_size=4).eval()
    freeze_spatial(model, initialise_temporal=True)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.config == model.config
    assert_close(loaded(clips(model)), model(clips(model)))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_a_copy_of_the_part_is_one_of_its_own() -> None:
    model = build(adapter_size=4).eval()
    part = TemporalPart(model)
    features = frame_features(model, clips(model))
    copied, logits = copy.deepcopy(part), part(features)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.1)
    assert torch.equal(copied(features), logits)
    assert not torch.allclose(part(features), logits)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"temporal_layers": 0}, "factorised encoder model without temporal layers"),
        ({"variant": "spatiotemporal", "temporal_layers": None}, "spatiotemporal model"),
        ({"variant": "factorised_self_attention", "temporal_layers": None}, "factorised self attention model"),
    ],
)
def test_a_model_without_a_spatial_encoder_of_its_own_is_refused(fields: dict[str, Any], words: str) -> None:
    model = build(**fields)
    with pytest.raises(UserError, match=f"freeze_spatial: this is a {words};"):
        freeze_spatial(model, initialise_temporal=True)
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(UserError, match="freeze_spatial"):
        factorised_encoder_of(model)
