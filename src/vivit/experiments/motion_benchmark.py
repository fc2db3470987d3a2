"""A motion benchmark: an object (the noun) does something (the verb) in front of a background that also moves.

The labels have two heads, as in EPIC-Kitchens: a model must see what acts and how it moves. A verb says how the object
moves in its scene, while the camera wanders over that scene, so the motion in the picture is the sum of both. Verbs
come in groups that share their single frames: a motion and its opposite, an action and its reverse, two events in
either order, and one to three hops with the same total time. Backwards, a video of a verb looks like a video of its
opposite, so a model that ignores the order of the frames can at best find the group and guess within it.

Photographs and objects are split between train, val and test.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from vivit.errors import UserError
from vivit.experiments.film import Window, claim, cut, encode, make_videos, record, wander
from vivit.experiments.material import SPLITS, CutOut, Material, Photograph, Split, open_material
from vivit.experiments.pictures import draw_texture
from vivit.files import as_text, write_files

Difficulty = Literal["easy", "medium", "hard"]
Thing = TypeVar("Thing")

# A group holds verbs whose frames look alike as a set.
GROUPS: tuple[tuple[str, ...], ...] = (
    ("moves_left", "moves_right"),
    ("moves_up", "moves_down"),
    ("grows", "shrinks"),
    ("spins_clockwise", "spins_counterclockwise"),
    ("falls_apart", "comes_together"),
    ("sinks", "emerges"),
    ("hops_then_rocks", "rocks_then_hops"),
    ("hops_once", "hops_twice", "hops_three_times"),
    ("stays",),
)
VERBS: tuple[str, ...] = tuple(sorted(verb for group in GROUPS for verb in group))
# The accuracy over verbs of a model that finds the group but guesses within it.
ORDER_BLIND = len(GROUPS) / len(VERBS)
# Each of these is made by playing the other's path backwards.
REVERSED = {
    "moves_right": "moves_left",
    "moves_down": "moves_up",
    "shrinks": "grows",
    "spins_counterclockwise": "spins_clockwise",
    "comes_together": "falls_apart",
    "emerges": "sinks",
    "rocks_then_hops": "hops_then_rocks",
}
OPPOSITE = {verb: verb for verb in VERBS} | REVERSED | {b: a for a, b in REVERSED.items()}

FRAMES = 32
FRAME_RATES = (24, 25, 30)
QUALITIES = (22, 30)  # x264's constant rate factor

# Columns of an object's path: x to the right and y downwards in heights of the video, log of its size, clockwise angle,
# gap between its four quarters and how deep it has sunk, both in halves of the object.
X, Y, SIZE, ANGLE, GAP, SUNK = range(6)


@dataclass(frozen=True)
class _Level:
    """Ranges of a difficulty. Lengths are in heights of the video."""

    object_size: tuple[float, float]
    """The side of a square of the object's area."""
    travel: tuple[float, float]
    """How far an object moves in its scene."""
    camera: float
    """The most that the camera moves."""
    camera_zoom: float
    """Largest change of the log of the window's size."""
    camera_roll: float
    """Largest turn of the camera, in degrees."""
    background_light: tuple[float, float]
    """The light on the background, as a factor. Less than 1 sets the object off against it, as on a stage."""
    object_light: float
    """How much the dark parts of an object are lightened: from 0, not at all, to 1, all white."""
    bystander: bool
    """Whether a second object stays in the scene; it is smaller and does nothing."""


LEVELS: dict[Difficulty, _Level] = {
    "easy": _Level((0.45, 0.60), (0.40, 0.60), 0.10, 0.05, 2, (0.20, 0.35), 0.5, False),
    "medium": _Level((0.42, 0.58), (0.40, 0.60), 0.25, 0.10, 5, (0.30, 0.50), 0.4, False),
    "hard": _Level((0.25, 0.40), (0.25, 0.50), 0.60, 0.30, 15, (0.80, 1.00), 0.0, True),
}


