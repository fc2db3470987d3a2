"""Re-encodes videos for packing, small and quick to read, in several processes."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from torch import Tensor

from vivit.data.workers import start_worker
from vivit.errors import UserError
from vivit.video.base import Video
from vivit.video.decode import open_video
from vivit.video.source import VideoError, VideoSource
from vivit.video.span import Span, frames_in

# Bytes of frames decoded at once.
FRAMES_AT_ONCE = 1 << 26
# Videos queued per process, so that none is idle while the next in order is not ready.
AHEAD = 4
# Slower presets take twice the time and gain little. With mbtree, x264 does not always write the same bytes for a small
# video, so packing again would give other shards.
X264 = {"preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}


@dataclass(frozen=True)
class Encoding:
    """How to encode videos: H.264 without sound, at a constant frame rate, upright and with square pixels."""

    short_side: int | None = None
    """Pixels of the shorter side; smaller videos are not enlarged. None: keep the size."""
    key_frames: int = 32
    """At most this many frames from one key frame to the next: fewer need more space but less decoding."""
    crf: int = 23
    """x264's constant rate factor, 0 to 51: 18 is hardly distinguishable from the original; 6 more halves the size."""

    def __post_init__(self) -> None:
        """Raises UserError if a field is out of range."""
        if self.short_side is not None and self.short_side < 2:
            raise UserError(f"short_side: {self.short_side} pixels are too few; use 2 or more")
        if self.key_frames < 1:
            raise UserError(f"key_frames: {self.key_frames} is out of range; use 1 or more")
        if not 0 <= self.crf <= 51:
            raise UserError(f"crf: {self.crf} is out of range; use 0 (lossless) to 51")


@dataclass(frozen=True)
class Task:
    """A video to prepare for a shard."""

    source: VideoSource
    target: Path
    """Where to write the video if it is encoded."""
    encoding: Encoding | None
    """None: only check that the video can be opened; it is packed as it is."""
    span: Span | None
    """Encode this span only."""
    used: tuple[Span | None, ...]
    """The spans in use; the video must have at least one of them."""


def prepare(task: Task) -> Path | str | None:
    """The encoded file, None to pack the video as it is, or why it cannot be read."""
    try:
        with open_video(task.source) as video:
            _check_used(video, task.used)
            if task.encoding is None:
                return None
            encode(video, task.target, task.encoding, task.span)
            return task.target
    except VideoError as error:
        task.target.unlink(missing_ok=True)
        return error.without(task.source)


def _check_used(video: Video, spans: Iterable[Span | None]) -> None:
    """Raise VideoError if the video has none of the spans."""
    problem = None
    for span in spans:
        try:
            frames_in(video, span)
            return
        except VideoError as error:
            problem = error
    if problem is not None:
        raise problem


@contextmanager
def prepare_all(tasks: Sequence[Task], workers: int) -> Iterator[Iterator[Path | str | None]]:
    """The results of `prepare`, in order, from several processes; with 0 workers, from this one."""
    if not workers:
        yield map(prepare, tasks)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vivit.data.encode"])
    # Ctrl-C reaches every process of the terminal, but only the writing process should handle it.
    pool = ProcessPoolExecutor(workers, context, initializer=start_worker, initargs=(signal.SIGINT,))

    def in_order() -> Iterator[Path | str | None]:
        waiting: deque[Future[Path | str | None]] = deque()
        for task in tasks:
            waiting.append(pool.submit(prepare, task))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield in_order()
    finally:
        pool.shutdown(cancel_futures=True)


def encode(video: Video, target: Path, encoding: Encoding, span: Span | None) -> None:
    """Write an MP4 of all frames, or of those in a span.

    Raises:
        VideoError: the video cannot be read.
        OSError: the file cannot be written, for example on a full disk.
    """
    info = video.info
    numbers = frames_in(video, span)
    smaller, larger = sorted((info.width, info.height))
    side = smaller if encoding.short_side is None else min(smaller, encoding.short_side)
    rate = Fraction(info.frame_rate).limit_denominator(1001)
    batch = max(1, FRAMES_AT_ONCE // (3 * side * side * larger // smaller))
    try:
        with av.open(str(target), "w", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=rate)
            assert isinstance(stream, av.VideoStream)
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": str(encoding.crf), "g": str(encoding.key_frames), **X264}
            for start in range(0, len(numbers), batch):
                for picture in _even(video.frames(numbers[start : start + batch], side if side < smaller else None)):
                    if not stream.codec_context.is_open:
                        stream.height, stream.width = picture.shape[1:]
                    rgb = picture.permute(1, 2, 0).contiguous().numpy()  # (H, W, C)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
            container.mux(stream.encode(None))
    except av.error.FFmpegError as error:  # from writing: reading raises VideoError
        raise OSError(error.errno, error.strerror, str(target)) from None


def _even(frames: Tensor) -> Tensor:
    """(N, C, H, W) with even height and width, as 4:2:0 H.264 requires; drops an odd last row or column."""
    if min(frames.shape[2:]) < 2:
        frames = frames.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return frames[..., : frames.shape[2] // 2 * 2, : frames.shape[3] // 2 * 2]
