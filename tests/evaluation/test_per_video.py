"""The table of all videos, against values worked out by hand."""

import csv
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from torch import Tensor

from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.evaluation.evaluate import Evaluation, evaluation_of
from vivit.evaluation.per_video import per_video_rows, write_per_video
from vivit.labels import LabelSpace

NAN = float("nan")
ODD = ("=1+1", 'a "quoted", b', "two\nlines\r", "plain", "@home", "日本")


def probabilities(*values: float) -> list[float]:
    return [log(value) + 3 for value in values]


@pytest.fixture
def videos() -> VideoSet:
    """A whole video, a span, an unreadable one, and one with NaN logits."""
    return VideoSet(
        (
            LabelledVideo(Path("a, b.mp4"), {"classes": ODD[:1]}),
            LabelledVideo(Path("=cmd.mp4"), {"classes": ODD[2:3]}, span=(1.5, 4.0)),
            LabelledVideo(Path("broken.mp4"), {"classes": ODD[4:5]}),
            LabelledVideo(Path("nan.mp4"), {"classes": ODD[5:]}),
        ),
        LabelSpace({"classes": ODD}),
        "",
    )


@pytest.fixture
def evaluation(videos: VideoSet) -> Evaluation:
    logits = [
        probabilities(0.5, 0.1, 0.2, 0.1, 0.06, 0.04),
        probabilities(0.1, 0.3, 0.1, 0.4, 0.06, 0.04),
        [NAN] * 6,
        [NAN] * 6,
    ]
    return evaluation_of(videos, {"classes": Tensor(logits)}, {2: 'broken.mp4: not a "video", but text'})


EXPECTED: list[dict[str, Any]] = [
    {"video": "a, b.mp4", "start": None, "end": None, "error": "", "label": ODD[0], "predicted": ODD[0]},
    {"video": "=cmd.mp4", "start": 1.5, "end": 4.0, "error": "", "label": ODD[2], "predicted": "plain"},
    {"video": "broken.mp4", "start": None, "end": None, "error": 'broken.mp4: not a "video", but text'},
    {"video": "nan.mp4", "start": None, "end": None, "error": "the model's answer is not a number (NaN)"},
]
EXPECTED[0] |= {"probability": pytest.approx(0.5), "label_probability": pytest.approx(0.5), "label_rank": 1}
# The first of two classes with 10 % ranks first.
EXPECTED[1] |= {"probability": pytest.approx(0.4), "label_probability": pytest.approx(0.1), "label_rank": 4}
for row, name in zip(EXPECTED[2:], ODD[4:], strict=True):
    row |= {"label": name, "predicted": "", "probability": None, "label_probability": None, "label_rank": None}


def test_rows_by_hand(evaluation: Evaluation, videos: VideoSet) -> None:
    rows = per_video_rows(evaluation, videos)
    assert rows == EXPECTED
    assert [list(row) for row in rows] == [list(EXPECTED[0])] * 4


def test_parquet_keeps_values_and_types(evaluation: Evaluation, videos: VideoSet, tmp_path: Path) -> None:
    write_per_video(evaluation, videos, tmp_path / "table.parquet")
    table = parquet.read_table(tmp_path / "table.parquet")
    assert table.to_pylist() == EXPECTED
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        **dict.fromkeys(("video", "error", "label", "predicted"), "string"),
        **dict.fromkeys(("start", "end", "probability", "label_probability"), "double"),
        "label_rank": "int64",
    }


def test_csv_holds_no_formula(evaluation: Evaluation, videos: VideoSet, tmp_path: Path) -> None:
    write_per_video(evaluation, videos, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["'=1+1", ODD[2], "'@home", ODD[5]]
    assert not any(cell.startswith(tuple("=+-@")) for row in rows for cell in row.values())


def test_several_heads_have_columns_each() -> None:
    space = LabelSpace({"verb": ("open", "close"), "noun": ("x", "y")})
    videos = VideoSet((LabelledVideo(Path("a.mp4"), {"verb": ("close",), "noun": ("x",)}),), space, "")
    logits = {"verb": Tensor([[0.0, log(3)]]), "noun": Tensor([[0.0, log(4)]])}
    (row,) = per_video_rows(evaluation_of(videos, logits, {}), videos)
    assert row == {
        **{"video": "a.mp4", "start": None, "end": None, "error": ""},
        **{"verb_label": "close", "verb_predicted": "close", "verb_probability": pytest.approx(0.75)},
        **{"verb_label_probability": pytest.approx(0.75), "verb_label_rank": 1},
        **{"noun_label": "x", "noun_predicted": "y", "noun_probability": pytest.approx(0.8)},
        **{"noun_label_probability": pytest.approx(0.2), "noun_label_rank": 2},
    }


def test_many_labels_are_joined(tmp_path: Path) -> None:
    names = tuple("abcdefg")
    videos = VideoSet(
        tuple(LabelledVideo(Path(f"{i}.mp4"), {"classes": tuple(label)}) for i, label in enumerate(["be", "", "g"])),
        LabelSpace({"classes": names}, multi_label=True),
        "",
    )
    logits = Tensor([[-1, 2, -3, 1, -2, 0, 0.5], [-1, -2, -3, -4, -5, -6, -7], [NAN] * 7])
    rows = per_video_rows(evaluation_of(videos, {"classes": logits}, {2: "2.mp4: no"}), videos)
    # A probability of exactly 0.5 does not predict the label.
    assert [(row["labels"], row["predicted"]) for row in rows] == [("b;e", "b;d;g"), ("", ""), ("g", "")]
    assert [row["top_labels"] for row in rows] == ["b;d;g;f;a", "a;b;c;d;e", ""]
    told = [float(value) for value in rows[0]["top_probabilities"].split(";")]
    assert told == pytest.approx([1 / (1 + exp(-value)) for value in (2, 1, 0.5, 0, -1)], rel=1e-5)
    assert rows[2]["top_probabilities"] == ""
    write_per_video(evaluation_of(videos, {"classes": logits}, {}), videos, tmp_path / "t.parquet")
    assert parquet.read_table(tmp_path / "t.parquet")["labels"].to_pylist() == ["b;e", "", "g"]
