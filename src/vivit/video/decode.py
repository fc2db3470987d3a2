"""Choose how videos are read: with which decoder (all find the same frames), in which process, and how many at once."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from vivit.errors import UserError
from vivit.video.base import Video
from vivit.video.decode_pyav import PyAVVideo
from vivit.video.decode_torchcodec import TorchCodecVideo, check_usable, is_read_alike
from vivit.video.frame_folder import FrameFolder
from vivit.video.isolated import IsolatedReader, Parameters, Result, check_timeout, is_shortage, source_in
from vivit.video.source import VideoError, VideoSource

Decoder = Literal["pyav", "torchcodec", "nvdec"]
WORKERS_PER_CORE = 16


def open_video(source: VideoSource | str, decoder: Decoder = "pyav", rate: float | None = None) -> Video:
    """Open a video file, an animated picture, a folder of pictures or a video inside a shard.

    Args:
        source: a path, or a member of a shard.
        decoder: "pyav" is always available; "torchcodec" and, on an NVIDIA GPU, "nvdec" need torchcodec and FFmpeg's
            libraries. PyAV still reads files in which torchcodec finds other frames, such as mirrored ones.
        rate: frames a second of the timeline on which frames are numbered, see `Video`; None: the video's own.

    Raises:
        VideoError: the video cannot be read.
        UserError: the decoder is not installed.
    """
    video = _open(Path(source) if isinstance(source, str) else source, decoder)
    video.wanted_rate = rate
    return video


def _open(source: VideoSource, decoder: Decoder) -> Video:
    if isinstance(source, Path) and os.path.isdir(source):
        return FrameFolder(source)
    video = PyAVVideo(source)
    if decoder == "pyav" or not is_read_alike(video):
        return video
    with video:
        return TorchCodecVideo(video, "cuda" if decoder == "nvdec" else "cpu")


class Reader(Protocol):
    """Calls a function that reads a video, and returns what it returns."""

    def __call__(
        self, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result: ...


def read_here(function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
    try:
        return function(*args, **kwargs)
    except (MemoryError, RuntimeError) as error:
        if is_shortage(error):
            raise VideoError(source_in(args), "takes more memory to read than there is") from None
        raise


@dataclass(frozen=True)
class ReadOptions:
    """Which decoder reads videos, how long one may take, and how many processes read."""

    decoder: Decoder = "pyav"
    timeout: float | None = None
    """Seconds that reading a video may take; None: no limit, and no protection.

    With a limit, videos are read in another process, which may crash and is killed when the time is up."""
    workers: int = 0
    """Processes that read; 0: this one."""

    def check(self) -> None:
        """Raise UserError if videos cannot be read like this, before any process is started."""
        most = WORKERS_PER_CORE * (os.cpu_count() or 1)
        if not 0 <= self.workers <= most:
            raise UserError(f"workers: {self.workers} is out of range; use 0 (read in this process) to {most}")
        if self.decoder != "pyav":
            check_usable("cuda" if self.decoder == "nvdec" else "cpu")
        if self.timeout is not None:
            check_timeout(self.timeout)

    def reader(self) -> Reader:
        """A function that reads in this process, or, if there is a timeout, in an isolated one."""
        return read_here if self.timeout is None else IsolatedReader(self.timeout)
