"""The demo's page: curves, confusion matrices and example videos in one file that needs nothing else."""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import jinja2
import matplotlib.pyplot as plt

from vivit.evaluation.evaluate import Evaluation
from vivit.inference.predictor import Prediction


@dataclass(frozen=True)
class Trained:
    """A model of the demo: its run's folder and its scores on held-out videos."""

    name: str
    folder: Path
    evaluation: Evaluation


@dataclass(frozen=True)
class Example:
    video: Path
    label: str
    prediction: Prediction


def write_page(path: Path, trained: list[Trained], examples: list[Example], views: str) -> None:
    """Write the page; pictures and videos are inside it."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("vivit.report", "."), autoescape=True)
    path.write_text(
        environment.get_template("demo.html").render(
            models=[
                {
                    "name": model.name,
                    "top1": model.evaluation.accuracy(1),
                    "videos": model.evaluation.num_videos,
                    "unreadable": len(model.evaluation.failures),
                    "confusion": _embed(model.folder / "evaluation" / "confusion.png", "image/png"),
                }
                for model in trained
            ],
            curves=_curves(trained),
            examples=[
                {
                    "video": _embed(example.video, "video/mp4"),
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
    )


def _embed(file: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def _curves(trained: list[Trained]) -> str:
    """Loss and validation accuracy over the epochs, as inline SVG."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for model in trained:
        rows = [json.loads(line) for line in (model.folder / "metrics.jsonl").read_text().splitlines()]
        epochs = [row["epoch"] for row in rows]
        left.plot(epochs, [row["loss"] for row in rows], label=model.name)
        right.plot(epochs, [100 * row["top1"] for row in rows], label=model.name)
    left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    right.set(xlabel="epoch", ylabel="top-1 on held-out videos (%)", ylim=(0, 102))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    picture = io.StringIO()
    figure.savefig(picture, format="svg")
    plt.close(figure)
    return picture.getvalue()[picture.getvalue().index("<svg") :]
