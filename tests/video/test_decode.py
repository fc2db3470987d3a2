"""Compare decoding with numbers drawn into the frames, times worked out by hand, and decoding the whole file."""

import pickle
import struct
from bisect import bisect_right
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from av.bitstream import BitStreamFilterContext
from torch import Tensor

from tests.support import REAL_CLIPS, encode, numbered, read_numbers
from vivit.video.decode import open_video
from vivit.video.scaling import SCALING
from vivit.video.source import VideoError

B_FRAMES = {"bf": "3", "g": "250"}
FILES: dict[str, dict[str, Any]] = {
    "long_gop.mp4": {"options": B_FRAMES},
    "short_gop.mp4": {"options": {"bf": "2", "g": "12"}},
    "open_gop.mp4": {"options": {"bf": "3", "x264-params": "open-gop=1:keyint=20:min-keyint=20:scenecut=0"}},
    "b_frames.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "12"}},
    "long_gop.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "250"}},
    "h264.avi": {"options": {"bf": "2", "g": "25"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8", "g": "30"}},
    "vp8.webm": {"codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8", "g": "30"}},
    "live.webm": {
        "codec": "libvpx",
        "options": {"deadline": "realtime", "g": "30"},
        "container_options": {"live": "1"},
    },
    "h264.mkv": {"options": {"bf": "3", "g": "30"}},
    "h265.mp4": {"codec": "libx265", "options": {"preset": "ultrafast", "g": "30", "x265-params": "log-level=none"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}},
    "transport.ts": {"options": {"bf": "2", "g": "12"}},
    "fragmented.mp4": {
        "options": {"bf": "2", "g": "12"},
        "container_options": {"movflags": "frag_keyframe+empty_moov"},
    },
    "animated.gif": {"codec": "gif", "pixel_format": "rgb8"},
    "ten_bit.mp4": {"pixel_format": "yuv420p10le"},
    "four_four_four.mp4": {"pixel_format": "yuv444p"},
    "grey.mkv": {"codec": "ffv1", "pixel_format": "gray"},
    "with_sound.mp4": {"sound": 6.0},
    "with_sound.mkv": {"sound": 6.0},
    "with_sound.avi": {"codec": "mpeg4", "options": {"bf": "2"}, "sound": 6.0},
}


@pytest.fixture(scope="module", params=FILES)
def video_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 numbered frames at 25 per second."""
    return encode(tmp_path_factory.mktemp("videos") / request.param, 100, **FILES[request.param])


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_all_frames_in_turn(video_file: Path, count: int) -> None:
    with open_video(video_file) as video:
        parts = list(video.in_turn(count, short_side=48))
        assert [len(part) for part in parts[:-1]] == [count] * (len(parts) - 1)
        whole = video.frames(range(video.info.num_frames), short_side=48)
    assert torch.equal(torch.cat(parts), whole)


def test_frames_are_those_asked_for(video_file: Path) -> None:
    with open_video(video_file) as video:
        assert (video.info.width, video.info.height, video.info.rotation) == (64, 32, 0)
        assert video.info.frame_rate == pytest.approx(25, rel=0.01)
        assert video.info.num_frames == 100
        assert video.info.duration == pytest.approx(4.0, abs=0.05)
        for indices in (list(range(100)), [97, 3, 3, 60, 0, 99, 59, 60, 97], [0], [99], [50, 51], [51, 50], [98, 1]):
            assert read_numbers(video.frames(indices)) == indices


def test_every_single_frame_after_a_jump(video_file: Path) -> None:
    with open_video(video_file) as video:
        for index in (30, 14, 85, 19, 20, 21, 58, 59, 60, 61, 37, 99):
            assert read_numbers(video.frames([0, index])) == [0, index]


def test_first_request_in_the_middle(video_file: Path) -> None:
    for index in (47, 80):
        with open_video(video_file) as video:
            assert read_numbers(video.frames([index, index + 2])) == [index, index + 2]


def test_numbers_past_the_ends_give_the_first_and_the_last_frame(video_file: Path) -> None:
    with open_video(video_file) as video:
        assert read_numbers(video.frames([-1, -80, 100, 5, 250])) == [0, 0, 99, 5, 99]


TIMES = [0, 40, 80, 500, 520, 540, 560, 1200, 1233, 1240, 2000, 2400, 2440, 2480]


@pytest.mark.parametrize("start", [0, 700])
@pytest.mark.parametrize("name", ["variable.mp4", "variable.mkv", "variable.webm"])
def test_variable_rate_shows_what_is_on_screen(name: str, start: int, tmp_path: Path) -> None:
    vp8: dict[str, Any] = {"codec": "libvpx", "options": {"deadline": "realtime"}} if name.endswith("webm") else {}
    path = encode(tmp_path / name, len(TIMES), times=[start + time for time in TIMES], rate=10, **vp8)
    with open_video(path) as video:
        info = video.info
        assert 2.48 < info.duration < 2.9
        assert info.num_frames == round(info.duration * info.frame_rate) > 8
        grid = list(range(info.num_frames))
        expected = [bisect_right(TIMES, (k + 0.5) / info.frame_rate * 1000) - 1 for k in grid]
        assert read_numbers(video.frames(grid)) == expected
        assert read_numbers(video.frames(grid[::-1])) == expected[::-1]


# Four corners of a picture in four colours.
CORNERS = np.zeros((48, 64, 3), np.uint8)
CORNERS[:24, :32], CORNERS[:24, 32:], CORNERS[24:, :32], CORNERS[24:, 32:] = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
)


def corners(picture: Tensor) -> list[str]:
    """Colours of the corners of a (3, H, W) picture: top left, top right, bottom left, bottom right."""
    names = {(True, False, False): "red", (False, True, False): "green", (False, False, True): "blue"}
    height, width = picture.shape[1:]
    points = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    colours = [(picture[:, y, x] > 127).tolist() for y, x in points]
    return [names.get((r, g, b), "white") for r, g, b in colours]


@pytest.mark.parametrize("short_side", [None, 24])
@pytest.mark.parametrize(
    ("turned", "shown"),
    [
        (0, ["red", "green", "blue", "white"]),
        (-90, ["blue", "red", "white", "green"]),  # clockwise, as a phone held upright writes it
        (180, ["white", "blue", "green", "red"]),
        (90, ["green", "white", "red", "blue"]),
    ],
)
def test_rotation(turned: int, shown: list[str], short_side: int | None, tmp_path: Path) -> None:
    path = encode(tmp_path / "turned.mp4", [CORNERS] * 5, rotation=turned)
    with open_video(path) as video:
        assert video.info.rotation == turned % 360
        assert (video.info.width, video.info.height) == ((48, 64) if turned in (90, -90) else (64, 48))
        (picture,) = video.frames([2], short_side)
    assert corners(picture) == shown
    least = short_side or 48
    assert tuple(picture.shape[1:]) == ((least * 4 // 3, least) if turned in (90, -90) else (least, least * 4 // 3))


def test_rotation_by_the_matrix_of_the_file_format(tmp_path: Path) -> None:
    """x' = a·x + c·y, y' = b·x + d·y with y downwards: (0, 1, −1, 0) sends right to down, which is clockwise."""
    path = encode(tmp_path / "phone.mp4", [CORNERS] * 5)
    data = path.read_bytes()
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    at = data.index(identity, data.index(b"tkhd"))
    path.write_bytes(data[:at] + clockwise + data[at + len(identity) :])
    with open_video(path) as video:
        assert corners(video.frames([0])[0]) == ["blue", "red", "white", "green"]


@pytest.mark.parametrize(("codec", "name"), [("libvpx-vp9", "odd.webm"), ("ffv1", "odd.mkv"), ("libx264", "odd.mp4")])
def test_odd_sizes(codec: str, name: str, tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 33).astype(np.uint8)[None, :, None].repeat(17, 0).repeat(3, 2)
    pixel_format = "yuv444p" if codec == "libx264" else "yuv420p"
    with open_video(encode(tmp_path / name, [ramp] * 3, codec=codec, pixel_format=pixel_format)) as video:
        assert (video.info.width, video.info.height) == (33, 17)
        (picture,) = video.frames([1])
        assert picture.shape == (3, 17, 33)
        assert (picture.permute(1, 2, 0).float() - torch.from_numpy(ramp).float()).abs().mean() < 6
        assert video.frames([1], short_side=8).shape == (1, 3, 8, 16)


@pytest.mark.parametrize("name", ["one.mp4", "one.mkv", "one.avi", "one.gif"])
def test_one_frame(name: str, tmp_path: Path) -> None:
    special = {"one.gif": ("gif", "rgb8"), "one.avi": ("mpeg4", "yuv420p")}
    codec, pixel_format = special.get(name, ("libx264", "yuv420p"))
    with open_video(encode(tmp_path / name, [numbered(77)], codec=codec, pixel_format=pixel_format)) as video:
        assert video.info.num_frames == 1
        assert video.info.duration > 0
        assert read_numbers(video.frames([0, 0, 3])) == [77] * 3


@pytest.mark.parametrize("milliseconds", range(1600, 2000, 40))
def test_end_trimmed_between_b_frames(milliseconds: int, tmp_path: Path) -> None:
    """The edit list ends there, so that later packets are decoded but not shown."""
    path = encode(tmp_path / "trimmed.mp4", 60, options={"bf": "3", "g": "250", "x264-params": "b-pyramid=none"})
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12  # past version, flags and the number of entries, to the first one's duration
    assert int.from_bytes(data[at : at + 4], "big") == 2400
    data[at : at + 4] = milliseconds.to_bytes(4, "big")
    path.write_bytes(data)
    with open_video(path) as video:
        every = read_numbers(video.frames(range(video.info.num_frames)))
    for index in range(video.info.num_frames - 5, video.info.num_frames):
        with open_video(path) as video:
            assert read_numbers(video.frames([index])) == [every[index]]


def test_frames_of_one_time_count_as_one(tmp_path: Path) -> None:
    with open_video(encode(tmp_path / "still.mkv", 3, times=[0, 0, 0], codec="ffv1")) as video:
        assert (video.info.num_frames, video.info.duration) == (1, 0.04)


def test_file_that_cannot_be_sought_in(tmp_path: Path) -> None:
    path = encode(tmp_path / "raw.h264", 100)
    with open_video(path) as video:
        assert video.frames([10, 2]).shape == (2, 3, 32, 64)
        assert read_numbers(video.frames([0])) == [0]


@pytest.mark.parametrize("shrink", [2.0, 4.2])
def test_short_side_is_an_antialiased_resize(shrink: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # As smooth as photographs: kernels of equal width differ on finer detail.
    coarse = torch.from_numpy(rng.random((1, 3, 6, 8), np.float32) * 160)
    smooth = F.interpolate(coarse, (126, 168), mode="bicubic")[0] + torch.linspace(0, 95, 168)
    picture = smooth.clamp(0, 255).round().byte().permute(1, 2, 0).numpy()
    path = encode(tmp_path / "smooth.mp4", [picture] * 3, options={"crf": "12"})
    size = round(126 / shrink), round(168 / shrink)
    with open_video(path) as video:
        scaled = video.frames([1], short_side=size[0])
    reference = F.interpolate(smooth[None].clamp(0, 255), size, mode="bilinear", antialias=True)
    assert scaled.shape == (1, 3, *size)
    assert (scaled.float() - reference).abs().mean() <= 2
    assert (scaled.float() - reference).mean().abs() <= 0.5


def test_short_side_may_enlarge(tmp_path: Path) -> None:
    with open_video(encode(tmp_path / "small.mp4", 10)) as video:
        frames = video.frames([7, 2], short_side=80)
    assert frames.shape == (2, 3, 80, 160)
    assert read_numbers(frames) == [7, 2]


def test_repeated_frames_do_not_fraction_memory(tmp_path: Path) -> None:
    with open_video(encode(tmp_path / "v.mp4", 5)) as video:
        frames = video.frames([3, 3])
    frames[0].zero_()
    assert frames[1].max() > 200


def error_of(path: Path) -> str:
    with pytest.raises(VideoError) as caught, open_video(path) as video:
        video.frames([0])
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) > len(f"{path}: ") + 5
    return message.removeprefix(f"{path}: ")


def test_missing(tmp_path: Path) -> None:
    assert "no such file" in error_of(tmp_path / "nowhere.mp4")


def test_folder(tmp_path: Path) -> None:
    assert "holds no pictures" in error_of(tmp_path)


def test_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    assert "empty" in error_of(path)


@pytest.mark.parametrize("name", ["text.mp4", "text.avi", "text.mkv", "text.gif"])
def test_text_with_another_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("This is not a video.\n" * 50)
    error_of(path)


def test_sound_alone(tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        assert isinstance(stream, av.AudioStream)
        for block in range(20):
            silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            silence.sample_rate, silence.pts = 48000, block * 1024
            container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    assert "no video" in error_of(path)


def cut(path: Path, fraction: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


def test_cut_off_before_its_index(tmp_path: Path) -> None:
    assert "cut off or damaged" in error_of(cut(encode(tmp_path / "cut.mp4", 100), 0.6))


def test_cut_off_within_its_frames(tmp_path: Path) -> None:
    path = encode(tmp_path / "cut.mp4", 200, container_options={"movflags": "faststart"}, options={"g": "12"})
    with open_video(cut(path, 0.6)) as video:
        assert video.info.num_frames == 200
        assert read_numbers(video.frames([5, 0, 20])) == [5, 0, 20]
        with pytest.raises(VideoError, match=r"only its first \d\.\d s can be decoded, of at least 8\.0") as caught:
            video.frames([3, 199])
        assert str(caught.value).startswith(f"{path}: ")
        first = float(str(caught.value).split("first ")[1].split()[0])
        assert 1 < first < 7
        assert read_numbers(video.frames([5, round(first * 25) - 5])) == [5, round(first * 25) - 5]


def test_cut_off_matroska_is_as_long_as_its_rest(tmp_path: Path) -> None:
    with open_video(cut(encode(tmp_path / "cut.mkv", 200, options={"g": "12"}), 0.6)) as video:
        count = video.info.num_frames
        assert 40 < count < 180
        assert read_numbers(video.frames([7, 40, 0])) == [7, 40, 0]
        assert abs(read_numbers(video.frames([count - 1]))[0] - (count - 1)) <= 4


def test_damage_in_the_middle_is_passed_over(tmp_path: Path) -> None:
    path = encode(tmp_path / "damaged.mkv", 200, options={"g": "12", "bf": "0"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = bytes(300)
    path.write_bytes(data)
    with open_video(path) as video:
        assert read_numbers(video.frames([5, 190, 20])) == [5, 190, 20]


def test_error_survives_pickling() -> None:
    error = VideoError(Path("a/b.mp4"), "is empty")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is VideoError
    assert str(again) == str(pickle.loads(pickle.dumps(again))) == "a/b.mp4: is empty"


def with_colour_space(number: int, path: Path) -> Path:
    """A video of ten numbered frames in MPEG-2 that says that its colours are those of this space."""
    plain = encode(path.with_name("plain.mpg"), 10, codec="mpeg2video")
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        change = BitStreamFilterContext(f"mpeg2_metadata=matrix_coefficients={number}", stream, copy)
        for packet in source.demux(stream):
            for changed in change.filter(packet) if packet.size else ():
                changed.stream = copy
                target.mux(changed)
    return path


@pytest.mark.parametrize("number", [3, 99, 255])
def test_a_colour_space_without_a_meaning_is_as_good_as_none(number: int, tmp_path: Path) -> None:
    path = with_colour_space(number, tmp_path / "x.mpg")
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).colorspace == number
    with open_video(path) as video, open_video(tmp_path / "plain.mpg") as plain:
        assert torch.equal(video.frames(range(10), short_side=20), plain.frames(range(10), short_side=20))
        assert read_numbers(video.frames(range(10))) == list(range(10))


def test_a_colour_space_that_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    path = with_colour_space(8, tmp_path / "x.mpg")  # YCgCo
    with pytest.raises(VideoError, match=rf"^{path}: a frame of it cannot be converted to RGB"):
        open_video(path).frames([0])


@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="no real clips beside the checkout")
@pytest.mark.parametrize("name", ["arm_wrestling.mp4", "dog.mp4", "full_hd.mp4", "goat.mp4", "mpeg4_with_audio.avi"])
def test_real_clip_as_plain_decoding_has_it(name: str) -> None:
    with av.open(str(REAL_CLIPS / name)) as container:
        stream = container.streams.video[0]
        plain = list(container.decode(stream))
        tick, rate = stream.time_base, float(stream.average_rate or 0)
    if name.endswith(".avi"):  # has no presentation times, but an even rate
        times = [number / rate for number in range(len(plain))]
    else:
        assert tick is not None
        times = [float((frame.pts or 0) * tick) for frame in plain]
    with open_video(REAL_CLIPS / name) as video:
        info = video.info
        rng = np.random.default_rng(0)
        indices = [*rng.integers(0, info.num_frames, 6).tolist(), 0, info.num_frames - 1]
        frames = video.frames(indices)
    assert abs(info.num_frames - len(plain)) <= 1
    for index, frame in zip(indices, frames, strict=True):
        number = bisect_right(times, times[0] + (index + 0.5) / info.frame_rate) - 1
        expected = plain[number].reformat(info.width, info.height, "rgb24", interpolation=SCALING).to_ndarray()
        assert np.array_equal(frame.permute(1, 2, 0).numpy(), expected), (index, number)