@dataclass(frozen=True)
class BenchmarkSettings:
    """Everything that determines the bytes of a benchmark."""

    difficulty: Difficulty = "medium"
    train_videos: int = 2000
    val_videos: int = 400
    test_videos: int = 400
    seed: int = 0
    size: tuple[int, int] = (112, 112)
    """Width and height of the videos in pixels."""
    pictures: Path | None = None
    """Folder of photographs for backgrounds; None: scikit-image's, and drawn textures."""
    objects: Path | None = None
    """Folder with a folder of cut-outs for each noun; None: drawn objects."""

    @property
    def counts(self) -> dict[Split, int]:
        return {"train": self.train_videos, "val": self.val_videos, "test": self.test_videos}


def generate(
    folder: Path,
    *,
    settings: BenchmarkSettings,
    progress: Callable[[int, int], object] = lambda done, total: None,
    workers: int | None = None,
) -> None:
    """Write `folder`/train.csv, val.csv and test.csv with columns path, verb and noun, and the videos beside them.

    Videos are H.264 of FRAMES frames. Each depends only on the settings, its split and its number; verbs are equally
    frequent, and so are nouns. After an interruption, the same call makes the missing videos.

    Args:
        folder: created if missing.
        progress: called with (finished videos, all videos) before the first and after each video.
        workers: processes; by default one per core, at most 8. 1 makes the videos in this process.

    Raises:
        UserError: the settings are impossible, a folder of material is missing or has too little in it, `folder` holds
            another set, or a file cannot be written.
    """
    folder = Path(folder)
    if min(settings.size) < 48 or any(side % 2 for side in settings.size):
        raise UserError(f"size: {settings.size[0]}x{settings.size[1]}; both must be even and 48 or more")
    if min(settings.counts.values()) < 0:
        raise UserError("the number of videos of a split must be 0 or more")
    material = open_material(settings.pictures, settings.objects)
    made_with: dict[str, Any] = asdict(settings) | {"size": list(settings.size)}
    del made_with["pictures"], made_with["objects"]
    claim(folder / "motion_benchmark.json", made_with | {"material": material.digest, "nouns": list(material.nouns)})
    videos = {
        split: [_plan(folder, split, number, settings, material) for number in range(count)]
        for split, count in settings.counts.items()
    }
    write_files({folder / f"{split}.csv": as_text(_list(planned)) for split, planned in videos.items() if planned})
    make_videos([video for planned in videos.values() for video in planned], _make, workers, progress)


@dataclass(frozen=True)
class _Video:
    path: Path
    verb: str
    background: Photograph | None
    """None: a drawn texture."""
    objects: tuple[CutOut, ...]
    """The one that acts, and any bystander."""
    seed: tuple[int, ...]
    settings: BenchmarkSettings


def _plan(folder: Path, split: Split, number: int, settings: BenchmarkSettings, material: Material) -> _Video:
    """What a video is made of. Numbers cycle through verbs and, more slowly, nouns; all pairs are equally frequent."""
    seed = (settings.seed, SPLITS.index(split), number)
    rng = np.random.default_rng([*seed, 1])
    rounds, verb = divmod(number, len(VERBS))
    noun = (rounds + verb) % len(material.nouns)
    nouns = [material.nouns[noun]]
    if LEVELS[settings.difficulty].bystander:
        nouns.append(material.nouns[(noun + int(rng.integers(1, len(material.nouns)))) % len(material.nouns)])

    def any_of(things: Sequence[Thing]) -> Thing:
        return things[int(rng.integers(len(things)))]

    drawn = settings.pictures is None and rng.random() < 0.5
    background = None if drawn else any_of(material.photographs[split])
    objects = tuple(any_of(material.cut_outs[split][name]) for name in nouns)
    return _Video(folder / split / f"{number:05d}.mp4", VERBS[verb], background, objects, seed, settings)


def _list(videos: Sequence[_Video]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("path", "verb", "noun"))
    for video in videos:
        table.writerow((f"{video.path.parent.name}/{video.path.name}", video.verb, video.objects[0].noun))
    return text.getvalue()


def _make(video: _Video) -> None:
    """Render and encode one video."""
    rng = np.random.default_rng(video.seed)
    background = draw_texture(rng) if video.background is None else video.background.pixels()
    clip = render(video.verb, rng, background, [thing.pixels() for thing in video.objects], video.settings)
    rate, quality = int(rng.choice(FRAME_RATES)), int(rng.integers(QUALITIES[0], QUALITIES[1] + 1))
    write_files({video.path: lambda path: encode(clip, path, rate, quality)})


