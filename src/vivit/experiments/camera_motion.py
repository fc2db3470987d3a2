"""Short generated videos of nine camera motions. Labelling them is a real task: shot annotation.

Classes are named after what the *camera* does: `pan_right` moves the scene to the left in the picture, `tilt_up` moves
it down, `zoom_in` makes it grow, and `roll_clockwise` turns it counter-clockwise. Played backwards, each motion becomes
its opposite (`static` stays `static`), and everything else about a video is as likely backwards as forwards, except for
faint traces of compression. So a model that ignores the order of the frames can at best tell five groups apart, not
nine classes: it must guess the direction.

A video shows one still picture through a moving window. Like a real shot, it has uneven speed, a shaking hand, moving
objects, changing light, sensor noise and compression.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vivit.experiments.film import Window, claim, cut, encode, make_videos, record, wander
from vivit.experiments.pictures import Split, draw_picture, photograph_folder
from vivit.files import write_files

# How the camera's window moves over the picture: (x to the right, y downwards, log of its size, clockwise angle).
DIRECTIONS: dict[str, tuple[int, int, int, int]] = {
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
CLASSES: tuple[str, ...] = tuple(DIRECTIONS)
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

    A video depends only on the seed, its split and its number. Numbers cycle through the classes, so the set is
    balanced. After an interruption, the same call makes the missing videos.

    Args:
        folder: created if missing.
        train_videos, val_videos: how many in total, at least 0.
        workers: processes; by default one per core, at most 8. 1 makes the videos in this process.
        progress: called with (finished videos, all videos) before the first and after each video.

    Raises:
        UserError: scikit-image, which has the photographs, is not installed; the folder holds another set; or a file
            cannot be written.
    """
    photograph_folder()
    folder = Path(folder)
    counts: dict[Split, int] = {"train": train_videos, "val": val_videos}
    claim(folder / "camera_motion.json", {"train_videos": train_videos, "val_videos": val_videos, "seed": seed})
    videos = [_Video(folder, split, number, seed) for split, count in counts.items() for number in range(count)]
    make_videos(videos, _make, workers, progress)


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


def _make(video: _Video) -> None:
    """Render and encode one video."""
    rng = np.random.default_rng([video.seed, ["train", "val"].index(video.split), video.number])
    clip = render(video.class_name, rng, draw_picture(rng, video.split))
    rate, quality = int(rng.choice(FRAME_RATES)), int(rng.integers(QUALITIES[0], QUALITIES[1] + 1))
    write_files({video.path: lambda path: encode(clip, path, rate, quality)})


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

    window = Window.along(path, width, height)
    canvas = cut(picture, rng, *window.canvas_size)
    canvas *= _light(rng, canvas.shape[-2], canvas.shape[-1], height)
    clip = window.show(canvas)
    if rng.random() < 0.25:
        _pass_by(clip, window.positions, rng)
    return record(clip, rng)


def _camera_path(class_name: str, rng: np.random.Generator, frames: int) -> np.ndarray:
    """(T, 4): the camera's window in each frame, with the columns of DIRECTIONS, in heights of the video.

    A path is as likely as its reverse in the opposite class: position and tilt in the middle of the video do not depend
    on the direction.
    """
    speed = SLOWEST * (QUICKEST / SLOWEST) ** rng.random()
    pace = 1 + rng.uniform(0, 0.6) * wander(rng, frames, slowest=0.25, quickest=1.0)
    progress = np.cumsum(pace) - pace.sum() / 2
    shake = SHAKE * rng.random() * np.stack([wander(rng, frames, slowest=0.5, quickest=4.0) for _ in range(4)], axis=1)
    path = np.array(DIRECTIONS[class_name]) * speed * progress[:, None] + shake
    path[:, 3] += np.radians(rng.uniform(-8, 8))
    return path


def _light(rng: np.random.Generator, height: int, width: int, video_height: int) -> torch.Tensor:
    """(height, width) factors: most scenes are lit from above, and their subject is brighter than its surroundings.

    The light is part of the scene and moves with it. It makes zooms and rolls learnable in minutes; a model may follow
    the light rather than the objects.
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
