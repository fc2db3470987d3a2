"""Drawings show what matters, whatever the classes are called and however many they are."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from vivit.report.drawing import (
    MOST_POINTS,
    Measured,
    confusion_figure,
    confusion_svg,
    extremes,
    intervals_figure,
    reliability_figure,
    running_mean,
    write_png,
)


def pixels(path: Path) -> np.ndarray:
    """(height, width), 0 is black."""
    return np.asarray(Image.open(path).convert("L")).astype(int)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]


@pytest.mark.parametrize("number", [3, 50, 100])
def test_names_of_any_kind_are_drawn_without_a_warning(number: int, tmp_path: Path) -> None:
    names = ["日本 🎉", r"$\frac{", "two\nlines", "bytes \udcff", "x" * 500, "", "<b>%s{}"] * 20
    counts = np.ones((number, number), int)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_png(tmp_path / "c.png", confusion_figure(counts, names[:number]))
        svg = confusion_svg(counts, names[:number], "c")
    assert pixels(tmp_path / "c.png").min() < 50
    assert "<b>" not in svg


def test_few_classes_have_their_counts_in_the_cells() -> None:
    figure = confusion_figure(np.array([[11, 0], [4, 7]]), ["push_up", "sit_up"])
    assert {"push up", "sit up"} <= set(texts(figure))
    # (column, row) → count
    counts = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert counts == {(0, 0): "11", (0, 1): "4", (1, 1): "7"}


@pytest.mark.parametrize("number", [41, 174, 400])
def test_one_video_of_fifty_is_seen_among_many_classes(number: int, tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(number)]
    confusion = 50 * np.eye(number, dtype=int)
    write_png(tmp_path / "right.png", confusion_figure(confusion, names))
    confusion[30, 10], confusion[30, 30] = 1, 49
    write_png(tmp_path / "wrong.png", confusion_figure(confusion, names))
    right, wrong = pixels(tmp_path / "right.png"), pixels(tmp_path / "wrong.png")
    # Left of the list of confusions; a cell has at least two pixels each way.
    square = slice(0, right.shape[0])
    assert ((right[:, square] - wrong[:, square]) > 30).sum() >= 4


def test_the_most_frequent_confusions_of_many_classes_are_listed() -> None:
    confusion = 5 * np.eye(200, dtype=int)
    confusion[7, 150], confusion[150, 7], confusion[3, 4] = 2, 9, 4
    figure = confusion_figure(confusion, [f"name_{i}" for i in range(200)])
    (listed,) = [text for text in texts(figure) if "most frequent" in text]
    assert listed.splitlines()[2:] == [
        "9 of 14   name 150 (150) as name 7 (7)",
        "4 of 9   name 3 (3) as name 4 (4)",
        "2 of 7   name 7 (7) as name 150 (150)",
    ]


def test_reliability_has_a_bar_for_each_bin() -> None:
    figure = reliability_figure(0.18, [0, 4, 0, 1], [None, 0.3, None, 0.9], [None, 0.75, None, 0.0])
    above, below = ([bar.get_height() for bar in axes.patches] for axes in figure.axes)  # type: ignore[attr-defined]
    assert above == [0, 0.75, 0, 0]
    assert below == [0, 4, 0, 1]
    assert "expected calibration error 18.0%, 5 predictions" in texts(figure)


def test_running_mean_is_the_mean_of_those_around() -> None:
    values = np.array([1.0, 5.0, math.nan, 3.0, 7.0, 8.0])
    expected = [
        math.nan if math.isnan(value) else np.nanmean(values[max(0, i - 1) : i + 2]) for i, value in enumerate(values)
    ]
    np.testing.assert_allclose(running_mean(values, 3), expected)
    np.testing.assert_allclose(running_mean(np.array([2.0, 4.0]), 5), [3.0, 3.0])


def test_a_long_curve_keeps_its_highest_and_lowest() -> None:
    values = np.sin(np.arange(100_000) / 7)
    values[[1234, 77_777]] = 50.0, -60.0
    values[500:2500] = math.nan
    positions, kept = extremes(np.arange(100_000), values)
    assert len(kept) <= MOST_POINTS
    assert np.nanmax(kept) == 1.0 or np.nanmax(kept) == pytest.approx(1, abs=1e-3)
    assert np.nanmin(kept) == -60.0
    np.testing.assert_array_equal(values[positions], kept)
    assert np.isnan(kept).any()  # the gap stays one
    assert (np.diff(positions) > 0).all()


def test_intervals_reach_as_far_as_they_say_and_a_single_value_has_none() -> None:
    rows = [Measured("three", [40.0, 50.0, 60.0], 50.0, 24.8), Measured("one", [30.0], 30.0, math.nan)]
    (axes,) = intervals_figure(rows, "accuracy").axes
    (bar,) = [
        each
        for collection in axes.collections
        if isinstance(collection, LineCollection)
        for each in collection.get_segments()
    ]
    assert bar[:, 0].tolist() == pytest.approx([25.2, 74.8])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["three", "one"]
