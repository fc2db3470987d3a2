"""Probes: features against transformers and the plain forward, and runs that train a head on them."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ViTConfig, ViTModel

from tests.support import random_clips, random_weights, tiny_model
from vivit.data.readers.listing import open_data
from vivit.errors import Stopped, UserError
from vivit.evaluation.evaluate import evaluate
from vivit.inference.features import AttentiveProbe, LinearProbe, TemporalPart, TrainedPart, clip_features
from vivit.model.encoder import encoders_of
from vivit.model.vivit import ViViT
from vivit.training import feature_cache, sources
from vivit.training.feature_cache import Features, _Content, frozen_hash
from vivit.training.initialise import build_model, freeze, start_lines
from vivit.training.memory import StepCost, estimate_step
from vivit.training.recipe import Recipe
from vivit.training.recipes import RECIPES
from vivit.training.train import train
from vivit.weights.store import load, save

VARIANTS: dict[str, dict[str, Any]] = {
    "spatiotemporal": {"variant": "spatiotemporal", "embedding": "uniform_frames", "sampled_frames": 3},
    "factorised encoder": {"variant": "factorised_encoder", "temporal_layers": 1, "representation_size": 7},
    "baseline": {"variant": "factorised_encoder", "temporal_layers": 0},
    "factorised self-attention": {"variant": "factorised_self_attention", "heads": {"verb": 3, "noun": 4}},
    "factorised dot-product": {"variant": "factorised_dot_product"},
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)
PARTS: dict[str, type[TrainedPart]] = {"linear": LinearProbe, "attentive": AttentiveProbe}


def small_run(probe: str, **fields: Any) -> Recipe:
    """Two epochs of two or three steps, with new clips in the second."""
    sizes = {"num_frames": 4, "frame_stride": 1, "epochs": 2, "min_steps": 0, "batch_size": 4, "cached_clips": 2}
    return Recipe(**{**RECIPES["probe"].model_dump(), **sizes, "probe": probe, **fields})


@pytest.fixture
def image(tmp_path: Path) -> ViTModel:
    """An image ViT of transformers with random weights, in tmp_path/image."""
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = ViTModel(ViTConfig(image_size=32, patch_size=8, intermediate_size=64, **sizes), add_pooling_layer=False)
    random_weights(model, std=0.3).save_pretrained(tmp_path / "image")
    return model.eval()


@each_variant
def test_the_parts_of_a_cut_model_are_the_whole(variant: str) -> None:
    cases: list[tuple[type[TrainedPart], bool, float]] = [(LinearProbe, False, 0.0), (LinearProbe, True, 0.0)]
    cases.append((AttentiveProbe, True, 1e-2))
    for part, attentive_pooling, tolerance in cases:
        model = tiny_model(**VARIANTS[variant], attentive_pooling=attentive_pooling)
        rest, clips = freeze(model, part), random_clips(model.config, 3)
        features = clip_features(model, clips, part)
        assert features.dtype == part.stored and not features.requires_grad
        with torch.no_grad():
            expected = model(clips)
        torch.testing.assert_close(rest(features), expected, rtol=tolerance, atol=tolerance)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained == {name for name, _ in rest.named_parameters()}
        assert {name.split(".")[0] for name in trained} <= {"heads", "pooler", "representation"}


@each_variant
def test_an_attentive_probe_sees_all_that_the_last_encoder_gives(variant: str) -> None:
    model = tiny_model(**VARIANTS[variant], attentive_pooling=True)
    seen: list[Tensor] = []
    encoders_of(model)[-1].norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    clips = random_clips(model.config, 2)
    features = clip_features(model, clips, AttentiveProbe)
    tokens = seen[0].reshape(2, -1, model.config.hidden_size)
    expected = F.layer_norm(tokens, tokens.shape[-1:], eps=model.config.norm_eps)
    torch.testing.assert_close(features.float(), expected, rtol=1e-3, atol=1e-3)


def test_frozen_spatial_features_feed_attentive_pooling_too() -> None:
    model = tiny_model(variant="factorised_encoder", temporal_layers=1, attentive_pooling=True)
    clips = random_clips(model.config)
    torch.testing.assert_close(freeze(model, TemporalPart)(clip_features(model, clips)), model(clips))


@pytest.mark.parametrize("probe", PARTS)
def test_features_of_an_image_vit_are_those_of_transformers(
    probe: str, image: ViTModel, tmp_path: Path, bright_dark: Path
) -> None:
    videos = open_data(bright_dark).split("train")
    model = build_model(small_run(probe), videos, str(tmp_path / "image"), "clips").model
    assert model.config.temporal_layers == 0
    clips = random_clips(model.config)
    features = clip_features(model, clips, PARTS[probe])
    frames = clips[:, 1::2]  # the central frame of each tubelet
    with torch.no_grad():
        hidden = image(frames.flatten(0, 1)).last_hidden_state.unflatten(0, frames.shape[:2])  # (B, T, 1 + S, D)
    if probe == "linear":
        torch.testing.assert_close(features, hidden[:, :, 0].mean(dim=1), rtol=1e-4, atol=1e-4)
    else:
        tokens = F.layer_norm(hidden.flatten(1, 2), hidden.shape[-1:], eps=model.config.norm_eps)
        torch.testing.assert_close(features.float(), tokens, rtol=1e-3, atol=1e-3)


def test_folded_heads_need_no_standardised_features() -> None:
    model = tiny_model(heads={"verb": 3, "noun": 4})
    probe, folded = LinearProbe(model), tiny_model(heads={"verb": 3, "noun": 4})
    features = torch.randn(5, 16, generator=torch.Generator().manual_seed(2)) * 3 + 7
    probe.standardise(features.mean(dim=0), features.std(dim=0))
    probe.fold(folded)
    torch.testing.assert_close(folded.classify(features), probe(features), rtol=1e-4, atol=1e-4)


def test_moments_are_of_all_readable_videos() -> None:
    rows = torch.randn(5, 4) * 3 + 1
    rows[3] = torch.nan
    parts = {Path("a"): _Content(rows[:3], [None] * 3), Path("b"): _Content(rows[3:], ["damaged", None])}
    mean, deviation = Features(list(parts), parts.__getitem__).moments()
    readable = rows[[0, 1, 2, 4]].numpy()
    torch.testing.assert_close(mean, torch.from_numpy(readable.mean(axis=0)))
    torch.testing.assert_close(deviation, torch.from_numpy(readable.std(axis=0)), rtol=1e-5, atol=1e-5)


def test_features_of_two_parts_of_one_model_are_kept_apart() -> None:
    model = tiny_model(attentive_pooling=True)
    before = {part: frozen_hash(model, part) for part in PARTS.values()}
    assert len(set(before.values())) == 2
    with torch.no_grad():
        model.get_parameter("pooler.query").add_(1)
        model.get_parameter("heads.classes.bias").add_(1)
    assert frozen_hash(model, AttentiveProbe) == before[AttentiveProbe]
    assert frozen_hash(model, LinearProbe) != before[LinearProbe]


# Runs.


@pytest.fixture
def lists(bright_dark: Path, tmp_path: Path) -> dict[str, Path]:
    """The videos of `bright_dark` with two heads, and with any number of labels."""
    rows = [("path,verb,noun,split", "path,labels,split")]
    for number in range(6):
        split = "val" if number == 5 else "train"
        for name in ("bright", "dark"):
            path = bright_dark / name / f"{name}{number}.mp4"
            rows.append((f"{path},{name},n{number % 2},{split}", f"{path},{name};n{number % 2},{split}"))
    columns = dict(zip(("linear", "attentive"), zip(*rows, strict=True), strict=True))
    for probe, lines in columns.items():
        (tmp_path / f"{probe}.csv").write_text("\n".join(lines))
    return {probe: tmp_path / f"{probe}.csv" for probe in columns}


@pytest.mark.parametrize("probe", PARTS)
def test_a_probe_leaves_the_encoder_as_it_was_and_its_folder_has_its_scores(
    probe: str, lists: dict[str, Path], image: ViTModel, tmp_path: Path
) -> None:
    """A linear probe with two heads, an attentive one with any number of labels."""
    recipe, init = small_run(probe, learning_rate=1e-2), str(tmp_path / "image")
    before = build_model(recipe, open_data(lists[probe]).split("train"), init, "clips").model
    trained = train(lists[probe], tmp_path / "run", recipe, init=init, device="cpu", workers=0)
    model = load(tmp_path / "run")
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert {name.split(".")[0] for name in changed} == {"heads"} if probe == "linear" else {"heads", "pooler"}
    for name, value in trained.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    val = open_data(lists[probe]).split("val")
    found = evaluate(model, val)
    row = json.loads((tmp_path / "run" / "epoch.json").read_text())
    assert {name: pytest.approx(row[name], abs=1e-3) for name in found.scores()} == found.scores()
    # One clip through the folder's model is its cached features through the head: to the last bit where nothing rounds.
    clips, part = random_clips(model.config, 1), PARTS[probe]
    logits = part(model)(clip_features(model, clips, part))
    with torch.no_grad():
        for head, values in model(clips).items() if probe == "linear" else [("classes", model(clips))]:
            own = logits[head] if probe == "linear" else logits
            assert torch.equal(own, values) if probe == "linear" else torch.allclose(own, values, atol=1e-2)


@pytest.mark.parametrize("probe", PARTS)
def test_a_run_stopped_anywhere_goes_on_to_the_same_weights_and_scores(
    probe: str, image: ViTModel, bright_dark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: str) -> ViViT:
        init = str(tmp_path / "image")
        return train(bright_dark, tmp_path / out, small_run(probe), init=init, device="cpu", workers=0)

    monkeypatch.setattr(feature_cache, "PART_SIZE", 3)
    whole = run("whole")
    encode, asked = feature_cache.clip_features, 0

    def stop_at_times(*given: Any) -> Tensor:
        nonlocal asked
        asked += 1
        if asked in (9, 16):  # there are 2 validation clips, and 10 in each epoch
            signal.raise_signal(signal.SIGTERM)
        return encode(*given)

    monkeypatch.setattr(feature_cache, "clip_features", stop_at_times)
    for step in (0, 2):
        with pytest.raises(Stopped, match=f"stopped after step {step} of 4"):
            run("parts")
    parts = run("parts")
    again = run("parts")  # which is trained already
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
        assert torch.equal(value, again.state_dict()[name]), name
    metrics = [(tmp_path / out / "metrics.jsonl").read_text() for out in ("whole", "parts")]
    assert metrics[0] == metrics[1]


def test_a_probe_of_a_probe_starts_anew(tmp_path: Path, bright_dark: Path) -> None:
    sizes: dict[str, Any] = {"num_frames": 4, "image_size": 32, "tubelet_size": (2, 16, 16), "num_classes": 2}
    names: dict[str, Any] = {"classes": ("bright", "dark")}
    save(tiny_model(classes=names, attentive_pooling=True, **sizes), tmp_path / "model")
    videos = open_data(bright_dark).split("train")
    for probe, starts_anew in (("linear", ("heads",)), ("attentive", ("heads", "pooler"))):
        recipe = small_run(probe, layer_decay=0.5)
        start = build_model(recipe, videos, str(tmp_path / "model"), "clips")
        assert not any(map(torch.any, start.model.heads.parameters()))
        before = load(tmp_path / "model").state_dict()
        same = {name for name, value in start.model.state_dict().items() if torch.equal(value, before[name])}
        assert same == {name for name in before if not name.startswith(starts_anew)}
        freeze(start.model, PARTS[probe])
        lines = start_lines(start, recipe, "model", 10)
        trained = sum(value.numel() for name, value in before.items() if name.startswith(starts_anew))
        assert any(f"--probe {probe} trains" in line and f" {trained:,} parameters" in line for line in lines)
        assert "without effect on a probe: layer_decay" in lines
        assert not any("head kept" in line for line in lines)


@pytest.mark.parametrize(
    ("message", "fields", "init"),
    [
        ("probe: from scratch.* give --init", {}, None),
        ("probe: .* leave out --freeze-spatial or --probe", {"freeze_spatial": True}, "image"),
        ("cutmix: --probe linear", {"cutmix": 1.0}, "image"),
        ("token_dropping: --probe linear", {"token_dropping": 0.5}, "image"),
        ("ema: ", {"ema": 0.9}, "image"),
        ("adapter_size: ", {"adapter_size": 4}, "image"),
        ("temporal_layers: an image ViT has none", {"architecture": {"temporal_layers": 2}}, "image"),
    ],
)
def test_contradictions_are_refused_and_no_run_begun(
    message: str, fields: dict[str, Any], init: str | None, image: ViTModel, tmp_path: Path, bright_dark: Path
) -> None:
    source = None if init is None else str(tmp_path / init)
    with pytest.raises(UserError, match=message):
        train(bright_dark, tmp_path / "run", small_run("linear", **fields), init=source, device="cpu", workers=0)
    assert not (tmp_path / "run").exists()


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_encoded(
    image: ViTModel, tmp_path: Path, bright_dark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources.shutil, "disk_usage", lambda path: SimpleNamespace(free=40_000))
    # 2 · 10 clips to train on and 2 to score; each has two temporal indices of 17 tokens of 32 numbers.
    with pytest.raises(UserError, match=r"features of 22 clips in .*: 47 KiB as float16, .* --cached-clips"):
        init = str(tmp_path / "image")
        train(bright_dark, tmp_path / "run", small_run("attentive"), init=init, device="cpu", workers=0)
    assert not (tmp_path / "run" / "features").exists()


def test_the_memory_of_a_step_is_that_of_the_head_and_its_features() -> None:
    model = tiny_model(attentive_pooling=True, num_frames=16)
    whole = estimate_step(model, StepCost(64, torch.device("cpu")))
    needed = {}
    for probe, part in PARTS.items():
        freeze(model, part)
        needed[probe] = estimate_step(model, StepCost(64, torch.device("cpu"), part=part))
        model.requires_grad_(True)
    features = 64 * (1 + 8 * 2 * 3) * 16 * 6  # bytes as float16 and float32
    assert needed["linear"] < needed["attentive"] < whole
    assert features < needed["attentive"] - needed["linear"] < 4 * features
