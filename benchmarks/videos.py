"""H.264 files for the benchmarks: a reproducible scene, about as hard to encode as a filmed one.

    .venv/bin/python -m benchmarks.videos [FOLDER]

A camera pans, turns and shakes over photographs, with two moving objects, a cut, and noise. x264 encodes them with its
default settings, at the usual sizes of action videos.
"""

import math
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from skimage import data
from torch import Tensor

FOLDER = Path("runs/benchmark_videos")
SIZES = {"240": (240, 320), "320": (256, 340), "720": (720, 1280), "1080": (1080, 1920)}
"""name → (height, width)."""
RATE, SECONDS = 30, 10
PHOTOGRAPHS = (
    *("astronaut", "coffee", "chelsea", "rocket", "hubble_deep_field", "immunohistochemistry"),
    *("retina", "stereo_motorcycle", "grass", "gravel", "brick", "camera"),
)
TILE = 540  # pixels of a photograph at 1080 lines
NOISE = 3.0  # standard deviation, of 255


def generated(size: str, folder: Path = FOLDER, seconds: float = SECONDS) -> Path:
    """The file of this size, written if it is missing."""
    path = folder / f"{size}p_{seconds:g}s.mp4"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".partial.mp4")
        _write(unfinished, *SIZES[size], round(seconds * RATE))
        unfinished.rename(path)
    return path


def _write(path: Path, height: int, width: int, num_frames: int) -> None:
    scene, noise = _wall(height), np.random.default_rng(0)
    # Each frame uses another part of one noise field, because drawing new noise would take longer than everything else.
    field = torch.from_numpy(noise.normal(0, NOISE, (height + 64, width + 64)).astype(np.float32))
    with av.open(str(path), "w") as container:
        # The bytes depend on how x264 divides its work, and so on the number of threads.
        options = {"preset": "medium", "crf": "23", "threads": "2"}
        stream = container.add_stream("libx264", rate=RATE, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(num_frames):
            top, left = noise.integers(0, 64, 2)
            picture = _view(scene, height, width, number) + field[top : top + height, left : left + width]
            pixels = picture.clamp(0, 255).byte().permute(1, 2, 0).contiguous()  # (height, width, 3)
            frame = av.VideoFrame.from_ndarray(pixels.numpy(), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _wall(height: int) -> Tensor:
    """Four rows of six photographs, for a picture of this height: (3, H, W) from 0 to 255."""
    tiles = [_tile(name) for name in PHOTOGRAPHS]
    # Each row starts with another photograph.
    rows = [torch.cat([tiles[(5 * row + i) % len(tiles)] for i in range(6)], dim=2) for row in range(4)]
    wall = torch.cat(rows, dim=1)
    size = [round(length * height / 1080) for length in wall.shape[1:]]
    return F.interpolate(wall[None], size, mode="bilinear", antialias=True)[0]


def _tile(name: str) -> Tensor:
    picture = getattr(data, name)()
    picture = picture[0] if isinstance(picture, tuple) else picture  # the left one of a stereo pair
    pixels = torch.from_numpy(np.array(picture, np.float32))
    pixels = pixels.expand(3, -1, -1) if pixels.ndim == 2 else pixels[..., :3].permute(2, 0, 1)
    side = min(pixels.shape[1:])
    top, left = (pixels.shape[1] - side) // 2, (pixels.shape[2] - side) // 2
    square = pixels[None, :, top : top + side, left : left + side]
    return F.interpolate(square, (TILE, TILE), mode="bilinear", antialias=True)[0]


def _view(scene: Tensor, height: int, width: int, number: int) -> Tensor:
    """A frame of the camera: (3, height, width)."""
    seconds = number / RATE
    cut = seconds >= 6.3  # a cut: the camera looks elsewhere
    # The hand shakes in a few incommensurate sines. Lengths are in heights of the picture.
    shake = [0.004 * (math.sin(7.1 * seconds + axis) + math.sin(17.3 * seconds + 2 * axis)) for axis in (0, 1)]
    middle = [
        (0.3 if cut else -0.2) + 0.35 * math.sin(0.5 * seconds + 1) + shake[0],
        (-0.5 if cut else 0.4) + 0.6 * math.sin(0.4 * seconds) + shake[1],
    ]
    picture = _look(scene, height, width, middle, 1 + 0.1 * math.sin(0.7 * seconds), 0.06 * math.sin(0.9 * seconds))
    for phase in (0.0, 2.0):
        # Someone walks by: an ellipse filled with another part of the wall.
        up = height / 2 + 0.25 * height * math.sin(1.3 * seconds + phase)
        along = width / 2 + 0.35 * width * math.sin(0.8 * seconds + 2 * phase)
        tall, broad = round(0.45 * height), round(0.25 * height)
        top, left = round(up - tall / 2), round(along - broad / 2)
        rows, columns = (
            slice(max(top, 0), min(top + tall, height)),
            slice(max(left, 0), min(left + broad, width)),
        )
        y = (torch.arange(rows.start, rows.stop) - up) / (tall / 2)
        x = (torch.arange(columns.start, columns.stop) - along) / (broad / 2)
        inside = y[:, None] ** 2 + x**2 < 1
        other = _look(scene, len(y), len(x), [phase / 2 - 0.6, 0.3 - phase / 2], 1.2, 0.2 * math.sin(2 * seconds))
        picture[:, rows, columns] = torch.where(inside, other, picture[:, rows, columns])
    return picture


def _look(scene: Tensor, height: int, width: int, middle: list[float], zoom: float, angle: float) -> Tensor:
    """A part of the scene around `middle` (down, right, in half heights of the scene), turned by `angle`."""
    scene_height, scene_width = scene.shape[1:]
    scale_y, scale_x = height / zoom / scene_height, width / zoom / scene_width
    cosine, sine, aspect = math.cos(angle), math.sin(angle), height / width
    matrix = [
        [scale_x * cosine, -scale_x * sine * aspect, middle[1] * scene_height / scene_width],
        [scale_y * sine / aspect, scale_y * cosine, middle[0]],
    ]
    grid = F.affine_grid(torch.tensor([matrix]), [1, 3, height, width], align_corners=False)
    return F.grid_sample(scene[None], grid, padding_mode="reflection", align_corners=False)[0]


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for size in SIZES:
        path = generated(size, folder)
        print(f"{path}: {path.stat().st_size * 8 / SECONDS / 1e6:.2f} Mbit/s")


if __name__ == "__main__":
    main()
