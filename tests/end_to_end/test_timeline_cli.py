"""`vivit timeline` on files that the tests make."""

import json
import os
import signal
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

import vivit
from tests.end_to_end.conftest import InProcess
from tests.support import REAL_CLIPS, encode, noisy, run_vivit, tiny_model
from vivit.config import Preprocessing
from vivit.inference.segment_files import FORMATS
from vivit.report import overlay
from vivit.text import counted
from vivit.video.decode import open_video

CLASSES: dict[str, Sequence[str]] = {"classes": ["v", "w", "x", "y", "z"]}
MODEL = ("--model", "model", "--device", "cpu")
EVERYTHING = ("--threshold", "0", "--shortest", "0", "--smooth", "0")


@pytest.fixture
def here(vivit_here: InProcess, tmp_path: Path) -> InProcess:
    vivit.save(tiny_model(CLASSES, Preprocessing(frame_stride=2, resize=32), variant="factorised_encoder"), "model")
    frames = [frame for brightness in (40, 120, 200, 80) for frame in noisy(brightness, frames=15)]
    encode(tmp_path / "clip.mp4", frames)
    encode(tmp_path / "other.mp4", frames[20:])
    return vivit_here


def test_people_see_a_strip_and_segments_that_cover_the_video(here: InProcess) -> None:
    lines = here("timeline", "clip.mp4", *MODEL, *EVERYTHING).succeeded().splitlines()
    assert lines[0].startswith("clip.mp4  0:02.4, ")
    assert set(lines[1].strip()) <= set("ABCDE")
    assert lines[2].split()[:4] == ["A", "0:00.0", "–", lines[3].split()[1] if len(lines) > 3 else "0:02.4"]


def test_json_and_every_kind_of_file_have_the_same_segments(here: InProcess, tmp_path: Path) -> None:
    printed = json.loads(here("timeline", "clip.mp4", *MODEL, *EVERYTHING, "--json").succeeded())
    segments = printed["segments"]
    assert (segments[0]["start"], segments[-1]["end"]) == (0, 2.4)
    assert all(one["end"] == other["start"] for one, other in pairwise(segments))
    for ending in (*FORMATS, ".html", ".png", ".mp4"):
        told = here("timeline", "clip.mp4", *MODEL, *EVERYTHING, "--out", f"out{ending}")
        assert (told.status, told.out) == (0, "")
        assert told.err == f"{counted(len(segments), 'segment')} in out{ending}\n"
    assert json.loads((tmp_path / "out.json").read_text()) == printed
    page = (tmp_path / "out.html").read_text("utf-8")
    assert page.count("data-start=") == len(segments)
    assert f", {counted(len(segments), 'segment')}<" in page
    assert 'src="clip.mp4"' in page
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 800
    with open_video("clip.mp4") as before, open_video("out.mp4") as drawn:
        assert drawn.info.height > before.info.height
        assert (drawn.info.width, drawn.info.num_frames) == (before.info.width, before.info.num_frames)
    assert not list(tmp_path.glob("*unfinished*"))


def test_windows_are_printed_one_a_line(here: InProcess) -> None:
    windows = [
        json.loads(line) for line in here("timeline", "clip.mp4", *MODEL, "--windows", "--json").out.splitlines()
    ]
    assert [set(window) for window in windows] == [{"start", "end", "scores"}] * len(windows)
    starts = [window["start"] for window in windows]
    assert starts == sorted(starts) and windows[-1]["end"] == pytest.approx(2.4)
    assert all(set(window["scores"]) == set("vwxyz") for window in windows)
    assert all(sum(window["scores"].values()) == pytest.approx(1, abs=1e-5) for window in windows)
    wide = here("timeline", "clip.mp4", *MODEL, "--windows", "--step", "20").succeeded().splitlines()
    assert len(wide) < len(windows)


def test_a_video_that_cannot_be_read_costs_itself_only(here: InProcess, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    told = here("timeline", "clip.mp4", "broken.mp4", "other.mp4", *MODEL, "--out", "out.jsonl")
    assert told.status == 2
    assert "broken.mp4" in told.err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["video"] for row in rows] == ["clip.mp4", "other.mp4"]


