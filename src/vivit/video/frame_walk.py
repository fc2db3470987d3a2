"""Find the frames on screen at given times, decoding as little of the file as possible."""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import av
from av.codec.context import Flags
from av.container import InputContainer

from vivit.video.source import VideoError, VideoSource

# If the next frame is this many seconds ahead, a jump to the key frame before it may pay.
SEEK_AHEAD = 0.5
# The same for a file without an index, where a jump may read much of the file.
BLIND_SEEK_AHEAD = 10.0
# A file may end this many seconds earlier than its container says; its last frame is shown until then.
TOLERANCE = 1.0
# If a file claims more frames per second, the number means something else.
MOST_FRAMES = 1000
# Packets to look ahead of the one being decoded: with pyramids of 32, a frame may be stored that many packets before
# the one shown next. (Decoding times would tell sooner that no earlier frame can follow, but Matroska's are guesses.)
LOOK_AHEAD = 40

# Pixels of a picture: 8192 × 8192. A file of a kilobyte may claim any size, and memory would be allocated for it.
MOST_PIXELS = 1 << 26


class Shown(NamedTuple):
    """A decoded frame and when it appears on screen, in seconds of the stream."""

    time: float
    until: float | None
    """When the next frame replaces it; None if packets do not tell."""
    frame: av.VideoFrame


