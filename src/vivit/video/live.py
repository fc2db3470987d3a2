"""Videos that are read as they arrive: from a pipe, a camera of this machine or the network.

Their frames are numbered on an even timeline as those of a file are, see `vivit.video.base.Video`: number k is the
frame on screen (k + ½) / rate seconds after the first. That is known once the next frame has arrived.
"""

import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple, Self

import av
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from torch import Tensor

from vivit.video.base import check_aspect, scaled_size
from vivit.video.display import Display, not_converted
from vivit.video.frame_walk import MOST_PIXELS, demux, frame_rate, prepare_decoder, shown_stream
from vivit.video.source import VideoError, reason

STDIN = "-"
ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_WEB = "http,https,httpproxy,tcp,tls,crypto,data"
PROTOCOLS = {"http": _WEB, "https": _WEB, "rtsp": "rtsp,rtp,udp,tcp", "rtsps": "rtsp,rtsps,rtp,udp,tcp,tls"}
PROTOCOLS |= {"tcp": "tcp", "udp": "udp"}
"""URL scheme → the protocols that FFmpeg may open for it: no playlist leads to a file of this machine."""
# An HTTP response has an end; streams of these schemes go on until the connection is lost.
ENDLESS = ("rtsp", "rtsps", "tcp", "udp")
# Seconds without data after which a connection is lost, and seconds to wait before each attempt to reconnect.
SILENCE = 10.0
RETRY_DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# Seconds to wait for a reading thread to end; then it is abandoned.
SECONDS_TO_END = 1.0
# Frames a second, if the source does not say.
USUAL_RATE = 25.0
# If the time of a frame goes back by more than a second, or ahead by more than a minute, a new count has begun.
BACK, AHEAD = 1.0, 60.0


def is_live(source: str) -> bool:
    """Whether it is stdin, a device or a URL, rather than a file."""
    return source == STDIN or ADDRESS.match(source) is not None or _is_device(source)


def _is_device(source: str) -> bool:
    return source.startswith("/dev/video")


@dataclass(frozen=True, slots=True)
class LiveFrame:
    """A frame on the even timeline of a live video."""

    picture: Tensor
    """(3, H, W) uint8 RGB."""
    time: float
    """Seconds after the first frame of the video."""
    arrived: float
    """When it had been decoded, on the clock of `time.monotonic`."""
    follows: bool
    """Whether it directly follows the previous frame; False for the first one, and after a gap."""


class _Decoded(NamedTuple):
    time: float
    """Seconds of the stream."""
    until: float
    """When it ends if no other frame follows."""
    arrived: float
    frame: av.VideoFrame


