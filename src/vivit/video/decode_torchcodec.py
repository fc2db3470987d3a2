"""PyTorch's decoder torchcodec, on the CPU or an NVIDIA GPU, if it and FFmpeg's libraries are installed."""

import importlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vivit.errors import UserError
from vivit.video.base import Video
from vivit.video.decode_pyav import PyAVVideo
from vivit.video.frame_walk import TOLERANCE
from vivit.video.source import VideoError


def is_read_alike(video: PyAVVideo) -> bool:
    """Whether torchcodec finds the same frames as PyAV: it does in MP4 and Matroska.

    In other containers it relies on times that are missing or wrong. It does not mirror, and confuses frames with
    negative times.
    """
    return not video.info.mirrored and video.start >= 0 and video.container.split(",")[0] in ("mov", "matroska")


def check_usable(device: str) -> None:
    """Raise UserError if torchcodec, or for "cuda" a GPU, is missing."""
    try:
        importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            f"decoder: torchcodec cannot be used ({str(error).strip().splitlines()[0]}); install torchcodec and "
            "FFmpeg's libraries, or use pyav"
        ) from None
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("decoder: nvdec needs an NVIDIA GPU; use pyav or torchcodec")


class TorchCodecVideo(Video):
    """A file decoded by torchcodec. Its properties come from PyAV, so frame numbers are the same.

    torchcodec reads the whole file once when it is opened, without decoding. Without this, its frames would be wrong at
    a variable rate.
    """

    def __init__(self, facts: PyAVVideo, device: str = "cpu") -> None:
        """Raises UserError if torchcodec cannot be used.

        Args:
            facts: the same file; it may be closed afterwards.
            device: "cpu", or "cuda" for NVDEC. Frames are copied to the CPU in both cases.
        """
        check_usable(device)
        from torchcodec import decoders, transforms

        self.source, self.device, self.info = facts.source, device, facts.info
        self._start, self._stream_index = facts.start, facts.stream_index
        self._decoders, self._transforms = decoders, transforms
        self._opened: tuple[tuple[int, int], decoders.VideoDecoder] | None = None

    def measure(self) -> None:
        with PyAVVideo(self.source) as facts:
            facts.measure()
            self.info = facts.info

    def _decoder(self, height: int, width: int):  # type: ignore[no-untyped-def]
        """The decoder for this size: torchcodec scales while decoding, to a size set when the file is opened."""
        if self._opened is None or self._opened[0] != (height, width):
            resize = self._transforms.Resize((height, width))
            scaled = (self.info.height, self.info.width) != (height, width)
            decoder = self._decoders.VideoDecoder(
                str(self.source.absolute()) if isinstance(self.source, Path) else self.source.read(),
                stream_index=self._stream_index,
                num_ffmpeg_threads=1,
                device=self.device,
                transforms=[resize] if scaled and self.device == "cpu" else None,
            )
            self._opened = (height, width), decoder
        return self._opened[1]

    def _read(self, times: Sequence[float], height: int, width: int) -> tuple[Tensor, list[float]]:
        try:
            decoder = self._decoder(height, width)
            end = decoder.metadata.end_stream_seconds
            seconds = [time + self._start for time in times]
            if seconds and seconds[-1] > end + TOLERANCE:
                raise VideoError(
                    self.source,
                    f"only its first {end - self._start:.1f} s can be decoded, of at least {times[-1]:.1f}",
                )
            # At the very end, no frame is shown any more.
            played = decoder.get_frames_played_at([min(second, end - 1e-6) for second in seconds])
        except (RuntimeError, ValueError, IndexError) as error:
            raise VideoError(self.source, f"torchcodec cannot read it ({str(error).strip().splitlines()[0]})") from None
        frames, starts = played.data, [float(start) - self._start for start in played.pts_seconds]
        if frames.shape[-2:] != (height, width):
            # On a GPU, where PyTorch does not scale uint8.
            frames = F.interpolate(frames.float(), (height, width), mode="bilinear", antialias=True).round().byte()
        return frames.cpu(), starts

    def close(self) -> None:
        self._opened = None
