"""The default decoder: PyAV, whose wheels bring FFmpeg along. Nothing is decoded that is not needed."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.reformatter import Interpolation, VideoReformatter
from torch import Tensor

from vivit.video.decode import Video, VideoError, VideoInfo
from vivit.video.source import Source

# A frame further on than this, in seconds, may be worth a jump to the key frame before it.
SEEK_AHEAD = 0.5
# A file may end this much before its container says, in seconds, and its last frame stands until then.
TOLERANCE = 1.0


class _Shown(NamedTuple):
    """A decoded frame and when it comes on screen, in seconds."""

    time: float
    frame: av.VideoFrame


class PyAVVideo(Video):
    """A file as PyAV, which brings its own FFmpeg, reads it."""

    def __init__(self, source: Source) -> None:
        """Open the file and decode its first frame. Raises VideoError where that cannot be done."""
        self.source = source
        if isinstance(source, Path) and source.is_dir():
            raise VideoError(source, "is a folder, not a video")
        try:
            self._container = self._open()
        except FileNotFoundError:
            raise VideoError(source, "no such file") from None
        except (av.error.FFmpegError, OSError, ValueError) as error:
            empty = isinstance(source, Path) and source.is_file() and source.stat().st_size == 0
            raise VideoError(source, "is empty" if empty else f"not a readable video ({_reason(error)})") from None
        try:
            self._open_stream()
        except BaseException:
            self.close()
            raise

    def _open(self) -> InputContainer:
        file = str(self.source) if isinstance(self.source, Path) else BytesIO(self.source.read())
        return av.open(file, "r", metadata_errors="ignore")

    def _open_stream(self) -> None:
        # A cover picture is a video stream too, marked as attached.
        streams = [s for s in self._container.streams.video if not s.disposition & s.disposition.attached_pic]
        if not len(self._container.streams):
            # An MP4 without the index at its end opens all the same, as a file of nothing.
            raise VideoError(self.source, "not a readable video (it is cut off or damaged)")
        if not streams:
            raise VideoError(self.source, "has no video stream")
        self._stream = streams[0]
        # Frame threads hang when decoding stops early; slice threads and none do not.
        self._stream.thread_type = "SLICE"
        self._reformatter = VideoReformatter()
        self._decoded = self._decode()
        first = next(self._decoded, None)
        if first is None:
            raise VideoError(self.source, "no frame of it can be decoded")
        self._current = first
        self._start = first.time
        duration, rate = self._timeline()
        rotation = round(first.frame.rotation / 90) * 90 % 360
        turned = rotation % 180 == 90
        self.info = VideoInfo(
            width=first.frame.height if turned else first.frame.width,
            height=first.frame.width if turned else first.frame.height,
            frame_rate=rate,
            duration=duration,
            num_frames=max(1, round(duration * rate)),
            codec=self._stream.codec_context.name,
            rotation=rotation,
        )

    def _timeline(self) -> tuple[float, float]:
        """Duration in seconds and average frame rate. The container's count of frames is not asked: it may be wrong."""
        stream = self._stream
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        if stream.duration and stream.time_base and rate > 0:
            return float(stream.duration * stream.time_base), rate
        # WebM and Matroska keep no duration of a stream, and the container's may be that of the sound.
        times = self._packet_times()
        span = times[-1] - times[0] if times else 0.0
        if span == 0:
            return (1 / rate, rate) if rate > 0 else (1.0, 1.0)
        if not 0 < rate < 1000:
            rate = (len(times) - 1) / span
        return span + 1 / rate, rate

    def _packet_times(self) -> list[float]:
        """When each frame is shown, in order, from the packets alone, without decoding."""
        self._seek(0.0)
        times = []
        try:
            for packet in self._container.demux(self._stream):
                if packet.pts is not None and packet.time_base is not None:
                    times.append(float(packet.pts * packet.time_base))
        except av.error.FFmpegError:
            pass  # a broken file: what has been seen of it counts
        self._restart()
        return sorted(times)

    def _pictures(self, times: Sequence[float], height: int, width: int) -> Iterator[Tensor]:
        converted: tuple[av.VideoFrame, Tensor] | None = None
        for frame in self._on_screen(times):
            if converted is None or converted[0] is not frame:
                converted = frame, self._picture(frame, width, height)
            yield converted[1]

    def _picture(self, frame: av.VideoFrame, width: int, height: int) -> Tensor:
        """(3, height, width), turned as it is shown. Conversion and scaling are one pass over the pixels."""
        turned = self.info.rotation % 180 == 90
        # swscale's bilinear filter widens as it shrinks, so it is antialiased. Without the flag, two neighbours in a
        # row of the result share one colour.
        rgb = self._reformatter.reformat(
            frame,
            width=height if turned else width,
            height=width if turned else height,
            format="rgb24",
            interpolation=Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT,
            threads=1,
        ).to_ndarray()
        if self.info.rotation:
            rgb = np.rot90(rgb, self.info.rotation // 90)
        return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))

    def _on_screen(self, times: Sequence[float]) -> Iterator[av.VideoFrame]:
        """For each time, ascending, the last frame that is shown no later."""
        ahead: _Shown | None = None
        for after_start in times:
            time = self._start + after_start
            if time < self._current.time:
                self._restart()
                ahead = None
            if self._jump_pays(time, ahead):
                self._jump(time)
                ahead = None
            while True:
                ahead = ahead or next(self._decoded, None)
                if ahead is None:
                    self._check_end(time)
                    break
                if ahead.time > time:
                    break
                self._current, ahead = ahead, None
            yield self._current.frame
        if ahead is not None:
            # It is decoded already: the next call starts from it, unless it asks for what lies before.
            self._current = ahead

    def _check_end(self, time: float) -> None:
        """The stream is over: may its last frame stand for this time?"""
        last = self._current
        shown_until = last.time + float((last.frame.duration or 0) * (last.frame.time_base or 0))
        if time > shown_until + TOLERANCE:
            raise VideoError(
                self.source,
                f"only its first {shown_until - self._start:.1f} of {self.info.duration:.1f} s can be decoded",
            )

    def _jump_pays(self, time: float, ahead: _Shown | None) -> bool:
        """Whether a key frame between here and there saves decoding."""
        here = (ahead or self._current).time
        if time - here < SEEK_AHEAD or self._stream.time_base is None:
            return False
        if self._container.format.name == "mpeg":
            # Most of its packets carry no time, and those made up for them after a jump are wrong.
            return False
        entries = self._stream.index_entries
        found = entries.search_timestamp(int(time / self._stream.time_base)) if len(entries) else -1
        if found < 0:
            return time - here > 10.0
        return float(entries[found].timestamp * self._stream.time_base) > here

    def _jump(self, time: float) -> None:
        """Go on from the key frame before that time, or from the start where the file does not let us."""
        self._seek(time)
        self._decoded = self._decode()
        first = next(self._decoded, None)
        if first is None or first.time > time:
            self._restart()
        else:
            self._current = first

    def _restart(self) -> None:
        self._seek(0.0)
        self._decoded = self._decode()
        first = next(self._decoded, None)
        if first is None or first.time > self._start + 1e-3:
            # Some files cannot be sought in: open it anew.
            index = self._stream.index
            self._container.close()
            self._container = self._open()
            self._stream = self._container.streams[index]  # type: ignore[assignment]
            self._stream.thread_type = "SLICE"
            self._decoded = self._decode()
            first = next(self._decoded, None)
        if first is None:
            raise VideoError(self.source, "its beginning cannot be decoded a second time")
        self._current = first

    def _seek(self, time: float) -> None:
        try:
            if self._stream.time_base is None or time <= 0.0:
                self._container.seek(int(min(0.0, getattr(self, "_start", 0.0)) * 1e6) - 1_000_000)
            else:
                self._container.seek(int(time / self._stream.time_base), stream=self._stream)
        except av.error.FFmpegError:
            pass  # whoever asked finds out where the next frame lies

    def _decode(self) -> Iterator[_Shown]:
        """The frames from here on in the order they are shown; a damaged packet is passed over."""
        # AVI stores no presentation times, and what is made up for them is wrong where frames are reordered; but
        # frames leave the decoder one for each packet, so that the packets' times are right.
        presentation_times = self._container.format.name != "avi"
        time = 0.0
        try:
            for packet in self._container.demux(self._stream):
                try:
                    for frame in packet.decode():
                        assert isinstance(frame, av.VideoFrame)
                        stamp = frame.pts if presentation_times and frame.pts is not None else frame.dts
                        if stamp is not None and frame.time_base is not None:
                            time = float(stamp * frame.time_base)
                        else:
                            time += float(1 / (self._stream.average_rate or 25))
                        yield _Shown(time, frame)
                except av.error.FFmpegError:
                    continue
        except av.error.FFmpegError:
            return

    def close(self) -> None:
        self._container.close()


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error).splitlines()[0]).lower()