class LiveVideo:
    """The frames of a live video. It reconnects to a URL when the connection is lost."""

    def __init__(
        self,
        source: str,
        short_side: int,
        say: Callable[[str], object],
        name: object = None,
        rate: float | None = None,
    ) -> None:
        """
        Args:
            source: `-` for stdin, a path such as /dev/video0, or a URL.
            short_side: frames are resized so that the shorter side has this many pixels.
            say: called with one line when a connection is lost.
            name: its name in messages, without passwords.
            rate: frames a second of the timeline; None: those of the source.

        Raises:
            VideoError: the URL's scheme is unknown.
        """
        self.source, self.name, self.short_side = source, name or source, short_side
        self.rate = rate or 0.0
        """Frames a second of the timeline; if it is the source's, 0 until the first frame has arrived."""
        address = ADDRESS.match(source)
        self._scheme = address[1].lower() if address else ""
        if address and self._scheme not in PROTOCOLS:
            raise VideoError(self.name, f"cannot be read; URLs start with {', '.join(PROTOCOLS)}")
        self._say, self._ended = say, threading.Event()
        self._lost = ""  # why the connection broke off
        self._first_arrived: float | None = None
        self._next = 0.0  # seconds after the first frame: where the next one may be

    def frames(self) -> Generator[LiveFrame]:
        """The frames, in order, until the source ends or `stop` is called.

        Raises:
            VideoError: it cannot be opened, or was lost and did not come back.
        """
        delays: Iterator[tuple[int, float]] = iter(())
        while True:
            try:
                for frame in self._connection():
                    delays = enumerate(RETRY_DELAYS, start=1)
                    yield frame
                if self._scheme not in ENDLESS:
                    return
                problem = "it has ended"
            except VideoError as error:
                problem = error.without(self.name)
            attempt, delay = next(delays, (0, 0.0))
            if not (attempt and self._scheme):
                raise VideoError(self.name, problem)
            of = f"attempt {attempt} of {len(RETRY_DELAYS)}"
            self._say(f"{self.name}: {problem}; reconnecting in {delay:g} s, {of}")
            if self._ended.wait(delay):
                return

    def stop(self) -> None:
        """Stop reconnecting, even in the wait before an attempt."""
        self._ended.set()

    def _connection(self) -> Iterator[LiveFrame]:
        """The frames until the connection ends; the first does not follow another."""
        with self._open() as container:
            stream = shown_stream(container, self.name)
            prepare_decoder(stream)
            stored_rate = frame_rate(stream) or USUAL_RATE
            self.rate = self.rate or stored_rate
            drawing, empty = Drawing(self.name, self.short_side, stream), True
            for frame in self._evenly(self._decoded(container, stream, 1 / stored_rate), drawing):
                yield frame
                empty = False
        if self._lost:
            raise VideoError(self.name, f"was lost ({self._lost})")
        if empty:
            index = "; an MP4 from a pipe must have its index first, else read it with < FILE"
            raise VideoError(self.name, f"no frame of it can be decoded{index if self.source == STDIN else ''}")

    def _open(self) -> InputContainer:
        options = {"max_pixels": str(MOST_PIXELS)}
        try:
            if self._scheme:
                options["protocol_whitelist"] = PROTOCOLS[self._scheme]
                return av.open(self.source, options=options, timeout=SILENCE, metadata_errors="ignore")
            if self.source == STDIN:
                stdin = {"fd": str(sys.stdin.fileno()), "protocol_whitelist": "fd"}
                return av.open("fd:", options=options | stdin, metadata_errors="ignore")
            return av.open(self.source, format="video4linux2", timeout=SILENCE, metadata_errors="ignore")
        except FileNotFoundError:
            raise VideoError(self.name, "no such device") from None
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise VideoError(self.name, f"cannot be opened ({_reason(error)})") from None

    def _decoded(self, container: InputContainer, stream: av.VideoStream, usual: float) -> Iterator[_Decoded]:
        """The frames as they are stored, in the order they are shown; a damaged packet is skipped.

        Args:
            usual: seconds that a frame lasts if the stream does not say.
        """
        tick, moment = float(stream.time_base or 0) or 1.0, 0.0
        # AVI stores no presentation times, see `FrameWalk`.
        presentation_times = container.format.name != "avi"
        for packet in self._packets(container, stream):
            with suppress(av.error.FFmpegError):
                for frame in stream.codec_context.decode(packet):
                    stamp = frame.pts if presentation_times and frame.pts is not None else frame.dts
                    moment = moment + usual if stamp is None else stamp * tick
                    until = moment + ((frame.duration or 0) * tick or usual)
                    yield _Decoded(moment, until, time.monotonic(), frame)

    def _packets(self, container: InputContainer, stream: av.VideoStream) -> Iterator[av.Packet | None]:
        """The packets until the connection ends, and one that makes the decoder return what it still holds."""
        self._lost = ""
        try:
            yield from demux(container, stream)
        except av.error.FFmpegError as error:
            # Like a broken file, a pipe ends where reading fails.
            self._lost = "" if self.source == STDIN else _reason(error)
            yield None

    def _evenly(self, decoded: Iterator[_Decoded], drawing: "Drawing") -> Iterator[LiveFrame]:
        """The same frames on the timeline; a jump in their times begins another stretch."""
        shown: _Decoded | None = None
        first = start = 0.0  # of the stretch: in seconds of the stream, and after the first frame of the video
        number = 0  # of the next frame of the stretch
        for new in chain(decoded, (None,)):
            goes_on = shown is not None and new is not None and -BACK < new.time - shown.time < AHEAD
            if shown is not None:
                until = new.time if goes_on and new is not None else shown.until
                now = time.monotonic() if new is None else new.arrived
                picture, repeats = None, 0
                # A little later: sums of floats may fall just short of the moment when a frame appears.
                while first + (number + 0.5) / self.rate + 1e-6 < until or not (goes_on or number):
                    picture = drawing.draw(shown.frame) if picture is None else picture
                    arrived = min(shown.arrived + repeats / self.rate, now)
                    yield LiveFrame(picture, start + number / self.rate, arrived, number > 0)
                    number, repeats = number + 1, repeats + 1
                self._next = start + number / self.rate
            if new is not None and not goes_on:
                first, start, number = new.time, self._start(new.arrived), 0
            shown = new

    def _start(self, arrived: float) -> float:
        """Where a stretch that arrives now starts, in seconds after the first frame of the video."""
        if self._first_arrived is None:
            self._first_arrived = arrived
        # Sources other than stdin have gone on meanwhile.
        return self._next if self.source == STDIN else max(self._next, arrived - self._first_arrived)


