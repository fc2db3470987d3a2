"""What is drawn on the pictures of a video."""

from pathlib import Path

import numpy as np
import pytest

from tests.support import encode, refused
from vivit.data.contact_sheet import font_of
from vivit.inference.predictor import Prediction, ScoredLabel
from vivit.inference.timeline import Segment, Timeline
from vivit.labels import ONLY_HEAD, LabelSpace
from vivit.report.overlay import FONT, check_overlay, percent, with_labels, with_timeline

GREY = 128
DURATION = 4.0


def picture(height: int = 120, width: int = 200) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def prediction(*labels: str) -> Prediction:
    return Prediction(Path("clip.mp4"), {ONLY_HEAD: tuple(ScoredLabel(label, 0.5) for label in labels)})


def timeline(**space: bool) -> Timeline:
    nothing = np.zeros(0)
    labels = LabelSpace({ONLY_HEAD: ("left", "right")}, **space)
    return Timeline("clip.mp4", DURATION, 25, labels, nothing, nothing, {})


def test_labels_are_drawn_in_the_corner_and_nowhere_else() -> None:
    drawn = with_labels(prediction("left", "right"), top=2)(picture(), 0.0)
    changed = (drawn != GREY).any(2)
    rows, columns = changed.any(1).nonzero()[0], changed.any(0).nonzero()[0]
    assert (rows[0], columns[0]) == (0, 0)
    assert rows[-1] < 60
    assert columns[-1] < 150
    assert drawn.max() == 255
    one = (with_labels(prediction("left", "right"), top=1)(picture(), 0.0) != GREY).any(2)
    assert one.sum() < changed.sum()


def test_labels_of_no_percent_are_left_out_but_the_first() -> None:
    def drawn(*scores: float) -> np.ndarray:
        labels = tuple(ScoredLabel("left", score) for score in scores)
        return with_labels(Prediction(Path("clip.mp4"), {ONLY_HEAD: labels}), top=5)(picture(), 0.0)

    assert (drawn(0.99, 0.004, 0.001) == drawn(0.99)).all()
    assert (drawn(0.99, 0.005) != drawn(0.99)).any()
    assert (drawn(0.001) != GREY).any()


def test_scores_are_as_wide_as_each_other() -> None:
    font = font_of(FONT, 30)
    assert len({font.getlength(percent(score)) for score in (1.0, 0.99, 0.05)}) == 1


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (16, 16), (16, 400), (400, 16)])
def test_labels_and_timelines_fit_any_picture(size: tuple[int, int]) -> None:
    drawn = with_labels(prediction("a label with many words", "\x1b[31mred", ""), top=3)(picture(*size), 0.0)
    assert drawn.shape == (*size, 3)
    panel = with_timeline(timeline(), [Segment(0.0, 4.0, ONLY_HEAD, "left", 0.9)])(picture(*size), 4.0)[size[0] :]
    assert panel.shape[1] == size[1]
    assert (panel != 255).any()


def test_the_panel_shows_each_segment_at_its_time_and_a_mark_that_moves() -> None:
    segments = [Segment(0.0, 1.0, ONLY_HEAD, "left", 0.9), Segment(2.0, 4.0, ONLY_HEAD, "right", 0.8)]
    draw = with_timeline(timeline(), segments)
    panels = {seconds: draw(picture(), seconds)[120:] for seconds in (0.5, 1.5, 3.0)}
    row = -7  # through the bar
    bar = panels[1.5][row]
    inner = bar[5:-5]
    quarter = inner.shape[0] // 4
    left, nothing, right = inner[quarter // 2], inner[quarter * 5 // 4], inner[quarter * 3]
    assert len({tuple(left), tuple(nothing), tuple(right)}) == 3
    assert (inner[quarter * 7 // 2] == right).all()
    marks = {s: np.flatnonzero(panel[row].astype(int).sum(1) < 150) for s, panel in panels.items()}
    width = bar.shape[0]
    for seconds, mark in marks.items():
        assert mark.mean() == pytest.approx(5 + (width - 10) * seconds / DURATION, abs=2)
    # The label of the moment has the colour of its segment; in between there is none.
    for seconds, colour in ((0.5, left), (3.0, right)):
        assert (panels[seconds][:18] == colour).all(2).any()
    assert not any((panels[1.5][:18] == colour).all(2).any() for colour in (left, right))


def test_labels_at_one_time_have_tracks_of_their_own() -> None:
    segments = [Segment(0.0, 4.0, ONLY_HEAD, label, 0.9) for label in ("left", "right")]
    heights = [with_timeline(timeline(multi_label=True), segments[:n])(picture(), 1.0).shape[0] for n in (1, 2)]
    assert heights[1] > heights[0]


def test_what_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip.mp4", 2)
    refused(lambda: check_overlay(clip, clip), "clip.mp4", "another")
    refused(lambda: check_overlay(tmp_path / "out.avi", clip), "out.avi", "mp4")
    refused(lambda: check_overlay(tmp_path / "no" / "out.mp4", clip), "no", "create")
