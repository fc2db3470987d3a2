"""Clips worked out by hand, and crops whose pixels tell where they were taken."""

import numpy as np
import pytest
import torch
from torch import Tensor

from vivit.video.clips import clip_indices, random_start, view_crops, view_starts


def test_clip_inside_the_video() -> None:
    assert clip_indices(100, 4, 3, 10) == [10, 13, 16, 19]
    assert clip_indices(10, 4, 3, 0) == [0, 3, 6, 9]


def test_clip_past_the_end() -> None:
    assert clip_indices(5, 4, 2, 0, "loop") == [0, 2, 4, 1]
    assert clip_indices(5, 4, 2, 0, "pad") == [0, 2, 4, 4]
    assert clip_indices(3, 8, 1, 0, "loop") == [0, 1, 2, 0, 1, 2, 0, 1]
    assert clip_indices(1, 3, 2, 0, "pad") == [0, 0, 0]


def test_random_start_takes_every_start_that_fits() -> None:
    rng = np.random.default_rng(0)
    # 4 frames with stride 3 cover 10 of 14 frames: starts 0 to 4 are possible.
    counts = np.bincount([random_start(14, 4, 3, rng) for _ in range(1000)])
    assert len(counts) == 5
    assert counts.min() > 150
    assert {random_start(10, 4, 3, rng) for _ in range(20)} == {0}
    assert {random_start(2, 4, 3, rng) for _ in range(20)} == {0}


def test_views_spread_from_the_beginning_to_the_end() -> None:
    # 10 of 40 frames: the last start is 30.
    assert view_starts(40, 4, 3, 4) == [0, 10, 20, 30]
    assert view_starts(40, 4, 3, 2) == [0, 30]
    assert view_starts(40, 4, 3, 1) == [15]
    assert view_starts(5, 4, 3, 3) == [0, 0, 0]


def places(height: int, width: int, frames: int = 2) -> Tensor:
    """(T, 3, height, width): each pixel holds its row, its column and its frame."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    clip = [torch.stack([rows, columns, torch.full_like(rows, time)]) for time in range(frames)]
    return torch.stack(clip).to(torch.uint8)


def corner(crop: Tensor) -> tuple[int, int]:
    """Row and column of the top left pixel, after checking that the crop is one block of the whole clip."""
    top, left = int(crop[0, 0, 0, 0]), int(crop[0, 1, 0, 0])
    whole = places(64, 64, len(crop))
    assert torch.equal(crop, whole[..., top : top + crop.shape[2], left : left + crop.shape[3]])
    return top, left


@pytest.mark.parametrize(
    ("shape", "corners"),
    [
        ((10, 21), [(1, 0), (1, 6), (1, 13)]),  # wide: left, middle, right
        ((21, 10), [(0, 1), (6, 1), (13, 1)]),  # upright: top, middle, bottom
        ((8, 8), [(0, 0), (0, 0), (0, 0)]),
    ],
)
def test_view_crops(shape: tuple[int, int], corners: list[tuple[int, int]]) -> None:
    crops = view_crops(places(*shape), (8, 8), 3)
    assert [corner(crop) for crop in crops] == corners
    assert [tuple(crop.shape) for crop in crops] == [(2, 3, 8, 8)] * 3
    (centre,) = view_crops(places(*shape), (8, 8), 1)
    assert corner(centre) == corners[1]
