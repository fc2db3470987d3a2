"""Open a video with the chosen decoder; all of them find the same frames."""

import os
from pathlib import Path
from typing import Literal

from vivit.video.base import Video
from vivit.video.decode_pyav import PyAVVideo
from vivit.video.decode_torchcodec import TorchCodecVideo, check_usable, is_read_alike
from vivit.video.frame_folder import FrameFolder
from vivit.video.source import VideoSource

Decoder = Literal["pyav", "torchcodec", "nvdec"]


def check_decoder(decoder: Decoder) -> None:
    """Raise UserError if the decoder is not installed, or needs a GPU and there is none."""
    if decoder != "pyav":
        check_usable("cuda" if decoder == "nvdec" else "cpu")


def open_video(source: VideoSource | str, decoder: Decoder = "pyav") -> Video:
    """Open a video file, an animated picture, a folder of pictures or a video inside a shard.

    Args:
        source: a path, or a member of a shard.
        decoder: "pyav" is always there; "torchcodec" and, on an NVIDIA GPU, "nvdec" need the package torchcodec and
            FFmpeg's libraries. PyAV still reads files in which torchcodec finds other frames, such as mirrored ones.

    Raises:
        VideoError: the video cannot be read.
        UserError: the decoder is not installed.
    """
    source = Path(source) if isinstance(source, str) else source
    if isinstance(source, Path) and os.path.isdir(source):
        return FrameFolder(source)
    video = PyAVVideo(source)
    if decoder == "pyav":
        return video
    if not is_read_alike(video):
        return video
    with video:
        return TorchCodecVideo(video, "cuda" if decoder == "nvdec" else "cpu")
