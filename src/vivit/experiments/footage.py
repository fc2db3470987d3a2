"""Real scenes filmed by a virtual camera that moves at everyday speeds.

A scene is a photograph, with cut-outs that move through it, or a span of a real video that plays meanwhile. Only spans
with a still camera are used, because any motion of the video's own camera would make the label wrong.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vivit.errors import UserError
from vivit.experiments.camera_motion import CLASSES, DIRECTIONS
from vivit.experiments.film import Window, claim, encode, make_videos
from vivit.experiments.pictures import PHOTOGRAPHS, photograph_folder
from vivit.files import write_files

Part = Literal["train", "test"]

# Everyday speeds per second, in the units of a camera path: heights of the picture, log of the size, radians.
SLOWEST = np.array([0.2, 0.2, np.log(1.2), np.radians(10)])
QUICKEST = np.array([0.8, 0.8, np.log(1.6), np.radians(40)])
SHAKE = np.array([0.012, 0.012, 0.005, np.radians(0.6)])  # of a hand, at most

SECONDS = 2.0
WIDTH, HEIGHT = 320, 240
FRAME_RATES = (24, 25, 30)
QUALITIES = (20, 30)  # x264's constant rate factor

HELD_OUT = 38 / 256  # the fraction of the pictures never used for training
PICTURE_SIDE, SMALLEST_PICTURE = 640, 120  # of the shorter side, in pixels
CUT_OUT_SIDE = 128  # of the longer side
VIDEO_HEIGHT = 288
MOST_FRAMES = 1200
LEAST_LEVEL = 180  # pixels of the shorter side down to which a scene is halved
FINE_STEP = 0.01  # seconds between the points of a camera path

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm")


@dataclass(frozen=True)
class Scene:
    """A photograph (one frame) or a span of a video, at its size and repeatedly halved."""

    levels: Sequence[Tensor]
    """(N, 3, height, width) uint8 each."""
    frame_rate: float = 0.0

    @classmethod
    def of(cls, frames: Tensor, frame_rate: float = 0.0) -> "Scene":
        """frames: (N, 3, height, width) uint8."""
        levels = [frames]
        while min(levels[-1].shape[-2:]) > LEAST_LEVEL:
            parts = levels[-1].split(16)
            levels.append(torch.cat([F.avg_pool2d(part.float(), 2).round().byte() for part in parts]))
        return cls(levels, frame_rate)


@dataclass(frozen=True)
class Scenery:
    """What is filmed."""

    photographs: Sequence[Scene]
    videos: Sequence[Scene] = ()
    cut_outs: Sequence[Tensor] = ()
    """(4, height, width) uint8 each, the last channel alpha."""
    video_chances: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Weighted by the square root of length: a long one has more to show, but all should be seen.
        lengths = np.array([len(video.levels[0]) / video.frame_rate for video in self.videos]) ** 0.5
        object.__setattr__(self, "video_chances", lengths / lengths.sum())

    def draw(self, rng: np.random.Generator, video_share: float) -> Scene:
        """A scene: a video with this probability, if there is one, else a photograph."""
        if len(self.videos) and (rng.random() < video_share or not len(self.photographs)):
            return self.videos[int(rng.choice(len(self.videos), p=self.video_chances))]
        return self.photographs[int(rng.integers(len(self.photographs)))]


@lru_cache(maxsize=2)
def open_scenery(pictures: Path | None, videos: Path | None, part: Part) -> Scenery:
    """Read photographs, cut-outs and videos into memory.

    Pictures are split between training and test by their names; a folder of videos must belong to one as a whole.

    Args:
        pictures: a folder, searched at any depth; pictures with transparency are cut-outs. None: scikit-image's.
        videos: a folder, searched at any depth, for spans in which the camera stands still; videos in folders named
            "still" are used whole. None: no videos.

    Raises:
        UserError: a folder is missing, nothing in it can be filmed, or scikit-image is not installed.
    """
    if pictures is None:
        folder = photograph_folder()
        paths = [folder / name for name in PHOTOGRAPHS["train" if part == "train" else "val"]]
    else:
        paths = [path for path in _files(pictures, _PICTURES) if _is_held_out(path) == (part == "test")]
    photographs, cut_outs = [], []
    for path in paths:
        picture = _read_picture(path)
        if picture is not None:
            if picture.shape[0] == 4:
                cut_outs.append(picture)
            else:
                photographs.append(Scene.of(picture[None]))
    stretches = [scene for path in _files(videos, _VIDEOS) for scene in _read_video(path)] if videos else []
    if not photographs and not stretches:
        raise UserError(f"{pictures}: no photographs of {SMALLEST_PICTURE} pixels or more for {part}")
    return Scenery(photographs, stretches, cut_outs)


def _files(folder: Path, endings: Sequence[str]) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings and path.is_file())


def _is_held_out(path: Path) -> bool:
    return hashlib.md5(path.name.encode(), usedforsecurity=False).digest()[0] < HELD_OUT * 256


def _read_picture(path: Path) -> Tensor | None:
    """(3, height, width) uint8 of a photograph, (4, …) of a cut-out; None if it is too small or cannot be read."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGBA" if "A" in opened.getbands() or "transparency" in opened.info else "RGB")
    except (OSError, UnidentifiedImageError):
        return None
    if image.mode == "RGBA":
        alpha = np.asarray(image.getchannel("A"))
        if (alpha < 8).mean() > 0.1 and (alpha > 200).mean() > 0.1:
            image = image.crop(image.getbbox())
            image.thumbnail((CUT_OUT_SIDE, CUT_OUT_SIDE))
            return _as_tensor(image)
        image = image.convert("RGB")
    shorter = min(image.size)
    if shorter < SMALLEST_PICTURE:
        return None
    if shorter > PICTURE_SIDE:
        size = (round(image.width * PICTURE_SIDE / shorter), round(image.height * PICTURE_SIDE / shorter))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return _as_tensor(image)


