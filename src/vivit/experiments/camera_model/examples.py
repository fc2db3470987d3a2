"""Training clips, filmed by a virtual camera over photographs and videos, with the camera's motion."""

import io
import math
from dataclasses import dataclass

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vivit.experiments.camera_model.shape import FRAMES, SIDE, STRIDE, TIMES, TUBELET
from vivit.experiments.camera_motion import CLASSES, DIRECTIONS
from vivit.experiments.film import Window
from vivit.experiments.footage import (
    QUICKEST,
    SLOWEST,
    Scenery,
    camera_path,
    fine_times,
    over_frames,
    pass_by,
    shoot,
    waves,
)

OVERSAMPLED = 2  # scenes are filmed at this many times the model's resolution, then averaged
FRAME_RATES = (24, 25, 30, 30, 30, 30, 30, 50, 60)


@dataclass(frozen=True)
class Example:
    clip: Tensor
    """(FRAMES, 3, SIDE, SIDE) uint8."""
    motion: Tensor
    """(TIMES, 4): the camera's motion from frame to frame within each tubelet, as the camera sees it."""
    label: Tensor
    """(classes,): probabilities, or zeros where there is no label."""


def draw_example(scenery: Scenery, rng: np.random.Generator, jumbled: float) -> Example:
    """Film a random clip for training."""
    step = STRIDE / rng.choice(FRAME_RATES) if rng.random() > 0.08 else rng.uniform(0.1, 0.2)
    times = np.arange(FRAMES) * step
    label, path = _jumbled_path(rng, times) if rng.random() < jumbled else _labelled_path(rng, times)
    side = SIDE * OVERSAMPLED
    window = Window.along(path, side, side)
    clip = shoot(scenery.draw(rng, 0.33), window, times, rng)
    if rng.random() < 0.5:
        clip = clip[:, torch.from_numpy(rng.permutation(3))]
    if rng.random() < 0.5:
        pass_by(clip, window, times, scenery, rng)
    clip = _recorded(F.avg_pool2d(clip, OVERSAMPLED), times, rng)
    return Example(clip, torch.from_numpy(_motion_in_tubelets(path)), torch.from_numpy(label))


