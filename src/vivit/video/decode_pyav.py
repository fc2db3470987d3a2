"""The default decoder: PyAV, whose wheels include FFmpeg."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import av
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from torch import Tensor

from vivit.video.base import Video, VideoInfo
from vivit.video.display import Display, not_converted
from vivit.video.frame_walk import MOST_PIXELS, FrameWalk, Shown
from vivit.video.source import InShard, VideoError, VideoSource, reason

# Seconds at the end of a Matroska file that are searched for its last frame.
LAST_SECONDS = 2.0


class PyAVVideo(Video):
    """A file read by PyAV."""

    def __init__(self, source: VideoSource) -> None:
        """Open the file and decode its first frame. Raises VideoError if that fails."""
        self.source = source
        self._reformatter = VideoReformatter()
        # Not a method of this object, which would form a reference cycle.
        self._walk = FrameWalk(source, partial(open_container, source))
        try:
            self._read_info()
        except BaseException:
            self.close()
            raise

    def _read_info(self) -> None:
        duration, rate = self._timeline()
        try:
            self._display = display = Display.of(self._walk.first.frame, self._walk.stream.sample_aspect_ratio)
        except av.error.FFmpegError as error:
            raise not_converted(self.source, error) from None
        # A quarter turn to the left is a transposition followed by a vertical flip.
        upside_down, leftside_right = display.flipped
        turns = (1 if upside_down else 3) if display.transposed else (2 if upside_down else 0)
        self.info = VideoInfo(
            width=display.width,
            height=display.height,
            frame_rate=rate,
            duration=duration,
            num_frames=max(1, round(duration * rate)),
            codec=self._walk.stream.codec_context.codec.canonical_name,
            rotation=turns * 90,
            mirrored=leftside_right != (turns in (2, 3)),
        )

    def _timeline(self) -> tuple[float, float]:
        """Duration in seconds and average frame rate. The container's frame count is not used: it may be wrong."""
        walk, stream = self._walk, self._walk.stream
        # An MPEG program stream states the duration between packs, which may hold many frames; ASF that of the sound.
        if stream.duration and walk.rate and walk.container.format.name not in ("mpeg", "asf"):
            return float(stream.duration * (stream.time_base or 0)), walk.rate
        # WebM and Matroska store no duration of a stream, and the container's may be that of the sound.
        if walk.rate and (end := walk.last_start(LAST_SECONDS)) is not None:
            return end - walk.first.time + 1 / walk.rate, walk.rate
        times = walk.packet_times()
        span = times[-1] - times[0] if times else 0.0
        rate = walk.rate or ((len(times) - 1) / span if span else 1.0)
        return span + 1 / rate, rate

    def measure(self) -> None:
        times = self._walk.packet_times()
        duration = times[-1] - self.start + 1 / self.info.frame_rate if times else 0.0
        if duration > self.info.duration:
            num_frames = round(duration * self.info.frame_rate)
            self.info = replace(self.info, duration=duration, num_frames=max(1, num_frames))

    @property
    def start(self) -> float:
        """Time of the first frame, in seconds of the stream."""
        return self._walk.first.time

    @property
    def container(self) -> str:
        """FFmpeg's names for the container format."""
        return self._walk.container.format.name

    @property
    def stream_index(self) -> int:
        return self._walk.stream.index

    def _read(self, times: Sequence[float], height: int, width: int) -> tuple[Tensor, list[float]]:
        return self._draw(self._walk.on_screen(times), len(times), height, width)

    def _read_in_turn(self, times: Sequence[float], count: int, height: int, width: int) -> Iterator[Tensor]:
        # One walk for all: it skips only frames that no later time wants, so it never has to go back.
        walk = self._walk.on_screen(times)
        for start in range(0, len(times), count):
            number = min(count, len(times) - start)
            yield self._draw(islice(walk, number), number, height, width)[0]

    def _draw(self, shown: Iterable[Shown], count: int, height: int, width: int) -> tuple[Tensor, list[float]]:
        pictures = self._display.room_for(count, height, width)
        drawn: tuple[av.VideoFrame, Tensor] | None = None
        starts: list[float] = []
        for (start, _, frame), picture in zip(shown, pictures, strict=True):
            starts.append(start - self.start)
            if drawn is not None and drawn[0] is frame:
                picture.copy_(drawn[1])
            else:
                try:
                    self._display.draw(frame, picture, self._reformatter)
                except av.error.FFmpegError as error:
                    raise not_converted(self.source, error) from None
            drawn = frame, picture
        return pictures, starts

    def close(self) -> None:
        self._walk.close()


def open_container(source: VideoSource, **options: str | int) -> InputContainer:
    """Open a file with PyAV so that it cannot lead to another file or URL. Raises VideoError.

    Args:
        options: further options of FFmpeg.
    """
    given = {"max_pixels": str(MOST_PIXELS), **{name: str(value) for name, value in options.items()}}
    try:
        return _open_file(source, given) if isinstance(source, Path) else _open_member(source, given)
    except FileNotFoundError:
        raise VideoError(source, "no such file") from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError(source, f"not a readable video ({reason(error).lower()})") from None


def _open_file(path: Path, options: dict[str, str]) -> InputContainer:
    # Open a pipe without waiting for a writer.
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            raise VideoError(path, "is not a regular file")
        if not status.st_size:
            raise VideoError(path, "is empty")
        # Opened by its descriptor: no name can be taken for a URL or a pattern, and no file can lead to another.
        limits = {"fd": str(number), "protocol_whitelist": "fd"}
        return av.open("fd:", "r", options=options | limits, metadata_errors="ignore")
    finally:
        os.close(number)


def _open_member(member: InShard, options: dict[str, str]) -> InputContainer:
    limits = {"protocol_whitelist": "none"}
    return av.open(member.open(), "r", options=options | limits, metadata_errors="ignore")
