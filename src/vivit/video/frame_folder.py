"""Read a folder of pictures as a video: its frames, in the natural order of their names."""

import re
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from vivit.video.base import Video, VideoInfo
from vivit.video.scaling import draw, room_for
from vivit.video.source import VideoError

PICTURES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# Pictures have no times; this is the rate of most videos that frames are extracted from.
FRAME_RATE = 25.0


class FrameFolder(Video):
    """The pictures of a folder, at 25 frames per second.

    Other files, hidden files and subfolders are ignored. A picture is turned as its EXIF tag says. Transparency is
    dropped, as by video decoders, and 16-bit values keep their upper 8 bits.
    """

    def __init__(self, folder: Path) -> None:
        """List the folder and read its first picture. Raises VideoError if that fails."""
        try:
            files = [file for file in folder.iterdir() if file.suffix.lower() in PICTURES and file.is_file()]
        except OSError as error:
            raise VideoError(folder, f"cannot be listed ({error.strerror})") from None
        self._files = sorted((file for file in files if not file.name.startswith(".")), key=_natural)
        if not self._files:
            known = " ".join(sorted(PICTURES))
            raise VideoError(folder, f"holds no pictures ({known}); if it holds videos, name them")
        self.source, self._reformatter = folder, VideoReformatter()
        first, codec = _read(self._files[0])
        self.info = VideoInfo(
            width=first.shape[1],
            height=first.shape[0],
            frame_rate=FRAME_RATE,
            duration=len(self._files) / FRAME_RATE,
            num_frames=len(self._files),
            codec=codec,
            rotation=0,
        )

    def _read(self, times: Sequence[float], height: int, width: int) -> tuple[Tensor, list[float]]:
        stored = self.info.height, self.info.width
        pictures = room_for(len(times), height, width, scaled=(height, width) != stored)
        numbers = [min(int(time * FRAME_RATE), len(self._files) - 1) for time in times]
        for number, picture in zip(numbers, pictures, strict=True):
            file = self._files[number]
            pixels, _ = _read(file)
            if pixels.shape[:2] != stored:
                first = f"{self._files[0].name} is {self.info.width} x {self.info.height}"
                raise VideoError(
                    file,
                    f"is {pixels.shape[1]} x {pixels.shape[0]}, but {first}; all frames must have the same size",
                )
            draw(av.VideoFrame.from_ndarray(pixels, format="rgb24"), picture, self._reformatter)
        return pictures, [number / FRAME_RATE for number in numbers]

    def measure(self) -> None:
        """Every picture is counted already."""

    def close(self) -> None:
        """Nothing stays open."""


def _natural(file: Path) -> tuple[list[str | int], str]:
    """Sort numbers in names by value: frame2 before frame10."""
    parts = re.split(r"(\d+)", file.stem)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], file.name


def _read(file: Path) -> tuple[np.ndarray, str]:
    """Return (height, width, 3) uint8, upright, and the format of the file."""
    try:
        with Image.open(file) as image:
            codec = (image.format or "").lower()
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                grey = (np.asarray(upright).astype(np.uint16) >> 8).astype(np.uint8)
                return np.ascontiguousarray(grey[..., None].repeat(3, axis=2)), codec
            if upright.mode in ("I", "F"):
                raise VideoError(file, "has 32-bit pixels, whose range from black to white is unknown")
            return np.asarray(upright.convert("RGB")), codec
    except UnidentifiedImageError:
        raise VideoError(file, "not a readable picture") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise VideoError(file, f"not a readable picture ({reason.lower() or 'damaged'})") from None
