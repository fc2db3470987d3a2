"""The default decoder: PyAV, whose wheels bring FFmpeg along."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Literal

import av
import numpy as np
import torch
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Interpolation, VideoReformatter
from torch import Tensor

from vivit.video.decode import Video, VideoError, VideoInfo
from vivit.video.frame_walk import FrameWalk
from vivit.video.source import Source

# swscale's bilinear filter widens as it shrinks, so it is antialiased. Without full chroma, two neighbours in a row of
# the result share one colour. What keeps its size takes a path that rounds down, so that it is darker by 1 of 255;
# rounding as it should (ACCURATE_RND) takes twice as long there, and changes nothing that is scaled.
SCALING = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT
# Seconds before the end of a Matroska file in which its last frame is looked for.
LAST_SECONDS = 2.0


class PyAVVideo(Video):
    """A file as PyAV reads it."""

    def __init__(self, source: Source) -> None:
        """Open the file and decode its first frame. Raises VideoError where that cannot be done."""
        if isinstance(source, Path) and source.is_dir():
            raise VideoError(source, "is a folder, not a video")
        self.source = source
        self._reformatter = VideoReformatter()
        try:
            self._walk = FrameWalk(source, self._open)
        except FileNotFoundError:
            raise VideoError(source, "no such file") from None
        except (av.error.FFmpegError, OSError, ValueError) as error:
            empty = isinstance(source, Path) and source.is_file() and source.stat().st_size == 0
            raise VideoError(source, "is empty" if empty else f"not a readable video ({_reason(error)})") from None
        try:
            self._tell()
        except BaseException:
            self.close()
            raise

    def _open(self) -> InputContainer:
        # The prefix takes every name for that of a file, whatever it looks like.
        file = f"file:{self.source}" if isinstance(self.source, Path) else BytesIO(self.source.read())
        return av.open(file, "r", options={"protocol_whitelist": "file"}, metadata_errors="ignore")

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
            codec=self._walk.stream.codec_context.name,
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
    def stream_index(self) -> int:
        return self._walk.stream.index

    def _read(self, times: Sequence[float], height: int, width: int) -> Tensor:
        # Scaled frames come as planes, others as pixels: each into memory of its own order.
        scaled = (height, width) != self._unscaled
        shape = (len(times), 3, height, width) if scaled else (len(times), height, width, 3)
        memory = torch.empty(shape, dtype=torch.uint8)
        pictures = memory if scaled else memory.permute(0, 3, 1, 2)
        drawn: tuple[av.VideoFrame, np.ndarray] | None = None
        for frame, picture in zip(self._walk.on_screen(times), pictures.numpy(), strict=True):
            if drawn is not None and drawn[0] is frame:
                picture[:] = drawn[1]
            else:
                self._convert(frame, picture, "gbrp" if scaled else "rgb24")
            drawn = frame, picture
        return pictures

    def _convert(self, frame: av.VideoFrame, picture: np.ndarray, layout: Literal["gbrp", "rgb24"]) -> None:
        """Into (3, height, width), turned as it is shown. Conversion and scaling are one pass over the pixels.

        Args:
            layout: planes are scaled twice as fast; what is not scaled becomes more exact as pixels.
        """
        height, width = picture.shape[1:]
        if self._transposed:
            height, width = width, height
        planes = self._reformatter.reformat(
            frame, width=width, height=height, format=layout, interpolation=SCALING, threads=1
        ).planes
        rows = [np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size) for plane in planes]
        if layout == "rgb24":
            stored = rows[0][:, : width * 3].reshape(height, width, 3).transpose(2, 0, 1)
            self._turn(stored, picture)
        else:
            green, blue, red = (row[:, :width] for row in rows)
            for channel, stored in enumerate((red, green, blue)):
                self._turn(stored, picture[channel])

    def _turn(self, stored: np.ndarray, shown: np.ndarray) -> None:
        """Write (..., height, width) as it is shown."""
        upside_down, leftside_right = self._flipped
        turned = stored.swapaxes(-1, -2) if self._transposed else stored
        shown[:] = turned[..., :: -1 if upside_down else 1, :: -1 if leftside_right else 1]

    def close(self) -> None:
        self._walk.close()


def _orientation(frame: av.VideoFrame) -> tuple[bool, tuple[bool, bool]]:
    """How a stored picture is brought to the screen: whether transposed, and then, whether upside down and mirrored.

    The display matrix sends (x, y), downwards, to (a x + c y, b x + d y); in its bytes stand a, b, 0, c, d, 0, ….
    """
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
