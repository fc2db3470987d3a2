"""A video encoded anew, so that it is small and quickly read."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from torch import Tensor

from vivit.errors import UserError
from vivit.video.clips import grid_of
from vivit.video.decode import Video

# Bytes of frames decoded at once.
FRAMES_AT_ONCE = 1 << 26
# Slower presets take twice the time and gain little. With its macroblock tree, x264 writes small videos in another way
# from time to time, and packing them again would not give the same bytes.
X264 = {"preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}


@dataclass(frozen=True)
class Encoding:
    """How videos are encoded anew: H.264 without sound, at an even rate, in square pixels and right side up."""

    short_side: int | None = None
    """Pixels that the shorter side is shrunk to; it is never enlarged. None keeps the size."""
    key_frames: int = 32
    """At most so many frames from one key frame to the next: fewer take more space, and less decoding on the way."""
    crf: int = 23
    """x264's constant rate factor: 18 can hardly be told from the original, each 6 more halve the size."""

    def __post_init__(self) -> None:
        """Raises UserError where a field is out of its range."""
        if self.short_side is not None and self.short_side < 2:
            raise UserError(f"short_side: {self.short_side} pixels are no picture; give 2 or more")
        if self.key_frames < 1:
            raise UserError(f"key_frames: one in {self.key_frames}; give 1 or more")
        if not 0 <= self.crf <= 51:
            raise UserError(f"crf: {self.crf}; give a number from 0, without loss, to 51")


def encode(video: Video, target: Path, encoding: Encoding, span: tuple[float, float] | None) -> None:
    """Write an MP4 of the even grid, or of a span of seconds of it.

    Raises:
        VideoError: the video cannot be read.
        OSError: the file cannot be written, as on a full disk.
    """
    info = video.info
    grid = grid_of(info, span)
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
            for start in range(0, len(grid), batch):
                for picture in _even(video.frames(grid[start : start + batch], side if side < smaller else None)):
                    if not stream.codec_context.is_open:
                        stream.height, stream.width = picture.shape[1:]
                    rgb = picture.permute(1, 2, 0).contiguous().numpy()  # (H, W, C)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
            container.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        # Reading raises VideoError.
        raise OSError(error.errno, error.strerror, str(target)) from None


def _even(frames: Tensor) -> Tensor:
    """(N, C, H, W) without a last row or column that has no pair, as H.264 with halved colours wants it."""
    if min(frames.shape[2:]) < 2:
        frames = frames.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return frames[..., : frames.shape[2] // 2 * 2, : frames.shape[3] // 2 * 2]
