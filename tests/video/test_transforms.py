"""Crops whose pixels tell where they were taken."""

import pytest
import torch
from torch import Tensor

from vivit.video.transforms import cover, flip, view_crops


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


def test_cover_enlarges_only_what_is_too_small() -> None:
    clip = places(10, 20)
    assert cover(clip, (10, 20)) is clip
    enlarged = cover(clip, (20, 20))
    assert enlarged.shape == (2, 3, 20, 40)
    # A ramp becomes a ramp of half the slope: new pixel k is at (k + 1/2) / 2 - 1/2 of the old.
    expected = (torch.arange(40) + 0.5) / 2 - 0.5
    assert (enlarged[0, 1, 5].float() - expected)[1:-1].abs().max() <= 0.5
    assert cover(clip, (3, 30)).shape == (2, 3, 15, 30)


def test_flip_mirrors_left_and_right_alone() -> None:
    clip = places(4, 5)
    flipped = flip(clip)
    assert flipped[1, 1, 2].tolist() == [4, 3, 2, 1, 0]
    assert torch.equal(flipped[:, 0], clip[:, 0])
    assert torch.equal(flip(flipped), clip)