def _as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _read_video(path: Path) -> list[Scene]:
    """The spans of a video in which the camera stands still."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or 25)
        for frame in container.decode(stream):
            height = min(VIDEO_HEIGHT, frame.height)
            width = round(frame.width * height / frame.height)
            pixels = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray()
            frames.append(torch.from_numpy(pixels).permute(2, 0, 1))
            if len(frames) == MOST_FRAMES:
                break
    video = torch.stack(frames)
    spans = [(0, len(video))] if path.parent.name == "still" else still_spans(video, rate)
    return [Scene.of(video[first:last].clone(), rate) for first, last in spans]


def still_spans(video: Tensor, frame_rate: float) -> list[tuple[int, int]]:
    """The spans (first frame, last + 1) of SECONDS or more in which the camera stands still.

    It does if most parts of the picture with any detail still match, without a shift, a while later (phase
    correlation). Moving people are in the other parts.

    Args:
        video: (N, 3, height, width) uint8.
    """
    grey = F.interpolate(video.float().mean(1, keepdim=True), (96, 128), mode="bilinear", antialias=True)[:, 0].numpy()
    length = round(1.1 * SECONDS * frame_rate)
    spans: list[tuple[int, int]] = []
    for first in range(0, len(grey) - length, max(1, length // 4)):
        later = (first + length * k // 3 for k in (1, 2, 3))
        if all(_is_still(grey[first], grey[then]) for then in later):
            if spans and first <= spans[-1][1]:
                spans[-1] = (spans[-1][0], first + length)
            else:
                spans.append((first, first + length))
    return spans


def _is_still(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether most parts of 32 × 32 pixels stayed within a pixel."""
    stayed = []
    for top in range(0, before.shape[0], 32):
        for left in range(0, before.shape[1], 32):
            part = np.s_[top : top + 32, left : left + 32]
            if before[part].std() >= 4:
                stayed.append(max(map(abs, _shift(before[part], after[part]))) <= 1)
    return len(stayed) >= 3 and float(np.mean(stayed)) >= 0.6