class FrameWalk:
    """The frames of a file's video stream, by time."""

    def __init__(self, source: VideoSource, open_container: Callable[[], InputContainer]) -> None:
        """Open the file and decode its first frame. Raises VideoError if that fails.

        Args:
            source: for messages.
            open_container: called again if the file does not support seeking.
        """
        self.source, self._open_container = source, open_container
        self.container = open_container()
        self._frames = self._decode()
        try:
            self._use(shown_stream(self.container, source))
            self._wanted: Sequence[float] | None = None  # in ticks of the stream; None: every frame
            self._seen_until = -float("inf")  # before this, frames may have been skipped
            self._ahead: Shown | None = None
            self._elsewhere = False  # the container is where packet times were last read
            self._begin()
            first = next(self._frames, None)
            if first is None:
                raise VideoError(
                    source,
                    f"no frame of it can be decoded; it is damaged, has more than {MOST_PIXELS:,} pixels, or is an "
                    "animated WebP",
                )
            self.first = self._current = first
        except BaseException:
            self.close()
            raise

    def _use(self, stream: av.VideoStream) -> None:
        self.stream = stream
        context = prepare_decoder(stream)
        self._tick = float(stream.time_base or 0) or 1.0
        self.rate = frame_rate(stream)
        # In H.264, no picture depends on one that is marked as unreferenced, so it can be skipped. A field may be
        # marked though its picture is needed.
        self._may_skip = context.name == "h264" and context.field_order <= 1

    def on_screen(self, times: Sequence[float]) -> Iterator[Shown]:
        """The frame on screen at each of these times, ascending, in seconds after the first frame."""
        # A little later: sums of floats may fall just short of the moment when a frame appears.
        times = [self.first.time + time + 1e-6 for time in times]
        behind = self._elsewhere or (bool(times) and times[0] < self._seen_until)
        self._wanted = [time / self._tick for time in times]
        for time in times:
            if behind or time < self._current.time or self._jump_pays(time):
                self._jump(time)
                behind = False
            while self._current.until is None or time >= self._current.until:
                ahead = self._ahead or next(self._frames, None)
                self._ahead = None
                if ahead is None:
                    self._check_end(time)
                    break
                if ahead.time > time:
                    self._ahead = ahead
                    break
                self._current = ahead
            yield self._current

    def _check_end(self, time: float) -> None:
        """The stream has ended: raise VideoError unless its last frame may be shown at this time."""
        last = self._current
        shown_until = last.time + float((last.frame.duration or 0) * (last.frame.time_base or 0))
        if time > shown_until + TOLERANCE:
            raise VideoError(
                self.source,
                f"only its first {shown_until - self.first.time:.1f} s can be decoded, of at least "
                f"{time - self.first.time:.1f}",
            )

    def _jump_pays(self, time: float) -> bool:
        """Whether a key frame between here and that time saves decoding."""
        here = (self._ahead or self._current).time
        if time - here < SEEK_AHEAD or not self._can_jump():
            return False
        entries = self.stream.index_entries
        found = entries.search_timestamp(int(time / self._tick)) if len(entries) else -1
        if found < 0:
            return time - here > BLIND_SEEK_AHEAD
        return entries[found].timestamp * self._tick > here

    def _can_jump(self) -> bool:
        # Most packets of an MPEG program stream have no time, and the ones made up after a jump are wrong.
        return self._timed and self.stream.time_base is not None and self.container.format.name != "mpeg"

    @property
    def _timed(self) -> bool:
        """Whether frames have times; those of a raw stream are counted from the beginning."""
        return self.first.frame.pts is not None or self.first.frame.dts is not None

    def _jump(self, time: float) -> None:
        """Continue from the key frame before that time, or from the start if seeking does not work."""
        back = 0.0
        while self._can_jump() and time - back > self.first.time:
            self._seek(time - back)
            self._begin()
            first = next(self._frames, None)
            if first is not None and first.time <= time:
                self._current = first
                return
            # The index may hold decoding times, which are earlier, or the key frame may be damaged.
            back = 4 * back or 1.0
        self._restart()

    def _restart(self) -> None:
        first = next(self._frames, None) if self._timed and self.seek_to_start() else None
        if first is None or first.time > self.first.time + 1e-3:
            self._open_again()
            first = next(self._frames, None)
        if first is None:
            raise VideoError(self.source, "its beginning cannot be decoded a second time")
        self._current = first

    def _open_again(self) -> None:
        """Start again from the beginning of a file that does not support seeking."""
        index = self.stream.index
        self.container.close()
        self.container = self._open_container()
        if index >= len(self.container.streams):
            raise VideoError(self.source, "its beginning cannot be decoded a second time")
        self._use(self.container.streams[index])  # type: ignore[arg-type]
        self._begin()

    def seek_to_start(self) -> bool:
        """Returns False if the file does not support seeking."""
        before = min(0.0, self.first.time) - 1.0
        try:
            self.container.seek(int(before * 1e6))
        except av.error.FFmpegError:
            return False
        self._begin()
        return True

    def packet_times(self) -> list[float]:
        """The times of all frames, ascending, from packets alone, without decoding. Reads the whole file."""
        if not self.seek_to_start():
            self._open_again()
        return self._times_to_the_end()

    def last_start(self, before_end: float) -> float | None:
        """The time of the last frame, from the packets at the end alone; None if they do not tell.

        Args:
            before_end: how many seconds before the container's end to start reading.
        """
        if self.container.duration is None or not self._can_jump() or not len(self.stream.index_entries):
            return None
        self._seek(max(self.first.time, self.container.duration / 1e6 - before_end))
        times = self._times_to_the_end()
        return times[-1] if times else None

    def _times_to_the_end(self) -> list[float]:
        self._elsewhere = True
        times = []
        # A broken file ends where reading fails.
        with suppress(av.error.FFmpegError):
            for packet in demux(self.container, self.stream):
                if packet.pts is not None:
                    times.append(packet.pts * self._tick)
                elif packet.size and not self._timed:
                    times.append(len(times) / (self.rate or 25))
        return sorted(times)

    def _seek(self, time: float) -> None:
        # If it fails, the time of the next frame shows where the container is.
        with suppress(av.error.FFmpegError):
            self.container.seek(int(time / self._tick), stream=self.stream)

    def _begin(self) -> None:
        """Decode from the current position of the container."""
        self._frames = self._decode()
        self._ahead, self._elsewhere = None, False
        self._seen_until = -float("inf")

    def _decode(self) -> Generator[Shown]:
        """The frames from here on, in the order they are shown; a damaged packet is skipped."""
        # AVI stores no presentation times, and those made up for it are wrong if frames are reordered. But the decoder
        # returns one frame for each packet, so the packets' times are right.
        presentation_times = self.container.format.name != "avi"
        ends: dict[int, float] = {}
        time = 0.0
        try:
            for packet, end in self._packets():
                if presentation_times and end is not None and packet.pts is not None:
                    ends[packet.pts] = end * self._tick
                    self._skip_unless_wanted(packet.pts, end)
                else:
                    # It is unknown until when it is shown, so it may be wanted.
                    self.stream.codec_context.skip_frame = "DEFAULT"
                if packet.dts is not None:
                    time = packet.dts * self._tick
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    continue
                for frame in frames:
                    assert isinstance(frame, av.VideoFrame)
                    stamp = frame.pts if presentation_times and frame.pts is not None else frame.dts
                    if stamp is not None:
                        time = stamp * self._tick
                    else:
                        # Frames left in the decoder at the end have no times.
                        time += 1 / (self.rate or 25)
                    yield Shown(time, ends.pop(stamp, None) if stamp is not None else None, frame)
        except av.error.FFmpegError:
            return

    def _skip_unless_wanted(self, start: int, end: float) -> None:
        if not self._may_skip or self._wanted is None:
            return
        next_wanted = bisect_left(self._wanted, start)
        wanted = next_wanted < len(self._wanted) and self._wanted[next_wanted] < end
        self.stream.codec_context.skip_frame = "DEFAULT" if wanted else "NONREF"
        if not wanted:
            self._seen_until = max(self._seen_until, end * self._tick)

    def _packets(self) -> Iterator[tuple[av.Packet, int | None]]:
        """Each packet, and the time in ticks of the frame shown after its own; None if unknown."""
        waiting: deque[av.Packet] = deque()
        starts: list[int] = []  # sorted, of the frames in `waiting` and shortly before
        blind = 0  # packets for which the time is unknown, because one near them has none
        for packet in demux(self.container, self.stream):
            if packet.size == 0 and packet.dts is None:
                # The end of the file, which makes the decoder return the frames it still holds.
                while waiting:
                    first = waiting.popleft()
                    yield first, None if blind else _next_after(starts, first.pts)
                yield packet, None
                return
            waiting.append(packet)
            if packet.pts is None:
                blind = 2 * LOOK_AHEAD
            elif not packet.is_discard:
                insort(starts, packet.pts)
                del starts[: -3 * LOOK_AHEAD]
            if len(waiting) > LOOK_AHEAD:
                first = waiting.popleft()
                yield first, None if blind else _next_after(starts, first.pts)
                blind = max(0, blind - 1)

    def close(self) -> None:
        # The generator and this object refer to each other. Left open, only the garbage collector would free them, with
        # everything that the decoder holds.
        self._frames.close()
        self.container.close()


