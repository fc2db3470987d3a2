"""Scores: what a run's model makes of the validation videos, and what is left of it in the run's folder."""

from collections.abc import Callable

from accelerate import Accelerator

from vivit.data.datasets import VideoSet
from vivit.data.manifest import HASH_DIGITS
from vivit.evaluation.evaluate import Evaluation
from vivit.evaluation.per_video import write_per_video
from vivit.model.vivit import ViViT
from vivit.report.pictures import draw_confusions
from vivit.training.averaging import WeightAverage
from vivit.training.run_folder import RunFolder
from vivit.training.state import kept_weights
from vivit.weights.card import score_card


class Scorer:
    """Scores the weights so far, and keeps them; one for a run."""

    def __init__(
        self,
        model: ViViT,
        kept: ViViT,
        average: WeightAverage | None,
        val_set: VideoSet,
        val_hash: str,
        data_name: str,
        run: RunFolder,
        accelerator: Accelerator,
        evaluated: Callable[[ViViT], Evaluation],
    ) -> None:
        """
        Args:
            model: that is trained; without a wrapper such as DDP, it may be sharded.
            kept: that is kept and scored: the model itself, or a copy, which gets its weights or their average.
            val_set: the validation videos.
            val_hash: theirs.
            data_name: what the model's card calls them.
            evaluated: the evaluation on them, which every process gets.
        """
        self.model, self.kept, self.average, self.val_set, self.val_hash = model, kept, average, val_set, val_hash
        self.data_name = data_name
        self.run, self.accelerator, self.evaluated = run, accelerator, evaluated

    def __call__(self, step: int, epoch: int, loss: float, say: Callable[[str], None]) -> Evaluation:
        """Score the weights, and leave them and the score in the run's folder; every process has to call it.

        Args:
            step, epoch: how many are done.
            loss: the mean of the epoch.

        Raises:
            Interrupted: by `evaluated`; nothing is noted then.
        """
        self.take_weights()
        with self.accelerator.autocast():
            evaluation = self.evaluated(self.kept)
        if self.accelerator.is_main_process:
            row = {"epoch": epoch, "step": step, "loss": loss, **evaluation.scores(), "data_hash": self.val_hash}
            self.run.note_epoch(row)
            self.accelerator.log({f"val/{name}": value for name, value in evaluation.shares().items()}, step=step)
            draw_confusions(evaluation, self.run.path)
            write_per_video(evaluation, self.val_set, self.run.path / "val_predictions.csv")
            self.kept.save_pretrained(self.run.path)
            scored_on = f"{evaluation.num_videos} videos, data {self.val_hash[:HASH_DIGITS]}"
            words = f"{self.data_name}, val, 1x1 views, {scored_on}"
            score_card(self.run.path, self.kept, evaluation.shares_that_tell(), words)
            said = "  ".join(f"{name} {value:6.1%}" for name, value in evaluation.shares_in_words().items())
            say(f"epoch {epoch:3d}  loss {loss:.3f}  val {said}")
        self.model.train()
        return evaluation

    def take_weights(self) -> None:
        """Let the model that is kept have the weights so far; every process has to call it."""
        if self.kept is not self.model:
            self.kept.load_state_dict(kept_weights(self.model, self.average))
