"""Mixup and CutMix against the pixels they make."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vivit.training.mixing import mix

CLASSES = {"verb": 5, "noun": 3}


def batch(size: int = 5, frames: int = 2, height: int = 12, width: int = 20) -> tuple[Tensor, dict[str, Tensor]]:
    rng = np.random.default_rng(0)
    clips = torch.from_numpy(rng.integers(0, 256, (size, frames, 3, height, width), dtype=np.uint8))
    return clips, {"verb": torch.arange(size) % 5, "noun": torch.arange(size) % 3}


def share_of(targets: Tensor, own: Tensor) -> float:
    """How much of the first clip's class is left; the last clip, its partner, has another class."""
    return float(targets[0, own[0]])


def test_mixup_averages_pixels_and_labels_with_the_reversed_batch_by_one_share() -> None:
    clips, labels = batch()
    before = clips.clone()
    shares = []
    for seed in range(50):
        mixed, targets = mix(clips, labels, CLASSES, mixup_alpha=0.3, cutmix_alpha=0, rng=np.random.default_rng(seed))
        share = np.random.default_rng(seed)
        share.integers(1)
        expected_share = share.beta(0.3, 0.3)
        floats = clips.double() / 127.5 - 1
        expected = expected_share * floats + (1 - expected_share) * floats.flip(0)
        assert mixed.dtype == torch.float32
        assert (mixed - expected).abs().max() < 2e-6
        for head, own in labels.items():
            one_hot = F.one_hot(own, CLASSES[head]).double()
            expected_target = expected_share * one_hot + (1 - expected_share) * one_hot.flip(0)
            assert (targets[head] - expected_target).abs().max() < 1e-6
        shares.append(share_of(targets["verb"], labels["verb"]))
    assert torch.equal(clips, before)
    # Beta(0.3, 0.3) is a bowl: half of it lies within a tenth of the ends.
    assert 0.35 < np.mean([min(s, 1 - s) < 0.1 for s in shares]) < 0.8


def test_mixup_of_floats_is_mixup_of_bytes() -> None:
    clips, labels = batch()
    of_bytes, _ = mix(clips, labels, CLASSES, mixup_alpha=1, cutmix_alpha=0, rng=np.random.default_rng(3))
    floats = clips.float() / 127.5 - 1
    kept = floats.clone()
    of_floats, _ = mix(floats, labels, CLASSES, mixup_alpha=1, cutmix_alpha=0, rng=np.random.default_rng(3))
    assert (of_bytes - of_floats).abs().max() < 1e-6
    assert torch.equal(floats, kept)


@pytest.mark.parametrize("size", [(12, 20), (7, 7), (2, 9)])
def test_cutmix_replaces_one_box_in_every_frame_and_labels_by_its_area(size: tuple[int, int]) -> None:
    # Each pixel's value is the number of its clip.
    clips = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1, 1).expand(4, 3, 3, *size)
    labels = {"verb": torch.arange(4)}
    areas = []
    for seed in range(200):
        mixed, targets = mix(clips, labels, CLASSES, mixup_alpha=0, cutmix_alpha=1, rng=np.random.default_rng(seed))
        assert mixed.dtype == torch.uint8
        foreign = mixed != clips
        assert torch.equal(foreign, foreign[0, 0, 0].expand_as(foreign))
        assert torch.equal(mixed, torch.where(foreign, clips.flip(0), clips))
        box = foreign[0, 0, 0]
        rows, columns = box.any(1).sum(), box.any(0).sum()
        assert box.sum() == rows * columns  # one rectangle
        share = 1 - float(box.float().mean())
        expected = share * torch.eye(5)[:4] + (1 - share) * torch.eye(5)[:4].flip(0)
        assert torch.allclose(targets["verb"], expected, atol=1e-6)
        areas.append(1 - share)
    assert min(areas) < 0.1 and max(areas) > 0.4


def test_the_box_of_cutmix_has_the_drawn_area_where_it_is_not_cut_off() -> None:
    clips = torch.arange(2, dtype=torch.uint8).view(2, 1, 1, 1, 1).expand(2, 1, 3, 200, 300)
    inside = 0
    for seed in range(100):
        mixed, _ = mix(
            clips, {"verb": torch.arange(2)}, CLASSES, mixup_alpha=0, cutmix_alpha=1, rng=np.random.default_rng(seed)
        )
        box = (mixed != clips)[0, 0, 0]
        rows, columns = box.any(1), box.any(0)
        rng = np.random.default_rng(seed)
        rng.integers(1)
        area = 1 - rng.beta(1, 1)
        side = area**0.5
        assert rows.sum() <= 200 * side and columns.sum() <= 300 * side
        if box.any() and not (rows[0] or rows[-1] or columns[0] or columns[-1]):
            inside += 1
            assert int(rows.sum()) == int(200 * side) and int(columns.sum()) == int(300 * side)
    assert inside > 10


def test_with_both_each_batch_gets_either() -> None:
    clips, labels = batch()
    before = clips.clone()
    floats = [
        mix(clips, labels, CLASSES, mixup_alpha=0.3, cutmix_alpha=1, rng=np.random.default_rng(seed))[
            0
        ].is_floating_point()
        for seed in range(400)
    ]
    assert np.mean(floats) == pytest.approx(0.5, abs=0.1)
    assert torch.equal(clips, before)


def test_soft_and_many_labels_are_mixed_too() -> None:
    clips, _ = batch(2)
    many = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    _, targets = mix(clips, {"noun": many}, CLASSES, mixup_alpha=1, cutmix_alpha=0, rng=np.random.default_rng(5))
    share = float(targets["noun"][0, 0])
    assert 0 < share < 1
    assert torch.allclose(targets["noun"], torch.tensor([[share, 1, 1 - share], [1 - share, 1, share]]))


def test_without_either_the_clips_are_the_same_and_labels_are_certain() -> None:
    clips, labels = batch()
    same, targets = mix(clips, labels, CLASSES, mixup_alpha=0, cutmix_alpha=0, rng=np.random.default_rng(0))
    assert same is clips
    assert torch.equal(targets["noun"], F.one_hot(labels["noun"], 3).float())


@pytest.mark.parametrize("alphas", [(0.3, 0.0), (0.0, 1.0)])
def test_a_batch_of_one_is_mixed_with_itself(alphas: tuple[float, float]) -> None:
    clips, labels = batch(1)
    mixed, targets = mix(
        clips, labels, CLASSES, mixup_alpha=alphas[0], cutmix_alpha=alphas[1], rng=np.random.default_rng(1)
    )
    bytes_again = (mixed + 1) * 127.5 if mixed.is_floating_point() else mixed
    assert (bytes_again - clips.float()).abs().max() < 1e-3
    assert torch.allclose(targets["verb"], F.one_hot(labels["verb"], 5).float())