def shown_stream(container: InputContainer, source: object) -> av.VideoStream:
    """The video stream that a player shows. Raises VideoError if there is none."""
    # A cover picture is a video stream too, marked as attached.
    streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
    if not len(container.streams):
        # An MP4 without the index at its end opens as an empty file.
        raise VideoError(source, "not a readable video (it is cut off or damaged)")
    if not streams:
        raise VideoError(source, "has no video stream")
    streams = [s for s in streams if s.codec_context is not None]
    if not streams:
        raise VideoError(source, "its codec is not known")
    # Like the ffmpeg program: prefer the default stream, then the largest.
    return max(streams, key=lambda s: (bool(s.disposition & s.disposition.default), s.width * s.height))


def prepare_decoder(stream: av.VideoStream) -> av.VideoCodecContext:
    """The decoder of a stream, set up before its first packet."""
    # Frame threads hang when decoding stops early, and files are read in parallel anyway.
    context = stream.codec_context
    context.thread_type, context.thread_count = "NONE", 1
    context.options = {"max_pixels": str(MOST_PIXELS)}
    # Otherwise cropping at the left is rounded down to the alignment of memory.
    context.flags |= Flags.unaligned
    return context


def frame_rate(stream: av.VideoStream) -> float:
    """Frames a second, on average; 0 if the container does not say."""
    rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    return next((rate for rate in rates if 0 < rate < MOST_FRAMES), 0.0)


def demux(container: InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The packets of a stream."""
    # PyAV knows only the streams it found when opening, and fails at the end of a file if more appeared later.
    with suppress(IndexError):
        yield from container.demux(stream)


def _next_after(starts: list[int], start: int | None) -> int | None:
    if start is None:
        return None
    later = bisect_right(starts, start)
    return starts[later] if later < len(starts) else None
