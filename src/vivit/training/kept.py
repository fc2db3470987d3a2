"""The weights a run keeps: the best and the last, one in the run folder and the other beside it."""

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
"""File in a model folder with the row of metrics.jsonl for its weights."""


class KeptModels:
    """The models with the best and the last score: RUN has the one `keep` names, RUN/best or RUN/last the other.

    Both exist from the first score on, even while they are equal. Without classes there is no score, and only the last
    is kept.
    """

    def __init__(self, run: Path, keep: Keep, space: LabelSpace) -> None:
        self.keep: Keep = keep
        self._folders = {name: run if name == keep else run / name for name in KEEPS}
        self._metrics = space.main_metrics()
        self.best: Row = {}
        """The row of the best score; empty if there is none."""

    def resume(self, step: int) -> None:
        """Read which model is the best, for a run that resumes after this many steps.

        If the best comes from a later step, which is now repeated, the next scored model replaces it.

        Raises:
            UserError: the file that records the best is damaged.
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
            raise UserError(f"{error}; delete this file, and the next score will replace the model beside it") from None
        if at <= step:
            self.best = found

    def save(self, model: ViViT, row: Row, scores: dict[Metric, float], scored_on: str) -> bool:
        """Save the model as the last and, if no earlier one is better, as the best.

        Args:
            row: its record in metrics.jsonl.
            scores, scored_on: for the model card.

        Returns:
            Whether the run folder now has this model.

        Raises:
            UserError: a file cannot be written.
        """
        is_best = bool(self._metrics) and self._value(row) >= self._value(self.best)
        names = [name for name in KEEPS if name == "last" or is_best]
        # The run folder comes last, so once it has a model, the save is complete.
        for name in sorted(names, key=lambda name: name == self.keep):
            save(model, self._folders[name], more={EPOCH_FILE: as_json(row)})
            score_card(self._folders[name], model, scores, scored_on)
        if is_best:
            self.best = row
        return self.keep in names

    def is_last(self, step: int) -> bool:
        """Whether the run folder has the weights of this step, the last one scored."""
        return self.keep == "last" or self.best.get("step") == step

    def described(self, step: int) -> str:
        """Which weights are where, in words; `step` is the last one scored."""
        if not self.best:  # an earlier version trained the run, or the record of the best was deleted
            return "the weights of the last epoch" if self.keep == "last" else "weights of an unknown epoch"
        if self.best.get("step") == step:
            return "the weights of the last epoch, which are also the best by validation score"
        best = f"epoch {self.best.get('epoch')}, the best by validation score"
        if self.keep == "last":
            return f"the weights of the last epoch; those of {best}, are in {self._folders['best']}"
        return f"the weights of {best}; those of the last epoch are in {self._folders['last']}"

    def _value(self, row: Row) -> float:
        """The value to compare: the mean of the main metrics; lower than any score if the row lacks one."""
        values = [row.get(metric.key) for metric in self._metrics]
        scores = [value for value in values if isinstance(value, int | float) and 0 <= value <= 1]
        return sum(scores) / len(scores) if len(scores) == len(values) else -1.0