def render(
    verb: str,
    rng: np.random.Generator,
    background: np.ndarray,
    objects: list[np.ndarray],
    settings: BenchmarkSettings,
) -> np.ndarray:
    """Film an object that does what the verb says.

    Args:
        background: (height, width, 3) uint8, any size.
        objects: the one that acts, and any bystanders: (height, width, 4) uint8, any sizes.
        settings: only difficulty and size matter.

    Returns:
        (FRAMES, height, width, 3) uint8.
    """
    level, (width, height) = LEVELS[settings.difficulty], settings.size
    camera = camera_path(rng, level)
    window = Window.along(camera, width, height)
    clip = window.show(cut(background, rng, *window.canvas_size).mul_(rng.uniform(*level.background_light)))
    path = object_path(verb, rng, level)
    size = rng.uniform(*level.object_size)
    _place(path, window, size, rng, width / height)
    for bystander in objects[1:]:
        still = np.zeros_like(path)
        _place(still, window, size, rng, width / height)
        still[:, X] += rng.choice([-1, 1]) * rng.uniform(0.6, 0.9) * size
        paste(clip, window, _lit(bystander, level), still, 0.7 * size)
    paste(clip, window, _lit(objects[0], level), path, size)
    return record(clip, rng)


def camera_path(rng: np.random.Generator, level: _Level) -> np.ndarray:
    """(FRAMES, 4) for `Window.along`: a move in any direction, perhaps with a zoom and a roll, and a shaking hand."""
    pace = 1 + 0.5 * wander(rng, FRAMES, slowest=0.25, quickest=1.0)
    progress = np.cumsum(pace) / pace.sum() - 0.5
    direction, far = rng.uniform(0, 2 * np.pi), rng.uniform(0, level.camera)
    move = np.array(
        [
            far * np.cos(direction),
            far * np.sin(direction),
            rng.uniform(-level.camera_zoom, level.camera_zoom),
            np.radians(rng.uniform(-level.camera_roll, level.camera_roll)),
        ]
    )
    shake = np.stack([wander(rng, FRAMES, slowest=0.5, quickest=4.0) for _ in range(4)], axis=1)
    return progress[:, None] * move + shake * np.array([0.006, 0.006, 0.004, np.radians(0.4)]) * rng.random()


def object_path(verb: str, rng: np.random.Generator, level: _Level) -> np.ndarray:
    """(FRAMES, 6): how the object moves in its scene, with the columns X, Y, SIZE, ANGLE, GAP and SUNK."""
    if verb in REVERSED:
        return object_path(REVERSED[verb], rng, level)[::-1].copy()
    path = np.zeros((FRAMES, 6))
    path[:, ANGLE] = np.radians(rng.uniform(-12, 12))
    travel = rng.uniform(*level.travel)
    match verb:
        case "moves_left":
            path[:, X] -= travel * _ramp(rng)
        case "moves_up":
            path[:, Y] -= travel * _ramp(rng)
        case "grows":
            path[:, SIZE] += rng.uniform(0.7, 1.1) * (_ramp(rng) - 0.6)
        case "spins_clockwise":
            path[:, ANGLE] += np.radians(rng.uniform(100, 220)) * (_ramp(rng) - rng.random())
        case "falls_apart":
            path[:, GAP] += rng.uniform(0.4, 0.8) * _ramp(rng)
        case "sinks":
            path[:, SUNK] += rng.uniform(1.3, 2.0) * _ramp(rng)
        case "hops_then_rocks":
            hop, rock = _bumps(rng, 2).T
            path[:, Y] -= 0.7 * travel * hop
            path[:, ANGLE] += rng.choice([-1, 1]) * np.radians(rng.uniform(30, 50)) * rock
        case "hops_once" | "hops_twice" | "hops_three_times":
            times = 1 + ["hops_once", "hops_twice", "hops_three_times"].index(verb)
            path[:, Y] -= 0.7 * travel * _bumps(rng, times).sum(axis=1)
        case "stays":
            pass
        case _:
            raise ValueError(f"no such verb: {verb}")
    return path


