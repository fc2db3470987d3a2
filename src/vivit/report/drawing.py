"""Confusion matrices and calibration as pictures."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from vivit.files import write_files

# With more classes than this numbers do not fit into their cells.
MOST_COUNTED = 40
# With more than this their names do not fit beside them; the most frequent confusions are told in words then.
MOST_NAMED = 80
TOLD = 30
LONGEST_NAME = 40  # characters
DPI = 120
# Of a cell of such a picture, and inches for the words.
PIXELS, BESIDE = 3, 7.5


def write_confusion(path: Path, confusion: np.ndarray, classes: Sequence[str]) -> None:
    """Write a PNG of (K, K) counts: rows are the true classes, colours the fractions of a row."""
    number = len(classes)
    shares = confusion / confusion.sum(axis=1, keepdims=True).clip(min=1)
    names = [_drawable(name) for name in classes]
    counted, named = number <= MOST_COUNTED, number <= MOST_NAMED
    with _any_text():
        if named:
            side = max(4.0, (0.45 if counted else 0.2) * number + 2.2)
            figure = Figure(figsize=(side, side), layout="constrained")
            axes = figure.add_subplot()
            angle = 45 if counted else 90
            axes.set_xticks(range(number), names, rotation=angle, ha="right", va="center", rotation_mode="anchor")
            axes.set_yticks(range(number), names)
        else:
            side = max(9.0, number * PIXELS / DPI)
            figure = Figure(figsize=(side + BESIDE, side), layout="constrained")
            axes, beside = figure.subplots(1, 2, width_ratios=(side, BESIDE))
            _tell_confusions(confusion, names, beside)
        # Without numbers in them, the cells of a few videos of a class must still be seen.
        colours = PowerNorm(1.0 if counted else 0.3, vmin=0, vmax=1)
        axes.imshow(shares, cmap="Blues", norm=colours, interpolation="nearest")
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        if counted:
            for row, counts in enumerate(confusion.tolist()):
                for column, count in enumerate(counts):
                    if count:
                        colour = "white" if shares[row, column] > 0.5 else "black"
                        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
        write_files({path: lambda unfinished: figure.savefig(unfinished, dpi=DPI, format="png")})


def write_reliability(
    path: Path,
    error: float,
    counts: Sequence[int],
    confidence: Sequence[float | None],
    accuracy: Sequence[float | None],
) -> None:
    """Write a PNG of accuracy over confidence, above a histogram of the confidence.

    Args:
        error: the expected calibration error.
        counts, confidence, accuracy: predictions in each bin of equal width from 0 to 1, and their means or None.
    """
    width = 1 / len(counts)
    lefts = [number * width for number in range(len(counts))]
    with _any_text():
        figure = Figure(figsize=(5.0, 6.0), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.bar(lefts, [value or 0.0 for value in accuracy], width, align="edge", edgecolor="white")
        above.plot((0, 1), (0, 1), "--", color="grey", linewidth=1)
        known = [pair for pair in zip(confidence, accuracy, strict=True) if None not in pair]
        above.plot(*zip(*known, strict=True), "o", color="black", markersize=4)
        above.set(xlim=(0, 1), ylim=(0, 1), ylabel="fraction that is right")
        above.set_title(f"expected calibration error {error:.1%}, {sum(counts):,} predictions", fontsize=10)
        below.bar(lefts, counts, width, align="edge", edgecolor="white")
        below.set(xlabel="probability of the predicted class", ylabel="predictions")
        write_files({path: lambda unfinished: figure.savefig(unfinished, dpi=DPI, format="png")})


def _tell_confusions(confusion: np.ndarray, names: Sequence[str], axes: Axes) -> None:
    """The most frequent confusions, in words."""
    wrong = confusion.flatten()
    wrong[:: len(names) + 1] = 0
    of_class = confusion.sum(axis=1)
    lines = []
    for place in np.argsort(-wrong, kind="stable")[:TOLD].tolist():
        if count := wrong[place]:
            true, predicted = divmod(place, len(names))
            lines.append(f"{count} of {of_class[true]}   {names[true]} ({true}) as {names[predicted]} ({predicted})")
    axes.axis("off")
    axes.text(0, 1, "\n".join(["most frequent confusions", "", *lines]), va="top", fontsize=9, linespacing=1.5)


def _drawable(name: str) -> str:
    """A class's name in one short line. Long names often differ at their ends only, so these stay."""
    name = "".join(c if c.isprintable() else " " for c in name.replace("_", " "))
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]} … {name[-half + 2 :]}"


@contextmanager
def _any_text() -> Iterator[None]:
    """Names of classes are no formulas, and what no font has is drawn as a box without a word."""
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield
