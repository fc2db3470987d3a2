"""Convert decoded frames to RGB at their final size, upright, in one pass."""

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from torch import Tensor

# swscale's bilinear filter becomes wider when shrinking, so it antialiases. Without full chroma, two neighbours in a
# row would have the same colour. A frame that keeps its size takes a path that rounds down, and becomes darker by 1 of
# 255; exact rounding (ACCURATE_RND) takes twice as long there, and makes no difference to scaled frames.
SCALING = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT


# FFmpeg's numbers of colour spaces, which are those of H.264.
UNSPECIFIED_SPACE, RESERVED_SPACE, LAST_SPACE = 2, 3, 17


def room_for(count: int, height: int, width: int, scaled: bool) -> Tensor:
    """Allocate `count` pictures, (count, 3, height, width) uint8, in the layout that `draw` fills fastest.

    Args:
        scaled: whether the frames have another size. Scaling is twice as fast to planes; frames that keep their size
            are more exact as interleaved pixels.
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
    """Fill a picture from `room_for`, (3, height, width) uint8, with a frame of any size.

    Args:
        reformatter: use one for each video: it remembers how to convert frames of one size.
        transposed: whether to turn rows into columns.
        flipped: then, whether to flip vertically and horizontally.
    """
    forget_unknown_colours(frame)
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


def forget_unknown_colours(frame: av.VideoFrame) -> None:
    """Replace undefined values, which some encoders write, with "unspecified"; FFmpeg refuses to convert them."""
    if frame.colorspace == RESERVED_SPACE or frame.colorspace > LAST_SPACE:
        frame.colorspace = UNSPECIFIED_SPACE
    if frame.color_range > ColorRange.JPEG:
        frame.color_range = ColorRange.UNSPECIFIED


def _turned(stored: np.ndarray, transposed: bool, flipped: tuple[bool, bool]) -> np.ndarray:
    """A transposed and flipped view of (..., height, width)."""
    upside_down, leftside_right = flipped
    turned = stored.swapaxes(-1, -2) if transposed else stored
    return turned[..., :: -1 if upside_down else 1, :: -1 if leftside_right else 1]
