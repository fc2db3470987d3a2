"""Confusion matrices as pictures."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from torch import Tensor

from vivit.evaluation.evaluate import Evaluation

# More classes than this are too many for names and numbers on a page.
MOST_NAMED = 40


def draw_confusions(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write confusion.png, or confusion_HEAD.png for each of several heads; nothing where a video has many labels.

    Returns:
        The files written.
    """
    if evaluation.multi_label:
        return []
    single = len(evaluation.classes) == 1
    paths = {head: folder / ("confusion.png" if single else f"confusion_{head}.png") for head in evaluation.classes}
    for head, path in paths.items():
        draw_confusion(evaluation.confusion(head), evaluation.classes[head], path)
    return list(paths.values())


def draw_confusion(confusion: Tensor, classes: Sequence[str], path: Path) -> None:
    """Write a picture of (K, K) counts, rows the true classes; colours are shares of the row."""
    shares = confusion / confusion.sum(dim=1, keepdim=True).clamp(min=1)
    named = len(classes) <= MOST_NAMED
    side = max(4.0, 0.45 * len(classes) + 2.2) if named else 9.0
    figure, axes = plt.subplots(figsize=(side, side), layout="constrained")
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if named:
        names = [name.replace("_", " ") for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(classes)), names)
        for row, counts in enumerate(confusion.tolist()):
            for column, count in enumerate(counts):
                if count:
                    colour = "white" if shares[row, column] > 0.5 else "black"
                    axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
