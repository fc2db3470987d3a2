"""Compare folders of pictures with the arrays they were written from, and with the same pictures as a video."""

import io
import resource
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support import encode, numbered, read_numbers
from vivit.video.decode import open_video
from vivit.video.frame_folder import PICTURES, FrameFolder
from vivit.video.source import VideoError


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write a picture to the folder `tmp_path`, in the format of its name."""

    def write(name: str, picture: np.ndarray, mode: str | None = None, **options: object) -> Path:
        image = Image.fromarray(picture)
        (image.convert(mode) if mode else image).save(tmp_path / name, **options)  # type: ignore[arg-type]
        return tmp_path / name

    return write


@pytest.fixture
def photograph() -> np.ndarray:
    """(48, 64, 3) uint8 without symmetry: its eight orientations all differ."""
    y, x = np.mgrid[:48, :64]
    return np.stack([x * 4, y * 5, (x + y) * 2], axis=2).astype(np.uint8)


def only_frame(folder: Path) -> np.ndarray:
    """(H, W, 3)"""
    with FrameFolder(folder) as video:
        assert video.info.num_frames == 1
        return video.frames([0])[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"])
def test_frames_are_in_the_order_of_the_numbers_in_their_names(
    suffix: str, save: Callable[..., Path], tmp_path: Path
) -> None:
    for number in [11, 2, 0, 10, 1, 9, 3, 8, 4, 7, 5, 6]:
        save(f"frame{number}{suffix}", numbered(number))
    with FrameFolder(tmp_path) as video:
        info = video.info
        assert (info.width, info.height, info.num_frames, info.frame_rate, info.duration) == (64, 32, 12, 25, 12 / 25)
        assert (info.rotation, info.mirrored) == (0, False)
        assert read_numbers(video.frames(range(12))) == list(range(12))
        assert read_numbers(video.frames([11, 0, 5, 5, -3, 40])) == [11, 0, 5, 5, 0, 11]


def test_order_of_names_with_several_numbers_and_leading_zeros(save: Callable[..., Path], tmp_path: Path) -> None:
    names = ["a1_2.png", "a1_10.png", "a002_1.png", "a02_3.png", "a10_1.png", "b.png", "b1.png"]
    for number, name in enumerate(names):
        save(name, numbered(number))
    with FrameFolder(tmp_path) as video:
        assert read_numbers(video.frames(range(len(names)))) == list(range(len(names)))


def test_hidden_and_other_files_are_passed_over(save: Callable[..., Path], tmp_path: Path) -> None:
    save("1.png", numbered(1))
    save("2.png", numbered(2))
    save(".0.png", numbered(9))
    (tmp_path / "0.txt").write_text("no picture")
    (tmp_path / "Thumbs.db").write_bytes(bytes(100))
    (tmp_path / "0.png").mkdir()
    with FrameFolder(tmp_path) as video:
        assert read_numbers(video.frames([0, 1])) == [1, 2]
        assert video.info.num_frames == 2


def test_lossless_pictures_come_back_exactly(save: Callable[..., Path], photograph: np.ndarray, tmp_path: Path) -> None:
    save("1.png", photograph)
    assert np.array_equal(only_frame(tmp_path), photograph)


@pytest.mark.parametrize("short_side", [24, 17, 100])
def test_resized_as_a_video_of_the_same_pictures_is(
    short_side: int, save: Callable[..., Path], photograph: np.ndarray, tmp_path: Path
) -> None:
    save("1.png", photograph)
    film = encode(
        tmp_path / "film.mkv", [photograph] * 2, codec="libx264rgb", pixel_format="rgb24", options={"qp": "0"}
    )
    with FrameFolder(tmp_path) as folder, open_video(film) as video:
        ours, theirs = folder.frames([0], short_side), video.frames([0], short_side)
    assert ours.shape == theirs.shape == (1, 3, short_side, round(64 * short_side / 48))
    assert torch.equal(ours, theirs)


# How a picture is stored with each EXIF orientation: 6 is from a phone held upright, to be turned a quarter clockwise.
ORIENTATIONS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.transpose(1, 0, 2),
    6: lambda shown: np.rot90(shown),
    7: lambda shown: shown[::-1, ::-1].transpose(1, 0, 2),
    8: lambda shown: np.rot90(shown, -1),
}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_turned_as_exif_says(
    orientation: int, suffix: str, save: Callable[..., Path], photograph: np.ndarray, tmp_path: Path
) -> None:
    stored = np.ascontiguousarray(ORIENTATIONS[orientation](photograph))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif} | ({"quality": 95, "subsampling": 0} if suffix == ".jpg" else {})
    save(f"1{suffix}", stored, **options | ({"lossless": True} if suffix == ".webp" else {}))
    assert np.abs(only_frame(tmp_path).astype(int) - photograph).mean() < 2


def test_of_sixteen_bits_the_upper_eight_stay(save: Callable[..., Path], tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16)
    save("1.png", ramp)
    assert np.array_equal(only_frame(tmp_path), (ramp >> 8).astype(np.uint8)[..., None].repeat(3, axis=2))


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P"])
def test_grey_and_palettes_become_rgb(mode: str, save: Callable[..., Path], tmp_path: Path) -> None:
    save("1.png", numbered(37), mode)
    assert np.array_equal(only_frame(tmp_path), numbered(37))


def test_transparency_is_left_out(save: Callable[..., Path], photograph: np.ndarray, tmp_path: Path) -> None:
    alpha = np.linspace(0, 255, 64).astype(np.uint8)[None].repeat(48, axis=0)
    save("1.png", np.concatenate([photograph, alpha[..., None]], axis=2))
    assert np.array_equal(only_frame(tmp_path), photograph)


def test_colours_for_print_become_rgb(save: Callable[..., Path], tmp_path: Path) -> None:
    save("1.jpg", numbered(37), "CMYK", quality=95)
    assert np.abs(only_frame(tmp_path).astype(int) - numbered(37)).mean() < 3


def error_of(folder: Path) -> str:
    with pytest.raises(VideoError) as caught, FrameFolder(folder) as video:
        video.frames(range(video.info.num_frames))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_empty_folder(tmp_path: Path) -> None:
    assert error_of(tmp_path).startswith(f"{tmp_path}: holds no pictures")


def test_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(bytes(10))
    assert error_of(tmp_path).startswith(f"{tmp_path}: holds no pictures")


def test_missing_folder(tmp_path: Path) -> None:
    assert "no such file" in error_of(tmp_path / "nowhere").lower()


def test_picture_of_another_size_is_named(save: Callable[..., Path], tmp_path: Path) -> None:
    save("1.png", numbered(1))
    odd = save("2.png", numbered(2)[:, :60])
    assert error_of(tmp_path) == (f"{odd}: is 60 x 32, but 1.png is 64 x 32; all frames must have the same size")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("share", [0, 0.1, 0.5])
@pytest.mark.parametrize("name", ["2.png", "2.jpg", "2.webp", "2.tif", "2.bmp"])
def test_damaged_picture_is_named(
    name: str, share: float, save: Callable[..., Path], photograph: np.ndarray, tmp_path: Path
) -> None:
    save("1.png", photograph)
    damaged = save(name, photograph)
    data = damaged.read_bytes()
    damaged.write_bytes(data[: int(len(data) * share)])
    assert error_of(tmp_path).startswith(f"{damaged}: not a readable picture")


def test_pixels_of_unknown_range_are_refused(save: Callable[..., Path], tmp_path: Path) -> None:
    file = save("1.tif", np.zeros((32, 64), np.float32))
    assert error_of(tmp_path).startswith(f"{file}: has 32-bit pixels")


WIDE = 13_000  # pixels: more than the limit, in small files


def large(kind: str) -> bytes:
    """A picture WIDE pixels wide and high; that of a PNG or WebP has all of them."""
    file = io.BytesIO()
    if kind == "png":
        Image.new("1", (WIDE, WIDE)).save(file, "png")
        return file.getvalue()
    if kind == "webp":
        return bytes.fromhex("524946461e000000574542505650384c110000002fc7f2b10c0750c00216b0ff8188e87f0000")
    Image.new("L", (16, 16)).save(file, kind)
    small = file.getvalue()
    match kind:
        case "ppm":
            return small.replace(b"16 16", b"%d %d" % (WIDE, WIDE))
        case "bmp":
            return small[:18] + struct.pack("<II", WIDE, WIDE) + small[26:]
        case "gif":  # the size of its only frame, which may be larger than that of the file
            return small.replace(struct.pack("<4H", 0, 0, 16, 16), struct.pack("<4H", 0, 0, WIDE, WIDE))
    start = b"\xff\xc0\x00\x0b\x08"  # of a JPEG's size
    return small.replace(start + struct.pack(">HH", 16, 16), start + struct.pack(">HH", WIDE, WIDE))


def tiff(width: int, height: int, side: int) -> bytes:
    """A grey picture in tiles of zeros, `side` pixels wide and high, of which only the first is there."""
    data = zlib.compress(bytes(side * side), 1)
    data += bytes(len(data) % 2)
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def rise(call: Callable[[], object]) -> int:
    """Bytes by which the call raises the memory of this process at its peak."""
    Path("/proc/self/clear_refs").write_text("5")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is reset on Linux only")
@pytest.mark.parametrize("number", [0, 5])
@pytest.mark.parametrize("kind", ["png", "webp", "jpeg", "tif", "tile", "ppm", "bmp", "gif"])
def test_large_pictures_are_refused_by_their_headers(
    kind: str, number: int, save: Callable[..., Path], tmp_path: Path
) -> None:
    for other in range(1, 4):
        save(f"{other}.png", numbered(other))
    content = tiff(16, 16, WIDE) if kind == "tile" else tiff(WIDE, WIDE, 16) if kind == "tif" else large(kind)
    path = tmp_path / f"{number}.{kind if f'.{kind}' in PICTURES else 'tif'}"
    path.write_bytes(content)
    messages: list[str] = []
    assert rise(lambda: messages.append(error_of(tmp_path))) < 20 << 20
    what = "is in tiles of" if kind == "tile" else "is"
    assert messages == [f"{path}: {what} {WIDE} x {WIDE}; at most 67,108,864 pixels are read"]


def test_a_picture_beyond_pillows_limit_is_told_ours(tmp_path: Path) -> None:
    (tmp_path / "0.ppm").write_bytes(b"P6 100000 100000 255\n")
    assert error_of(tmp_path) == f"{tmp_path}/0.ppm: is too large; at most 67,108,864 pixels are read"


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is reset on Linux only")
def test_a_large_picture_is_in_memory_once(save: Callable[..., Path], tmp_path: Path) -> None:
    side = 4096
    for number in range(3):
        save(f"{number}.png", np.zeros((side, side), np.uint8), compress_level=1)
    with FrameFolder(tmp_path) as video:
        # Its own pixels, grey, and those of the RGB picture.
        assert rise(lambda: video.frames([0, 1, 2], short_side=32)) < 1.5 * 4 * side * side


def test_only_formats_of_pictures_are_tried(tmp_path: Path) -> None:
    """Pillow would give PostScript to a program."""
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 32\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "1.png").write_bytes(postscript)
    Image.open(tmp_path / "1.png").close()
    assert error_of(tmp_path) == f"{tmp_path / '1.png'}: not a readable picture"