def _ramp(rng: np.random.Generator) -> np.ndarray:
    """(FRAMES,) from 0 to 1, at an uneven pace, perhaps with a rest at either end."""
    pace = 1 + 0.5 * wander(rng, FRAMES, slowest=0.25, quickest=1.0)
    first, last = rng.uniform(0, 0.12), rng.uniform(0.88, 1)
    when = np.linspace(0, 1, FRAMES)
    return np.cumsum(pace * ((first <= when) & (when <= last))) / (pace * ((first <= when) & (when <= last))).sum()


def _bumps(rng: np.random.Generator, count: int) -> np.ndarray:
    """(FRAMES, count): excursions from 0 to 1 and back, one after another.

    Their total time does not depend on their count, so the set of frames does not reveal it.
    """
    busy = rng.uniform(0.6, 0.85)
    lengths = 1 + rng.uniform(-0.25, 0.25, count)
    lengths *= busy / lengths.sum()
    gaps = rng.dirichlet(np.full(count + 1, 2.0)) * (1 - busy)
    starts = np.cumsum(gaps[:-1]) + np.cumsum(lengths) - lengths
    phase = ((np.linspace(0, 1, FRAMES)[:, None] - starts) / lengths).clip(0, 1)
    return 4 * phase * (1 - phase)


def _place(path: np.ndarray, window: Window, size: float, rng: np.random.Generator, aspect: float) -> None:
    """Shift the path, in place, so that the object stays in the picture as far as possible."""
    seen = path[:, :2] - window.positions.mean(dim=(1, 2)).numpy()
    low, high = seen.min(axis=0), seen.max(axis=0)
    reach = 0.4 * size * (1 + path[:, GAP].max()) * np.exp(path[:, SIZE].max())
    free = np.maximum(0, np.array([aspect / 2, 0.5]) - reach - (high - low) / 2)
    path[:, :2] += rng.uniform(-free, free) - (low + high) / 2


def _lit(pixels: np.ndarray, level: _Level) -> np.ndarray:
    lit = pixels.copy()
    lit[..., :3] = 255 - (255 - pixels[..., :3]) * (1 - level.object_light)
    return lit


def paste(clip: torch.Tensor, window: Window, pixels: np.ndarray, path: np.ndarray, size: float) -> torch.Tensor:
    """Draw an object into a clip, in place.

    Args:
        clip: (T, 3, H, W) in 0–255.
        pixels: (height, width, 4) uint8.
        path: (T, 6) as from `object_path`.
        size: the side of a square of the object's area, in heights of the video.

    Returns:
        (T, H, W): how much the object covers each pixel, in [0, 1].
    """
    stretch = np.sqrt(pixels.shape[1] / pixels.shape[0])
    half = size / 2 * np.array([stretch, 1 / stretch])
    half *= min(1, 0.75 * size / half.max())  # a long object must stay shorter than the picture
    rgba = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    rgba[:, :3] *= rgba[:, 3:] / 255
    # Shrink it to its largest visible size first, so that fine detail does not flicker.
    across, down = np.ceil(2 * half * np.exp(path[:, SIZE].max()) * clip.shape[-2]).astype(int).tolist()
    rgba = F.pad(F.interpolate(rgba, (down, across), mode="bilinear", antialias=True), (1, 1, 1, 1))
    half = half * np.array([across + 2, down + 2]) / np.array([across, down])

    cosine, sine = np.cos(path[:, ANGLE]), np.sin(path[:, ANGLE])
    turn = np.stack([cosine, sine, -sine, cosine], axis=1).reshape(-1, 2, 2) / np.exp(path[:, SIZE])[:, None, None]
    # (T, H, W, 2): each pixel's position in the object, whose edges are at −1 and 1.
    away = window.positions - torch.from_numpy(path[:, None, None, :2]).float()
    inside = torch.einsum("tij,thwj->thwi", torch.from_numpy(turn / half[:, None]).float(), away)
    gap, sunk = (torch.from_numpy(path[:, column]).float()[:, None, None] for column in (GAP, SUNK))
    source = inside - gap[..., None] * inside.sign()
    seen = (source * inside).amin(dim=-1).ge(0) | (gap == 0)
    seen &= (inside[..., 1] <= 1) | (sunk == 0)
    source[..., 1] -= sunk
    layers = F.grid_sample(rgba.expand(len(clip), -1, -1, -1), source, align_corners=False) * seen[:, None]
    cover = layers[:, 3:] / 255
    clip.mul_(1 - cover).add_(layers[:, :3])
    return cover[:, 0]
