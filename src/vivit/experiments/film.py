"""Films a picture through a moving window, records it as a sensor does, encodes it, and makes many such videos."""

import json
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import av
import numpy as np
import torch
import torch.nn.functional as F

from vivit.data.workers import start_worker
from vivit.errors import UserError
from vivit.files import as_text, make_folder, write_files


class Unmade(Protocol):
    """A video still to be made."""

    @property
    def path(self) -> Path: ...


Video = TypeVar("Video", bound=Unmade)


def make_videos(
    videos: Sequence[Video],
    make: Callable[[Video], object],
    workers: int | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> None:
    """Make the videos whose files are missing.

    Args:
        make: writes one video; a module-level function, because other processes call it.
        workers: processes; by default one per core, at most 8. 1 makes the videos in this process.
        progress: called with (finished videos, all videos) before the first and after each video.
    """
    missing = [video for video in videos if not video.path.exists()]
    for directory in {video.path.parent for video in missing}:
        make_folder(directory)
    there = len(videos) - len(missing)
    progress(there, len(videos))
    # A process takes seconds to start, so more than eight would not save time.
    processes = min(workers or min(os.cpu_count() or 1, 8), len(missing))
    if processes <= 1:
        for done, video in enumerate(missing, start=there + 1):
            make(video)
            progress(done, len(videos))
        return
    # Forking can hang once PyTorch has started threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=start_worker) as executor:
        for done, _ in enumerate(executor.map(make, missing, chunksize=8), start=there + 1):
            progress(done, len(videos))


def claim(note: Path, made_with: Mapping[str, Any]) -> None:
    """Record in a file the values used for the videos beside it; raise UserError if they were made with others."""
    if not note.exists():
        make_folder(note.parent)
        write_files({note: as_text(json.dumps(made_with))})
    elif (found := json.loads(note.read_text())) != made_with:
        raise UserError(
            f"{note.parent} holds videos made with {found}, not {made_with}: delete it or name another folder"
        )


@dataclass(frozen=True)
class Window:
    """The part of a scene that the camera's window shows in each frame. Lengths are in heights of the video."""

    positions: torch.Tensor
    """(T, H, W, 2): the point (x to the right, y downwards) that each pixel shows."""
    reach: np.ndarray
    """(2,): the points of all frames lie within ±reach."""

    @classmethod
    def along(cls, path: np.ndarray, width: int, height: int) -> "Window":
        """
        Args:
            path: (T, 4): the window's centre x and y in heights of the video, log of its size, and clockwise angle.
        """
        cosine, sine = np.cos(path[:, 3]), np.sin(path[:, 3])
        turn = np.exp(path[:, 2])[:, None, None] * np.stack([cosine, -sine, sine, cosine], axis=1).reshape(-1, 2, 2)
        half_window = np.array([width, height]) / 2 / height
        spread = np.abs(turn) @ half_window
        low, high = (path[:, :2] - spread).min(axis=0), (path[:, :2] + spread).max(axis=0)
        centres = path[:, :2] - (low + high) / 2
        across = np.linspace(-width + 1, width - 1, width)[:, None] / 2 / height * turn[:, None, :, 0]
        down = np.linspace(-height + 1, height - 1, height)[:, None] / 2 / height * turn[:, None, :, 1]
        across += centres[:, None]
        positions = torch.from_numpy(across).float()[:, None] + torch.from_numpy(down).float()[:, :, None]
        return cls(positions, (high - low) / 2)

    @property
    def canvas_size(self) -> tuple[int, int]:
        """Width and height in pixels of the smallest canvas that contains all frames."""
        width, height = np.ceil(2 * self.reach * self.positions.shape[1]).astype(int)
        return int(width), int(height)

    def show(self, canvas: torch.Tensor) -> torch.Tensor:
        """What the window shows of a (1, C, height, width) canvas that spans ±`reach`: (T, C, H, W)."""
        grid = self.positions / torch.from_numpy(self.reach).float()
        canvases = canvas.expand(len(grid), -1, -1, -1)
        return F.grid_sample(canvases, grid, padding_mode="border", align_corners=False)


def wander(rng: np.random.Generator, frames: int, slowest: float, quickest: float) -> np.ndarray:
    """(T,) within [−1, 1]: the mean of three waves with random phases, and with periods per video in a range."""
    periods, phases = rng.uniform(slowest, quickest, size=(3, 1)), rng.random((3, 1))
    return np.sin(2 * np.pi * (periods * np.linspace(-0.5, 0.5, frames) + phases)).mean(axis=0)


def cut(picture: np.ndarray, rng: np.random.Generator, width: int, height: int) -> torch.Tensor:
    """A random part of the picture at a random scale, randomly flipped; float (1, 3, height, width) in 0–255.

    It is the most detailed of three parts, because a plain sky shows no motion.
    """
    best, most_detail = None, -1.0
    largest = min(picture.shape[1] / width, picture.shape[0] / height)
    for _ in range(3):
        scale = largest * rng.uniform(0.3, 0.8)
        part_width, part_height = int(scale * width), int(scale * height)
        left = rng.integers(picture.shape[1] - part_width + 1)
        top = rng.integers(picture.shape[0] - part_height + 1)
        part = picture[top : top + part_height, left : left + part_width]
        coarse = part[:: max(1, part_height // 24), :: max(1, part_width // 24)].astype(np.float32)
        detail = min(np.abs(np.diff(coarse, axis=axis)).mean() for axis in (0, 1))
        if detail > most_detail:
            best, most_detail = part, detail
    assert best is not None
    if rng.random() < 0.5:
        best = best[:, ::-1]
    pixels = torch.from_numpy(np.ascontiguousarray(best)).permute(2, 0, 1)[None]
    return F.interpolate(pixels, (height, width), mode="bilinear", antialias=True).float()


def record(clip: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    """Record (T, 3, H, W) in 0–255 as a sensor does, with contrast, changing exposure and noise: (T, H, W, 3) uint8."""
    frames, _, height, width = clip.shape
    exposure = rng.uniform(0.8, 1.15) * (1 + rng.uniform(0, 0.12) * wander(rng, frames, slowest=0.25, quickest=1.5))
    contrast = rng.uniform(0.7, 1.2)
    black = 128 * (1 - contrast) + rng.uniform(-15, 15)
    noise = rng.standard_normal((frames, 1, height, width), dtype=np.float32)
    offset = torch.from_numpy(noise).mul_(rng.uniform(0, 5)).add_(black)
    gain = torch.from_numpy((contrast * exposure).astype(np.float32))[:, None, None, None]
    recorded = torch.addcmul(offset, clip, gain).clamp_(0, 255).byte()
    return recorded.permute(0, 2, 3, 1).contiguous().numpy()


def encode(clip: np.ndarray, path: Path, frame_rate: int, quality: int) -> None:
    """Write (T, H, W, 3) uint8 as an H.264 MP4 that browsers play while it loads."""
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(
            "libx264", rate=frame_rate, options={"preset": "superfast", "crf": str(quality), "threads": "1"}
        )
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
