"""Compare strange but legal files, frame by frame, with the numbers drawn into them and with what ffmpeg shows."""

import random
from bisect import bisect_right
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support import read_numbers
from tests.video import strange_files
from tests.video.strange_files import FILES, Strange, Workshop
from vivit.video.decode import open_video
from vivit.video.source import VideoError


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("strange"))


@pytest.fixture(params=FILES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def upright(frames: Tensor, strange: Strange) -> Tensor:
    """(N, 3, H, W) frames as they were before turning and mirroring."""
    return torch.rot90(frames.flip(3) if strange.mirrored else frames, -strange.rotation // 90, (2, 3))


def test_frames_are_those_that_are_on_screen(name: str, workshop: Workshop) -> None:
    strange = FILES[name]
    with open_video(workshop.file(name)) as video:
        info = video.info
        frames = video.frames(range(info.num_frames))
    assert (info.width, info.height) == strange.size
    assert (info.rotation, info.mirrored) == (strange.rotation, strange.mirrored)
    assert info.num_frames == max(1, round(info.duration * info.frame_rate))
    if strange.starts is None:
        assert info.frame_rate == pytest.approx(strange.rate, rel=0.001)
        assert info.num_frames == strange.count
        assert info.duration == pytest.approx(strange.count / strange.rate, abs=0.01)
    else:
        # Files do not always tell how long the last frame is shown.
        assert abs(info.duration - strange.starts[strange.count - 1]) < 0.25
    times = [(place + 0.5) / info.frame_rate for place in range(info.num_frames)]
    shown = workshop.shown(name)
    pictures = torch.from_numpy(shown.pictures.copy()).permute(0, 3, 1, 2)
    expected = pictures[[shown.at(time) for time in times]]
    if strange.numbers is not None:
        starts = strange.starts or [number / strange.rate for number in range(strange.count)]
        on_screen = [min(bisect_right(starts, time + 1e-6), strange.count) - 1 for time in times]
        numbers = [strange.numbers[number] for number in on_screen]
        assert read_numbers(upright(expected, strange)) == numbers  # else the test itself is wrong
        assert read_numbers(upright(frames, strange)) == numbers
    assert (frames.float() - expected.float()).abs().mean((1, 2, 3)).max() <= 1


def test_any_order_gives_the_same_frames(name: str, workshop: Workshop) -> None:
    path = workshop.file(name)
    with open_video(path) as video:
        count = video.info.num_frames
        frames = video.frames(range(count))
        places = [*range(count), *range(count - 1, -1, -3)]
        random.Random(0).shuffle(places)
        for some in (places[at : at + 5] for at in range(0, len(places), 5)):
            assert torch.equal(video.frames(some), frames[some]), some
    for place in places[:4]:
        with open_video(path) as video:
            assert torch.equal(video.frames([place]), frames[[place]]), place


def test_animated_webp_is_read_or_refused(workshop: Workshop) -> None:
    path = workshop.file("animated.webp")
    try:
        with open_video(path) as video:
            assert read_numbers(video.frames(range(50))) == list(range(50))
    except VideoError as error:
        assert str(error).startswith(f"{path}: ")


# (2, 4, 3) uint8: the colours of patches in the pictures.
PATCHES = np.array(
    [
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]],
        [[0, 255, 255], [255, 0, 255], [64, 128, 200], [200, 150, 100]],
    ],
    np.uint8,
)
LOSSLESS = "-c:v libx264 -preset ultrafast -qp 0 -pix_fmt yuv444p"
HEVC = "-c:v libx265 -preset ultrafast -pix_fmt yuv444p10le -x265-params lossless=1:log-level=none"
VP9 = "-c:v libvpx-vp9 -lossless 1 -pix_fmt yuv444p"
HDR = "-colorspace bt2020nc -color_primaries bt2020 -color_range tv"
SMALL, LARGE = (64, 32), (1280, 720)

