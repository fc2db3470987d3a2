"""Which files and links in class folders are taken as videos, and what is said of the others."""

import os
import shutil
import socket
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import encode
from tests.video.strange_files import ffmpeg
from vivit.data.readers import folders as folders_module
from vivit.data.readers.folders import find_videos, in_words
from vivit.data.readers.listing import open_data
from vivit.data.readers.lists import LISTS
from vivit.errors import UserError
from vivit.video.decode import open_video

CODECS = {
    **dict.fromkeys(("mp4", "mkv", "flv", "mov", "h264"), "libx264"),
    **dict.fromkeys(("ts", "mts", "m2ts", "vob", "m2v", "mxf"), "mpeg2video"),
    **dict.fromkeys(("avi", "nut", "m4v"), "mpeg4"),
    **{"asf": "msmpeg4", "webm": "libvpx", "ivf": "libvpx", "rm": "rv10", "mpg": "mpeg1video", "gif": "gif"},
    **{"ogv": "libtheora", "hevc": "libx265", "y4m": "rawvideo"},
}


@pytest.fixture(scope="module")
def of_each_kind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same video in every container that ffmpeg writes here, named NAME.mp4 and so on."""
    folder = tmp_path_factory.mktemp("kinds")
    source = encode(folder / "source.nut", 20, codec="mpeg4")
    for ending, codec in CODECS.items():
        ffmpeg(
            "-i", source, "-pix_fmt", "rgb8" if ending == "gif" else "yuv420p", "-c:v", codec, folder / f"x.{ending}"
        )
    source.unlink()
    return folder


def test_every_kind_is_found_by_its_extension_and_without_one(of_each_kind: Path, tmp_path: Path) -> None:
    for number, ending in enumerate(CODECS):
        video = of_each_kind / f"x.{ending}"
        names = (f"{ending}.{ending.upper()}", f"no_{ending}", f"take.{number:04d}", f"{ending}.dat", f"{ending}.x y z")
        for name in names:
            os.link(video, tmp_path / name)
    found = find_videos(tmp_path)
    assert len(found.videos) == 5 * len(CODECS)
    assert not found.passed_over
    for path in found.videos:
        with open_video(path) as opened:  # what is found can be read
            assert opened.info.height == 32


def test_what_is_no_video_is_passed_over_and_said(
    tmp_path: Path, of_each_kind: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = of_each_kind / "x.mp4"
    for name in ("a.mp4.part", "b.MP4~", ".hidden.mp4", "._a.mp4", "d.mp4.1"):
        os.link(real, tmp_path / name)
    (tmp_path / "README").write_text("Text in UTF-8: größer.")
    (tmp_path / "labels.json").touch()
    (tmp_path / "empty").touch()
    for name in ("Thumbs.db", ".DS_Store"):
        (tmp_path / name).write_bytes(b"\0\1\2")
    (tmp_path / "noise.bin").write_bytes(np.random.default_rng(0).bytes(20_000))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    for form in ("png", "jpeg", "bmp", "tiff", "webp"):
        picture.save(tmp_path / f"picture_{form}", form)
    picture.save(tmp_path / "cover.png")
    sound = tmp_path / "sound.wav"
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", sound)
    ffmpeg(*("-i", sound, "-i", tmp_path / "cover.png", "-map", "0", "-map", "1", "-disposition:v", "attached_pic"),
           *("-f", "mp3", tmp_path / "song"))  # fmt: skip
    os.mkfifo(tmp_path / "pipe.mp4")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the name of a socket must be short
        server.bind("socket.mp4")
    (tmp_path / "lost").symlink_to("nowhere")
    found = find_videos(tmp_path)
    assert found.videos == []
    assert found.passed_over == Counter(
        {
            "without an extension": 8,
            "pipe, socket or device": 3,
            **dict.fromkeys((".mp4.part", ".mp4~", ".mp4.1", "hidden .mp4", ".json", ".bin", ".png", ".wav"), 1),
            "broken link": 1,
        }
    )
    assert in_words(found.passed_over).startswith("passed over 20 files that are not videos: 8 without an extension, 3")


def test_folders_of_systems_are_no_classes_and_hold_no_videos(of_each_kind: Path, tmp_path: Path) -> None:
    picture = Image.fromarray(np.zeros((32, 32, 3), np.uint8))
    for parent in (tmp_path, tmp_path / "run", tmp_path / "jump"):
        for name in ("@eaDir", "$RECYCLE.BIN", "__MACOSX", "lost+found"):
            (parent / name / "1.mp4").mkdir(parents=True)
            picture.save(parent / name / "1.mp4" / "SYNOVIDEO_VIDEO_SCREENSHOT.jpg")
            shutil.copy(of_each_kind / "x.mp4", parent / name / "2.mp4")
    for name in ("run", "jump"):
        shutil.copy(of_each_kind / "x.mp4", tmp_path / name / "1.mp4")
    found = open_data(tmp_path)
    assert sorted(str(video.source) for video in found.videos) == [
        str(tmp_path / "jump/1.mp4"),
        str(tmp_path / "run/1.mp4"),
    ]
    assert (found.labels.classes, found.remarks) == ({"classes": ("jump", "run")}, ())


def test_a_file_that_cannot_be_opened_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> bool:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(folders_module, "holds_video", refuse)
    (tmp_path / "secret").write_bytes(b"\0")
    assert "without an extension that cannot be opened (Permission denied)" in in_words(
        find_videos(tmp_path).passed_over
    )


def test_few_of_many_files_of_a_kind_are_opened_unless_they_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def look(path: str) -> bool:
        opened.append(path)
        return path.endswith((".vid", "7.mix"))

    monkeypatch.setattr(folders_module, "holds_video", look)
    monkeypatch.setattr(folders_module, "TELLING", 10)
    for number in range(100):
        for ending in ("vid", "log2", "mix"):
            (tmp_path / f"{number}.{ending}").touch()
    found = find_videos(tmp_path)
    assert Counter(Path(path).suffix for path in found.videos) == {".vid": 100, ".mix": 10}
    assert found.passed_over == {".log2": 100, ".mix": 90}
    counts = Counter(Path(path).suffix for path in opened)
    assert counts[".mix"] == 100
    assert counts[".vid"] <= 10
    assert counts[".log2"] <= 10


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found_in(data: Path) -> set[tuple[str, str, str]]:
    """The path relative to the data, class and split of each video."""
    videos = open_data(data).videos
    found = [(os.path.relpath(str(v.source), data), v.labels["classes"][0], v.split) for v in videos]
    assert len(set(found)) == len(found)
    return set(found)


def test_links_lead_neither_above_a_class_folder_nor_to_another_class(tmp_path: Path) -> None:
    data = touch(tmp_path / "data", "run/1.mp4", "run/deep/2.mp4", "walk/3.mp4", "walk/slow/4.mp4")
    elsewhere = touch(tmp_path / "disk", "5.mp4", "more/6.mp4")
    links: dict[str, str | Path] = {
        "run/parent": "..",
        "run/root": "/",
        "run/here": ".",
        "run/deep/up": "../..",
        "run/walk": data / "walk",
        "run/slow": "../walk/slow",
        "everything": ".",
        "run/disk": elsewhere,
        "run/again": "deep",
        "run/7.mp4": elsewhere / "5.mp4",
    }
    for name, target in links.items():
        (data / name).symlink_to(target)
    (elsewhere / "more/back").symlink_to(data / "run")
    (elsewhere / "more/loop").symlink_to(elsewhere)
    assert found_in(data) == {
        ("run/1.mp4", "run", ""),
        ("run/again/2.mp4", "run", ""),
        ("run/disk/5.mp4", "run", ""),
        ("run/disk/more/6.mp4", "run", ""),
        ("run/7.mp4", "run", ""),
        ("walk/3.mp4", "walk", ""),
        ("walk/slow/4.mp4", "walk", ""),
    }
    assert any(
        f"did not follow 8 links to a folder above or of another class: {data}/everything" in line
        for line in open_data(data).remarks
    )


def test_splits_and_classes_that_are_links_into_one_pool(tmp_path: Path) -> None:
    pool = touch(tmp_path / "pool", "a/1.mp4", "a/2.mp4", "b/3.mp4", "b/4.mp4", "long/5.mp4")
    data = tmp_path / "data"
    for split, name, file in (("train", "a", "1"), ("val", "a", "2"), ("train", "b", "3")):
        (data / split / name).mkdir(parents=True)
        (data / split / name / f"{file}.mp4").symlink_to(pool / name / f"{file}.mp4")
    (data / "val/b").symlink_to(pool / "b")
    (data / "train/a/long").symlink_to(pool / "long")
    assert found_in(data) == {
        ("train/a/1.mp4", "a", "train"),
        ("train/a/long/5.mp4", "a", "train"),
        ("train/b/3.mp4", "b", "train"),
        ("val/a/2.mp4", "a", "val"),
        ("val/b/3.mp4", "b", "val"),
        ("val/b/4.mp4", "b", "val"),
    }
    assert open_data(data).remarks == ()


def test_videos_beside_the_class_folders_are_said(tmp_path: Path) -> None:
    touch(tmp_path, "run/1.mp4", "walk/2.mp4", "extra.mp4", "notes.txt")
    assert open_data(tmp_path).remarks == (f"passed over 1 video in no class folder: {tmp_path}/extra.mp4",)
    touch(tmp_path, "train/run/1.mp4", "train/walk/2.mp4", "train/lost.mkv")
    remarks = open_data(tmp_path).remarks
    assert f"passed over 2 videos in no class folder: {tmp_path}/extra.mp4, {tmp_path}/train/lost.mkv" in remarks
    assert f"passed over 2 folders beside those of the splits: {tmp_path}/run, {tmp_path}/walk" in remarks


def test_a_folder_without_videos_says_what_it_holds(tmp_path: Path) -> None:
    touch(tmp_path, "run/1.txt", "walk/2.txt", "walk/3.part")
    with pytest.raises(UserError, match=r"3 files that are not videos: 2 \.txt, 1 \.part"):
        open_data(tmp_path)


def test_no_list_is_taken_for_a_video() -> None:
    assert not any(folders_module.is_named_video(f"list{ending}") for ending in LISTS)
