"""The demo's page: curves, predictions and confusion matrices of its models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from vivit.evaluation.evaluate import Evaluation
from vivit.inference.predictor import Prediction
from vivit.labels import ONLY_HEAD
from vivit.report.curves import column
from vivit.report.drawing import LINES, confusion_svg, draw_curves
from vivit.report.page import data_uri, write_page
from vivit.report.run_files import read_lines


@dataclass(frozen=True)
class Trained:
    """A model of the demo: the folder of its run, and its scores on held-out videos."""

    name: str
    folder: Path
    evaluation: Evaluation


@dataclass(frozen=True)
class Example:
    video: Path
    label: str
    prediction: Prediction


def write_demo(path: Path, trained: Sequence[Trained], examples: Sequence[Example], views: str) -> None:
    """Write the page. Raises UserError.

    Args:
        examples: predictions of the first model.
    """
    space = trained[0].evaluation.space
    names, top1 = space.classes[ONLY_HEAD], next(space.metrics()).key
    epochs = [read_lines(model.folder / "metrics.jsonl") for model in trained]

    def over_epochs(title: str, field: str, percent: bool = False) -> object:
        curves = [
            column(rows, "epoch", field, name=model.name, colour=colour)
            for model, rows, colour in zip(trained, epochs, LINES, strict=False)
        ]
        return draw_curves(title, curves, "epoch", percent=percent)

    write_page(
        path,
        "demo.html",
        models=[
            {
                "name": model.name,
                "top1": model.evaluation.accuracy(1),
                "videos": model.evaluation.num_videos,
                "unreadable": len(model.evaluation.failures),
                "classes": len(names),
                "matrix": Markup(confusion_svg(model.evaluation.confusion().numpy(), names, model.name)),
            }
            for model in trained
        ],
        curves=[over_epochs("Training loss", "loss"), over_epochs("Top-1 on held-out videos", top1, percent=True)],
        examples=[
            {
                "clip": data_uri(example.video.read_bytes(), "video/mp4"),
                "label": example.label.replace("_", " "),
                "right": example.prediction.labels[0].label == example.label,
                "predictions": [
                    (scored.label.replace("_", " "), scored.score) for scored in example.prediction.labels[:3]
                ],
            }
            for example in examples
        ],
        views=views,
    )
