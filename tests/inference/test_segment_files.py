"""Each file is read back by the library of the programs that it is for, or by its own rules."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import opentimelineio as otio
import pytest
import webvtt
from pympi import Elan

from tests.support import refused
from vivit.inference.segment_files import FORMATS, Segmented, write_segments
from vivit.inference.timeline import Segment, Timeline
from vivit.labels import ONLY_HEAD, LabelSpace

ODD = 'a <b> & "c" --> é'
EXPECTED = [(0.0, 1.25, ODD, 0.75), (3671.5, 3673.0, "walk", 0.5)]


def segmented(
    name: str = "a clip.mp4", segments: list[Segment] | None = None, labels: LabelSpace | None = None
) -> Segmented:
    labels = labels or LabelSpace({ONLY_HEAD: (ODD, "walk")})
    nothing = np.zeros(0)
    line = Timeline(name, 3700.0, 25.0, labels, nothing, nothing, {head: nothing for head in labels.heads})
    found = [Segment(start, end, ONLY_HEAD, label, score) for start, end, label, score in EXPECTED]
    return Segmented(line, found if segments is None else segments)


def test_json_and_json_lines(tmp_path: Path) -> None:
    write_segments(tmp_path / "one.json", [segmented()])
    one = json.loads((tmp_path / "one.json").read_text("utf-8"))
    assert (one["video"], one["duration"]) == ("a clip.mp4", 3700)
    assert [tuple(segment.values()) for segment in one["segments"]] == EXPECTED
    write_segments(tmp_path / "two.json", [segmented(), segmented("b.mp4")])
    write_segments(tmp_path / "two.jsonl", [segmented(), segmented("b.mp4")])
    two = json.loads((tmp_path / "two.json").read_text("utf-8"))
    assert two == [json.loads(line) for line in (tmp_path / "two.jsonl").read_text("utf-8").splitlines()]
    assert two == [one, {**one, "video": "b.mp4"}]


def test_csv(tmp_path: Path) -> None:
    write_segments(tmp_path / "s.csv", [segmented()])
    with (tmp_path / "s.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(float(r["start"]), float(r["end"]), r["label"], float(r["score"])) for r in rows] == EXPECTED
    assert {row["video"] for row in rows} == {"a clip.mp4"}


def test_chapters_and_cues_in_webvtt(tmp_path: Path) -> None:
    write_segments(tmp_path / "s.vtt", [segmented()])
    write_segments(tmp_path / "s.cues.vtt", [segmented()])
    chapters, cues = (webvtt.WebVTT.read(str(tmp_path / name)).captions for name in ("s.vtt", "s.cues.vtt"))
    for file in (chapters, cues):
        assert [(c.start, c.end) for c in file] == [
            ("00:00:00.000", "00:00:01.250"),
            ("01:01:11.500", "01:01:13.000"),
        ]
    # A browser reads escapes; an arrow or a tag would end the cue or be lost.
    assert [c.raw_text for c in chapters] == ['a &lt;b&gt; &amp; "c" --&gt; é', "walk"]
    assert [json.loads(c.text or "")["label"] for c in cues] == [ODD, "walk"]


@pytest.mark.parametrize("name", ["a clip.mp4", "März.MOV", "b.mkv", "frames"])
def test_elan(tmp_path: Path, name: str) -> None:
    write_segments(tmp_path / "s.eaf", [segmented(name)])
    file = Elan.Eaf(str(tmp_path / "s.eaf"))
    assert list(file.get_tier_names()) == ["label"]
    assert sorted(file.get_annotation_data_for_tier("label")) == [(0, 1250, ODD), (3671500, 3673000, "walk")]
    assert file.get_linked_files()[0]["RELATIVE_MEDIA_URL"] == f"./{name}"


def test_elan_with_several_labels_at_once_has_a_tier_for_each(tmp_path: Path) -> None:
    labels = LabelSpace({"verb": ("run", "jump")}, multi_label=True)
    overlapping = [Segment(0, 2, "verb", "run", 0.9), Segment(1, 3, "verb", "jump", 0.8)]
    write_segments(tmp_path / "s.eaf", [segmented(segments=overlapping, labels=labels)])
    file = Elan.Eaf(str(tmp_path / "s.eaf"))
    assert {tier: file.get_annotation_data_for_tier(tier) for tier in file.get_tier_names()} == {
        "run": [(0, 2000, "run")],
        "jump": [(1000, 3000, "jump")],
    }


def test_open_timeline_io(tmp_path: Path) -> None:
    write_segments(tmp_path / "s.otio", [segmented(), segmented("b.mp4")])
    line = otio.adapters.read_from_file(str(tmp_path / "s.otio"))
    assert line.duration().to_seconds() == 7400
    first, second = line.find_clips()
    assert (first.name, second.name) == ("a clip.mp4", "b.mp4")
    assert first.media_reference.target_url.endswith("/a%20clip.mp4")
    ranges = [(marker.name, marker.marked_range) for marker in first.markers]
    assert [(r.start_time.to_seconds(), r.end_time_exclusive().to_seconds(), name) for name, r in ranges] == [
        expected[:3] for expected in EXPECTED
    ]
    assert first.markers[0].metadata["vivit"]["score"] == 0.75


def test_audacity(tmp_path: Path) -> None:
    write_segments(tmp_path / "s.txt", [segmented()])
    lines = [line.split("\t") for line in (tmp_path / "s.txt").read_text("utf-8").splitlines()]
    assert [(float(start), float(end), label) for start, end, label in lines] == [e[:3] for e in EXPECTED]


def test_label_studio_counts_frames_from_one(tmp_path: Path) -> None:
    write_segments(tmp_path / "s.labelstudio.json", [segmented()])
    (task,) = json.loads((tmp_path / "s.labelstudio.json").read_text("utf-8"))
    assert task["data"] == {"video": "a clip.mp4"}
    results = task["predictions"][0]["result"]
    assert [result["value"]["timelinelabels"] for result in results] == [[ODD], ["walk"]]
    # Frames 1 to 31 are on screen from 0 to 1.24 s; the segment ends at 1.25.
    assert results[0]["value"]["ranges"] == [{"start": 1, "end": 31}]
    assert results[1]["value"]["ranges"] == [{"start": 91789, "end": 91825}]
    assert len({result["id"] for result in results}) == 2


def test_activitynet_names_videos_by_their_files(tmp_path: Path) -> None:
    write_segments(tmp_path / "s.activitynet.json", [segmented("clips/v_1.mp4"), segmented("v_2.mkv")])
    found = json.loads((tmp_path / "s.activitynet.json").read_text("utf-8"))
    assert set(found) == {"version", "results", "external_data"}
    assert set(found["results"]) == {"v_1", "v_2"}
    first = found["results"]["v_1"]
    assert [(*r["segment"], r["label"], r["score"]) for r in first] == EXPECTED
    refused(
        lambda: write_segments(tmp_path / "t.activitynet.json", [segmented("a/v.mp4"), segmented("b/v.mp4")]),
        "b/v.mp4: another video is called v",
    )
    assert not (tmp_path / "t.activitynet.json").exists()


def test_named_heads_are_told_apart(tmp_path: Path) -> None:
    labels = LabelSpace({"verb": ("run",), "noun": ("dog",)})
    segments = [Segment(0, 1, "verb", "run", 0.9), Segment(0, 1, "noun", "dog", 0.8)]
    for ending in FORMATS:
        write_segments(tmp_path / f"s{ending}", [segmented(segments=segments, labels=labels)])
        if ending != ".activitynet.json":  # it has no place for them
            text = (tmp_path / f"s{ending}").read_text("utf-8")
            assert re.search("verb", text) and re.search("noun", text), ending


@pytest.mark.parametrize(
    ("name", "videos", "said"),
    [
        ("s.mov", 1, "s.mov: .*must end in .*.vtt"),
        ("s.vtt", 2, "s.vtt: .*one video, not 2"),
        ("s.eaf", 2, "one video, not 2"),
        ("no/s.json", 1, "no: no such folder"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, name: str, videos: int, said: str) -> None:
    refused(lambda: write_segments(tmp_path / name, [segmented()] * videos), said)
    assert not list(tmp_path.iterdir())
