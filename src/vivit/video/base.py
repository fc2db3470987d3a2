"""An open video: its properties, and its frames by number."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vivit.video.source import VideoError, VideoSource

# The largest ratio of the sides of a video that may be resized: beside 256 pixels, the longer side has 8192.
MAX_ASPECT = 32


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video as displayed."""

    width: int
    """In square pixels, after rotation; widened if the stored pixels are not square."""
    height: int
    frame_rate: float
    """Frames per second, on average."""
    duration: float
    """Seconds from the first frame to the end of the last."""
    num_frames: int
    """`duration` × `frame_rate`, at least 1."""
    codec: str
    rotation: int
    """Degrees by which stored frames are turned counter-clockwise: 0, 90, 180 or 270."""
    mirrored: bool = False
    """Whether left and right are swapped after that."""


class Video(ABC):
    """An open video. Use it in a `with` statement, or close it.

    Frames are numbered on an even timeline: number k is the frame on screen in the middle of the k-th interval,
    (k + ½) / rate seconds after the first frame. The rate is the average frame rate, unless another one is wanted. At a
    constant rate, these are the stored frames; at a variable rate, a clip still has an even pace.
    """

    source: VideoSource
    info: VideoInfo
    wanted_rate: float | None = None
    """Frames a second of the timeline; None: the video's own."""

    @property
    def rate(self) -> float:
        """Frames a second of the timeline."""
        return self.wanted_rate or self.info.frame_rate

    @property
    def num_frames(self) -> int:
        """Frames on the timeline, at least 1."""
        return max(1, round(self.info.duration * self.wanted_rate)) if self.wanted_rate else self.info.num_frames

    def frames(
        self, indices: Sequence[int], short_side: int | None = None, size: tuple[int, int] | None = None
    ) -> Tensor:
        """The frames with these numbers, in the order given; numbers may repeat.

        Args:
            indices: 0 to `num_frames` − 1; a number outside means the first or the last frame.
            short_side: resize so that the shorter side has this many pixels, keeping the aspect ratio.
            size: resize to (height, width).

        Returns:
            (N, 3, height, width) uint8 RGB; the layout in memory varies.

        Raises:
            VideoError: the file ends before a wanted frame, or is far too long and narrow to be resized.
        """
        return self.timed_frames(indices, short_side, size)[0]

    def timed_frames(
        self, indices: Sequence[int], short_side: int | None = None, size: tuple[int, int] | None = None
    ) -> tuple[Tensor, list[float]]:
        """Like `frames`, and when each of them appears on screen, in seconds after the first frame.

        Frames with the same time are the same stored frame.
        """
        height, width = size or self._scaled(short_side)
        if short_side or size:
            check_aspect(self.source, (self.info.height, self.info.width), (height, width))
        # A file may claim an absurd number of frames: run out of memory here, before they are counted one by one.
        torch.empty(len(indices), 3, height, width, dtype=torch.uint8)
        indices = [max(0, min(index, self.num_frames - 1)) for index in indices]
        wanted = sorted(set(indices))
        times = [(index + 0.5) / self.rate for index in wanted]
        pictures, starts = self._read(times, height, width)
        if indices == wanted:
            return pictures, starts
        position = {index: i for i, index in enumerate(wanted)}
        places = [position[index] for index in indices]
        return pictures[places], [starts[place] for place in places]

    def in_turn(self, count: int, short_side: int | None = None) -> Iterator[Tensor]:
        """All frames, in order, at most `count` at a time: (N, 3, height, width) uint8 RGB, as `frames` gives them.

        Raises:
            VideoError: as `frames`.
        """
        height, width = self._scaled(short_side)
        if short_side:
            check_aspect(self.source, (self.info.height, self.info.width), (height, width))
        times = [(number + 0.5) / self.rate for number in range(self.num_frames)]
        return self._read_in_turn(times, count, height, width)

    def _scaled(self, short_side: int | None) -> tuple[int, int]:
        height, width = self.info.height, self.info.width
        return (height, width) if short_side is None else scaled_size(height, width, short_side)

    @abstractmethod
    def measure(self) -> None:
        """Read the file to its end if its container may state too short a duration; `info` then has the true one."""

    @abstractmethod
    def _read(self, times: Sequence[float], height: int, width: int) -> tuple[Tensor, list[float]]:
        """The frames on screen at these times, (N, 3, height, width) uint8, and when each appears there.

        Args:
            times: ascending, in seconds after the first frame.
        """

    def _read_in_turn(self, times: Sequence[float], count: int, height: int, width: int) -> Iterator[Tensor]:
        """`_read`, for `count` of the times in each call; a decoder that looks ahead can do better."""
        for start in range(0, len(times), count):
            yield self._read(times[start : start + count], height, width)[0]

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def scaled_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width if the shorter side becomes this long and the aspect ratio is kept."""
    scale = short_side / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def check_aspect(source: object, displayed: tuple[int, int], scaled: tuple[int, int]) -> None:
    """Raise VideoError if pictures are far too long and narrow to be resized; sizes are heights and widths."""
    if max(scaled) > MAX_ASPECT * min(scaled):
        height, width = displayed
        raise VideoError(
            source,
            f"its pictures are {width} x {height}; to be resized, a side may be at most {MAX_ASPECT} times the other",
        )
