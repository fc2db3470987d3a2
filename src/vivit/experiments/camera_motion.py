"""Short videos of nine camera motions, made on the spot. Labelling them is a real task: shot annotation.

A class is named after what the *camera* does: `pan_right` moves the scene to the left in the picture, `tilt_up` moves
it down, `zoom_in` makes it grow, and `roll_clockwise` turns it counter-clockwise. Played backwards, each motion becomes
its opposite (`static` stays `static`), and everything else about a video is as likely backwards as forwards, but for
faint traces of compression. So a model that ignores the order of the frames can tell five groups apart at best, not
the nine classes: it must guess the direction.

A video looks at one still picture through a moving window. Like a real shot, it has uneven speed, a shaking hand,
moving objects, changing light, sensor noise and compression.
"""

import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F

from vivit.errors import UserError
from vivit.experiments.pictures import Split, draw_picture, photograph_folder
from vivit.files import as_text, make_folder, write_files

# How the camera's window moves over the picture: (x to the right, y downwards, log of its size, clockwise angle).
_DIRECTIONS: dict[str, tuple[int, int, int, int]] = {
    "pan_left": (-1, 0, 0, 0),
    "pan_right": (1, 0, 0, 0),
    "roll_clockwise": (0, 0, 0, 1),
    "roll_counterclockwise": (0, 0, 0, -1),
    "static": (0, 0, 0, 0),
    "tilt_down": (0, 1, 0, 0),
    "tilt_up": (0, -1, 0, 0),
    "zoom_in": (0, 0, -1, 0),
    "zoom_out": (0, 0, 1, 0),
}
CLASSES: tuple[str, ...] = tuple(_DIRECTIONS)
# The accuracy of a model that finds the group but guesses the direction: all static videos and half of the others.
ORDER_BLIND = (1 + (len(CLASSES) - 1) / 2) / len(CLASSES)

# Speed per frame and the largest shake, in the units of a camera path: heights of the video, 1, radians.
SLOWEST = np.array([0.020, 0.020, 0.035, np.radians(3.0)])
QUICKEST = np.array([0.045, 0.045, 0.060, np.radians(5.5)])
SHAKE = np.array([0.008, 0.008, 0.006, np.radians(0.5)])

SIZES = ((128, 96), (112, 84), (128, 72))  # (width, height)
FRAMES = (20, 26)
FRAME_RATES = (24, 25, 30)
QUALITIES = (24, 34)  # x264's constant rate factor


