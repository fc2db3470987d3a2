"""Clips of other sizes than the configured one: each call resizes positions as `adapt` does once."""

from typing import Any

import pytest
import torch
from scipy.ndimage import zoom
from torch import Tensor

from tests.support import tiny_model
from vivit.config import ModelConfig
from vivit.model.vivit import ViViT
from vivit.weights.adapt import adapt

SIZES: dict[str, Any] = {
    "num_frames": 8,
    "image_size": (24, 40),
    "tubelet_size": (2, 8, 8),
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_dim": 40,
    "num_classes": 5,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "spatiotemporal": {"variant": "spatiotemporal"},
    "spatiotemporal, mean": {"variant": "spatiotemporal", "pooling": "mean"},
    "factorised encoder": {"variant": "factorised_encoder", "temporal_layers": 2},
    "factorised encoder, mean": {"variant": "factorised_encoder", "temporal_layers": 2, "pooling": "mean"},
    "baseline": {"variant": "factorised_encoder", "temporal_layers": 0},
    "baseline, mean": {"variant": "factorised_encoder", "temporal_layers": 0, "pooling": "mean"},
    "baseline, attentive": {"variant": "factorised_encoder", "temporal_layers": 0, "attentive_pooling": True},
    "factorised self-attention": {"variant": "factorised_self_attention"},
    "factorised dot-product": {"variant": "factorised_dot_product"},
}
EMBEDDINGS: dict[str, dict[str, Any]] = {
    "tubelet": {},
    "uniform frames": {"embedding": "uniform_frames", "sampled_frames": 4},
    # The official sampling takes three of 8 frames but two of 12, so the grid depends on the clip.
    "uniform frames, one more": {"embedding": "uniform_frames", "sampled_frames": 2},
}
# (frames, height, width)
CLIPS = {
    "larger": (12, 32, 56),
    "smaller": (4, 16, 24),
    "longer in time alone": (12, 24, 40),
    "shorter in time alone": (6, 24, 40),
    "higher alone": (8, 40, 40),
    "narrower alone": (8, 24, 16),
    "as many places of another shape": (8, 40, 24),
    "one tubelet": (2, 8, 8),
    "one row, larger in time": (10, 8, 48),
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)
each_embedding = pytest.mark.parametrize("embedding", EMBEDDINGS)


def build(variant: str, embedding: str = "tubelet", **fields: Any) -> ViViT:
    return tiny_model(**{**SIZES, **VARIANTS[variant], **EMBEDDINGS[embedding], **fields})


def clip(frames: int, height: int, width: int) -> Tensor:
    return torch.rand(2, frames, 3, height, width, generator=torch.Generator().manual_seed(frames)) * 2 - 1


def of_size(model: ViViT, frames: int, height: int, width: int) -> ViViT:
    """A model of that size with this model's weights, and positions resized by SciPy."""
    fields = model.config.model_dump() | {"num_frames": frames, "image_size": (height, width)}
    other = ViViT(ModelConfig(**fields))
    state = dict(model.state_dict())
    for name, wanted in other.state_dict().items():
        if wanted.shape != state[name].shape:
            assert name.endswith(("positions.embedding", "pooler.positions"))
            factors = [after / before for before, after in zip(state[name].shape, wanted.shape, strict=True)]
            state[name] = torch.from_numpy(zoom(state[name].numpy(), factors, order=1))
    other.load_state_dict(state)
    return other.eval()


@each_variant
@each_embedding
def test_the_configured_size_gives_the_very_same_logits(variant: str, embedding: str) -> None:
    model = build(variant, embedding)
    video = clip(8, 24, 40)
    with torch.no_grad():
        assert torch.equal(model(video, any_size=True), model(video))
        assert torch.equal(model.features(video, any_size=True), model.features(video))


@each_variant
@pytest.mark.parametrize(
    ("embedding", "size"),
    [
        *(("tubelet", size) for size in CLIPS),
        *((name, size) for name in list(EMBEDDINGS)[1:] for size in ("larger", "smaller", "longer in time alone")),
    ],
)
def test_another_size_is_a_model_with_resized_positions(variant: str, embedding: str, size: str) -> None:
    model = build(variant, embedding)
    frames, height, width = CLIPS[size]
    video = clip(frames, height, width)
    adapted = adapt(model, num_frames=frames, image_size=(height, width))
    with torch.no_grad():
        logits = model(video, any_size=True)
        expected = of_size(model, frames, height, width)(video)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(adapted(video), logits, rtol=1e-5, atol=1e-6)
    assert (logits - logits.mean()).abs().max() > 1e-2


