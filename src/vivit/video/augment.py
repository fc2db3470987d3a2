"""Random changes of training clips: size, place and mirror, then colours (paper, table 7)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vivit.errors import UserError
from vivit.video import colours
from vivit.video.transforms import cover, crop, flip

# Brightness and hue up to so much more or less; saturation and contrast by a factor up to so much more or less.
JITTER = {"brightness": 32 / 255, "saturation": 0.4, "contrast": 0.4, "hue": 0.2}


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training clip; the crop is always random. All frames of a clip are changed alike.

    Raises UserError where a field is out of its range.
    """

    scale_jitter: tuple[float, float] | None = None
    """Height and width are each scaled by a factor of its own between these two; the paper has 0.9 and 1.33."""
    flip: float = 0.5
    """Probability that a clip is mirrored."""
    colour_jitter: float = 0.0
    """Probability that brightness, saturation, contrast and hue change; the paper has 0.8 for Kinetics."""
    grey_scale: float = 0.0
    """Probability that colours go; the official configurations for Kinetics have 0.1."""
    randaugment: tuple[int, float] | None = None
    """How many operations in a row, and their magnitude; the paper has 2 and 15 for EPIC-Kitchens, 2 and 20 for
    Something-Something v2, both without colour jitter. Where both are wanted, it comes first."""

    centred: bool = False
    """Whether clips and crops are of the middle, as in evaluation, and not of a random place."""

    def __post_init__(self) -> None:
        for name in ("flip", "colour_jitter", "grey_scale"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}: {getattr(self, name):g} is not a probability; give a number from 0 to 1")
        if self.scale_jitter is not None and not 0.1 <= self.scale_jitter[0] <= self.scale_jitter[1] <= 10:
            low, high = self.scale_jitter
            raise UserError(f"scale_jitter: {low:g} to {high:g}; give two factors from 0.1 to 10, the lower one first")
        if self.randaugment is not None:
            layers, magnitude = self.randaugment
            if layers < 1:
                raise UserError(f"randaugment: {layers} operations in a row; give at least 1, or leave it out")
            if not 0 <= magnitude <= 30:
                raise UserError(f"randaugment: a magnitude of {magnitude:g}; give a number from 0 to 30")


@dataclass(frozen=True)
class Geometry:
    """The scale, the place and the mirror of one clip, drawn before it is read: it is then scaled once."""

    stretch: tuple[float, float]
    """Factors of height and width."""
    place: tuple[float, float]
    """Where the crop lies, from the top and from the left: from 0 up to 1, all the room there is."""
    mirrored: bool

    def frame_size(self, height: int, width: int, short_side: int, size: tuple[int, int]) -> tuple[int, int]:
        """What to scale frames of (height, width) to: the shorter side to `short_side`, then stretched.

        Where a crop of `size` would not fit into that, both sides are larger by one factor, so that it does.
        """
        scale = short_side / min(height, width)
        stretched = (height * scale * self.stretch[0], width * scale * self.stretch[1])
        fit = max(1.0, size[0] / stretched[0], size[1] / stretched[1])
        return max(size[0], round(stretched[0] * fit)), max(size[1], round(stretched[1] * fit))

    def apply(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        """The crop of `size` (height, width), mirrored or not, out of frames (T, C, H, W) that are scaled already."""
        frames = cover(frames, size)
        spare_height, spare_width = frames.shape[-2] - size[0], frames.shape[-1] - size[1]
        top, left = math.floor(self.place[0] * (spare_height + 1)), math.floor(self.place[1] * (spare_width + 1))
        frames = crop(frames, top, left, size)
        return flip(frames) if self.mirrored else frames


def draw_geometry(augmentation: Augmentation, rng: np.random.Generator) -> Geometry:
    """Five numbers are drawn, whatever the augmentation is."""
    height, width, top, left, mirror = rng.random(5).tolist()
    low, high = augmentation.scale_jitter or (1.0, 1.0)
    stretch = (low + (high - low) * height, low + (high - low) * width)
    place = (0.5, 0.5) if augmentation.centred else (top, left)
    return Geometry(stretch, place, mirror < augmentation.flip)


def resized(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames scaled to (height, width), for those that were decoded at another size."""
    if frames.shape[-2:] == size:
        return frames
    return F.interpolate(frames, size, mode="bilinear", antialias=True)


def augment_colours(clip: Tensor, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    """RandAugment, colour jitter and grey-scale, in this order.

    Args:
        clip: (T, 3, H, W) uint8 RGB, on any device.
        rng: all that is random comes from it, so that the same clip and generator give the same result.
    """
    # Sums of floats depend on the layout, and a crop is laid out otherwise than a clip in a batch.
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
    """`augment_colours` of each of (B, T, 3, H, W) uint8 clips with its own generator; nothing is changed in place."""
    augmented = [augment_colours(clip, augmentation, rng) for clip, rng in zip(clips, rngs, strict=True)]
    return torch.stack(augmented)


def _cut_out(clip: Tensor, level: float, rng: np.random.Generator) -> Tensor:
    """A square of 80 pixels a side at level 1; on frames smaller than the paper's 224, less in proportion."""
    height, width = clip.shape[-2:]
    half = int(40 * level * min(1.0, min(height, width) / 224))
    return colours.cut_out(clip, (int(rng.integers(height)), int(rng.integers(width))), half)


def _enhanced(level: float) -> float:
    return 0.1 + 1.8 * level


# Each is as likely. The level is a tenth of the magnitude. Operations, levels and the black fill are those of Scenic's
# distort_image_with_randaugment for videos, which has none that moves pixels.
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
