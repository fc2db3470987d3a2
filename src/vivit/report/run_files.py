"""The files of a run folder, as its page needs them."""

from dataclasses import dataclass
from pathlib import Path

from vivit.errors import UserError
from vivit.labels import LabelSpace, Metric, as_classes
from vivit.report.mistakes import Predictions, read_predictions
from vivit.training.kept import EPOCH_FILE
from vivit.training.records import Row, read_lines
from vivit.weights.files import read_json


@dataclass(frozen=True)
class RunFiles:
    """The content of each file; empty if it is missing."""

    path: Path
    config: Row
    recipe: Row
    epochs: list[Row]
    steps: list[Row]
    sessions: list[Row]
    predictions: Predictions
    kept: Row
    """The row of the epoch whose weights are in the folder."""

    @property
    def space(self) -> LabelSpace:
        return self.predictions.space

    @property
    def metrics(self) -> list[Metric]:
        """The informative metrics that were scored."""
        scored = {key for row in self.epochs for key in row}
        return [metric for metric in self.space.metrics() if metric.informative and metric.key in scored]


def read_run(run: Path) -> RunFiles:
    """Read the folder of a run. Raises UserError if it is not one, or if a file is damaged."""
    if not run.is_dir():
        raise UserError(f"{run}: no such folder; give the --out of vivit train")
    if not ((run / "recipe.json").exists() or (run / "metrics.jsonl").exists()):
        raise UserError(f"{run}: is not a run, because it has no recipe.json; give a folder that vivit train wrote")
    config, recipe = (read_json(file) if file.exists() else {} for file in (run / "config.json", run / "recipe.json"))
    architecture = config.get("architecture") or {}
    if not isinstance(architecture, dict):
        raise UserError(f"{run / 'config.json'}: its architecture is not a JSON object")
    multi_label = bool(architecture.get("multi_label"))
    try:
        space = LabelSpace(as_classes(config.get("classes") or {}), multi_label)
    except ValueError as error:
        raise UserError(f"{run / 'config.json'}: {error}") from None
    epochs = read_lines(run / "metrics.jsonl")
    kept = epochs[-1] if epochs else {}
    if (run / EPOCH_FILE).exists():
        try:
            kept = read_json(run / EPOCH_FILE)
        except UserError as error:
            raise UserError(f"{error}; delete this file: the page then describes the last epoch") from None
    return RunFiles(
        run,
        config,
        recipe,
        epochs=epochs,
        kept=kept,
        steps=read_lines(run / "steps.jsonl"),
        sessions=read_lines(run / "sessions.jsonl"),
        predictions=read_predictions(run / "val_predictions.csv", space),
    )
