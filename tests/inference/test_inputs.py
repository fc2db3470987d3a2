"""What the words of a command stand for."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from tests.support import refused
from vivit.inference.fetch import Url
from vivit.inference.inputs import check_one, find_inputs
from vivit.video.source import VideoError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty files under the names of videos, two folders of frames, and other files."""
    for name in ("b.mp4", "a.MOV", "deep/er/c.mkv", "deep/notes.txt", "deep/.hidden.mp4", "[x].mp4", "x.mp4", "@y.mp4"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clips" / name).touch()
    for number in range(3):
        for frames in ("frames", "clips/deep/shot"):
            (tmp_path / frames).mkdir(exist_ok=True)
            Image.new("RGB", (8, 8)).save(tmp_path / frames / f"{number}.png")
    (tmp_path / "frames" / "labels.txt").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


IN_CLIPS = ["@y.mp4", "[x].mp4", "a.MOV", "b.mp4", "deep/er/c.mkv", "deep/shot", "x.mp4"]


def found(*words: str, stdin: bytes = b"", urls: bool = False) -> tuple[list[str], list[str]]:
    """What the words stand for, and what is said."""
    said: list[str] = []
    return [str(video) for video in find_inputs(words, io.BytesIO(stdin), urls, said.append)], said


def test_folders_are_searched_and_told_from_folders_of_frames(folder: Path) -> None:
    videos, said = found("clips", "frames", "clips/")
    assert videos == [*(f"clips/{name}" for name in IN_CLIPS), "frames", *(f"clips/{name}" for name in IN_CLIPS)]
    assert all("1 .txt" in line for line in said) and len(said) == 2
    assert found("empty") == (["empty: holds no videos"], [])
    (folder / "empty" / "notes.txt").touch()
    assert found("empty")[0] == ["empty: holds no videos"]


def test_a_folder_of_videos_is_not_one_video_although_it_holds_a_picture(folder: Path) -> None:
    for one in ("frames", "empty", "clips/b.mp4", "nowhere", "-"):
        check_one(one)
    (folder / "clips" / "thumbnail.png").touch()
    refused(lambda: check_one("clips"), "clips: is a folder with 7 videos; give one video")


def test_patterns(folder: Path) -> None:
    assert found("clips/*.mp4")[0] == [f"clips/{name}" for name in ("@y.mp4", "[x].mp4", "b.mp4", "x.mp4")]
    assert found("clips/**/*.m*")[0] == [
        f"clips/{name}" for name in ("@y.mp4", "[x].mp4", "b.mp4", "deep/er/c.mkv", "x.mp4")
    ]
    videos, said = found("**")
    assert sorted(videos) == sorted([*(f"clips/{name}" for name in IN_CLIPS), "frames", "empty: holds no videos"])
    assert [line for line in said if ".txt" in line] == [line for line in said if line.startswith("clips: passed over")]
    assert any("clips/**/*t*: passed over 1 file" in line for line in found("clips/deep/*", "clips/**/*t*")[1])
    assert found("frames/*.png")[0] == [f"frames/{number}.png" for number in range(3)]
    assert found("*.avi", "fr?mes/*.gif")[0] == ["*.avi: matches no file", "fr?mes/*.gif: matches no file"]
    # The name of a file comes first.
    assert found("clips/[x].mp4")[0] == ["clips/[x].mp4"]
    assert found("clips/[ab].mp4")[0] == ["clips/b.mp4"]


def test_patterns_follow_no_links_to_folders_above(folder: Path) -> None:
    for link in ("up", "again"):
        (folder / "clips" / "deep" / link).symlink_to("..")
    below = ["clips/deep/er/c.mkv", "clips/deep/shot"]
    for pattern in ("clips/**/*", "**", "**/deep/**", "clips/de*"):
        videos, said = found(pattern)
        assert [video for video in videos if "deep" in video] == below
        assert any("links to a folder above: clips/deep/again" in line for line in said)
    everything = [f"{folder}/{path}" for path in [*(f"clips/{name}" for name in IN_CLIPS), "frames"]]
    assert sorted(found(f"{folder}/**/*")[0]) == sorted([*everything, f"{folder}/empty: holds no videos"])
    assert found("clips/deep/u?")[0] == ["clips/deep/u?: matches no video"]


@pytest.mark.parametrize("word", ["-", "@-", "@lists/videos.txt"])
def test_lists(folder: Path, word: str) -> None:
    text = b"\xef\xbb\xbfclips/b.mp4\r\n\r\n  \nframes\nempty/caf\xe9 .mp4\nclips/*.mp4\nhttp://h/x\nbeside.mp4\n-\nclips/x.mp4"
    (folder / "lists").mkdir()
    (folder / "lists" / "videos.txt").write_bytes(text)
    (folder / "lists" / "beside.mp4").touch()
    videos, _ = found(word, stdin=text, urls=True)
    beside = "lists/beside.mp4" if "lists" in word else "beside.mp4"
    odd = os.fsdecode(b"empty/caf\xe9 .mp4")
    assert videos == ["clips/b.mp4", "frames", odd, "clips/*.mp4", "http://h/x", beside, "-", "clips/x.mp4"]


def test_a_list_that_is_missing_or_empty_is_refused(folder: Path) -> None:
    refused(lambda: found("@nothing.txt"), "nothing.txt: cannot be read as a list")
    refused(lambda: found("@clips"), "clips: cannot be read as a list")
    refused(lambda: found("-", stdin=b"\n \r\n"), "stdin: lists no videos")
    refused(lambda: found("-", stdin=b"\0\0\0 ftypisom\n"), "stdin: is not a list of names")
    refused(lambda: found("@/dev/zero"), "/dev/zero: is not a list of names")
    # A file with such a name is a video.
    os.chdir("clips")
    assert found("@y.mp4")[0] == ["@y.mp4"]


def test_addresses_are_only_taken_if_allowed(folder: Path) -> None:
    words = ["https://u:secret@h/a.mp4", "HTTP://h/*.mp4?x", "s3://bucket/a.mp4", "file:///etc/passwd", "http:/x"]
    allowed = list(find_inputs(words, io.BytesIO(), True, print))
    assert allowed[:2] == [Url(words[0]), Url(words[1])]
    assert [str(one) for one in allowed[2:4]] == [
        "s3://bucket/a.mp4: only http and https URLs can be read",
        "file:///etc/passwd: only http and https URLs can be read",
    ]
    assert allowed[4] == Path("http:/x")
    refused_ = list(find_inputs(words[:2], io.BytesIO(), False, print))
    assert all(isinstance(one, VideoError) and "--allow-url" in str(one) for one in refused_)
    assert "secret" not in str(refused_[0])


def test_what_names_no_file(folder: Path) -> None:
    words = ("", "a\0b", "@a\0b", "a*\0")
    assert found(*words)[0] == [f"{word!r}: is not the name of a file".replace("\\\\", "\\") for word in words]
    assert found("missing.mp4")[0] == ["missing.mp4"]  # reading it says so