@pytest.mark.parametrize("verb", ["timeline", "attention"])
def test_a_stopped_command_leaves_nothing_half_written(
    here: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def terminated(video: object, target: Path, drawn: object) -> None:
        target.write_bytes(b"half of it")
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(overlay, "redraw", terminated)
    told = here(verb, "clip.mp4", *MODEL, "--out", "out.mp4")
    assert (told.status, told.err) == (75, "vivit: stopped\n")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--step", "0"), "step: 0 frames"),
        (("--threshold", "2"), "threshold: 2"),
        (("--background", "walking"), "background: .*'walking'"),
        (("--out", "out.mov"), "out.mov: .*must end in .*.html"),
        (("--out", "notes.txt"), "notes.txt: exists already"),
        (("--out", "other.mp4"), "other.mp4: exists already"),
        (("--out", "no/out.vtt"), "no: no such folder"),
        (("--out", "no/out.html"), "no: no such folder"),
        (("--windows", "--out", "out.json"), "windows: .*--out"),
        (("other.mp4", "--windows"), "windows: .*one video, not of 2"),
        (("--out", "clip.mp4"), "clip.mp4: is the video itself"),
        (("other.mp4", "--out", "out.html"), "out.html: shows one video, not 2"),
    ],
)
def test_mistakes_are_one_line(here: InProcess, words: tuple[str, ...], said: str) -> None:
    Path("notes.txt").write_text("mine")
    here("timeline", "clip.mp4", *words, *MODEL).one_line(said)
    assert Path("notes.txt").read_text() == "mine"


def test_timelines_are_scored_against_a_list_of_spans(here: InProcess, tmp_path: Path) -> None:
    # What the model itself says is the truth of one video; the other has one label, which the model never gives alone.
    says = json.loads(here("timeline", "clip.mp4", *MODEL, *EVERYTHING, "--json").out)["segments"]
    names = CLASSES["classes"]
    rows = [f"clip.mp4,{segment['label']},{segment['start']},{segment['end']}" for segment in says]
    (tmp_path / "same.csv").write_text("\n".join(["path,label,start,end", *rows]) + "\n")
    words = ("--model", "model", "--timeline", "--split", "all", "--device", "cpu", *EVERYTHING)
    out = here("evaluate", "same.csv", *words, "--out", "scores").succeeded()
    assert "frame_accuracy" in out
    record = json.loads((tmp_path / "scores" / "timeline_scores.json").read_text())
    assert set(record["scores"]["classes"].values()) == {1.0}
    assert record["videos"][0]["segments"] == says

    wrong = next(name for name in names if name not in {segment["label"] for segment in says})
    (tmp_path / "other.csv").write_text(f"path,label,start,end\nclip.mp4,{wrong},0,2.4\nmissing.mp4,{wrong},0,1\n")
    assert here("evaluate", "other.csv", *words).status == 2  # a file is missing
    (tmp_path / "missing.mp4").write_bytes(b"no video")
    told = here("evaluate", "other.csv", *words, "--out", "wrong").succeeded()
    assert "missing.mp4" in told
    record = json.loads((tmp_path / "wrong" / "timeline_scores.json").read_text())
    assert set(record["scores"]["classes"].values()) == {0.0}
    assert record["unreadable"] == ["missing.mp4"]

    (tmp_path / "whole.csv").write_text("path,label\nclip.mp4,v\n")
    here("evaluate", "whole.csv", *words).one_line("whole.csv: .*no start and end")


@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="needs the real clips")
def test_a_real_clip_with_the_model_of_the_package(tmp_path: Path) -> None:
    clip = REAL_CLIPS / "multi_shot.mp4"
    ran = run_vivit("timeline", clip, "--json", folder=tmp_path)
    assert ran.err.startswith("camera-motion: names one of 9 motions of the camera")
    row = json.loads(ran.out)
    # The camera stands still for most of the ten seconds and pans at the end.
    assert row["segments"][-1]["label"] == "pan_right"
    assert sum(s["end"] - s["start"] for s in row["segments"] if s["label"] == "static") > 4
