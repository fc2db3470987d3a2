"""Curves, confusion matrices and calibration, as PNG files or as SVG in the colours of a page."""

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from vivit.files import write_files

PRINT = {"ink": "#1b1f24", "faint": "#656d76", "rule": "#d8dee4", "one": "#266edc"}
LINES = ("one", "two", "three", "four")
# Matplotlib needs numbers. Each stands for a colour that the page defines, once for light and once for dark mode.
PAGE = {name: f"#00000{i}" for i, name in enumerate(("ink", "faint", "rule", *LINES), start=1)}

# A longer curve is drawn with the lowest and highest point of each interval.
MOST_POINTS = 800
# Steps of the widest running mean; it takes a second or two for a million steps.
WIDEST = 2001

RIGHT, WRONG = (38, 110, 220), (207, 66, 56)
# The most classes for which a confusion matrix has counts in its cells, and names beside them.
MOST_COUNTED, MOST_NAMED = 40, 80
# The number of confusions listed beside a matrix without names.
LISTED = 30
LONGEST_NAME = 40  # characters
DPI = 120


@dataclass(frozen=True)
class Curve:
    name: str
    positions: np.ndarray
    """(N,)"""
    values: np.ndarray
    """(N,); NaN leaves a gap."""
    colour: str = "one"
    """One of LINES."""
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    title: str
    note: str
    """How to read it."""
    svg: str
    curves: tuple[Curve, ...]