# Options for the encoder: colour matrix, range, size.
COLOURS: dict[str, tuple[str, str, str, tuple[int, int]]] = {
    **{
        f"{flag}_{span}.{ending}": (f"{LOSSLESS} -colorspace {flag} -color_range {span}", matrix, span, SMALL)
        for flag, matrix in [
            ("smpte170m", "bt601"),
            ("bt470bg", "bt601"),
            ("bt709", "bt709"),
            ("bt2020nc", "bt2020"),
            ("smpte240m", "smpte240m"),
            ("fcc", "fcc"),
        ]
        for span in ("tv", "pc")
        for ending in ("mp4", "mkv")
    },
    "full.hevc.mp4": (f"{HEVC} -colorspace bt709 -color_range pc", "bt709", "pc", SMALL),
    "limited.vp9.webm": (f"{VP9} -colorspace bt709 -color_range tv", "bt709", "tv", SMALL),
    "full.vp9.webm": (f"{VP9} -colorspace bt709 -color_range pc", "bt709", "pc", SMALL),
    "rgb.vp9.webm": ("-c:v libvpx-vp9 -lossless 1 -pix_fmt gbrp", "bt709", "pc", SMALL),
    "limited.av1.mp4": (
        "-c:v libsvtav1 -preset 12 -crf 1 -pix_fmt yuv420p -colorspace bt709 -color_range tv",
        "bt709",
        "tv",
        SMALL,
    ),
    "sd.mpeg2.mpg": ("-c:v mpeg2video -q:v 1 -pix_fmt yuv422p", "bt601", "tv", SMALL),
    "hd.mpeg2.mkv": ("-c:v mpeg2video -q:v 1 -pix_fmt yuv422p -colorspace bt709", "bt709", "tv", SMALL),
    "full.mjpeg.avi": ("-c:v mjpeg -q:v 1 -pix_fmt yuvj444p", "bt601", "pc", SMALL),
    "limited.mjpeg.mov": (
        "-c:v mjpeg -q:v 1 -pix_fmt yuv444p -color_range tv -strict unofficial",
        "bt601",
        "tv",
        SMALL,
    ),
    "prores.mov": (
        "-c:v prores_ks -profile:v 4 -pix_fmt yuv444p10le -q:v 1 -colorspace bt709 -color_range tv",
        "bt709",
        "tv",
        SMALL,
    ),
    "rgb.h264.mp4": ("-c:v libx264rgb -preset ultrafast -qp 0", "bt709", "pc", SMALL),
    "gbrp.ffv1.mkv": ("-c:v ffv1 -pix_fmt gbrp", "bt709", "pc", SMALL),
    "bgra.ffv1.mkv": ("-c:v ffv1 -pix_fmt bgra", "bt709", "pc", SMALL),
    "bgr.avi": ("-c:v rawvideo -pix_fmt bgr24", "bt709", "pc", SMALL),
    "ten_bit.mp4": (
        "-c:v libx264 -preset ultrafast -qp 0 -pix_fmt yuv420p10le -colorspace bt709 -color_range pc",
        "bt709",
        "pc",
        SMALL,
    ),
    # A file that does not declare its matrix is read as BT.601, small or large, as in ffmpeg.
    "unspecified.mp4": (LOSSLESS, "bt601", "tv", SMALL),
    "unspecified_large.mp4": (LOSSLESS, "bt601", "tv", LARGE),
    # There is no tone mapping: the matrix is undone, and the curve stays.
    "pq.mp4": (f"{HEVC} {HDR} -color_trc smpte2084", "bt2020", "tv", SMALL),
    "hlg.mkv": (f"{HEVC} {HDR} -color_trc arib-std-b67", "bt2020", "tv", SMALL),
    "wide_gamut.mov": (f"{LOSSLESS} -colorspace bt709 -color_primaries smpte432", "bt709", "tv", SMALL),
}


@pytest.mark.parametrize("colour_file", COLOURS)
def test_colours_are_those_that_were_encoded(colour_file: str, tmp_path: Path) -> None:
    options, matrix, span, (width, height) = COLOURS[colour_file]
    path = tmp_path / colour_file
    picture = np.kron(PATCHES, np.ones((height // 2, width // 4, 1), np.uint8))
    exact = "flags=accurate_rnd+full_chroma_int+full_chroma_inp"
    strange_files.ffmpeg(
        *f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r 25 -i -".split(),
        *f"-vf scale=out_color_matrix={matrix}:out_range={span}:{exact} {options}".split(),
        path,
        stdin=picture.tobytes() * 3,
    )
    rgb = any(kind in options for kind in ("libx264rgb", "gbrp", "bgra", "bgr24"))
    told = "" if rgb else f"scale=in_color_matrix={matrix}:in_range={span}:{exact}"
    by_ffmpeg = strange_files.shown_by_ffmpeg(path, told).pictures[1]
    with open_video(path) as video:
        (frame,) = video.frames([1])
        (scaled,) = video.frames([1], short_side=16)
    ours = frame.permute(1, 2, 0).numpy()
    assert np.abs(patches_of(ours) - PATCHES).max() <= 3
    assert np.abs(patches_of(ours) - patches_of(by_ffmpeg)).max() <= 2
    assert np.abs(patches_of(scaled.permute(1, 2, 0).numpy()) - PATCHES).max() <= 3


def patches_of(picture: np.ndarray) -> np.ndarray:
    """(2, 4, 3) int: the middle of each patch of an (H, W, 3) picture."""
    height, width = picture.shape[:2]
    return picture[height // 4 :: height // 2, width // 8 :: width // 4].astype(int)


COUNTER = Path("/proc/self/io")


def bytes_read() -> int:
    """Bytes that this process has read, from any file."""
    return int(COUNTER.read_text().split()[1])


@pytest.fixture(scope="module")
def numbered_seconds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 numbered frames of 1920 × 1080 at one per second."""
    path = tmp_path_factory.mktemp("long") / "part.mp4"
    source = "-f rawvideo -pix_fmt rgb24 -s 64x32 -r 1 -i - -vf scale=1920:1080:flags=neighbor"
    codec = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 16 -bf 2 -crf 50"
    pixels = b"".join(strange_files.numbered(number).tobytes() for number in range(256))
    strange_files.ffmpeg(*source.split(), *codec.split(), path, stdin=pixels)
    return path


@pytest.mark.skipif(not COUNTER.exists(), reason="this system does not count the bytes that a process reads")
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_ten_hours_are_not_read_for_four_clips(ending: str, numbered_seconds: Path, tmp_path: Path) -> None:
    path = tmp_path / f"ten_hours.{ending}"
    strange_files.ffmpeg("-stream_loop", "140", "-i", numbered_seconds, "-c", "copy", path)
    read_before = bytes_read()
    with open_video(path) as video:
        info = video.info
        assert info.num_frames == 141 * 256
        assert info.duration == pytest.approx(141 * 256, abs=0.1)
        places = [start + 2 * step for start in (0, 12_001, 24_002, info.num_frames - 16) for step in range(8)]
        frames = video.frames(places, short_side=256)
    assert read_numbers(frames) == [place % 256 for place in places]
    assert bytes_read() - read_before < 4e6 < path.stat().st_size / 10
    path.unlink()
