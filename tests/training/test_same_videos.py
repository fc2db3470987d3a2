"""A run notices that a video has changed, though its name and size have not."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import refused
from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.data.manifest import data_hash
from vivit.evaluation.score import _key
from vivit.inference.views import Views
from vivit.labels import LabelSpace
from vivit.training import same_videos
from vivit.training.same_videos import compare_videos, note_videos
from vivit.video.source import InShard

LENGTH = 50_000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three files, a folder of three pictures and a shard of two videos; none is a real one."""
    folder = tmp_path / "data"
    (folder / "frames").mkdir(parents=True)
    for name in ("a.mp4", "b.mp4", "c.mp4", "frames/1.png", "frames/2.png", "frames/10.png", "shard.tar"):
        (folder / name).write_bytes(name.encode() * (LENGTH // len(name)))
    return folder


def videos(data: Path) -> VideoSet:
    members = [InShard(str(data / "shard.tar"), f"{number}.mp4", 20_000 * number, 20_000) for number in (0, 1)]
    files = [data / name for name in ("a.mp4", "b.mp4", "c.mp4", "frames")]
    sources: list[Path | InShard] = [*files, *members]
    labelled = tuple(LabelledVideo(source, {"classes": ("run",)}) for source in sources)
    return VideoSet(labelled, LabelSpace({"classes": ("run", "walk")}), "videos of a test")


def flip(path: Path, position: int = LENGTH // 2) -> None:
    """Change one byte; the size and the time of the last change stay."""
    status = os.stat(path)
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_picture(data: Path) -> None:
    """A new file takes the place of a frame, as an editor writes it; it is as large and as old."""
    new = data / "frames/new"
    shutil.copy2(data / "frames/2.png", new)
    flip(new)
    new.rename(data / "frames/2.png")


def swap(one: Path, other: Path) -> None:
    aside = one.rename(one.with_name("aside"))
    other.rename(one)
    aside.rename(other)


EDITS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a byte in the middle": (lambda data: flip(data / "b.mp4"), r"1 video changed .*b\.mp4;"),
    "the last byte": (lambda data: flip(data / "c.mp4", LENGTH - 6), r"1 video changed .*c\.mp4;"),
    "a frame replaced": (replace_picture, r"1 video changed .*data/frames;"),
    "frames swapped": (
        lambda data: swap(data / "frames/1.png", data / "frames/2.png"),
        "1 video changed .*data/frames;",
    ),
    "files swapped": (lambda data: swap(data / "a.mp4", data / "b.mp4"), r"2 videos changed .*a\.mp4, .*b\.mp4;"),
    "a video in a shard": (lambda data: flip(data / "shard.tar", 25_000), r"1 video changed .*shard\.tar/1\.mp4;"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_that_keeps_names_and_sizes_is_noticed(edit: str, data: Path, tmp_path: Path) -> None:
    note, before = tmp_path / "videos.json", videos(data)
    note_videos(note, [before])
    hashed, key = data_hash(before), _key("model", "f32", before, "data", Views(), "pyav")
    change, pattern = EDITS[edit]
    change(data)
    after = videos(data)
    assert data_hash(after) == hashed
    refused(lambda: compare_videos(note, [after], tmp_path / "run", print), pattern, "tmp|run: ")
    assert _key("model", "f32", after, "data", Views(), "pyav") != key  # an unfinished evaluation starts anew


def test_the_same_content_with_other_times_is_said_but_not_refused(data: Path, tmp_path: Path) -> None:
    note, said = tmp_path / "videos.json", list[str]()
    note_videos(note, [videos(data)])
    compare_videos(note, [videos(data)], tmp_path / "run", said.append)
    assert said == []
    assert _key("m", "f32", videos(data), "d", Views(), "pyav") == _key("m", "f32", videos(data), "d", Views(), "pyav")
    os.utime(data / "a.mp4")
    compare_videos(note, [videos(data)], tmp_path / "run", said.append)
    assert len(said) == 1
    assert "1 video written again" in said[0]
    assert "data/a.mp4" in said[0]


@pytest.mark.parametrize(
    "content",
    [
        *("", "null", "[]", "[" * 10**5, '{"times": "x", "files": []}', '{"times": "x", "files": {"a.mp4": null}}'),
        *('{"times": "x", "files": {"a.mp4": []}}', '{"times": "x", "files": {"a.mp4": 5}}'),
        '{"times": "x", "files": {"a.mp4": {"size": 1}}}',
    ],
)
def test_a_damaged_note_is_refused(content: str, data: Path, tmp_path: Path) -> None:
    note = tmp_path / "videos.json"
    note.write_text(content)
    refused(lambda: compare_videos(note, [videos(data)], tmp_path / "run", print), "videos.json: damaged; delete it")


def test_data_that_was_copied_elsewhere_is_the_same(data: Path, tmp_path: Path) -> None:
    note, said = tmp_path / "videos.json", list[str]()
    note_videos(note, [replace(videos(data), videos=videos(data).videos[:4])])
    copied = videos(shutil.copytree(data, tmp_path / "elsewhere/copy"))
    copied = replace(copied, videos=copied.videos[:4])
    compare_videos(note, [copied], tmp_path / "run", said.append)
    assert "4 videos written again" in said[0]
    flip(tmp_path / "elsewhere/copy/c.mp4")
    refused(lambda: compare_videos(note, [copied], tmp_path / "run", print), "1 video changed")


def test_large_files_are_compared_in_places_and_many_by_their_times_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(same_videos, "sample_size", lambda count: 12_000)
    note, said = tmp_path / "videos.json", list[str]()
    note_videos(note, [videos(data)])
    flip(data / "a.mp4", 10_000)  # between the places
    compare_videos(note, [videos(data)], tmp_path / "run", said.append)
    assert "the compared content is the same" in said[0]
    for position in (0, LENGTH // 2, LENGTH - 6):
        flip(data / "b.mp4", position)
        refused(lambda: compare_videos(note, [videos(data)], tmp_path / "run", print), "1 video changed")
        flip(data / "b.mp4", position)
    monkeypatch.setattr(same_videos, "MOST_NOTED", 3)
    note_videos(note, [videos(data)])
    assert "a.mp4" not in note.read_text()
    compare_videos(note, [videos(data)], tmp_path / "run", said.append)
    assert len(said) == 1
    flip(data / "b.mp4")
    compare_videos(note, [videos(data)], tmp_path / "run", said.append)
    assert "some of its videos were written again" in said[1]


def test_a_run_without_a_note_goes_on_and_a_damaged_note_is_named(data: Path, tmp_path: Path) -> None:
    note = tmp_path / "videos.json"
    compare_videos(note, [videos(data)], tmp_path / "run", print)
    for damage in ("", "null", "[1]", '{"times": 1}', "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")):
        note.write_text(damage, encoding="latin-1")
        refused(lambda: compare_videos(note, [videos(data)], tmp_path / "run", print), "videos.json: damaged")


def test_a_video_that_is_gone_or_unreadable_is_noted_too(data: Path, tmp_path: Path) -> None:
    (data / "a.mp4").unlink()
    note = tmp_path / "videos.json"
    note_videos(note, [videos(data)])
    compare_videos(note, [videos(data)], tmp_path / "run", print)
    (data / "a.mp4").write_bytes(b"It is there now.")
    refused(lambda: compare_videos(note, [videos(data)], tmp_path / "run", print), r"a\.mp4")
