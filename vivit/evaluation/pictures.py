"""The confusion matrix as a picture."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from torch import Tensor

# More classes than this are too many for names and numbers on a page.
MOST_NAMED = 40


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
