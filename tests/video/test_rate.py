"""A video seen at another rate than its own shows, at each time, the frame that is on screen then."""

from bisect import bisect_right
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import encode, read_numbers
from vivit.video.augment import Augmentation
from vivit.video.clips import ClipSpec, read_training_clip, read_views, read_whole
from vivit.video.decode import Decoder, open_video
from vivit.video.span import frames_in

FILES: dict[str, dict[str, Any]] = {
    "constant.mp4": {"options": {"bf": "3", "g": "30"}},
    "constant.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "12"}},
    "variable.mp4": {"times": [*range(0, 800, 20), *range(800, 2000, 90), *range(3000, 3260, 40)]},
}


@pytest.fixture(scope="module", params=FILES)
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """Numbered frames, and the milliseconds at which they appear."""
    options = FILES[request.param]
    times = options.get("times", list(range(0, 2400, 40)))
    return encode(tmp_path_factory.mktemp("videos") / request.param, len(times), **options), times


@pytest.mark.parametrize("rate", [7.0, 25.0, 30.0, 60.0])
@pytest.mark.parametrize("decoder", ["pyav", "torchcodec"])
def test_frames_are_those_on_screen(video: tuple[Path, list[int]], rate: float, decoder: Decoder) -> None:
    if decoder == "torchcodec":
        pytest.importorskip("torchcodec")
    path, times = video
    with open_video(path, decoder, rate) as opened:
        assert opened.rate == rate and opened.num_frames == round(opened.info.duration * rate)
        numbers = range(opened.num_frames)
        expected = [bisect_right(times, (k + 0.5) / rate * 1000) - 1 for k in numbers]
        assert read_numbers(opened.frames(numbers)) == expected
        assert read_numbers(torch.cat(list(opened.in_turn(7)))) == expected
        assert opened.timed_frames([3])[1] == pytest.approx([times[expected[3]] / 1000], abs=2e-3)
        assert frames_in(opened, (0.5, 1.5)) == range(round(0.5 * rate), round(1.5 * rate))
        assert opened.info.frame_rate != rate or rate == 25  # what is said of the file is said of the file


@pytest.mark.parametrize("rate", [12.5, 50.0])
def test_clips_are_paced_by_the_rate(rate: float, tmp_path: Path) -> None:
    spec = ClipSpec(num_frames=4, stride=3, size=(32, 64), resize=32, rate=rate)
    path = encode(tmp_path / "x.mp4", 60)
    expected = [int((k + 0.5) * 25 / rate) for k in range(round(60 * rate / 25))]
    assert read_numbers(read_whole(path, None, spec)) == expected
    first, end = round(0.4 * rate), round(2 * rate)
    start = first + (end - first - 10) // 2  # a clip has 10 frames from its first to its last, and is in the middle
    views = read_views(path, spec, 1, 1, (0.4, 2.0))
    assert read_numbers(views.frames[0]) == expected[start : start + 10 : 3]
    assert views.shown == end - first
    clip, _ = read_training_clip(path, None, spec, Augmentation(), np.random.default_rng(0))
    drawn = read_numbers(clip)
    assert drawn in [expected[start : start + 10 : 3] for start in range(len(expected) - 9)]
