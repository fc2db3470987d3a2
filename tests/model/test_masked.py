"""Masked autoencoding against the plain encoder, a plain loss and the definition of a tube."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support import random_clips, random_weights, tiny_config
from vivit.model.masked import EPSILON, MaskedAutoencoder, normalised, tubes
from vivit.model.vivit import ViViT

VARIANTS: dict[str, dict[str, Any]] = {
    "spatiotemporal": {"variant": "spatiotemporal"},
    "mean": {"variant": "spatiotemporal", "pooling": "mean"},
    "factorised": {"variant": "factorised_encoder", "temporal_layers": 2, "adapter_size": 4},
    "factorised_mean": {"variant": "factorised_encoder", "temporal_layers": 2, "pooling": "mean"},
    "average": {"variant": "factorised_encoder", "temporal_layers": 0},
}
each_variant = pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)


def autoencoder(**fields: Any) -> MaskedAutoencoder:
    model = ViViT(tiny_config(**{**fields, "heads": None, "num_classes": 0}))
    return random_weights(MaskedAutoencoder(model, decoder_layers=1, decoder_size=32))


def drawn(model: MaskedAutoencoder, clips: int, mask_ratio: float) -> tuple[Tensor, Tensor]:
    return tubes([np.random.default_rng([7, clip]) for clip in range(clips)], model.places, mask_ratio)


def what_the_decoder_gets(model: MaskedAutoencoder, video: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor]:
    """The encoder's outputs without a position, and those of the visible tokens."""
    given: list[Tensor] = []
    model.decoder.register_forward_pre_hook(lambda _, inputs: given.extend(inputs[:2]))
    model(video, *drawn(model, len(video), mask_ratio))
    summary, x = given
    return summary, x


@each_variant
def test_with_nothing_hidden_the_encoder_is_the_plain_one(fields: dict[str, Any]) -> None:
    """To the last bit, up to what a head would classify."""
    model = autoencoder(**fields).eval()
    video = random_clips(model.model.config)
    with torch.no_grad():
        summary, x = what_the_decoder_gets(model, video, mask_ratio=0.0)
        expected = model.model.features(video)
    if fields["variant"] == "factorised_encoder":
        of_clip = summary[:, 1].view(len(video), -1, summary.shape[-1])
        assert torch.equal(of_clip, expected[:, None].expand_as(of_clip))
    else:
        assert torch.equal(x.mean(dim=1) if "pooling" in fields else summary[:, 0], expected)


@each_variant
def test_gradients_reach_every_parameter(fields: dict[str, Any]) -> None:
    model = autoencoder(**fields).train()
    predicted, pixels = model(random_clips(model.model.config), *drawn(model, 2, 0.5))
    torch.nn.functional.mse_loss(predicted, pixels).backward()
    without = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


@each_variant
def test_the_encoder_sees_the_visible_tubes_alone(fields: dict[str, Any]) -> None:
    model = autoencoder(**fields).eval()
    video = random_clips(model.model.config)
    visible, hidden = drawn(model, 2, 0.5)
    _, h, w = model.model.config.tubelet_size
    changed = video.clone()
    for clip in range(2):
        for place in hidden[clip].tolist():
            row, column = divmod(place, model.model.config.grid[2])
            changed[clip, :, :, row * h : (row + 1) * h, column * w : (column + 1) * w] = 0.5
    with torch.no_grad():
        predicted, pixels = model(video, visible, hidden)
        blind, others = model(changed, visible, hidden)
    assert torch.equal(predicted, blind)
    assert not torch.equal(pixels, others)


def test_the_target_is_each_hidden_tubelets_normalised_pixels() -> None:
    """Against loops over clips, tubelets and channels."""
    model = autoencoder(variant="factorised_encoder").eval()
    config = model.model.config
    video = random_clips(config)
    visible, hidden = drawn(model, 2, 0.5)
    t, h, w = config.tubelet_size
    with torch.no_grad():
        _, pixels = model(video, visible, hidden)
    for clip in range(2):
        for time in range(config.grid[0]):
            for number, place in enumerate(hidden[clip].tolist()):
                row, column = divmod(place, config.grid[2])
                box = video[clip, time * t : time * t + t, :, row * h : row * h + h, column * w : column * w + w]
                channels = [
                    (box[:, c] - box[:, c].mean()) / (box[:, c].var(correction=0).sqrt() + EPSILON) for c in range(3)
                ]
                expected = torch.stack(channels).flatten()
                torch.testing.assert_close(pixels[clip, time, number], expected, rtol=1e-4, atol=1e-5)


def test_a_plain_tubelet_stays_finite() -> None:
    assert torch.equal(normalised(torch.full((2, 12), 0.3)), torch.zeros(2, 12))


@pytest.mark.parametrize(("ratio", "hidden"), [(0.0, 0), (0.5, 18), (0.75, 27), (0.9, 32), (0.99, 35), (1.0, 35)])
def test_the_share_of_hidden_tubes_is_exact(ratio: float, hidden: int) -> None:
    seen, unseen = tubes([np.random.default_rng(seed) for seed in range(3)], 36, ratio)
    assert seen.shape == (3, 36 - hidden) and unseen.shape == (3, hidden)
    for clip in range(3):
        assert sorted(seen[clip].tolist() + unseen[clip].tolist()) == list(range(36))
    if 1 < len(seen[0]) < 36:
        assert seen[0].tolist() != seen[1].tolist()


def test_models_3_and_4_are_refused() -> None:
    with pytest.raises(ValueError, match="need model 1 or 2, not factorised dot product"):
        autoencoder(variant="factorised_dot_product")