@contextmanager
def any_text() -> Iterator[None]:
    """Draw class names as text, not formulas, and characters that no font has as boxes, without a warning."""
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def draw_curves(
    title: str,
    curves: Sequence[Curve],
    xlabel: str,
    *,
    note: Sequence[str] = (),
    smooth: bool = False,
    percent: bool = False,
    logarithmic: bool = False,
    threshold: float | None = None,
) -> Chart | None:
    """Draw curves over steps or epochs; None if none of them has a number.

    Args:
        note: parts of the note; a description of how the curves are drawn is added.
        smooth: draw a running mean over faint values.
        percent: values are fractions of 1, and the axis runs from 0 to 100.
        threshold: a dashed line that values are clipped to.
    """
    curves = [curve for curve in curves if np.isfinite(curve.values).any()]
    if not curves:
        return None
    longest = max(len(curve.values) for curve in curves)
    width = min(longest // 40 * 2 + 1, WIDEST) if smooth else 1
    figure = Figure(figsize=(4.2, 2.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel, color=PAGE["faint"], fontsize=9)
    axes.tick_params(which="both", color=PAGE["rule"], labelcolor=PAGE["faint"], labelsize=9)
    axes.grid(axis="y", color=PAGE["rule"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(PAGE["rule"])
    highest = 0.0
    for curve in curves:
        colour, values = PAGE[curve.colour], curve.values * (100 if percent else 1)
        middle = running_mean(values, width) if width > 1 else values
        if width > 1:
            axes.plot(*extremes(curve.positions, values), color=colour, alpha=0.3, linewidth=0.7)
        axes.plot(
            *extremes(curve.positions, middle),
            color=colour,
            linestyle=(0, (3, 2)) if curve.dashed else "-",
            linewidth=1.6,
            marker="." if longest <= 20 else "",  # a line of one point is invisible
        )
        # A few spikes may leave the picture, but the line itself may not.
        highest = max(highest, float(np.nanpercentile(values, 99)), float(np.nanmax(middle)))
    # Positions without a number count too.
    first, last = (limit(float(limit(curve.positions)) for curve in curves) for limit in (min, max))
    margin = (last - first) / 25 or 0.5
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    parts = [*note, f"line: mean of {width} steps"] if width > 1 else [*note]
    if threshold is not None:
        axes.axhline(threshold, color=PAGE["faint"], linewidth=0.8, linestyle=(0, (4, 3)))
        parts.append(f"dashed: clipped to {threshold:g}")
    if logarithmic:
        _set_logarithmic(axes, [*np.concatenate([curve.values for curve in curves]), threshold or math.nan])
    else:
        axes.set_ylim(0, 102 if percent else 1.08 * highest if highest > 0 else 1)
    return Chart(title, "; ".join(parts), _svg(figure, title), tuple(curves))


@any_text()
def confusion_figure(
    confusion: np.ndarray, classes: Sequence[str], colours: Mapping[str, str] = PRINT, listed: bool = True
) -> Figure:
    """Draw counts: blue is correct, red is wrong; stronger colours mean larger fractions of the true class's videos.

    Args:
        confusion: (K, K); rows are the true classes.
        colours: PRINT or PAGE.
        listed: list the most frequent confusions if the classes are too many to be named.
    """
    number = len(classes)
    counted, named = number <= MOST_COUNTED, number <= MOST_NAMED
    names = [_drawable(name) for name in classes]
    cell = 0.3 if counted else 0.2 if named else max(9 / number, 3 / DPI)  # inches
    figure = Figure(figsize=(cell * number, cell * number))
    axes = figure.add_axes((0, 0, 1, 1))
    # Enlarge it here, because viewers blur what they enlarge.
    scale = max(1, round(900 / number))
    pixels = confusion_pixels(confusion, counted).repeat(scale, axis=0).repeat(scale, axis=1)
    axes.imshow(pixels, interpolation="none", extent=(-0.5, number - 0.5, number - 0.5, -0.5))
    axes.spines[:].set_color(colours["rule"])
    axes.tick_params(length=0, labelcolor=colours["ink"], labelsize=8)
    if named:
        angle = 45 if counted else 90
        axes.set_xticks(range(number), names, rotation=angle, ha="right", va="center", rotation_mode="anchor")
        axes.set_yticks(range(number), names)
    else:
        axes.set(xticks=[], yticks=[])
        if listed:
            text = "\n".join(["most frequent confusions", "", *_list_confusions(confusion, names)])
            axes.text(1.04, 1, text, transform=axes.transAxes, va="top", fontsize=9, linespacing=1.5)
    axes.set_xlabel("predicted", color=colours["faint"], fontsize=8)
    axes.set_ylabel("true", color=colours["faint"], fontsize=8)
    if counted:
        edges = np.arange(-0.5, number)
        axes.set_xticks(edges, minor=True)
        axes.set_yticks(edges, minor=True)
        axes.grid(which="minor", color=colours["rule"], linewidth=0.6)
        axes.tick_params(which="minor", length=0)
        size = min(8.0, 26 / len(str(confusion.max())))
        for row, column in np.argwhere(confusion).tolist():
            text = str(confusion[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colours["ink"], fontsize=size)
    return figure


def confusion_pixels(confusion: np.ndarray, counted: bool) -> np.ndarray:
    """(K, K, 4) RGBA uint8; transparent without videos. Cells without a printed count are strong enough to be seen."""
    fractions = confusion / confusion.sum(axis=1, keepdims=True).clip(min=1)
    faintest, strongest = (0.12, 0.67) if counted else (0.47, 1.0)
    pixels = np.empty((*confusion.shape, 4), np.uint8)
    pixels[..., :3] = WRONG
    pixels[np.eye(len(confusion), dtype=bool), :3] = RIGHT
    pixels[..., 3] = 255 * np.where(confusion > 0, faintest + (strongest - faintest) * fractions, 0)
    return pixels


def confusion_svg(confusion: np.ndarray, classes: Sequence[str], title: str) -> str:
    """`confusion_figure` for a page; drawings on one page must have different titles."""
    return _svg(confusion_figure(confusion, classes, PAGE, listed=False), title, bbox_inches="tight")


def reliability_figure(
    error: float, counts: Sequence[int], confidence: Sequence[float | None], accuracy: Sequence[float | None]
) -> Figure:
    """Draw accuracy against confidence, above a histogram of the confidence.

    Args:
        error: the expected calibration error.
        counts, confidence, accuracy: predictions in each bin of equal width from 0 to 1, and their means or None.
    """
    width = 1 / len(counts)
    lefts = [number * width for number in range(len(counts))]
    figure = Figure(figsize=(5.0, 6.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    style: dict[str, Any] = {"width": width, "align": "edge", "edgecolor": "white", "color": PRINT["one"]}
    above.bar(lefts, [value or 0.0 for value in accuracy], **style)
    above.plot((0, 1), (0, 1), "--", color=PRINT["faint"], linewidth=1)
    known = [pair for pair in zip(confidence, accuracy, strict=True) if None not in pair]
    above.plot(*zip(*known, strict=True), "o", color=PRINT["ink"], markersize=4)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    above.set_title(f"expected calibration error {error:.1%}, {sum(counts):,} predictions", fontsize=10)
    below.bar(lefts, counts, **style)
    below.set(xlabel="probability of the predicted class", ylabel="predictions")
    return figure


@dataclass(frozen=True)
class Measured:
    """A row of `intervals_figure`."""

    name: str
    values: Sequence[float]
    """One for each seed."""
    mean: float
    half: float
    """Half of the interval's width; NaN for none."""


@any_text()
def intervals_figure(rows: Sequence[Measured], xlabel: str) -> Figure:
    """Draw each row's mean with its interval, and the single values behind it as faint dots."""
    figure = Figure(figsize=(6.4, 0.6 + 0.34 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        axes.plot(row.values, [place] * len(row.values), "o", color=PRINT["faint"], alpha=0.45, markersize=4)
        half = None if math.isnan(row.half) else row.half
        axes.errorbar(row.mean, place, xerr=half, fmt="o", color=PRINT["one"], markersize=6, capsize=3, linewidth=1.6)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(xlabel, color=PRINT["faint"], fontsize=9)
    axes.tick_params(color=PRINT["rule"], labelcolor=PRINT["ink"], labelsize=9)
    axes.grid(axis="x", color=PRINT["rule"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(PRINT["rule"])
    return figure


@any_text()
def write_png(path: Path, figure: Figure) -> None:
    """Write a figure, cropped to what is drawn. Raises UserError."""
    write_files({path: lambda file: figure.savefig(file, dpi=DPI, format="png", bbox_inches="tight")})


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of the `width` values around each, or of fewer at the ends; NaN stays NaN and does not enter the means.

    Args:
        values: (N,).
        width: odd.
    """
    known = np.isfinite(values)
    window = np.ones(width)
    # Cut the middle out of mode "full": mode "same" returns the window's length if that is larger.
    around = slice(width // 2, width // 2 + len(values))
    count = np.convolve(known, window)[around]
    total = np.convolve(np.where(known, values, 0.0), window)[around]
    return np.where(known, total / np.maximum(count, 1), np.nan)


def extremes(positions: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MOST_POINTS of the points, (N,) each: the lowest and the highest of each interval, in order."""
    if len(values) <= MOST_POINTS:
        return positions, values
    chosen: set[int] = set()
    for span in np.array_split(np.arange(len(values)), MOST_POINTS // 2):
        known = span[np.isfinite(values[span])]
        if len(known):
            chosen |= {int(known[values[known].argmin()]), int(known[values[known].argmax()])}
        else:
            chosen.add(int(span[0]))
    order = sorted(chosen)
    return positions[order], values[order]


def _set_logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """Label a few numbers on the axis, however close the values are to each other."""
    positive = [value for value in values if value > 0]
    if not positive:
        return
    lowest, highest = min(positive) / 1.6, max(positive) * 1.6
    axes.set_yscale("log", nonpositive="mask")
    axes.set_ylim(lowest, highest)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if highest / lowest < 100 else (1,)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _list_confusions(confusion: np.ndarray, names: Sequence[str]) -> Iterator[str]:
    """The most frequent confusions, one line each."""
    wrong = confusion.flatten()
    wrong[:: len(names) + 1] = 0
    of_class = confusion.sum(axis=1)
    for place in np.argsort(-wrong, kind="stable")[:LISTED].tolist():
        if count := wrong[place]:
            true, predicted = divmod(place, len(names))
            yield f"{count} of {of_class[true]}   {names[true]} ({true}) as {names[predicted]} ({predicted})"


def shortened(name: str, longest: int) -> str:
    """At most `longest` characters of a name. Long names often differ only in their last words, so both ends stay."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[: half - 1]} … {name[-half + 2 :]}"


def _drawable(name: str) -> str:
    """A class name on one short line."""
    return shortened("".join(c if c.isprintable() else " " for c in name.replace("_", " ")), LONGEST_NAME)


@any_text()
def _svg(figure: Figure, title: str, bbox_inches: str | None = None) -> str:
    """The figure as an element whose text is text, and whose colours are the page's; equal figures give equal bytes."""
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    written = io.StringIO()
    nameless = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(written, format="svg", metadata=nameless, bbox_inches=bbox_inches)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    for name, colour in PAGE.items():
        svg = svg.replace(colour, f"var(--{name})")
    # Matplotlib asks for nearest-neighbour scaling, which would drop cells of a matrix that is shown smaller.
    svg = svg.replace("image-rendering:crisp-edges;image-rendering:pixelated", "")
    # Several drawings share a page and its ids, so only ids in use stay.
    return re.sub(r' id="([^"]+)"', lambda found: found[0] if f"#{found[1]}" in svg else "", svg)
