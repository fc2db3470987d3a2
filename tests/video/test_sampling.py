"""Clips worked out by hand."""

import numpy as np

from vivit.video.sampling import clip_indices, random_start, view_starts


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