def _shift(before: np.ndarray, after: np.ndarray) -> tuple[int, int]:
    """How far a picture moved down and to the right, in pixels, by phase correlation."""
    height, width = before.shape
    taper = np.hanning(height)[:, None] * np.hanning(width)
    spectra = [np.fft.fft2((picture - picture.mean()) * taper) for picture in (after, before)]
    product = spectra[0] * spectra[1].conj()
    peak = np.fft.ifft2(product / np.maximum(np.abs(product), 1e-6)).real.argmax()
    y, x = divmod(int(peak), width)
    return (y + height // 2) % height - height // 2, (x + width // 2) % width - width // 2


def camera_path(rates: np.ndarray, shake: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Where the camera's window is at these times.

    Args:
        rates: (N, 4): its movement per second, as the camera sees it (x and y in heights of the picture, log of the
            size, radians clockwise), at every FINE_STEP from the first time on.
        shake: (N, 4), added to the path.
        times: (T,) in seconds.

    Returns:
        (T, 4), for `Window.along`. The window has size 1 in the middle.
    """
    path = np.zeros_like(rates)
    path[:, 2:] = np.cumsum(rates[:, 2:], axis=0) * FINE_STEP
    path[:, 2:] -= path[len(path) // 2, 2:]
    cosine, sine, size = np.cos(path[:, 3]), np.sin(path[:, 3]), np.exp(path[:, 2])
    path[:, 0] = np.cumsum(size * (cosine * rates[:, 0] - sine * rates[:, 1])) * FINE_STEP
    path[:, 1] = np.cumsum(size * (sine * rates[:, 0] + cosine * rates[:, 1])) * FINE_STEP
    points = np.round((times - times[0]) / FINE_STEP).astype(int)
    return (path + shake)[points.clip(0, len(path) - 1)]


def fine_times(times: np.ndarray) -> np.ndarray:
    """(N,) seconds from 0, in steps of FINE_STEP, that cover these times: the points of a camera path."""
    return np.arange(0, times[-1] - times[0] + 2 * FINE_STEP, FINE_STEP)


def waves(rng: np.random.Generator, times: np.ndarray, slowest: float, quickest: float) -> np.ndarray:
    """Values at times, within [−1, 1]: the mean of three waves with random phases, and frequencies (Hz) in a range."""
    periods, phases = rng.uniform(slowest, quickest, size=(3, 1)), rng.random((3, 1))
    return np.sin(2 * np.pi * (periods * times + phases)).mean(axis=0)


def shoot(scene: Scene, window: Window, times: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Film a random part of a scene through a moving window: float (T, 3, H, W) in 0–255.

    A video plays meanwhile, forwards or backwards and up to a third slower or faster.
    """
    height, width = scene.levels[0].shape[-2:]
    across, down = 2 * window.reach
    # Pixels of the scene per height of the window: at most so many that no window sees beyond the scene.
    most = min(width / across, height / down)
    scale = most * rng.uniform(0.45 if most > 140 else 0.8, 1)
    shown = window.positions.shape[1]
    level = 0
    while level + 1 < len(scene.levels) and scale / 2 ** (level + 1) >= 0.8 * shown:
        level += 1
    source = scene.levels[level]
    rows, columns = source.shape[-2:]
    pixels = scale * columns / width
    left, top = rng.uniform(0, max(0, columns - across * pixels)), rng.uniform(0, max(0, rows - down * pixels))
    # Convert only the visible part to floating point.
    x0, y0 = int(max(0, left - 1)), int(max(0, top - 1))
    x1, y1 = int(min(columns, left + across * pixels + 2)), int(min(rows, top + down * pixels + 2))
    if len(source) == 1:
        part = source[:, :, y0:y1, x0:x1].float().expand(len(times), -1, -1, -1)
    else:
        playing = np.round((times - times[0]) * scene.frame_rate * rng.uniform(0.67, 1.33)).astype(int)
        playing = playing[::-1] if rng.random() < 0.5 else playing
        if playing.max() >= len(source):
            playing = playing * (len(source) - 1) // playing.max()
        playing = playing + rng.integers(len(source) - playing.max())
        part = source[torch.from_numpy(playing.copy()), :, y0:y1, x0:x1].float()
    corner = torch.tensor([left - x0 + across * pixels / 2, top - y0 + down * pixels / 2]).float()
    grid = (window.positions * pixels + corner) / torch.tensor([x1 - x0, y1 - y0]) * 2 - 1
    return F.grid_sample(part, grid, padding_mode="border", align_corners=False)


def pass_by(
    clip: Tensor, window: Window, times: np.ndarray, scenery: Scenery, rng: np.random.Generator, most: int = 3
) -> None:
    """Let one or more things move through the picture, in place: most in the scene, some along with the camera.

    Args:
        clip: (T, 3, H, W), from `shoot`.
    """
    frames, _, height, width = clip.shape
    still = Window.along(np.zeros((1, 4)), width, height).positions
    seconds = times - times.mean()

    def over_time(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(values)).float()

    for _ in range(rng.integers(1, most + 1)):
        thing, size = _thing(scenery, rng), rng.uniform(0.12, 0.65)
        velocity = rng.uniform(-0.5, 0.5, 2) * rng.random()
        bobbing = np.stack([waves(rng, times, 0.3, 2.5) for _ in range(2)], axis=1) * rng.uniform(0, 0.06)
        turning = rng.uniform(-1, 1) * (rng.random() < 0.15)
        growing = rng.uniform(-0.5, 0.5) * (rng.random() < 0.25)
        angle = over_time(rng.uniform(-0.3, 0.3) + rng.uniform(0, 0.25) * waves(rng, times, 0.3, 2) + turning * seconds)
        scale = over_time(size / 2 * np.exp(rng.uniform(0, 0.15) * waves(rng, times, 0.3, 2) + growing * seconds))
        in_scene = rng.random() < 0.65
        places = window.positions if in_scene else still.expand(frames, -1, -1, -1)
        start = places[frames // 2, rng.integers(height), rng.integers(width)]
        path = start + over_time(velocity * seconds[:, None] * (1 if in_scene else 0.6) + bobbing)
        cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
        turn = torch.stack([cosine, sine, -sine, cosine], dim=1).view(-1, 2, 2)
        grid = torch.einsum("tij,tyxj->tyxi", turn, places - path[:, None, None])
        longer = max(thing.shape[-2:])
        grid = grid * torch.tensor([longer / thing.shape[-1], longer / thing.shape[-2]])
        seen = F.grid_sample(thing.expand(frames, -1, -1, -1), grid, padding_mode="zeros", align_corners=False)
        cover = seen[:, 3:] / 255
        clip.mul_(1 - cover).add_(seen[:, :3] * cover)


def _thing(scenery: Scenery, rng: np.random.Generator) -> Tensor:
    """A cut-out, or a blob cut from a photograph or a video: float (4, height, width) in 0–255."""
    if len(scenery.cut_outs) and rng.random() < 0.6:
        return scenery.cut_outs[int(rng.integers(len(scenery.cut_outs)))].float()
    picture = scenery.draw(rng, 0).levels[-1][0].float()
    side = int(min(picture.shape[-2:]) * rng.uniform(0.3, 0.9))
    top, left = (rng.integers(length - side + 1) for length in picture.shape[-2:])
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    squareness = float(rng.choice([1.5, 2, 5]))
    edge = 0.8 + 0.2 * torch.sin(torch.atan2(y, x) * int(rng.integers(1, 5)) + rng.uniform(0, 6))
    away = (x.abs() ** squareness + y.abs() ** squareness) ** (1 / squareness)
    cover = ((edge - away) * 8).clamp(0, 1) * 255
    return torch.cat([picture[:, top : top + side, left : left + side], cover[None]])


def make_footage(
    folder: Path,
    *,
    pictures: Path | None,
    videos: Path | None,
    count: int,
    seed: int = 0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> None:
    """Write `folder`/<class>/<number>.mp4: H.264 of 320 × 240, SECONDS long, from pictures not used for training.

    A clip depends only on the seed, its number and the material. Numbers cycle through the classes.

    Raises:
        UserError: as for `open_scenery`; or the folder holds other footage.
    """
    scenery = open_scenery(pictures, videos, "test")
    counted = {"photographs": len(scenery.photographs), "stretches of videos": len(scenery.videos)}
    claim(folder / "footage.json", {"count": count, "seed": seed, **counted})
    clips = [_Footage(folder, pictures, videos, number, seed) for number in range(count)]
    make_videos(clips, _make, 1, progress)


@dataclass(frozen=True)
class _Footage:
    folder: Path
    pictures: Path | None
    videos: Path | None
    number: int
    seed: int

    @property
    def class_name(self) -> str:
        return CLASSES[self.number % len(CLASSES)]

    @property
    def path(self) -> Path:
        return self.folder / self.class_name / f"{self.number:04d}.mp4"


def _make(footage: _Footage) -> None:
    rng = np.random.default_rng([footage.seed, footage.number])
    scenery = open_scenery(footage.pictures, footage.videos, "test")
    rate = int(rng.choice(FRAME_RATES))
    times = np.arange(round(SECONDS * rate)) / rate
    fine = fine_times(times)
    speed = rng.uniform(SLOWEST, QUICKEST)
    pace = 1 + rng.uniform(0, 0.4) * waves(rng, fine, 0.2, 1)
    rates = np.array(DIRECTIONS[footage.class_name]) * speed * pace[:, None]
    shake = SHAKE * rng.random() * np.stack([waves(rng, fine, 0.5, 5) for _ in range(4)], axis=1)
    window = Window.along(camera_path(rates, shake, times), WIDTH, HEIGHT)
    scene = scenery.draw(rng, 0.5)
    clip = shoot(scene, window, times, rng)
    if len(scene.levels[0]) == 1 and rng.random() < 0.7:
        pass_by(clip, window, times, scenery, rng, most=2)
    clip = clip * (rng.uniform(0.8, 1.1) * (1 + rng.uniform(0, 0.08) * over_frames(rng, times)))
    clip = (clip + torch.randn(clip.shape, generator=torch.Generator().manual_seed(footage.number)) * 2).clamp(0, 255)
    frames = clip.byte().permute(0, 2, 3, 1).contiguous().numpy()
    quality = int(rng.integers(QUALITIES[0], QUALITIES[1] + 1))
    write_files({footage.path: lambda path: encode(frames, path, rate, quality)})


def over_frames(rng: np.random.Generator, times: np.ndarray) -> Tensor:
    """A slow change of light: (T, 1, 1, 1) within [−1, 1]."""
    return torch.from_numpy(waves(rng, times, 0.2, 2)).float()[:, None, None, None]