def _labelled_path(rng: np.random.Generator, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A motion of one class, at everyday speeds or slightly beyond; a few are mixed or slow, with a soft label."""
    fine = fine_times(times)
    slowest, quickest = 0.85 * SLOWEST, 1.2 * QUICKEST
    speed = slowest * (quickest / slowest) ** rng.random()
    number = int(rng.integers(len(CLASSES)))
    static = CLASSES.index("static")
    label = np.zeros(len(CLASSES), np.float32)
    label[number] = 1
    direction = np.array(DIRECTIONS[CLASSES[number]], float)
    rates = direction * speed
    kind, other = rng.random(), int(rng.integers(len(CLASSES)))
    if number == static:
        drift = np.array([0.05, 0.05, 0.04, np.radians(2)])
        rates = rng.uniform(-1, 1, 4) * drift * rng.random() * (rng.random() < 0.5)
    elif kind < 0.06 and other not in (number, static) and not direction @ DIRECTIONS[CLASSES[other]]:
        share = rng.uniform(0.25, 0.75)
        rates = 1.3 * speed * ((1 - share) * direction + share * np.array(DIRECTIONS[CLASSES[other]]))
        label[number] = 1 / (1 + math.exp(4 * (2 * share - 1)))
        label[other] = 1 - label[number]
    elif kind < 0.1:
        share = rng.uniform(0.15, 0.8)
        rates = direction * slowest * share
        label[number] = 1 / (1 + math.exp(9 * (0.42 - share)))
        label[static] = 1 - label[number]
    elif rng.random() < 0.4:
        rates = rates + rng.uniform(-0.22, 0.22, 4) * speed * (direction == 0) * rng.random()
    return label, camera_path(rates * _pace(rng, fine)[:, None], _shake(rng, fine), times)


def _pace(rng: np.random.Generator, fine: np.ndarray) -> np.ndarray:
    """Speed factors over time: most cameras do not move evenly, some start or stop."""
    chance = rng.random()
    if chance < 0.5:
        return 1 + rng.uniform(0, 0.6) * waves(rng, fine, 0.2, 1.2)
    if chance < 0.6:
        ramp = (fine / fine[-1] / rng.uniform(0.15, 0.4)).clip(0, 1) * rng.uniform(1, 1.3)
        return ramp if rng.random() < 0.5 else ramp[::-1]
    return np.ones_like(fine)


def _shake(rng: np.random.Generator, fine: np.ndarray) -> np.ndarray:
    """(N, 4): a hand that sways and sometimes trembles."""
    sway = np.array([0.02, 0.02, 0.008, np.radians(1)]) * rng.random() ** 1.5
    shake = sway * np.stack([waves(rng, fine, 0.4, rng.uniform(1, 7)) for _ in range(4)], axis=1)
    if rng.random() < 0.3:
        tremble = np.array([0.003, 0.003, 0.001, np.radians(0.15)]) * rng.random()
        shake += tremble * rng.standard_normal(shake.shape)
    return shake


def _jumbled_path(rng: np.random.Generator, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Any motions at once, changing in each tubelet: four times as much to learn about motion, but no label."""
    fine = fine_times(times)
    tubelet = ((fine / (times[1] - times[0]) + 0.5) // TUBELET).astype(int).clip(0, TIMES - 1)
    quickest = np.array([0.9, 0.9, 0.7, np.radians(50)])
    speeds = quickest * np.exp(rng.uniform(-3, 0, (TIMES, 4))) * rng.choice([-1, 1], (TIMES, 4))
    speeds *= rng.random((TIMES, 4)) < [0.45, 0.45, 0.6, 0.6]
    return np.zeros(len(CLASSES), np.float32), camera_path(speeds[tubelet], _shake(rng, fine), times)


def _motion_in_tubelets(path: np.ndarray) -> np.ndarray:
    """(TIMES, 4) float32: the mean motion from frame to frame within each tubelet, in the camera's own frame."""
    first, last = path[::TUBELET], path[TUBELET - 1 :: TUBELET]
    middle, step = (first + last) / 2, (last - first) / (TUBELET - 1)
    cosine, sine, size = np.cos(middle[:, 3]), np.sin(middle[:, 3]), np.exp(middle[:, 2])
    across = (cosine * step[:, 0] + sine * step[:, 1]) / size
    down = (cosine * step[:, 1] - sine * step[:, 0]) / size
    return np.stack([across, down, step[:, 2], step[:, 3]], axis=1).astype(np.float32)


def _recorded(clip: Tensor, times: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Record a clip as cameras and encoders do: (T, 3, H, W) in 0–255 → uint8."""
    side = clip.shape[-1]
    if rng.random() < 0.3:
        clip = clip.lerp(F.avg_pool2d(F.pad(clip, (1, 1, 1, 1), mode="replicate"), 3, 1), rng.uniform(0.3, 1))
    if rng.random() < 0.12:
        clip = clip.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    if rng.random() < 0.05:
        clip = 255 - clip
    if rng.random() < 0.15:  # a lens that is darker towards its edge
        along = (torch.arange(side) + 0.5) / side - 0.5
        clip = clip * (1 - rng.uniform(0.2, 1) * (along**2 + along[:, None] ** 2))
    light = rng.uniform(0.65, 1.2) * (1 + rng.uniform(0, 0.15) * (rng.random() < 0.6) * over_frames(rng, times))
    tint = torch.from_numpy(rng.uniform(0.85, 1.15, (1, 3, 1, 1))).float()
    clip = 128 + (clip * tint * light - 128) * rng.uniform(0.6, 1.25)
    if rng.random() < 0.5:
        noise = rng.standard_normal((len(clip), 1, side, side), dtype=np.float32)
        clip = clip + torch.from_numpy(noise) * rng.uniform(0, 5)
    if rng.random() < 0.05:  # black bars
        bar, axis = int(rng.integers(4, 12)), int(rng.integers(2, 4))
        clip.narrow(axis, 0, bar).zero_()
        clip.narrow(axis, side - bar, bar).zero_()
    recorded = clip.clamp(0, 255).byte()
    return _compressed(recorded, int(rng.integers(18, 34))) if rng.random() < 0.3 else recorded


def _compressed(clip: Tensor, quality: int) -> Tensor:
    """A clip after H.264 with this constant rate factor."""
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as container:
        options = {"preset": "superfast", "crf": str(quality), "threads": "1"}
        stream = container.add_stream("libx264", rate=10, options=options)
        stream.height, stream.width = clip.shape[-2:]
        stream.pix_fmt = "yuv420p"
        for frame in clip.permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    memory.seek(0)
    with av.open(memory, "r") as recorded:
        frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in recorded.decode(video=0)]
    return torch.stack(frames).permute(0, 3, 1, 2).contiguous()


def _swapped(*pairs: tuple[str, str]) -> Tensor:
    """The order of the classes after swapping these pairs."""
    names = list(CLASSES)
    for one, other in pairs:
        names[CLASSES.index(one)], names[CLASSES.index(other)] = other, one
    return torch.tensor([CLASSES.index(name) for name in names])


_PANS, _TILTS, _ZOOMS = ("pan_left", "pan_right"), ("tilt_up", "tilt_down"), ("zoom_in", "zoom_out")
_ROLLS = ("roll_clockwise", "roll_counterclockwise")
# How mirroring, transposing and reversing a clip changes its label.
FLIPPED_ACROSS = _swapped(_PANS, _ROLLS)
FLIPPED_DOWN = _swapped(_TILTS, _ROLLS)
TRANSPOSED = _swapped(("pan_left", "tilt_up"), ("pan_right", "tilt_down"), _ROLLS)
REVERSED = _swapped(_PANS, _TILTS, _ZOOMS, _ROLLS)


def turn_at_random(
    clips: Tensor, motions: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror, transpose and reverse clips at random, with their motions and labels, in a batch of `Example`s."""
    clips, motions, labels = clips.clone(), motions.clone(), labels.clone()

    def some(chance: float) -> Tensor:
        return torch.rand(len(clips), generator=generator) < chance

    chosen = some(0.5)
    clips[chosen] = clips[chosen].flip(-1)
    motions[chosen] *= torch.tensor([-1.0, 1, 1, -1])
    labels[chosen] = labels[chosen][:, FLIPPED_ACROSS]
    chosen = some(0.4)
    clips[chosen] = clips[chosen].flip(-2)
    motions[chosen] *= torch.tensor([1.0, -1, 1, -1])
    labels[chosen] = labels[chosen][:, FLIPPED_DOWN]
    chosen = some(0.4)
    clips[chosen] = clips[chosen].transpose(-1, -2)
    motions[chosen] = motions[chosen][..., [1, 0, 2, 3]] * torch.tensor([1.0, 1, 1, -1])
    labels[chosen] = labels[chosen][:, TRANSPOSED]
    chosen = some(0.5)
    clips[chosen] = clips[chosen].flip(1)
    motions[chosen] = -motions[chosen].flip(1)
    labels[chosen] = labels[chosen][:, REVERSED]
    return clips, motions, labels
