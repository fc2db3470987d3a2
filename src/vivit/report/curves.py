"""A run's curves as SVG: one chart for each thing that is measured, in the colours and letters of its page."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

# Matplotlib wants numbers for colours; the page has names for them, which stand for others in the dark.
_COLOURS = {name: f"#00000{i}" for i, name in enumerate(("faint", "rule", "one", "two", "three", "four"), start=1)}
_LINES = ("one", "two", "three", "four")
# Points of a curve that can still be told apart; of more, the lowest and the highest of each stretch are drawn.
MOST_POINTS = 800
# Steps of a running mean: of a million steps it takes a second or two.
WIDEST = 2001
SCORE = re.compile(r"(?:(?P<head>.+)_)?(?P<metric>top\d+|mAP)")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Chart:
    title: str
    note: str
    """What is to be known to read it."""
    svg: str
    lines: tuple["Line", ...] = ()
    """What they are, where there are several."""


@dataclass(frozen=True)
class Line:
    name: str
    colour: str
    """By its name on the page."""
    dashed: bool


def draw_curves(steps: Sequence[Row], epochs: Sequence[Row], clip_norm: float | None = None) -> list[Chart]:
    """What steps.jsonl and metrics.jsonl tell, each chart for which there is a number.

    Args:
        steps: with step, loss, learning_rate, gradient_norm, clips_per_second and waiting.
        epochs: with epoch, loss, clips_per_second and the scores; loss and speed are theirs where no steps are noted.
        clip_norm: what the gradient's norm was scaled down to.
    """
    steps = [row for row in steps if math.isfinite(number(row.get("step")))]
    epochs = [row for row in epochs if math.isfinite(number(row.get("epoch")))]
    loss = _over_steps("Training loss", steps, "loss") or _over_epochs("Training loss", epochs, ["loss"])
    speed = _over_steps("Clips per second", steps, "clips_per_second")
    charts = [
        loss,
        _over_epochs("Validation", epochs, score_names(epochs), percent=True),
        _over_steps("Learning rate", steps, "learning_rate", smooth=False),
        _over_steps("Gradient norm", steps, "gradient_norm", logarithmic=True, threshold=clip_norm),
        speed or _over_epochs("Clips per second", epochs, ["clips_per_second"]),
        _over_steps("Time spent waiting for clips", steps, "waiting", percent=True),
    ]
    return [chart for chart in charts if chart is not None]


def score_names(epochs: Sequence[Row]) -> list[str]:
    """The scores among the fields of metrics.jsonl: top1, verb_top5, mAP and the like."""
    return [name for name in dict.fromkeys(name for row in epochs for name in row) if SCORE.fullmatch(name)]


def score_in_words(name: str) -> str:
    """ "verb top-1" for verb_top1."""
    parts = SCORE.fullmatch(name)
    return f"{parts['head'] or ''} {parts['metric'].replace('top', 'top-')}".lstrip() if parts else name


def number(value: Any) -> float:
    """A number of a file; NaN where there is none, or none that is finite."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else math.nan


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of the `width` values around each, of fewer at the ends; NaN stays, and counts for none of the others.

    Args:
        values: (N,).
        width: odd.
    """
    known = np.isfinite(values)
    window = np.ones(width)
    # Of "full", what lies around each value: with "same" numpy gives the window's length where that is more.
    around = slice(width // 2, width // 2 + len(values))
    count = np.convolve(known, window)[around]
    total = np.convolve(np.where(known, values, 0.0), window)[around]
    return np.where(known, total / np.maximum(count, 1), np.nan)


def extremes(positions: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most about `MOST_POINTS` of the points, (N,) each: the lowest and the highest of each stretch, in order."""
    if len(values) <= MOST_POINTS:
        return positions, values
    kept: set[int] = set()
    for stretch in np.array_split(np.arange(len(values)), MOST_POINTS // 2):
        known = stretch[np.isfinite(values[stretch])]
        if len(known):
            kept |= {int(known[values[known].argmin()]), int(known[values[known].argmax()])}
        else:
            kept.add(int(stretch[0]))
    chosen = sorted(kept)
    return positions[chosen], values[chosen]


def _over_steps(
    title: str,
    steps: Sequence[Row],
    name: str,
    *,
    smooth: bool = True,
    percent: bool = False,
    logarithmic: bool = False,
    threshold: float | None = None,
) -> Chart | None:
    values = np.array([number(row.get(name)) for row in steps])
    if not np.isfinite(values).any():
        return None
    values = 100 * values if percent else values
    positions = np.array([number(row.get("step")) for row in steps])
    width = min(len(values) // 40 * 2 + 1, WIDEST) if smooth else 1
    middle = running_mean(values, width) if width > 1 else values
    figure, axes = _axes("step")
    if width > 1:
        axes.plot(*extremes(positions, values), color=_COLOURS["one"], alpha=0.3, linewidth=0.7)
    axes.plot(*extremes(positions, middle), color=_COLOURS["one"], linewidth=1.6, marker=_marker(len(values)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # Where there is no number to draw, too.
    if len(positions) > 1:
        axes.set_xlim(positions.min() - 1, positions.max() + 1)
    if threshold is not None:
        axes.axhline(threshold, color=_COLOURS["faint"], linewidth=0.8, linestyle=(0, (4, 3)))
    if logarithmic:
        _set_logarithmic(axes, [*values, *([] if threshold is None else [threshold])])
    elif percent:
        axes.set_ylim(0, 100)
    else:
        # A few spikes must not press the rest to the floor; the line itself is always seen.
        highest = max(np.nanpercentile(values, 99), np.nanmax(middle))
        axes.set_ylim(0, 1.08 * highest if highest > 0 else 1)
    note = [f"last {_last(values):.3g}{' %' if percent else ''}"]
    if percent:
        note.append(f"mean {np.nanmean(values):.3g} %")
    if width > 1:
        note.append(f"line: mean of {width} steps")
    if threshold is not None:
        note.append(f"dashed: clipped to {threshold:g}")
    unknown = int(np.sum(~np.isfinite(values)))
    if unknown:
        note.append(f"{unknown} steps without a number")
    return Chart(title, "; ".join(note), _svg(figure, title))


def _set_logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """An axis on which a few numbers are named, however near to each other the values are."""
    positive = [value for value in values if value > 0]
    if not positive:
        return
    lowest, highest = min(positive) / 1.6, max(positive) * 1.6
    axes.set_yscale("log", nonpositive="mask")
    axes.set_ylim(lowest, highest)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if highest / lowest < 100 else (1,)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _over_epochs(title: str, epochs: Sequence[Row], names: Sequence[str], *, percent: bool = False) -> Chart | None:
    figure, axes = _axes("epoch")
    heads = list(dict.fromkeys(_head(name) for name in names))
    positions = np.array([number(row.get("epoch")) for row in epochs])
    lines = []
    for name in names:
        values = np.array([number(row.get(name)) for row in epochs]) * (100 if percent else 1)
        if not np.isfinite(values).any():
            continue
        colour = _LINES[heads.index(_head(name)) % len(_LINES)]
        line = Line(score_in_words(name), colour, dashed=percent and not name.endswith(("top1", "mAP")))
        style = (0, (3, 2)) if line.dashed else "-"
        axes.plot(
            positions, values, color=_COLOURS[colour], linestyle=style, linewidth=1.6, marker=_marker(len(values))
        )
        lines.append(line)
    if not lines:
        return None
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, 102 if percent else None)
    if len(epochs) == 1:
        axes.set_xlim(positions[0] - 0.5, positions[0] + 0.5)
        axes.set_xticks(positions)
    return Chart(
        title, "% of the videos" if percent else "", _svg(figure, title), tuple(lines) if len(lines) > 1 else ()
    )


def _head(name: str) -> str:
    parts = SCORE.fullmatch(name)
    return (parts["head"] if parts else None) or ""


def _last(values: np.ndarray) -> float:
    return float(values[np.isfinite(values)][-1])


def _marker(points: int) -> str:
    """A line of one point would not be seen."""
    return "." if points <= 20 else ""


def _axes(xlabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.2, 2.4), layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    axes.set_xlabel(xlabel, color=_COLOURS["faint"], fontsize=9)
    axes.tick_params(which="both", color=_COLOURS["rule"], labelcolor=_COLOURS["faint"], labelsize=9)
    axes.grid(axis="y", color=_COLOURS["rule"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_COLOURS["rule"])
    return figure, axes


def _svg(figure: Figure, title: str) -> str:
    """The figure as an element: its text is text, its colours are the page's."""
    written = io.StringIO()
    # The same curve gives the same bytes; and nothing is named that would be of another place.
    nameless = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(written, format="svg", metadata=nameless)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    for name, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    # Several charts share a page, and with it the names of their parts.
    return re.sub(r' id="([^"]+)"', lambda found: found[0] if f"#{found[1]}" in svg else "", svg)
