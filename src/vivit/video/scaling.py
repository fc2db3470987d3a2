"""A decoded frame into the tensor it is wanted in: in one pass to RGB, to its size and right side up."""

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation, VideoReformatter
from torch import Tensor

# swscale's bilinear filter widens as it shrinks, so it is antialiased. Without full chroma, two neighbours in a row of
# the result share one colour. What keeps its size takes a path that rounds down, so that it is darker by 1 of 255;
# rounding as it should (ACCURATE_RND) takes twice as long there, and changes nothing that is scaled.
SCALING = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT


def room_for(count: int, height: int, width: int, scaled: bool) -> Tensor:
    """Memory for so many pictures, (count, 3, height, width) uint8, in the order that `draw` fills soonest.

    Args:
        scaled: whether frames are of another size. As planes they are scaled twice as fast; those that keep their size
            become more exact as pixels.
    """
    if scaled:
        return torch.empty(count, 3, height, width, dtype=torch.uint8)
    return torch.empty(count, height, width, 3, dtype=torch.uint8).permute(0, 3, 1, 2)


def draw(
    frame: av.VideoFrame,
    picture: Tensor,
    reformatter: VideoReformatter,
    transposed: bool = False,
    flipped: tuple[bool, bool] = (False, False),
) -> None:
    """Fill a picture, (3, height, width) uint8 out of `room_for`, with a frame of any size.

    Args:
        reformatter: keeps what it has worked out for frames of one size; one for each video.
        transposed: rows are to become columns.
        flipped: then, whether to turn upside down, and whether to exchange left and right.
    """
    shown = picture.numpy()
    planar = picture.stride(-1) == 1
    height, width = shown.shape[:0:-1] if transposed else shown.shape[1:]
    planes = reformatter.reformat(
        frame,
        width=width,
        height=height,
        format="gbrp" if planar else "rgb24",
        interpolation=SCALING,
        threads=1,
    ).planes
    rows = [np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size) for plane in planes]
    if planar:
        green, blue, red = (row[:, :width] for row in rows)
        for stored, channel in zip((red, green, blue), shown, strict=True):
            channel[:] = _turned(stored, transposed, flipped)
    else:
        stored = rows[0][:, : width * 3].reshape(height, width, 3).transpose(2, 0, 1)
        shown[:] = _turned(stored, transposed, flipped)


def _turned(stored: np.ndarray, transposed: bool, flipped: tuple[bool, bool]) -> np.ndarray:
    """A view of (..., height, width)."""
    upside_down, leftside_right = flipped
    turned = stored.swapaxes(-1, -2) if transposed else stored
    return turned[..., :: -1 if upside_down else 1, :: -1 if leftside_right else 1]
