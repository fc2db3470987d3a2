"""Read a folder of pictures as a video: its frames, in the natural order of their names."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile
from torch import Tensor

from vivit.video.base import Video, VideoInfo
from vivit.video.frame_walk import MOST_PIXELS
from vivit.video.scaling import draw, room_for
from vivit.video.source import VideoError

# Pillow's warnings of sizes above its own limit, and of damage that only hides how a picture was taken.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", "Corrupt EXIF data")

PICTURES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# Pillow's names of their formats. It runs a program for some others, such as PostScript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Rows converted at once: a whole picture would be in memory several times.
STRIP = 256
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
            width=first.width,
            height=first.height,
            frame_rate=FRAME_RATE,
            duration=len(self._files) / FRAME_RATE,
            num_frames=len(self._files),
            codec=codec,
            rotation=0,
        )

    def _read(self, times: Sequence[float], height: int, width: int) -> tuple[Tensor, list[float]]:
        scaled = (height, width) != (self.info.height, self.info.width)
        pictures = room_for(len(times), height, width, scaled)
        numbers = [min(int(time * FRAME_RATE), len(self._files) - 1) for time in times]
        for number, picture in zip(numbers, pictures, strict=True):
            self._draw(self._files[number], picture)
        return pictures, [number / FRAME_RATE for number in numbers]

    def _draw(self, file: Path, picture: Tensor) -> None:
        frame, _ = _read(file)
        if (frame.width, frame.height) != (self.info.width, self.info.height):
            first = f"{self._files[0].name} is {self.info.width} x {self.info.height}"
            raise VideoError(
                file, f"is {frame.width} x {frame.height}, but {first}; all frames must have the same size"
            )
        draw(frame, picture, self._reformatter)

    def measure(self) -> None:
        """Every picture is counted already."""

    def close(self) -> None:
        """Nothing stays open."""


def _natural(file: Path) -> tuple[list[str | int], str]:
    """Sort numbers in names by value: frame2 before frame10."""
    parts = re.split(r"(\d+)", file.stem)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], file.name


def _read(file: Path) -> tuple[av.VideoFrame, str]:
    """Return the picture in RGB, upright, and the format of the file."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check_size(file, image)
            if image.mode in ("I", "F"):
                raise VideoError(file, "has 32-bit pixels, whose range from black to white is unknown")
            ImageOps.exif_transpose(image, in_place=True)
            frame = av.VideoFrame(image.width, image.height, "rgb24")
            (plane,) = frame.planes
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(image.height, plane.line_size)
            pixels = rows[:, : 3 * image.width].reshape(image.height, image.width, 3)
            for top in range(0, image.height, STRIP):
                strip = image.crop((0, top, image.width, min(top + STRIP, image.height)))
                pixels[top : top + STRIP] = _rgb(strip)
            return frame, (image.format or "").lower()
    except UnidentifiedImageError:
        raise VideoError(file, "not a readable picture") from None
    except Image.DecompressionBombError:  # Pillow's own limit is higher, but it comes first
        raise VideoError(file, f"is too large; at most {MOST_PIXELS:,} pixels are read") from None
    except (OSError, SyntaxError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise VideoError(file, f"not a readable picture ({reason.lower() or 'damaged'})") from None


def _check_size(file: Path, image: Image.Image) -> None:
    """Raise VideoError if decoding the picture, of which only the header was read, would take too much memory."""
    sizes = {"is": image.size}
    if isinstance(image, TiffImageFile):  # each tile is decoded whole, and may be larger than the picture
        sizes["is in tiles of"] = int(image.tag_v2.get(TILEWIDTH, 0)), int(image.tag_v2.get(TILELENGTH, 0))
    for what, (width, height) in sizes.items():
        if width * height > MOST_PIXELS:
            raise VideoError(file, f"{what} {width} x {height}; at most {MOST_PIXELS:,} pixels are read")


def _rgb(image: Image.Image) -> np.ndarray:
    """(height, width, 3) uint8, or (height, width, 1) if it is grey with 16 bits."""
    if image.mode.startswith("I;16"):
        return (np.asarray(image) >> 8)[..., None]
    return np.asarray(image.convert("RGB"))
