"""The demo's page: curves, predictions and confusion matrices of its models, and what to do next."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from vivit.evaluation.evaluate import Evaluation
from vivit.labels import ONLY_HEAD
from vivit.report.curves import column
from vivit.report.drawing import LINES, confusion_svg, draw_curves
from vivit.report.page import data_uri, write_page
from vivit.training.records import read_lines


@dataclass(frozen=True)
class Trained:
    """A model of the demo: the folder of its run, and its scores on held-out videos."""

    name: str
    folder: Path
    evaluation: Evaluation


@dataclass(frozen=True)
class Example:
    """A held-out video, its class, and the classes that the model finds most probable."""

    video: Path
    label: str
    answers: Sequence[tuple[str, float]]

    @property
    def right(self) -> bool:
        return self.answers[0][0] == self.label


@dataclass(frozen=True)
class Comparison:
    """What the page says about the models besides their scores."""

    steps: int
    """Training steps of each model."""
    views: str
    chance: float
    """The accuracy of guessing."""
    order_blind: float
    """The best accuracy that a model without the order of the frames can reach."""


def write_demo(
    path: Path,
    trained: Sequence[Trained],
    comparison: Comparison,
    examples: Sequence[Example],
    commands: Sequence[str],
) -> None:
    """Write the page. Raises UserError.

    Args:
        trained: the model that knows the order of the frames, then the one that does not.
        examples: predictions of the first model: a correct one for each class, and the most confident wrong ones.
        commands: what to run next.
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

    shown = [
        {
            "clip": data_uri(example.video.read_bytes(), "video/mp4"),
            "label": example.label.replace("_", " "),
            "right": example.right,
            "answers": [(label.replace("_", " "), score) for label, score in example.answers],
        }
        for example in examples
    ]
    write_page(
        path,
        "demo.html",
        models=[
            {
                "name": model.name,
                "top1": model.evaluation.accuracy(1),
                "videos": model.evaluation.num_videos,
                "wrong": round((1 - model.evaluation.accuracy(1)) * model.evaluation.num_videos),
                "unreadable": len(model.evaluation.failures),
                "classes": len(names),
                "matrix": Markup(confusion_svg(model.evaluation.confusion().numpy(), names, model.name)),
            }
            for model in trained
        ],
        curves=[over_epochs("Training loss", "loss"), over_epochs("Top-1 on held-out videos", top1, percent=True)],
        right=[example for example in shown if example["right"]],
        wrong=[example for example in shown if not example["right"]],
        comparison=comparison,
        commands=commands,
    )
