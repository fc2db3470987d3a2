"""Which weights of a run are kept: the best and the last, one model in the run's folder and the other beside it."""

from pathlib import Path
from typing import Literal, get_args

from vivit.errors import UserError
from vivit.files import as_json
from vivit.labels import LabelSpace, Metric
from vivit.model.vivit import ViViT
from vivit.training.records import Row
from vivit.weights.card import score_card
from vivit.weights.files import read_json
from vivit.weights.store import save

Keep = Literal["best", "last"]
KEEPS: tuple[Keep, ...] = get_args(Keep)
EPOCH_FILE = "epoch.json"
"""In a model's folder: the row of metrics.jsonl that belongs to its weights."""


class KeptModels:
    """The models of the best score and of the last: in RUN what `keep` names, in RUN/best or RUN/last the other.

    Both are there from the first score on, also while they are the same. Without classes there is no score, and only
    the last are kept.
    """

    def __init__(self, run: Path, keep: Keep, space: LabelSpace) -> None:
        self.keep: Keep = keep
        self._folders = {name: run if name == keep else run / name for name in KEEPS}
        self._metrics = space.main_metrics()
        self.best: Row = {}
        """The row of the best score; empty if there is none."""

    def resume(self, step: int) -> None:
        """Read which model is the best, of a run that goes on after so many steps.

        One of later steps, which are repeated now, gives way to the next one that is scored.

        Raises:
            UserError: the file that says so is damaged.
        """
        folder = self._folders["best"]
        if not (folder / EPOCH_FILE).exists():
            return
        try:
            found = read_json(folder / EPOCH_FILE)
            at = found.get("step")
            if type(at) is not int:
                raise UserError(f"{folder / EPOCH_FILE}: has no number 'step'")
        except UserError as error:
            raise UserError(
                f"{error}; delete this file: the model beside it then gives way to the next score"
            ) from None
        if at <= step:
            self.best = found

    def save(self, model: ViViT, row: Row, scores: dict[Metric, float], scored_on: str) -> bool:
        """Save the model as the last one and, if no earlier one is better, as the best.

        Args:
            row: its record in metrics.jsonl.
            scores, scored_on: for the model card.

        Returns:
            Whether the run's folder has this model now.

        Raises:
            UserError: a file cannot be written.
        """
        is_best = bool(self._metrics) and self._value(row) >= self._value(self.best)
        names = [name for name in KEEPS if name == "last" or is_best]
        # The run's own folder comes last: what is in it is complete.
        for name in sorted(names, key=lambda name: name == self.keep):
            save(model, self._folders[name], more={EPOCH_FILE: as_json(row)})
            score_card(self._folders[name], model, scores, scored_on)
        if is_best:
            self.best = row
        return self.keep in names

    def is_last(self, step: int) -> bool:
        """Whether the run's folder has the weights after this step, which was scored last."""
        return self.keep == "last" or self.best.get("step") == step

    def described(self, step: int) -> str:
        """Which weights are where, in words, after this step, which was scored last."""
        if not self.best:  # of a run that an earlier version trained, or whose note of it was deleted
            return "the weights of the last epoch" if self.keep == "last" else "weights of an epoch that is not known"
        if self.best.get("step") == step:
            return "the weights of the last epoch, which are also the best by validation score"
        best = f"epoch {self.best.get('epoch')}, the best by validation score"
        if self.keep == "last":
            return f"the weights of the last epoch; those of {best}, are in {self._folders['best']}"
        return f"the weights of {best}; those of the last epoch are in {self._folders['last']}"

    def _value(self, row: Row) -> float:
        """What decides: the mean of the main metrics; lower than any score if the row lacks one."""
        values = [row.get(metric.key) for metric in self._metrics]
        scores = [value for value in values if isinstance(value, int | float) and 0 <= value <= 1]
        return sum(scores) / len(scores) if len(scores) == len(values) else -1.0
