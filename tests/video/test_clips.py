"""Clips worked out by hand, and crops whose pixels tell where they were taken."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.support import encode, numbered, read_numbers
from vivit.video.clips import ClipSpec, ShortClips, clip_indices, random_start, read_views, view_crops, view_starts
from vivit.video.span import Span


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


def test_views_tell_when_their_frames_appear(tmp_path: Path) -> None:
    """Frames at uneven times, some shown for long: a clip at an even pace repeats them."""
    times = [0, 40, 80, 300, 330, 400, 900, 1000, 1010, 1500]
    path = encode(tmp_path / "uneven.mp4", len(times), times=times, options={"bf": "2"})
    with av.open(str(path)) as container:
        stored = [float(frame.time or 0) for frame in container.decode(video=0)]
    views = read_views(path, ClipSpec(num_frames=6, stride=1, size=(32, 64), resize=32), 3, 3)
    assert views.frames.shape == (9, 6, 3, 32, 64)
    assert len(views.times) == 9
    for of_view, clip in zip(views.times, views.frames, strict=True):
        assert list(of_view) == pytest.approx([stored[number] - stored[0] for number in read_numbers(clip)], abs=1e-6)
    assert views.distinct == min(len(set(read_numbers(clip))) for clip in views.frames)


@pytest.mark.parametrize("short", ["loop", "pad"])
@pytest.mark.parametrize(
    ("frames", "span", "shown"), [(60, None, 60), (60, (0.52, 0.68), 4), (2, None, 2), (1, None, 1)]
)
def test_views_tell_how_many_frames_there_were(
    frames: int, span: Span | None, shown: int, short: ShortClips, tmp_path: Path
) -> None:
    film, folder = encode(tmp_path / "x.mp4", frames), tmp_path / "frames"
    folder.mkdir()
    for number in range(frames):
        Image.fromarray(numbered(number)).save(folder / f"{number}.png")
    for source in (film, folder):
        views = read_views(source, ClipSpec(6, 2, (32, 64), 32, short), 2, 1, span)
        assert views.shown == shown
        for of_view, clip in zip(views.times, views.frames, strict=True):
            assert list(of_view) == pytest.approx([number / 25 for number in read_numbers(clip)])
        assert views.distinct == min(len(set(read_numbers(clip))) for clip in views.frames)
