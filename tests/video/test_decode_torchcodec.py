"""Compare torchcodec with PyAV, and both with the numbers drawn into the frames."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import REAL_CLIPS, encode, read_numbers
from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.data.loader import TrainingClips, training_batches
from vivit.data.order import Order
from vivit.errors import UserError
from vivit.labels import LabelSpace
from vivit.video.augment import Augmentation
from vivit.video.clips import ClipSpec
from vivit.video.decode import ReadOptions, open_video
from vivit.video.source import InShard, VideoError


def _why_not() -> str:
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        return f"torchcodec cannot be used: {str(error).strip().splitlines()[0]}"
    return ""


WHY_NOT = _why_not()
needs_torchcodec = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

FILES: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": {"bf": "3", "g": "30"}},
    "long_gop.mov": {"options": {"bf": "3", "g": "250"}},
    "open_gop.mp4": {"options": {"bf": "3", "x264-params": "open-gop=1:keyint=20:min-keyint=20:scenecut=0"}},
    "h264.mkv": {"options": {"bf": "3", "g": "30"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8", "g": "30"}},
    "hevc.mp4": {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": "log-level=none"}},
    "ten_bit.mp4": {"pixel_format": "yuv420p10le"},
    "with_sound.mkv": {"sound": 6.0},
    "variable.mp4": {"times": [n * n * 3 for n in range(60)], "rate": 10},
    "late.mkv": {"times": [5000 + n * 40 for n in range(60)], "rate": 25},
    "turned.mp4": {"rotation": -90},
    # torchcodec finds other frames in these, so PyAV still reads them.
    "h264.ts": {"options": {"bf": "2", "g": "12"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "bare.h264": {},
}


@needs_torchcodec
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("short_side", [None, 16])
def test_frames_are_those_of_pyav(name: str, short_side: int | None, tmp_path: Path) -> None:
    path = encode(tmp_path / name, 60, **FILES[name])
    with open_video(path) as plain, open_video(path, "torchcodec") as other:
        assert other.info == plain.info
        count = plain.info.num_frames
        indices = [count - 1, 0, 7, 7, count // 2, count + 5]
        expected, found = plain.frames(indices, short_side), other.frames(indices, short_side)
        assert found.shape == expected.shape
        assert found.dtype == torch.uint8
        if name != "turned.mp4":
            assert read_numbers(found) == read_numbers(expected)
        assert (found.float() - expected.float()).abs().mean() <= 2


@needs_torchcodec
@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="no real clips beside the checkout")
@pytest.mark.parametrize("name", ["arm_wrestling.mp4", "dog.mp4", "full_hd.mp4", "goat.mp4", "multi_shot.mp4"])
@pytest.mark.parametrize("short_side", [None, 128])
def test_real_clips_are_those_of_pyav(name: str, short_side: int | None) -> None:
    with open_video(REAL_CLIPS / name) as plain, open_video(REAL_CLIPS / name, "torchcodec") as other:
        indices = [plain.info.num_frames - 1, 3, plain.info.num_frames // 2]
        expected, found = plain.frames(indices, short_side), other.frames(indices, short_side)
    assert found.shape == expected.shape
    # They round differently; neighbouring frames differ by more.
    assert (found.float() - expected.float()).abs().mean() <= 2


@needs_torchcodec
def test_video_in_a_shard(tmp_path: Path) -> None:
    content = encode(tmp_path / "a.mp4", 30).read_bytes()
    shard = tmp_path / "shard"
    shard.write_bytes(b"x" * 100 + content + b"y" * 50)
    with open_video(InShard(str(shard), "a.mp4", 100, len(content)), "torchcodec") as video:
        assert read_numbers(video.frames([29, 4])) == [29, 4]


@needs_torchcodec
def test_a_file_that_breaks_off_is_one_line(tmp_path: Path) -> None:
    path = encode(tmp_path / "cut.mp4", 200, container_options={"movflags": "faststart"}, options={"g": "12"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with open_video(path, "torchcodec") as video, pytest.raises(VideoError) as caught:
        video.frames([3, 199])
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@needs_torchcodec
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_the_decoder(workers: int, tmp_path: Path) -> None:
    videos = [LabelledVideo(encode(tmp_path / f"{n}.mp4", 40), {"classes": ("abcd"[n],)}) for n in range(4)]
    data = VideoSet(tuple(videos), LabelSpace({"classes": tuple("abcd")}), "a test")
    spec = ClipSpec(num_frames=4, stride=3, size=(32, 64), resize=32)

    def batches(decoder: str) -> list[list[int]]:
        options = ReadOptions("torchcodec" if decoder == "torchcodec" else "pyav", workers=workers)
        clips = TrainingClips(data, spec, 3, Augmentation(flip=0.0), options)
        return [read_numbers(clip) for batch in training_batches(clips, Order(2, range(4))) for clip in batch.clips]

    assert batches("torchcodec") == batches("pyav")


def test_without_a_gpu_nvdec_is_refused(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="decoder: "):
        open_video(encode(tmp_path / "a.mp4", 5), "nvdec")


@pytest.mark.skipif(not torch.cuda.is_available() or bool(WHY_NOT), reason="no NVIDIA GPU, or no torchcodec")
@pytest.mark.parametrize("short_side", [None, 128])
def test_nvdec_gives_the_frames_of_pyav(short_side: int | None, tmp_path: Path) -> None:
    # NVDEC cannot decode pictures as small as in the other tests.
    pictures = [torch.full((256, 512, 3), number * 4, dtype=torch.uint8).numpy() for number in range(60)]
    path = encode(tmp_path / "a.mp4", pictures, options={"bf": "3", "g": "30"})
    with open_video(path) as plain, open_video(path, "nvdec") as other:
        expected, found = plain.frames([59, 0, 31], short_side), other.frames([59, 0, 31], short_side)
    assert not found.is_cuda
    assert found.shape == expected.shape
    assert (found.float() - expected.float()).abs().mean() <= 2