class Drawing:
    """Draws frames of a stream upright, with the shorter side of the wanted length."""

    def __init__(self, name: object, short_side: int, stream: av.VideoStream) -> None:
        self._name, self._short_side, self._stream = name, short_side, stream
        self._reformatter = VideoReformatter()
        self._stored: tuple[int, int] | None = None

    def draw(self, frame: av.VideoFrame) -> Tensor:
        """(3, H, W) uint8 RGB. Raises VideoError if the frame cannot be converted."""
        try:
            if self._stored != (frame.height, frame.width):  # a camera may change its size
                self._stored = frame.height, frame.width
                self._display = display = Display.of(frame, self._stream.sample_aspect_ratio)
                self._size = scaled_size(display.height, display.width, self._short_side)
                check_aspect(self._name, (display.height, display.width), self._size)
            (picture,) = self._display.room_for(1, *self._size)
            self._display.draw(frame, picture, self._reformatter)
        except av.error.FFmpegError as error:
            raise not_converted(self._name, error) from None
        return picture


class LiveReader:
    """Reads frames in a thread while others are processed; a bounded number of them wait."""

    def __init__(self, frames: Generator[LiveFrame], most: int, drop: bool) -> None:
        """
        Args:
            most: frames that may wait.
            drop: whether the oldest are dropped when more arrive; else the source has to wait.
        """
        self.dropped = 0
        self._frames, self._most, self._drop = frames, most, drop
        self._waiting: deque[LiveFrame] = deque()
        self._changed = threading.Condition()
        self._ended = self._stopped = False
        self._error: BaseException | None = None
        # A read that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[LiveFrame]:
        """The frames that were not dropped. Raises what reading raised, after the last of them."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended or self._stopped)
                if self._stopped or not self._waiting:
                    break
                frame = self._waiting.popleft()
                self._changed.notify_all()
            yield frame
        if self._error is not None and not self._stopped:
            raise self._error

    def stop(self) -> None:
        """End the frames; those that wait are left out. May be called in a signal handler."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _read(self) -> None:
        try:
            for frame in self._frames:
                with self._changed:
                    if not self._drop:
                        self._changed.wait_for(lambda: len(self._waiting) < self._most or self._stopped)
                    if self._stopped:
                        break
                    self._waiting.append(frame)
                    if len(self._waiting) > self._most:
                        self._waiting.popleft()
                        self._waiting[0] = replace(self._waiting[0], follows=False)
                        self.dropped += 1
                    self._changed.notify_all()
            self._frames.close()
        except BaseException as error:  # raised where the frames are iterated over
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        self._thread.join(SECONDS_TO_END)


def _reason(error: BaseException) -> str:
    return f"no data for {SILENCE:g} s" if isinstance(error, av.error.ExitError) else reason(error).lower()
