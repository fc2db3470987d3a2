"""Helpers that tests of several rooms share: tiny models, random weights, made videos, the command, one-line errors."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vivit.config import ModelConfig, Preprocessing
from vivit.errors import UserError
from vivit.model.vivit import ViViT

Module = TypeVar("Module", bound=nn.Module)

REFERENCE = Path(__file__).parent / "parity" / "reference"
VIVIT = Path(sys.executable).parent / "vivit"
REAL_CLIPS = Path(__file__).resolve().parents[2] / "shared" / "videos"  # tests that use them are skipped without

# Models

TINY: dict[str, Any] = {
    "num_frames": 6,
    "image_size": (16, 24),
    "tubelet_size": (2, 8, 8),
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 4,
    "mlp_dim": 24,
}


def random_weights(module: Module, std: float = 0.4, seed: int = 0) -> Module:
    """Draw every parameter from N(0, std), also those that start at zero or one, so that a misplaced weight shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=std, generator=generator)
    return module


def tiny_config(**fields: Any) -> ModelConfig:
    """`TINY` with these fields; five classes unless `num_classes` or `heads` says otherwise."""
    classes = {} if "heads" in fields else {"num_classes": 5}
    return ModelConfig(**{**TINY, **classes, **fields})


def tiny_model(
    classes: dict[str, Sequence[str]] | None = None,
    preprocessing: Preprocessing | None = None,
    origin: Sequence[str] = (),
    std: float = 0.4,
    seed: int = 0,
    **fields: Any,
) -> ViViT:
    """A model of `tiny_config(**fields)` with random weights, in evaluation mode."""
    model = ViViT(tiny_config(**fields), classes=classes, preprocessing=preprocessing, origin=origin)
    return random_weights(model, std, seed).eval()


def random_clips(config: ModelConfig, batch: int = 2, seed: int = 1) -> Tensor:
    """(B, T, C, H, W) float in [-1, 1] of the model's size; the same for the same seed."""
    shape = (batch, config.num_frames, 3, *config.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# Videos

BLOCK = 16  # pixels; as large as a macroblock, so that compression does not blur it
ROWS, COLUMNS = 2, 4


def numbered(number: int) -> np.ndarray:
    """(32, 64, 3) uint8: the number in binary as black and white blocks, lowest bit at the top left, row by row."""
    bits = np.array([number >> bit & 1 for bit in range(ROWS * COLUMNS)], dtype=np.uint8).reshape(ROWS, COLUMNS)
    return np.kron(bits * 255, np.ones((BLOCK, BLOCK), np.uint8))[..., None].repeat(3, axis=2)


def read_numbers(frames: Tensor) -> list[int]:
    """Decode the numbers that `numbered` wrote into (N, 3, H, W) frames, whatever size they were resized to."""
    means = torch.nn.functional.adaptive_avg_pool2d(frames.float().mean(1), (ROWS, COLUMNS)).flatten(1)
    # A grey block is a mixture of two frames.
    assert ((means < 70) | (means > 185)).all(), means
    return [int(sum(1 << bit for bit, value in enumerate(row) if value > 127)) for row in means.tolist()]


def noisy(brightness: int, frames: int = 8, height: int = 32, width: int = 40) -> list[np.ndarray]:
    """Frames (H, W, 3) of noise around one brightness, 0 to 255; the same for the same brightness."""
    noise = np.random.default_rng(brightness)
    each = (brightness + noise.integers(-20, 20, (height, width, 3)) for _ in range(frames))
    return [np.clip(frame, 0, 255).astype(np.uint8) for frame in each]


def encode(
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
    """Write a video of (H, W, 3) pictures, or of so many numbered ones, and return its path.

    `times` gives each frame's time in milliseconds; without it frames are evenly spaced at `rate` a second. `sound`
    is the length of a silent audio track in seconds; 0 means no audio track.
    """
    if isinstance(pictures, int):
        pictures = [numbered(number) for number in range(pictures)]
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


# The command, and errors of one line


@dataclass
class Result:
    """How a command ended and what it wrote."""

    status: int
    out: str
    err: str

    def succeeded(self) -> str:
        """Its output, after checking that it ended with status 0 and wrote nothing to stderr."""
        assert (self.status, self.err) == (0, ""), self
        return self.out

    def one_line(self, *patterns: str) -> None:
        """Check that it refused the user's mistake: status 2, and one line on stderr that matches each pattern."""
        assert self.status == 2, self
        assert self.err.startswith("vivit: "), self.err
        assert_one_line(self.err, *patterns)


def run_vivit(*arguments: str | Path, folder: Path, timeout: float = 300, **environment: str) -> Result:
    """Run the installed command in a folder, in a process of its own, offline and with one thread."""
    ran = subprocess.run(
        [VIVIT, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
    )
    return Result(ran.returncode, ran.stdout, ran.stderr)


def assert_one_line(message: str, *patterns: str) -> None:
    """Check that the message is one line and matches each of the regular expressions."""
    assert len(message.splitlines()) == 1, message
    for pattern in patterns:
        assert re.search(pattern, message), message


def refused(call: Callable[[], object], *patterns: str) -> str:
    """Check that the call raises a UserError of one line that matches each pattern; return the line."""
    with pytest.raises(UserError) as error:
        call()
    assert_one_line(str(error.value), *patterns)
    return str(error.value)
