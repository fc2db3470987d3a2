"""Confusion matrices and calibration as pictures."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from vivit.evaluation.evaluate import Evaluation
from vivit.evaluation.metrics import Calibration
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


def draw_confusions(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write confusion.png, or confusion_HEAD.png for each of several heads; nothing where a video has many labels.

    Returns:
        The files written.
    """
    if evaluation.multi_label:
        return []
    paths = _paths(evaluation, folder, "confusion")
    for head, path in paths.items():
        draw_confusion(evaluation.confusion(head), evaluation.classes[head], path)
    return list(paths.values())


def draw_reliabilities(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write reliability.png, or one for each head, as `draw_confusions` does; nothing where no video could be read."""
    written = []
    for head, path in _paths(evaluation, folder, "reliability").items():
        calibration = evaluation.calibration(head)
        if calibration is not None:
            draw_reliability(calibration, path)
            written.append(path)
    return written


def draw_confusion(confusion: Tensor, classes: Sequence[str], path: Path) -> None:
    """Write a picture of (K, K) counts, rows the true classes; colours are shares of the row."""
    number = len(classes)
    shares = confusion / confusion.sum(dim=1, keepdim=True).clamp(min=1)
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
        axes.imshow(shares.numpy(), cmap="Blues", norm=colours, interpolation="nearest")
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        if counted:
            for row, counts in enumerate(confusion.tolist()):
                for column, count in enumerate(counts):
                    if count:
                        colour = "white" if shares[row, column] > 0.5 else "black"
                        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
        write_files({path: lambda unfinished: figure.savefig(unfinished, dpi=DPI, format="png")})


def draw_reliability(calibration: Calibration, path: Path) -> None:
    """Write a picture of accuracy over confidence, and below it how many predictions have which confidence."""
    width = 1 / len(calibration.counts)
    lefts = [number * width for number in range(len(calibration.counts))]
    with _any_text():
        figure = Figure(figsize=(5.0, 6.0), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.bar(lefts, [value or 0.0 for value in calibration.accuracy], width, align="edge", edgecolor="white")
        above.plot((0, 1), (0, 1), "--", color="grey", linewidth=1)
        known = [
            (confidence, accuracy)
            for confidence, accuracy in zip(calibration.confidence, calibration.accuracy, strict=True)
            if confidence is not None
        ]
        above.plot(*zip(*known, strict=True), "o", color="black", markersize=4)
        above.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
        count = sum(calibration.counts)
        above.set_title(f"expected calibration error {calibration.error:.1%}, {count:,} predictions", fontsize=10)
        below.bar(lefts, calibration.counts, width, align="edge", edgecolor="white")
        below.set(xlabel="probability of the predicted class", ylabel="predictions")
        write_files({path: lambda unfinished: figure.savefig(unfinished, dpi=DPI, format="png")})


def _paths(evaluation: Evaluation, folder: Path, name: str) -> dict[str, Path]:
    single = len(evaluation.classes) == 1
    return {head: folder / (f"{name}.png" if single else f"{name}_{head}.png") for head in evaluation.classes}


def _tell_confusions(confusion: Tensor, names: Sequence[str], axes: Axes) -> None:
    """The most frequent confusions, in words."""
    wrong = confusion.clone()
    wrong.fill_diagonal_(0)
    counts, places = wrong.flatten().sort(descending=True, stable=True)
    of_class = confusion.sum(dim=1).tolist()
    lines = []
    for count, place in zip(counts[:TOLD].tolist(), places[:TOLD].tolist(), strict=True):
        if count:
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
