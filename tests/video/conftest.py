"""Videos for the tests, encoded on the spot. Each frame carries its number as black and white blocks."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

BLOCK = 16  # as large as a macroblock, so that no compression blurs it away
ROWS, COLUMNS = 2, 4


def _numbered(number: int) -> np.ndarray:
    """(32, 64, 3) uint8: the bits of the number, the lowest at the top left, row by row."""
    bits = np.array([number >> bit & 1 for bit in range(ROWS * COLUMNS)], dtype=np.uint8).reshape(ROWS, COLUMNS)
    return np.kron(bits * 255, np.ones((BLOCK, BLOCK), np.uint8))[..., None].repeat(3, axis=2)


def _read_numbers(frames: Tensor) -> list[int]:
    """The numbers that (N, 3, H, W) frames carry, at any size."""
    means = torch.nn.functional.adaptive_avg_pool2d(frames.float().mean(1), (ROWS, COLUMNS)).flatten(1)
    # Halfway between black and white is neither: the picture is a mixture of frames.
    assert ((means < 70) | (means > 185)).all(), means
    return [int(sum(1 << bit for bit, value in enumerate(row) if value > 127)) for row in means.tolist()]


def _encode(
    path: Path,
    pictures: int | Sequence[np.ndarray] = 60,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rate: int = 25,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    rotation: int = 0,
    sound: float = 0.0,
) -> Path:
    """Write a video of (H, W, 3) pictures, or of so many numbered ones.

    `times` are milliseconds for each frame; by default they come at an even rate. `sound` is seconds of silence.
    """
    if isinstance(pictures, int):
        pictures = [_numbered(number) for number in range(pictures)]
    with av.open(str(path), "w", options=container_options or {}) as container:
        audio = container.add_stream("aac" if path.suffix in (".mp4", ".mkv") else "mp3", rate=48000) if sound else None
        stream = container.add_stream(codec, rate=rate, options=options or {})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixel_format
        tick = Fraction(1, rate) if times is None else Fraction(1, 1000)
        stream.codec_context.time_base = tick
        if rotation:
            stream.set_display_rotation(rotation)
        if audio is not None:
            assert isinstance(audio, av.AudioStream)
            for block in range(round(sound * 48000 / 1024)):
                silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
                silence.sample_rate, silence.pts, silence.time_base = 48000, block * 1024, Fraction(1, 48000)
                container.mux(audio.encode(silence))
            container.mux(audio.encode(None))
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = number if times is None else times[number], tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def encode() -> Callable[..., Path]:
    return _encode


@pytest.fixture(scope="session")
def read_numbers() -> Callable[[Tensor], list[int]]:
    return _read_numbers


@pytest.fixture(scope="session")
def numbered() -> Callable[[int], np.ndarray]:
    return _numbered


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
