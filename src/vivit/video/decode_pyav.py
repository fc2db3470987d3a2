"""The default decoder: PyAV, whose wheels bring FFmpeg along."""

import os
import stat
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Interpolation, VideoReformatter
from torch import Tensor

from vivit.video.decode import Video, VideoInfo
from vivit.video.frame_walk import MOST_PIXELS, FrameWalk
from vivit.video.scaling import draw, room_for
from vivit.video.source import InShard, VideoError, VideoSource

# Seconds before the end of a Matroska file in which its last frame is looked for.
LAST_SECONDS = 2.0


class PyAVVideo(Video):
    """A file as PyAV reads it."""

    def __init__(self, source: VideoSource) -> None:
        """Open the file and decode its first frame. Raises VideoError where that cannot be done."""
        self.source = source
        self._reformatter = VideoReformatter()
        # Not a method of this object: the two would refer to each other, and wait for the garbage collector.
        self._walk = FrameWalk(source, partial(open_container, source))
        try:
            self._tell()
        except BaseException:
            self.close()
            raise

    def _tell(self) -> None:
        frame = self._walk.first.frame
        duration, rate = self._timeline()
        self._transposed, self._flipped = _orientation(frame)
        aspect = float(self._walk.stream.sample_aspect_ratio or 1)
        width, height = max(1, round(frame.width * (aspect if aspect > 0 else 1))), frame.height
        if self._transposed:
            width, height = height, width
        self._unscaled = (height, width) if aspect == 1 else None
        # Turned by a quarter to the left is transposed and upside down.
        upside_down, leftside_right = self._flipped
        turns = (1 if upside_down else 3) if self._transposed else (2 if upside_down else 0)
        self.info = VideoInfo(
            width=width,
            height=height,
            frame_rate=rate,
            duration=duration,
            num_frames=max(1, round(duration * rate)),
            codec=self._walk.stream.codec_context.codec.canonical_name,
            rotation=turns * 90,
            mirrored=leftside_right != (turns in (2, 3)),
        )

    def _timeline(self) -> tuple[float, float]:
        """Duration in seconds and average frame rate. The container's count of frames is not asked: it may be wrong."""
        walk, stream = self._walk, self._walk.stream
        # In an MPEG program stream it is that between packs, each of which may hold many frames; in ASF the sound's.
        if stream.duration and walk.rate and walk.container.format.name not in ("mpeg", "asf"):
            return float(stream.duration * (stream.time_base or 0)), walk.rate
        # WebM and Matroska keep no duration of a stream, and the container's may be that of the sound.
        if walk.rate and (end := walk.last_start(LAST_SECONDS)) is not None:
            return end - walk.first.time + 1 / walk.rate, walk.rate
        times = walk.packet_times()
        span = times[-1] - times[0] if times else 0.0
        rate = walk.rate or ((len(times) - 1) / span if span else 1.0)
        return span + 1 / rate, rate

    @property
    def start(self) -> float:
        """When the first frame is shown, in seconds of the stream."""
        return self._walk.first.time

    @property
    def container(self) -> str:
        """The names of its format, as FFmpeg has them."""
        return self._walk.container.format.name

    @property
    def stream_index(self) -> int:
        return self._walk.stream.index

    def _read(self, times: Sequence[float], height: int, width: int) -> Tensor:
        pictures = room_for(len(times), height, width, scaled=(height, width) != self._unscaled)
        drawn: tuple[av.VideoFrame, Tensor] | None = None
        for frame, picture in zip(self._walk.on_screen(times), pictures, strict=True):
            if drawn is not None and drawn[0] is frame:
                picture.copy_(drawn[1])
            else:
                draw(frame, picture, self._reformatter, self._transposed, self._flipped)
            drawn = frame, picture
        return pictures

    def close(self) -> None:
        self._walk.close()


def open_container(source: VideoSource) -> InputContainer:
    """As PyAV opens it, and no other file or address through it. Raises VideoError."""
    try:
        return _open_file(source) if isinstance(source, Path) else _open_member(source)
    except FileNotFoundError:
        raise VideoError(source, "no such file") from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError(source, f"not a readable video ({_reason(error)})") from None


def _open_file(path: Path) -> InputContainer:
    # A pipe is opened without waiting for who writes into it.
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            raise VideoError(path, "is not a regular file")
        if not status.st_size:
            raise VideoError(path, "is empty")
        # Opened by its number, no name is taken for an address or a pattern, and no file leads to another.
        options = {"max_pixels": str(MOST_PIXELS), "fd": str(number), "protocol_whitelist": "fd"}
        return av.open("fd:", "r", options=options, metadata_errors="ignore")
    finally:
        os.close(number)


def _open_member(member: InShard) -> InputContainer:
    options = {"max_pixels": str(MOST_PIXELS), "protocol_whitelist": "none"}
    return av.open(member.open(), "r", options=options, metadata_errors="ignore")


def _orientation(frame: av.VideoFrame) -> tuple[bool, tuple[bool, bool]]:
    """How a stored picture is brought to the screen: whether transposed, and then, whether upside down and mirrored.

    The display matrix sends (x, y), downwards, to (a x + c y, b x + d y); in its bytes stand a, b, 0, c, d, 0, ….
    """
    # A frame and its side data refer to each other and wait for the garbage collector: so, a copy without much to it.
    frame = VideoReformatter().reformat(
        frame, width=16, height=16, format="gray", interpolation=Interpolation.POINT, threads=1
    )
    try:
        side_data = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload]
    except ValueError:
        # PyAV refuses all side data where there is a kind that it does not know; it knows the angle all the same.
        turns = round(frame.rotation / 90) % 4
        return turns % 2 == 1, (turns in (1, 2), turns in (2, 3))
    if side_data is None:
        return False, (False, False)
    a, b, _, c, d = np.frombuffer(bytes(side_data), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, (b < 0, c < 0)
    return False, (d < 0, a < 0)


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error).splitlines()[0]).lower()
