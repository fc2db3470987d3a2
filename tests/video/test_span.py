"""Spans of seconds: which frames they mean, and which ones a video does not have."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import encode, read_numbers
from tests.video.hostile import boxed
from vivit.video.clips import ClipSpec, read_views, read_whole
from vivit.video.decode import open_video
from vivit.video.source import VideoError
from vivit.video.span import Span, frames_in, span_problem

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def fifty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds at 25 frames a second."""
    return encode(tmp_path_factory.mktemp("span") / "fifty.mp4", 50)


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (None, range(50)),
        ((0.0, 2.0), range(50)),
        ((0.4, 1.0), range(10, 25)),
        ((1.9, 2.1), range(48, 50)),
        ((1.0, 3.0), range(25, 50)),  # rounded up
        ((1.5, 4.0), range(38, 50)),  # the last of equal parts
        ((0.0, 4.0), range(50)),
        ((1.999, 2.5), range(49, 50)),
        ((0.51, 0.511), range(13, 14)),  # less than a frame
        ((-1.0, 0.1), range(0, 2)),
        ((-1e-9, 2.0), range(50)),
    ],
)
def test_frames_of_a_span(span: Span | None, expected: range, fifty: Path) -> None:
    with open_video(fifty) as video:
        assert frames_in(video, span) == expected


@pytest.mark.parametrize(
    ("span", "duration", "words"),
    [
        # Seconds that are milliseconds, frame numbers, either, or neither.
        ((100, 200), 0.64, ("span 100 to 200 s starts after", "0.64 s (16 frames", "are these milliseconds?")),
        ((0, 640), 0.64, ("ends long after", "are these milliseconds?")),
        ((0, 16), 0.64, ("ends long after", "are these frame numbers?")),
        ((1, 17), 0.64, ("starts after", "are these frame numbers?")),
        ((3, 9), 0.64, ("starts after", "are these frame numbers?")),
        ((0.5, 600), 0.64, ("ends long after", "are these milliseconds?")),
        ((1000, 5000), 600, ("starts after", "are these frame numbers or milliseconds?")),
        ((20_000, 25_000), 30, ("starts after", "are these milliseconds?")),
        ((0, 250), 10, ("ends long after", "are these frame numbers or milliseconds?")),
        ((0.64, 1), 0.64, ("starts after", "write times within it")),
        ((902, 905), 30, ("starts after", "write times within it")),
        ((0, 1e300), 30, ("ends long after", "write times within it")),
        # Not spans.
        ((0, NAN), 2, ("has no length",)),
        ((NAN, NAN), 2, ("has no length",)),
        ((0, INF), 2, ("has no length",)),
        ((-INF, 1), 2, ("has no length",)),
        ((1, 1), 2, ("span 1 to 1 s has no length",)),
        ((1.5, 0.5), 2, ("has no length",)),
        ((-3, 1), 2, ("starts before the video",)),
        ((-0.5, 0), 2, ("starts before the video",)),
    ],
)
def test_a_span_that_the_video_does_not_have(span: Span, duration: float, words: tuple[str, ...]) -> None:
    problem = span_problem(span, duration, 25.0)
    assert all(word in problem for word in words), problem
    assert len(problem) < 200


def test_such_a_span_is_never_read(fifty: Path, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for number in range(10):
        Image.fromarray(np.zeros((32, 64, 3), np.uint8)).save(tmp_path / "frames" / f"{number}.png")
    spec = ClipSpec(num_frames=4, stride=2, size=(32, 32), resize=32)
    with pytest.raises(VideoError, match=f"^{fifty}: the span 2 to 50 s starts after .* frame numbers"):
        read_views(fifty, spec, 1, 1, (2.0, 50.0))
    with pytest.raises(VideoError, match=r"frames: the span 1 to 10 s starts after .* \(10 frames, 25 a second\)"):
        read_whole(tmp_path / "frames", (1.0, 10.0), spec)


def test_a_container_that_tells_too_little_does_not_matter(fifty: Path, tmp_path: Path) -> None:
    short_mp4 = tmp_path / "short.mp4"
    short_mp4.write_bytes(boxed(fifty.read_bytes(), "mdhd", 16, struct.pack(">I", 1280)))
    whole = encode(tmp_path / "whole.avi", 50, codec="mjpeg", pixel_format="yuvj420p").read_bytes()
    length = whole.index(b"strh") + 8 + 32
    short_avi = tmp_path / "short.avi"
    short_avi.write_bytes(whole[:length] + struct.pack("<I", 3) + whole[length + 4 :])
    for file in (short_mp4, short_avi):
        with open_video(file) as video:
            assert video.info.num_frames < 10
            assert read_numbers(video.frames(frames_in(video, (1.0, 1.2)))) == [25, 26, 27, 28, 29]
            assert video.info.num_frames == 50
            with pytest.raises(VideoError, match="starts after the end of the video at 2 s"):
                frames_in(video, (2.5, 3.0))


def test_seconds_count_at_a_variable_rate(tmp_path: Path) -> None:
    """Ten frames in the first second, then one a second until the end."""
    times = [*range(0, 1000, 100), *range(1000, 11_000, 1000)]
    path = encode(tmp_path / "variable.mkv", len(times), times=times)
    with open_video(path) as video:
        assert set(read_numbers(video.frames(frames_in(video, (9.0, 9.4))))) == {18}
        assert frames_in(video, (9.0, 11.5))
        with pytest.raises(VideoError, match="starts after"):
            frames_in(video, (12.5, 13.0))
