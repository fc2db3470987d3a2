"""An evaluation's confusion matrices and calibration as PNG files."""

from pathlib import Path

from vivit.evaluation.evaluate import Evaluation
from vivit.report.drawing import confusion_figure, reliability_figure, write_png


def draw_confusions(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write confusion.png, or confusion_HEAD.png for each of several heads; nothing if multi_label. Returns files."""
    if evaluation.space.multi_label:
        return []
    paths = _paths(evaluation, folder, "confusion")
    for head, path in paths.items():
        write_png(path, confusion_figure(evaluation.confusion(head).numpy(), evaluation.space.classes[head]))
    return list(paths.values())


def draw_reliabilities(evaluation: Evaluation, folder: Path, at_least: int = 1) -> list[Path]:
    """Write reliability.png, or reliability_HEAD.png for each of several heads, where a head has a calibration.

    Args:
        at_least: see `Evaluation.calibration`.
    """
    written = []
    for head, path in _paths(evaluation, folder, "reliability").items():
        found = evaluation.calibration(head, at_least)
        if found is not None:
            write_png(path, reliability_figure(found.error, found.counts, found.confidence, found.accuracy))
            written.append(path)
    return written


def _paths(evaluation: Evaluation, folder: Path, name: str) -> dict[str, Path]:
    heads = evaluation.space.heads
    return {head: folder / (f"{name}.png" if len(heads) == 1 else f"{name}_{head}.png") for head in heads}
