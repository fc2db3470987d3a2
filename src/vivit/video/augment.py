"""Augment training clips at random: scale, crop and mirror them, then change colours (paper, table 7)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vivit.errors import UserError
from vivit.video import colours

# The largest change: added to brightness and hue, relative for saturation and contrast.
JITTER = {"brightness": 32 / 255, "saturation": 0.4, "contrast": 0.4, "hue": 0.2}


@dataclass(frozen=True)
class Augmentation:
    """How training clips are augmented. All frames of a clip change in the same way; the crop is always random.

    Raises UserError if a field is out of its range.
    """

    scale_jitter: tuple[float, float] | None = None
    """Height and width are scaled by two random factors in this range; the paper uses 0.9 to 1.33."""
    flip: float = 0.5
    """Probability of mirroring."""
    colour_jitter: float = 0.0
    """Probability of changing brightness, saturation, contrast and hue; the paper uses 0.8 for Kinetics."""
    grey_scale: float = 0.0
    """Probability of removing colour; the official configurations for Kinetics use 0.1."""
    randaugment: tuple[int, float] | None = None
    """Number of operations in a row, and their magnitude, 0 to 30; applied before colour jitter. The paper uses 2 and
    15 for EPIC-Kitchens, 2 and 20 for Something-Something v2, both without colour jitter."""

    centred: bool = False
    """Whether to take clips and crops from the middle, as in evaluation, not from a random place."""

    def __post_init__(self) -> None:
        for name in ("flip", "colour_jitter", "grey_scale"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}: {getattr(self, name):g} is not a probability; use 0 to 1")
        if self.scale_jitter is not None and not 0.1 <= self.scale_jitter[0] <= self.scale_jitter[1] <= 10:
            low, high = self.scale_jitter
            raise UserError(f"scale_jitter: {low:g} to {high:g}; use two factors from 0.1 to 10, the lower one first")
        if self.randaugment is not None:
            layers, magnitude = self.randaugment
            if layers < 1:
                raise UserError(f"randaugment: {layers} operations in a row; use 1 or more, or leave it out")
            if not 0 <= magnitude <= 30:
                raise UserError(f"randaugment: a magnitude of {magnitude:g}; use 0 to 30")


@dataclass(frozen=True)
class Geometry:
    """Scale, crop and mirroring of one clip, drawn before the clip is read, so that it is scaled only once."""

    factors: tuple[float, float]
    """Factors of height and width."""
    place: tuple[float, float]
    """Position of the crop from the top and from the left, as a fraction of the spare room, 0 to 1."""
    mirrored: bool

    def frame_size(self, height: int, width: int, short_side: int, size: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) to scale frames to: the shorter side to `short_side` pixels, then by the factors.

        If a crop of `size` did not fit, both sides are enlarged by one factor until it does.
        """
        scale = short_side / min(height, width)
        scaled = (height * scale * self.factors[0], width * scale * self.factors[1])
        fit = max(1.0, size[0] / scaled[0], size[1] / scaled[1])
        return max(size[0], round(scaled[0] * fit)), max(size[1], round(scaled[1] * fit))

    def apply(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        """Crop scaled frames (T, C, H, W) to `size` (height, width), and mirror them if drawn so."""
        frames = cover(frames, size)
        spare_height, spare_width = frames.shape[-2] - size[0], frames.shape[-1] - size[1]
        top, left = math.floor(self.place[0] * (spare_height + 1)), math.floor(self.place[1] * (spare_width + 1))
        frames = crop(frames, top, left, size)
        return frames.flip(-1) if self.mirrored else frames


def draw_geometry(augmentation: Augmentation, rng: np.random.Generator) -> Geometry:
    """Draw a geometry. Always takes five numbers from the generator, whatever the augmentation."""
    height, width, top, left, mirror = rng.random(5).tolist()
    low, high = augmentation.scale_jitter or (1.0, 1.0)
    factors = (low + (high - low) * height, low + (high - low) * width)
    place = (0.5, 0.5) if augmentation.centred else (top, left)
    return Geometry(factors, place, mirror < augmentation.flip)


def resized(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale frames that were decoded at another size to (height, width)."""
    if frames.shape[-2:] == size:
        return frames
    return F.interpolate(frames, size, mode="bilinear", antialias=True)


def cover(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """The clip, enlarged if a crop of `size` (height, width) would not fit into it."""
    scale = max(size[0] / frames.shape[-2], size[1] / frames.shape[-1])
    if scale <= 1:
        return frames
    enlarged = [max(round(length * scale), least) for length, least in zip(frames.shape[-2:], size, strict=True)]
    return F.interpolate(frames, enlarged, mode="bilinear", antialias=True)


def crop(frames: Tensor, top: int, left: int, size: tuple[int, int]) -> Tensor:
    return frames[..., top : top + size[0], left : left + size[1]]


def augment_colours(clip: Tensor, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    """Apply RandAugment, colour jitter and grey-scale, in this order.

    Args:
        clip: (T, 3, H, W) uint8 RGB, on any device.
        rng: the source of every random choice: the same clip and generator give the same result.
    """
    # Sums of floats depend on the layout in memory, which differs between a crop and a clip in a batch.
    clip = clip.contiguous()
    if augmentation.randaugment is not None:
        layers, magnitude = augmentation.randaugment
        for number in rng.integers(len(RANDAUGMENT), size=layers):
            clip = RANDAUGMENT[number](clip, magnitude / 10, rng)
    if rng.random() < augmentation.colour_jitter:
        brightness, saturation, contrast, hue = (most * rng.uniform(-1, 1) for most in JITTER.values())
        clip = colours.jitter(clip, brightness, 1 + saturation, 1 + contrast, hue)
    if rng.random() < augmentation.grey_scale:
        clip = colours.grey(clip)
    return clip


def augment_batch(clips: Tensor, augmentation: Augmentation, rngs: Sequence[np.random.Generator]) -> Tensor:
    """`augment_colours` for each of (B, T, 3, H, W) uint8 clips, with its own generator. Returns new clips."""
    augmented = [augment_colours(clip, augmentation, rng) for clip, rng in zip(clips, rngs, strict=True)]
    return torch.stack(augmented)


def _cut_out(clip: Tensor, level: float, rng: np.random.Generator) -> Tensor:
    """A square of side 80 at level 1, proportionally smaller on frames below the paper's 224 pixels."""
    height, width = clip.shape[-2:]
    half = int(40 * level * min(1.0, min(height, width) / 224))
    return colours.cut_out(clip, (int(rng.integers(height)), int(rng.integers(width))), half)


def _enhanced(level: float) -> float:
    return 0.1 + 1.8 * level


# All are equally likely. The level is a tenth of the magnitude. Operations, levels and the black fill follow Scenic's
# distort_image_with_randaugment for videos, in which no operation moves pixels.
RANDAUGMENT: tuple[Callable[[Tensor, float, np.random.Generator], Tensor], ...] = (
    lambda clip, level, rng: clip,
    lambda clip, level, rng: colours.autocontrast(clip),
    lambda clip, level, rng: colours.equalise(clip),
    lambda clip, level, rng: colours.invert(clip),
    lambda clip, level, rng: colours.posterise(clip, min(max(int(4 * level), 1), 8)),
    lambda clip, level, rng: colours.solarise(clip, int(256 * level)),
    lambda clip, level, rng: colours.solarise_add(clip, int(110 * level)),
    lambda clip, level, rng: colours.colour(clip, _enhanced(level)),
    lambda clip, level, rng: colours.contrast(clip, _enhanced(level)),
    lambda clip, level, rng: colours.brightness(clip, _enhanced(level)),
    lambda clip, level, rng: colours.sharpness(clip, _enhanced(level)),
    _cut_out,
)
