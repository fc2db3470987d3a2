"""Drawn videos, read back by the ffmpeg program."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support import encode, noisy, numbered, read_numbers, refused
from tests.video.strange_files import ffmpeg, shown_by_ffmpeg
from vivit.video.decode import open_video
from vivit.video.redraw import redraw

FLASH = 1.0  # seconds; the beep begins with it
SOUND_RATE = 16_000


def unchanged(picture: np.ndarray, seconds: float) -> np.ndarray:
    return picture


def flash_and_beep(path: Path, *codecs: str, late: float = 0.0) -> Path:
    pictures = f"color=black:s=64x48:r=25:d=2,drawbox=c=white:t=fill:enable='gte(t,{FLASH})'"
    sound = f"sine=1000:d=2:r=44100,volume='if(gte(t,{FLASH}),1,0)':eval=frame"
    ffmpeg("-f", "lavfi", "-itsoffset", str(late), "-i", pictures, "-f", "lavfi", "-i", sound, *codecs, path)
    return path


def beep_after_flash(path: Path) -> float:
    """Seconds from the first bright picture to the first loud sample, both on the clock of the file."""
    pixels, report = ffmpeg("-copyts", "-i", path, "-vf", "showinfo", "-f", "rawvideo", "-pix_fmt", "gray", "-")
    times = [float(time) for time in re.findall(r"showinfo.* pts_time:(\S+) ", report)]
    bright = np.frombuffer(pixels, np.uint8).reshape(len(times), -1).mean(1) > 100
    # Filled with silence from 0 seconds on, so that the place of a sample is its time.
    filters = ("-copyts", "-i", path, "-af", "aresample=async=1:first_pts=0", "-ac", "1", "-ar", str(SOUND_RATE))
    samples = np.frombuffer(ffmpeg(*filters, "-f", "f32le", "-")[0], np.float32)
    return float(np.argmax(np.abs(samples) > 0.02) / SOUND_RATE - times[int(bright.argmax())])


@pytest.mark.parametrize(
    ("name", "codecs"),
    [
        ("copied.ts", ["-c:v", "libx264", "-c:a", "aac"]),
        ("encoded.avi", ["-c:v", "mpeg4", "-c:a", "pcm_s16le"]),
    ],
)
def test_sound_stays_with_the_pictures(tmp_path: Path, name: str, codecs: Sequence[str]) -> None:
    source = flash_and_beep(tmp_path / name, *codecs)
    with open_video(source) as video:
        redraw(video, tmp_path / "out", unchanged)
    assert beep_after_flash(tmp_path / "out") == pytest.approx(beep_after_flash(source), abs=0.01)


def test_sound_that_begins_before_the_pictures_stays_with_them(tmp_path: Path) -> None:
    source = flash_and_beep(tmp_path / "late.mkv", "-c:v", "libx264", "-c:a", "aac", late=0.5)
    assert beep_after_flash(source) == pytest.approx(-0.5, abs=0.05)
    with open_video(source) as video:
        redraw(video, tmp_path / "out", unchanged)
    assert beep_after_flash(tmp_path / "out") == pytest.approx(beep_after_flash(source), abs=0.01)


def test_pictures_are_upright_and_in_order_and_drawn_on_at_their_times(tmp_path: Path) -> None:
    source = encode(tmp_path / "turned.mp4", 30, rotation=90)
    seen: list[float] = []

    def marked(picture: np.ndarray, seconds: float) -> np.ndarray:
        seen.append(seconds)
        return np.concatenate([picture, np.full((16, picture.shape[1], 3), 255, np.uint8)])

    with open_video(source) as video:
        upright = video.frames(range(30)).permute(0, 2, 3, 1).numpy()
        redraw(video, tmp_path / "out", marked)
    shown = shown_by_ffmpeg(tmp_path / "out")
    assert seen == pytest.approx([number / 25 for number in range(30)])
    assert shown.times == pytest.approx(seen, abs=1e-4)
    height = upright.shape[1]
    assert np.abs(shown.pictures[:, :height].astype(int) - upright).mean() < 6
    assert shown.pictures[:, height + 4 :].min() > 240


def test_an_uneven_pace_becomes_an_even_one(tmp_path: Path) -> None:
    times = [*range(0, 1000, 100), *range(1000, 2000, 20)]
    encode(tmp_path / "uneven.mp4", [numbered(number) for number in range(len(times))], times=times)
    with open_video(tmp_path / "uneven.mp4") as video:
        expected = read_numbers(video.frames(range(video.info.num_frames)))
        redraw(video, tmp_path / "out", unchanged)
    with open_video(tmp_path / "out") as video:
        assert read_numbers(video.frames(range(video.info.num_frames))) == expected


def test_a_video_that_ends_early_is_refused(tmp_path: Path) -> None:
    data = encode(
        tmp_path / "whole.mp4", noisy(120, frames=100), container_options={"movflags": "+faststart"}
    ).read_bytes()
    (tmp_path / "half.mp4").write_bytes(data[: len(data) * 3 // 4])
    with open_video(tmp_path / "half.mp4") as video:
        refused(lambda: redraw(video, tmp_path / "out", unchanged), "half.mp4")