def generate(
    folder: Path,
    *,
    train_videos: int,
    val_videos: int,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> None:
    """Write `folder`/train/<class>/<number>.mp4 and `folder`/val/<class>/<number>.mp4: H.264 of about a second each.

    A video depends only on the seed, its split and its number. Numbers go through the classes in turn, so the set is
    balanced. After an interruption, the same call makes the missing videos.

    Args:
        folder: created if missing.
        train_videos, val_videos: how many in total, at least 0.
        workers: processes; by default one for each core, at most 8. 1 makes the videos in this process.
        progress: called with (finished videos, all videos) before the first and after each video.

    Raises:
        UserError: scikit-image, which has the photographs, is not installed; the folder holds another set; or a file
            cannot be written.
    """
    photograph_folder()
    folder = Path(folder)
    _claim(folder, {"train_videos": train_videos, "val_videos": val_videos, "seed": seed})
    counts: dict[Split, int] = {"train": train_videos, "val": val_videos}
    videos = [_Video(folder, split, number, seed) for split, count in counts.items() for number in range(count)]
    missing = [video for video in videos if not video.path.exists()]
    for directory in {video.path.parent for video in missing}:
        directory.mkdir(parents=True, exist_ok=True)

    there = len(videos) - len(missing)
    progress(there, len(videos))
    # A process takes seconds to start, so more than eight would not save time.
    processes = min(workers or min(os.cpu_count() or 1, 8), len(missing))
    if processes <= 1:
        for done, video in enumerate(missing, start=there + 1):
            _make(video)
            progress(done, len(videos))
        return
    # Forking can hang once PyTorch has started threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        for done, _ in enumerate(executor.map(_make, missing, chunksize=8), start=there + 1):
            progress(done, len(videos))


@dataclass(frozen=True)
class _Video:
    folder: Path
    split: Split
    number: int
    seed: int

    @property
    def class_name(self) -> str:
        return CLASSES[self.number % len(CLASSES)]

    @property
    def path(self) -> Path:
        return self.folder / self.split / self.class_name / f"{self.number:05d}.mp4"


def _claim(folder: Path, made_with: dict[str, int]) -> None:
    """Record the settings in the folder; raise UserError if its videos were made with others."""
    note = folder / "camera_motion.json"
    if not note.exists():
        make_folder(folder)
        write_files({note: as_text(json.dumps(made_with))})
    elif (found := json.loads(note.read_text())) != made_with:
        raise UserError(f"{folder} holds videos made with {found}, not {made_with}: delete it or name another folder")


def _make(video: _Video) -> None:
    """Render and encode one video."""
    rng = np.random.default_rng([video.seed, ["train", "val"].index(video.split), video.number])
    clip = render(video.class_name, rng, draw_picture(rng, video.split))
    rate, quality = int(rng.choice(FRAME_RATES)), int(rng.integers(QUALITIES[0], QUALITIES[1] + 1))
    write_files({video.path: lambda path: _encode(clip, path, rate, quality)})


def render(class_name: str, rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Film a picture with the camera motion of a class.

    Args:
        class_name: one of CLASSES.
        picture: (height, width, 3) uint8, any size.

    Returns:
        (T, H, W, 3) uint8, with T within FRAMES and (W, H) one of SIZES.
    """
    frames = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    width, height = SIZES[rng.integers(len(SIZES))]
    path = _camera_path(class_name, rng, frames)

    # From window to canvas, both in pixels of the video. The canvas just holds the windows of all frames, so no frame
    # sees beyond the edge of the picture.
    cosine, sine = np.cos(path[:, 3]), np.sin(path[:, 3])
    turn = np.exp(path[:, 2])[:, None, None] * np.stack([cosine, -sine, sine, cosine], axis=1).reshape(-1, 2, 2)
    half_window = np.array([width, height]) / 2
    centres = path[:, :2] * height
    reach = np.abs(turn) @ half_window
    low, high = (centres - reach).min(axis=0), (centres + reach).max(axis=0)
    half_canvas = (high - low) / 2
    centres = centres - (low + high) / 2
    canvas = _cut(picture, rng, *np.ceil(2 * half_canvas).astype(int))
    canvas *= _light(rng, canvas.shape[-2], canvas.shape[-1], height)

    across = np.linspace(-width + 1, width - 1, width)[:, None] / 2 * turn[:, None, :, 0] + centres[:, None]
    down = np.linspace(-height + 1, height - 1, height)[:, None] / 2 * turn[:, None, :, 1]
    positions = torch.from_numpy(across).float()[:, None] + torch.from_numpy(down).float()[:, :, None]
    grid = positions / torch.from_numpy(half_canvas).float()
    clip = F.grid_sample(canvas.expand(frames, -1, -1, -1), grid, padding_mode="border", align_corners=False)
    if rng.random() < 0.25:
        _pass_by(clip, positions / height, rng)
    return _film(clip, rng)


def _camera_path(class_name: str, rng: np.random.Generator, frames: int) -> np.ndarray:
    """(T, 4): the camera's window in each frame, with the columns of _DIRECTIONS, in heights of the video.

    A path is as likely as its reverse is in the opposite class: position and tilt in the middle of the video do not
    depend on the direction.
    """
    speed = SLOWEST * (QUICKEST / SLOWEST) ** rng.random()
    pace = 1 + rng.uniform(0, 0.6) * _wander(rng, frames, slowest=0.25, quickest=1.0)
    progress = np.cumsum(pace) - pace.sum() / 2
    shake = SHAKE * rng.random() * np.stack([_wander(rng, frames, slowest=0.5, quickest=4.0) for _ in range(4)], axis=1)
    path = np.array(_DIRECTIONS[class_name]) * speed * progress[:, None] + shake
    path[:, 3] += np.radians(rng.uniform(-8, 8))
    return path


def _wander(rng: np.random.Generator, frames: int, slowest: float, quickest: float) -> np.ndarray:
    """(T,) within [−1, 1]: the mean of three waves with random phases, and with periods per video in a range."""
    periods, phases = rng.uniform(slowest, quickest, size=(3, 1)), rng.random((3, 1))
    return np.sin(2 * np.pi * (periods * np.linspace(-0.5, 0.5, frames) + phases)).mean(axis=0)


def _cut(picture: np.ndarray, rng: np.random.Generator, width: int, height: int) -> torch.Tensor:
    """A random part of the picture at a random scale, flipped at random; float (1, 3, height, width) in 0–255.

    The most detailed of three parts is taken, because no motion shows on a plain sky.
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


def _light(rng: np.random.Generator, height: int, width: int, video_height: int) -> torch.Tensor:
    """(height, width) factors: most scenes are lit from above, and their subject is brighter than its surroundings.

    The light belongs to the scene, so it moves with it. It makes zooms and rolls learnable in minutes; a model may
    follow the light rather than the objects.
    """
    y = (torch.arange(height) - height / 2)[:, None] / video_height
    x = (torch.arange(width) - width / 2) / video_height
    angle, slope, falloff = np.radians(rng.uniform(-20, 20)), rng.uniform(0.6, 1.1), rng.uniform(0.6, 1.2)
    from_above = (1 - slope * (y * np.cos(angle) + x * np.sin(angle))).clamp(0.25, 1.4)
    return from_above * (0.25 + 0.75 * torch.exp(-falloff * (x**2 + y**2)))


def _pass_by(clip: torch.Tensor, positions: torch.Tensor, rng: np.random.Generator) -> None:
    """Draw a small object that moves through the scene, in place.

    Args:
        clip: (T, 3, H, W).
        positions: (T, H, W, 2), the point of the scene that each pixel shows, in heights of the video.
    """
    frames, height, width, _ = positions.shape
    start = positions[frames // 2, rng.integers(height), rng.integers(width)]
    velocity = torch.from_numpy(rng.uniform(-0.02, 0.02, size=2)).float()
    place = start + velocity * (torch.arange(frames)[:, None] - frames / 2)
    away = (positions - place[:, None, None]) / torch.from_numpy(rng.uniform(0.06, 0.16, size=2)).float()
    squareness = float(rng.choice([2, 6]))
    cover = (12 * (1 - away.abs().pow(squareness).sum(dim=-1))).clamp(0, 1)[:, None]
    colour = torch.from_numpy(rng.uniform(0, 255, size=(3, 1, 1))).float()
    clip.lerp_(colour.expand_as(clip), cover.expand_as(clip))


def _film(clip: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    """Record (T, 3, H, W) in 0–255 as a sensor does, with contrast, changing exposure and noise: (T, H, W, 3) uint8."""
    frames, _, height, width = clip.shape
    exposure = rng.uniform(0.8, 1.15) * (1 + rng.uniform(0, 0.12) * _wander(rng, frames, slowest=0.25, quickest=1.5))
    contrast = rng.uniform(0.7, 1.2)
    black = 128 * (1 - contrast) + rng.uniform(-15, 15)
    noise = rng.standard_normal((frames, 1, height, width), dtype=np.float32)
    offset = torch.from_numpy(noise).mul_(rng.uniform(0, 5)).add_(black)
    gain = torch.from_numpy((contrast * exposure).astype(np.float32))[:, None, None, None]
    recorded = torch.addcmul(offset, clip, gain).clamp_(0, 255).byte()
    return recorded.permute(0, 2, 3, 1).contiguous().numpy()


def _encode(clip: np.ndarray, path: Path, frame_rate: int, quality: int) -> None:
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
