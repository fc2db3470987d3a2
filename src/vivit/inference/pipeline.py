"""Read videos ahead of the model, in order, in any number of processes."""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.pool import AsyncResult, ThreadPool
from pathlib import Path
from tempfile import TemporaryDirectory

from vivit.inference.fetch import Fetching, Url, read_fetched
from vivit.inference.views import Views
from vivit.video.clips import ClipSpec, ViewsOfVideo, read_views
from vivit.video.decode import Reader, ReadOptions, read_here
from vivit.video.isolated import IsolatedReader
from vivit.video.source import VideoError

Video = Path | Url
# Timeout in seconds for a video if none is set: an isolated reader, which a video may crash, needs one.
LONGEST = 3600.0
# Seconds to wait for the videos that are being read when no more are wanted.
LEAVE = 5.0


@dataclass(frozen=True)
class Reading:
    """Which views of each video are read, and how."""

    spec: ClipSpec
    views: Views
    read: ReadOptions
    fetching: Fetching


class _Readers(threading.local):
    """The readers of one thread; the processes of those that are used end with it."""

    def __init__(self, reading: Reading) -> None:
        read = reading.read
        isolated = read.workers > 0 or read.timeout is not None
        # Without a time limit there is no memory limit either: there may be many views.
        memory = {} if read.timeout else {"memory": None}
        self.files: Reader = IsolatedReader(read.timeout or LONGEST, **memory) if isolated else read_here
        self.urls = IsolatedReader(read.timeout or reading.fetching.timeout)


def views_in_order(
    videos: Iterable[Video | VideoError], reading: Reading, ahead: int
) -> Iterator[tuple[Video, ViewsOfVideo] | VideoError]:
    """The views of each video, or why it cannot be read; an error among the videos keeps its place.

    If a reading process crashes or is killed, only its video is lost.

    Args:
        ahead: how many videos are read before they are asked for. No more than these are in memory.
    """
    counts = reading.views.clips, reading.views.crops
    with TemporaryDirectory(prefix="vivit-", ignore_cleanup_errors=True) as folder:
        own, stopped = _Readers(reading), threading.Event()

        def read(video: Video | VideoError) -> tuple[Video, ViewsOfVideo] | VideoError:
            try:
                if isinstance(video, VideoError):
                    return video
                if stopped.is_set():
                    return VideoError(video, "not read")
                if isinstance(video, Path):
                    return video, own.files(read_views, video, reading.spec, *counts, None, reading.read.decoder)
                where = Path(folder), reading.fetching
                return video, own.urls(read_fetched, video, *where, reading.spec, *counts, reading.read.decoder)
            except VideoError as error:
                return error

        # Its threads are daemons, so this process can end while one waits for its reader.
        with ThreadPool(max(1, reading.read.workers)) as pool:
            waiting: deque[AsyncResult[tuple[Video, ViewsOfVideo] | VideoError]] = deque()
            try:
                for video in videos:
                    waiting.append(pool.apply_async(read, (video,)))
                    if len(waiting) > ahead:
                        yield waiting[0].get()
                        waiting.popleft()
                while waiting:
                    yield waiting[0].get()
                    waiting.popleft()
            finally:
                # A thread that is in PyTorch when the interpreter ends aborts the process.
                stopped.set()
                until = time.monotonic() + LEAVE
                for result in waiting:
                    result.wait(max(0.0, until - time.monotonic()))
