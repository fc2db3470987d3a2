"""How the stored pictures of a video are displayed: upright, with square pixels."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Interpolation, VideoReformatter
from torch import Tensor

from vivit.video.scaling import draw, forget_unknown_colours, room_for
from vivit.video.source import VideoError, reason


@dataclass(frozen=True)
class Display:
    """What is done with a stored picture before it is seen."""

    width: int
    """In square pixels, after turning."""
    height: int
    transposed: bool
    """Whether rows become columns."""
    flipped: tuple[bool, bool]
    """Whether it is then flipped vertically and horizontally."""
    square: bool
    """Whether the stored pixels are square already."""

    @classmethod
    def of(cls, frame: av.VideoFrame, pixel_aspect: Fraction | None) -> Self:
        """How frames like this one are displayed. Raises FFmpegError if it cannot be converted.

        Args:
            pixel_aspect: the width of a stored pixel divided by its height; None if unknown.
        """
        transposed, flipped = _orientation(frame)
        aspect = float(pixel_aspect or 1)
        width, height = max(1, round(frame.width * (aspect if aspect > 0 else 1))), frame.height
        if transposed:
            width, height = height, width
        return cls(width, height, transposed, flipped, aspect == 1)

    def room_for(self, count: int, height: int, width: int) -> Tensor:
        """Room for pictures of this size, see `vivit.video.scaling.room_for`."""
        return room_for(count, height, width, not self.square or (height, width) != (self.height, self.width))

    def draw(self, frame: av.VideoFrame, picture: Tensor, reformatter: VideoReformatter) -> None:
        """Fill a picture from `room_for` with a frame. Raises FFmpegError if it cannot be converted."""
        draw(frame, picture, reformatter, self.transposed, self.flipped)


def not_converted(source: object, error: av.error.FFmpegError) -> VideoError:
    return VideoError(source, f"a frame of it cannot be converted to RGB ({reason(error).lower()})")


def _orientation(frame: av.VideoFrame) -> tuple[bool, tuple[bool, bool]]:
    """How to display a stored picture: whether to transpose it, then whether to flip it vertically and horizontally.

    The display matrix maps (x, y), with y downwards, to (a x + c y, b x + d y); its bytes are a, b, 0, c, d, 0, ….
    """
    forget_unknown_colours(frame)
    # A frame and its side data form a reference cycle, so this uses a tiny copy of the frame.
    frame = VideoReformatter().reformat(
        frame, width=16, height=16, format="gray", interpolation=Interpolation.POINT, threads=1
    )
    try:
        side_data = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload]
    except ValueError:
        # PyAV refuses all side data if it does not know one kind of it, but still knows the angle.
        turns = round(frame.rotation / 90) % 4
        return turns % 2 == 1, (turns in (1, 2), turns in (2, 3))
    if side_data is None:
        return False, (False, False)
    a, b, _, c, d = np.frombuffer(bytes(side_data), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, (b < 0, c < 0)
    return False, (d < 0, a < 0)
