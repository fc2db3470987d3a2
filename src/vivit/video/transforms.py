"""Crop and flip whole clips, (T, C, H, W) uint8."""

import torch.nn.functional as F
from torch import Tensor


def cover(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """The clip, enlarged if a crop of `size` (height, width) would not fit into it."""
    scale = max(size[0] / frames.shape[-2], size[1] / frames.shape[-1])
    if scale <= 1:
        return frames
    enlarged = [max(round(length * scale), least) for length, least in zip(frames.shape[-2:], size, strict=True)]
    return F.interpolate(frames, enlarged, mode="bilinear", antialias=True)


def crop(frames: Tensor, top: int, left: int, size: tuple[int, int]) -> Tensor:
    return frames[..., top : top + size[0], left : left + size[1]]


def view_crops(frames: Tensor, size: tuple[int, int], num_crops: int) -> list[Tensor]:
    """One crop: the centre. Three: both ends and the centre of the longer side."""
    frames = cover(frames, size)
    spare_height, spare_width = frames.shape[-2] - size[0], frames.shape[-1] - size[1]
    top, left = spare_height // 2, spare_width // 2
    if num_crops == 1:
        return [crop(frames, top, left, size)]
    if spare_height > spare_width:
        return [crop(frames, top, left, size) for top in (0, top, spare_height)]
    return [crop(frames, top, left, size) for left in (0, left, spare_width)]


def flip(frames: Tensor) -> Tensor:
    """Swap left and right."""
    return frames.flip(-1)