def test_bytes_are_taken_of_any_size_too() -> None:
    model = build("spatiotemporal")
    video = torch.randint(0, 256, (1, 4, 3, 32, 16), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(model(video, any_size=True), model(video.float() / 127.5 - 1, any_size=True))


def test_named_heads_of_any_size() -> None:
    model = build("spatiotemporal", num_classes=None, heads={"verb": 3, "noun": 4})
    with torch.no_grad():
        video = clip(12, 16, 40)
        logits, expected = model(video, any_size=True), of_size(model, 12, 16, 40)(video)
    assert list(logits) == ["verb", "noun"]
    for head in logits:
        torch.testing.assert_close(logits[head], expected[head], rtol=1e-4, atol=1e-5)


@each_variant
@pytest.mark.parametrize("size", ["larger", "smaller"])
def test_gradients_reach_every_position(variant: str, size: str) -> None:
    model = build(variant).train()
    model(clip(*CLIPS[size]), any_size=True).square().sum().backward()
    positions = {name: p for name, p in model.named_parameters() if name.endswith("positions.embedding")}
    assert len(positions) == (2 if variant.startswith("factorised encoder") else 1)
    for name, parameter in positions.items():
        assert parameter.grad is not None, name
        touched = parameter.grad.abs().sum(dim=-1) > 0
        # On a coarser grid, a position between two new ones may have no weight; a corner always has some.
        corners = touched[tuple(torch.meshgrid(*(torch.tensor([0, n - 1]) for n in touched.shape), indexing="ij"))]
        assert corners.all(), name
        assert size == "smaller" or touched.all(), name


def test_gradients_of_resized_positions_are_those_of_finite_differences() -> None:
    model = build("factorised encoder").double()
    video = clip(12, 16, 56).double()
    parameter = model.get_parameter("encoder.spatial.positions.embedding")
    model(video, any_size=True)[0, 1].backward()
    assert parameter.grad is not None
    direction = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    logits = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            parameter.add_(direction, alpha=step)
            logits.append(float(model(video, any_size=True)[0, 1]))
    slope = (logits[0] - logits[1]) / 2e-5
    assert slope == pytest.approx(float((parameter.grad * direction).sum()), rel=1e-6)


@each_embedding
@pytest.mark.parametrize("size", CLIPS)
def test_another_size_must_be_asked_for(embedding: str, size: str) -> None:
    model, video = build("factorised encoder", embedding), clip(*CLIPS[size])
    for call in (model, model.features):
        with pytest.raises(ValueError, match=r"\(B, 8, 3, 24, 40\), not \(2, "):
            call(video)


@pytest.mark.parametrize(
    ("frames", "height", "width"),
    [(7, 24, 40), (1, 24, 40), (8, 20, 40), (8, 24, 44), (8, 4, 40), (0, 24, 40), (8, 0, 40), (8, 24, 0)],
)
def test_a_clip_that_is_not_of_whole_tubelets_is_refused(frames: int, height: int, width: int) -> None:
    model = build("spatiotemporal")
    video = torch.zeros(1, frames, 3, height, width)
    with pytest.raises(ValueError, match=r"\(B, 8, 3, 24, 40\), not \(1, "):
        model(video)
    with pytest.raises(ValueError, match=f"{frames} × {height} × {width} does not divide into tubelets of 2 × 8 × 8"):
        model(video, any_size=True)


@pytest.mark.parametrize("shape", [(1, 8, 1, 24, 40), (1, 3, 8, 24, 40), (8, 3, 24, 40), (1, 8, 24, 40, 3)])
def test_any_size_is_no_other_layout(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="batch, frames, channels, height, width"):
        build("spatiotemporal")(torch.zeros(shape), any_size=True)


def test_a_clip_with_fewer_frames_than_are_sampled_is_refused() -> None:
    model = build("spatiotemporal", "uniform frames")
    with pytest.raises(ValueError, match="cannot take 4 frames from a clip of 3"):
        model(clip(3, 24, 40), any_size=True)
    with torch.no_grad():  # uniform frames have no tubelets along time
        assert torch.isfinite(model(clip(7, 24, 40), any_size=True)).all()


def test_an_empty_batch_is_no_clip_of_another_size() -> None:
    model = build("spatiotemporal")
    with torch.no_grad():
        assert model(clip(8, 24, 40)[:0]).shape == (0, 5)


def test_nothing_of_the_model_is_changed_by_a_clip_of_another_size() -> None:
    model = build("factorised encoder")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = model.config
    with torch.no_grad():
        model(clip(12, 32, 56), any_size=True)
    assert model.config == config
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError):
        model(clip(12, 32, 56))
