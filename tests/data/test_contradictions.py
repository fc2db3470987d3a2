"""Videos with two labels, however they come to have them, are told before a run."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vivit.data import contradictions as contradictions_module
from vivit.data.contradictions import likely_contradictions, say_contradictions
from vivit.data.readers.listing import open_data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes of three files and a folder of frames; all files have the same size, and none is a real video."""
    rng, root = np.random.default_rng(0), tmp_path / "data"
    for name in ("run/1.mp4", "run/2.mp4", "run/frames/1.png", "run/frames/2.png", "walk/3.mp4", "walk/4.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(rng.bytes(60_000))
    return root


def pairs(data: Path) -> list[tuple[str, str]]:
    found = likely_contradictions(open_data(data).videos)
    return [(str(a.source.relative_to(data)), str(b.source.relative_to(data))) for a, b in found]  # type: ignore[union-attr]


WAYS: dict[str, Callable[[Path], object]] = {
    "copy": lambda data: shutil.copy(data / "run/1.mp4", data / "walk/x.mp4"),
    "hard link": lambda data: os.link(data / "run/1.mp4", data / "walk/x.mp4"),
    "link": lambda data: (data / "walk/x.mp4").symlink_to("../run/1.mp4"),
    "copy of frames": lambda data: shutil.copytree(data / "run/frames", data / "walk/x"),
    "link into a class": lambda data: (data / "sprint").symlink_to("run"),
}


@pytest.mark.parametrize("way", WAYS)
def test_one_content_under_two_classes(way: str, data: Path) -> None:
    assert pairs(data) == []
    WAYS[way](data)
    expected = {
        "copy of frames": [("run/frames", "walk/x")],
        "link into a class": [(f"run/{name}", f"sprint/{name}") for name in ("1.mp4", "2.mp4", "frames")],
    }
    assert pairs(data) == expected.get(way, [("run/1.mp4", "walk/x.mp4")])


def test_one_class_may_have_a_video_twice_and_splits_may_not_disagree(data: Path) -> None:
    shutil.copy(data / "run/1.mp4", data / "run/x.mp4")
    assert pairs(data) == []
    for split in ("train", "val"):
        shutil.copytree(data, data / split, ignore=shutil.ignore_patterns("train"))
    assert pairs(data) == []
    shutil.move(data / "val/walk/4.mp4", data / "val/run/4.mp4")
    assert pairs(data) == [("train/walk/4.mp4", "val/run/4.mp4")]


def test_spans_of_one_file_may_have_different_labels_and_the_same_span_of_its_copy_may_not(data: Path) -> None:
    shutil.copy(data / "run/1.mp4", data / "copy.mp4")
    listed = data / "list.csv"
    listed.write_text("path,label,start,end\nrun/1.mp4,run,0,1\nrun/1.mp4,walk,1,2\ncopy.mp4,jump,2,3\n")
    assert likely_contradictions(open_data(listed).videos) == []
    listed.write_text(listed.read_text() + "copy.mp4,walk,0,1\n")
    ((first, second),) = likely_contradictions(open_data(listed).videos)
    assert (first.labels["classes"], second.labels["classes"]) == (("run",), ("walk",))


def test_one_line_says_how_many_and_what_to_call(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    WAYS["copy"](data)
    shutil.copytree(data / "run/frames", data / "walk/y")
    monkeypatch.chdir(data.parent)
    say_contradictions(said.append, open_data("data").videos, "vivit data check data")
    (line,) = said
    assert line.startswith("2 videos with two labels: data/run/1.mp4 is 'run', but data/walk/x.mp4 has the same")
    assert "vivit data check data " in line


def test_the_content_of_too_many_files_is_not_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WAYS["copy"](data)
    WAYS["link into a class"](data)
    monkeypatch.setattr(contradictions_module, "MOST_COMPARED", 3)
    assert len(pairs(data)) == 3  # the links
