"""The frozen spatial encoder and the trained rest against the whole model, and runs that train the rest."""

import copy
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import ViTConfig, ViTModel

from tests.support import random_weights
from vivit.config import ModelConfig
from vivit.data.readers.listing import open_data
from vivit.errors import Stopped, UserError
from vivit.evaluation.evaluate import evaluate
from vivit.inference.features import TemporalPart, clip_features, factorised_encoder_of
from vivit.model.vivit import ViViT
from vivit.training import feature_cache
from vivit.training.initialise import build_model, freeze, start_temporal_as_spatial
from vivit.training.recipe import Recipe
from vivit.training.train import train
from vivit.weights.store import load, save

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
SPATIAL = ("embedding.", "encoder.spatial.")
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
    """A small model with random weights."""
    model = ViViT(ModelConfig(**{**SIZES, **fields}))
    return random_weights(model)


def clips(model: ViViT, batch: int = 3) -> Tensor:
    shape = (batch, model.config.num_frames, 3, *model.config.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def assert_close(one: Tensor | dict[str, Tensor], other: Tensor | dict[str, Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@each_kind
def test_spatial_and_temporal_part_are_the_whole(fields: dict[str, Any]) -> None:
    model = build(**fields).eval()
    part = freeze(model, TemporalPart)
    assert_close(part(clip_features(model, clips(model))), model(clips(model)))


@each_kind
def test_the_part_has_the_models_own_parameters_under_their_names(fields: dict[str, Any]) -> None:
    model = build(**fields)
    part = freeze(model, TemporalPart)
    whole = dict(model.named_parameters())
    of_part = dict(part.named_parameters())
    assert of_part.keys() == {name for name in whole if not name.startswith(SPATIAL)}
    assert all(whole[name] is parameter for name, parameter in of_part.items())
    assert {name for name, parameter in whole.items() if parameter.requires_grad} == of_part.keys()


def test_training_the_part_trains_the_model_and_leaves_the_spatial_encoder_as_it_was() -> None:
    model = build(adapter_size=4, dropout=0.3, stochastic_depth=0.3)
    part = freeze(model, TemporalPart).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.5)
    features = clip_features(model, clips(model))
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
    freeze(model, TemporalPart)
    model(clips(model)).sum().backward()
    assert all((parameter.grad is None) == name.startswith(SPATIAL) for name, parameter in model.named_parameters())


@pytest.mark.parametrize(("temporal", "spatial", "copied"), [(2, 3, {0: 1, 1: 2}), (4, 3, {1: 0, 2: 1, 3: 2})])
def test_temporal_blocks_start_as_the_last_spatial_ones(temporal: int, spatial: int, copied: dict[int, int]) -> None:
    model = build(temporal_layers=temporal, num_layers=spatial)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    said = start_temporal_as_spatial(model)
    assert said == f"the last {len(copied)} temporal layers start as copies of the last spatial ones"
    for name, value in model.state_dict().items():
        source = name
        if name.startswith(("encoder.temporal.blocks.", "encoder.temporal.norm.")):
            source = name.replace("temporal", "spatial")
            for ours, theirs in copied.items():
                if name.startswith(f"encoder.temporal.blocks.{ours}."):
                    source = source.replace(f"blocks.{ours}.", f"blocks.{theirs}.")
                    break
            else:
                source = source if ".blocks." not in name else name
        assert torch.equal(value, fresh[source]), name


def test_features_are_without_dropout_and_leave_the_modes_as_they_were() -> None:
    model = build(dropout=0.5, stochastic_depth=0.5, token_dropping=0.5)
    part = freeze(model, TemporalPart).train()
    model.encoder.get_submodule("spatial").eval()
    modes = {name: module.training for name, module in model.named_modules()}
    features = clip_features(model, clips(model))
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.equal(features, clip_features(model.eval(), clips(model)))
    assert not torch.equal(part.train()(features), part(features))


def test_features_in_half_precision_are_nearly_the_same() -> None:
    model = build()
    full, half = (clip_features(model, clips(model), dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert half.dtype == torch.float32
    assert 0 < (full - half).norm() / full.norm() < 0.05


def test_a_frozen_model_with_an_adapter_is_the_same_out_of_its_folder(tmp_path: Path) -> None:
    model = build(adapter_size=4).eval()
    freeze(model, TemporalPart)
    save(model, tmp_path)
    loaded = load(tmp_path)
    assert loaded.config == model.config
    assert_close(loaded(clips(model)), model(clips(model)))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_a_copy_of_the_part_is_one_of_its_own() -> None:
    model = build(adapter_size=4).eval()
    part = TemporalPart(model)
    features = clip_features(model, clips(model))
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
        freeze(model, TemporalPart)
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(UserError, match=f"^this is a {words};"):
        factorised_encoder_of(model)


# Runs.


def small_run(**fields: Any) -> Recipe:
    """Two epochs of two steps on `bright_dark`, with new clips in the second."""
    sizes: dict[str, Any] = {"num_frames": 4, "frame_stride": 1, "epochs": 2, "batch_size": 4, "cached_clips": 2}
    training: dict[str, Any] = {"optimiser": "adamw", "learning_rate": 1e-2, "warmup_epochs": 0.5, "dropout": 0.2}
    return Recipe(**{**sizes, **training, "freeze_spatial": True, "adapter_size": 4, "ema": 0.5, **fields})


@pytest.fixture
def image_vit(tmp_path: Path) -> str:
    """An image ViT of transformers with random weights."""
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    image = ViTModel(ViTConfig(image_size=32, patch_size=8, intermediate_size=64, **sizes))
    random_weights(image, std=0.3)
    image.save_pretrained(tmp_path / "image")
    return str(tmp_path / "image")


def temporal_and_spatial_blocks(model: ViViT) -> list[dict[str, Tensor]]:
    """The state of the last block of each encoder."""
    encoder = factorised_encoder_of(model)
    assert encoder.temporal is not None
    return [one.blocks[-1].state_dict() for one in (encoder.temporal, encoder.spatial)]


@pytest.mark.parametrize("freeze", [True, False])
def test_the_temporal_encoder_of_an_image_vit_starts_as_the_spatial_one_if_that_is_frozen(
    freeze: bool, image_vit: str, bright_dark: Path
) -> None:
    data = open_data(bright_dark)
    model, notes = build_model(small_run(freeze_spatial=freeze), data.split("train"), image_vit, "clips")
    temporal, spatial = temporal_and_spatial_blocks(model)
    assert all(torch.equal(value, spatial[name]) for name, value in temporal.items()) == freeze
    said = "the last 2 temporal layers start as copies of the last spatial ones"
    assert (said in notes) == freeze


def test_a_temporal_encoder_that_was_trained_before_stays_as_it_is(tmp_path: Path, bright_dark: Path) -> None:
    before = build(image_size=32)
    save(before, tmp_path)
    model, _ = build_model(small_run(num_frames=6), open_data(bright_dark).split("train"), str(tmp_path), "clips")
    for own, expected in zip(temporal_and_spatial_blocks(model), temporal_and_spatial_blocks(before), strict=True):
        assert all(torch.equal(value, expected[name]) for name, value in own.items())


def test_a_spatial_encoder_of_random_weights_is_not_frozen_and_no_run_begun(tmp_path: Path, bright_dark: Path) -> None:
    with pytest.raises(UserError, match=r"freeze_spatial: from scratch.* give --init"):
        train(bright_dark, tmp_path / "run", small_run(), device="cpu", workers=0)
    assert not (tmp_path / "run").exists()


def test_cutmix_and_a_model_of_another_kind_are_refused_and_no_run_begun(
    tmp_path: Path, image_vit: str, bright_dark: Path
) -> None:
    spatiotemporal = {"variant": "spatiotemporal"}
    cases = [
        ("cutmix: --freeze-spatial", small_run(cutmix=1.0)),
        ("freeze_spatial: this is a spatio", small_run(architecture=spatiotemporal, adapter_size=None)),
    ]
    for message, recipe in cases:
        with pytest.raises(UserError, match=message):
            train(bright_dark, tmp_path / "run", recipe, init=image_vit, device="cpu", workers=0)
    assert not (tmp_path / "run").exists()


def test_a_run_stopped_anywhere_while_it_encodes_goes_on_to_the_same_weights_and_scores(
    tmp_path: Path, image_vit: str, bright_dark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: str) -> ViViT:
        return train(bright_dark, tmp_path / out, small_run(), init=image_vit, device="cpu", workers=0)

    monkeypatch.setattr(feature_cache, "PART_SIZE", 3)
    whole = run("whole")
    encode, asked = feature_cache.clip_features, 0

    def stop_at_times(*given: Any) -> Tensor:
        nonlocal asked
        asked += 1
        if asked in (2, 9, 16):  # there are 2 validation clips, and 10 in each epoch
            signal.raise_signal(signal.SIGTERM)
        return encode(*given)

    monkeypatch.setattr(feature_cache, "clip_features", stop_at_times)
    said = []
    for _ in range(3):
        with pytest.raises(Stopped) as stopped:
            run("parts")
        assert stopped.value.exit_status == 75
        said.append(str(stopped.value).split(";")[0])
    # The second clip is the last validation clip; the signal is noticed before the next one.
    assert said == ["stopped after step 0 of 4", "stopped after step 0 of 4", "stopped after step 2 of 4"]
    parts = run("parts")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    metrics = [(tmp_path / out / "metrics.jsonl").read_text() for out in ("whole", "parts")]
    assert metrics[0] == metrics[1]
    again = evaluate(load(tmp_path / "parts"), open_data(bright_dark).split("val"))
    last = json.loads(metrics[1].splitlines()[-1])
    assert {name: last[name] for name in again.scores()} == again.scores()


def test_a_stop_while_later_clips_are_encoded_loses_no_step(
    tmp_path: Path, image_vit: str, bright_dark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three passes over few videos before one score, so that no checkpoint precedes the second pass."""
    recipe = small_run(epochs=1, min_steps=6)
    encode, asked = feature_cache.clip_features, 0

    def stop_in_the_second_pass(*given: Any) -> Tensor:
        nonlocal asked
        asked += 1
        if asked == 15:  # there are 2 validation clips, and 10 in each pass
            signal.raise_signal(signal.SIGTERM)
        return encode(*given)

    with monkeypatch.context() as patched, pytest.raises(Stopped, match="stopped after step 2 of 6"):
        patched.setattr(feature_cache, "clip_features", stop_in_the_second_pass)
        train(bright_dark, tmp_path / "run", recipe, init=image_vit, device="cpu", workers=0)
    assert not (tmp_path / "run" / "metrics.jsonl").read_text()
    train(bright_dark, tmp_path / "run", recipe, init=image_vit, device="cpu", workers=0)
    sessions = (tmp_path / "run" / "sessions.jsonl").read_text().splitlines()
    assert [json.loads(line)["first_step"] for line in sessions] == [0, 2]
    assert len((tmp_path / "run" / "steps.jsonl").read_text().splitlines()) == 6


def test_tokens_that_are_encoded_once_cannot_be_dropped(tmp_path: Path, image_vit: str, bright_dark: Path) -> None:
    with pytest.raises(UserError, match="token_dropping: --freeze-spatial"):
        train(bright_dark, tmp_path / "run", small_run(token_dropping=0.5), init=image_vit, device="cpu", workers=0)
    assert not (tmp_path / "run").exists()
