"""The loop: step by step to the end, with the scores, the checkpoints and the records that belong to the steps."""

import signal
import threading
import time
from collections.abc import Callable, Mapping
from signal import SIGINT
from types import FrameType, TracebackType
from typing import Any, Self

from accelerate import Accelerator
from rich import get_console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from vivit.data.datasets import VideoSet
from vivit.data.entries import shortened
from vivit.data.loader import Batch
from vivit.data.manifest import HASH_DIGITS
from vivit.errors import Interrupted, Stopped, UserError
from vivit.evaluation.evaluate import Evaluation
from vivit.evaluation.per_video import write_per_video
from vivit.evaluation.pictures import draw_confusions
from vivit.model.vivit import ViViT
from vivit.runtime import peak_memory
from vivit.training.checkpoint import Checkpoints, kept_weights
from vivit.training.distributed import everyones, summed
from vivit.training.optim import Schedule, WeightAverage
from vivit.training.plan import Plan
from vivit.training.run_folder import RunFolder, session_of
from vivit.training.sources import FromFeatures, FromVideos
from vivit.training.update import NotFinite, Updater
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
            metrics = evaluation.metrics()
            self.accelerator.log({f"val/{metric.key}": value for metric, value in metrics.items()}, step=step)
            draw_confusions(evaluation, self.run.path)
            write_per_video(evaluation, self.val_set, self.run.path / "val_predictions.csv")
            self.kept.save_pretrained(self.run.path)
            scored_on = f"{evaluation.num_videos} videos, data {self.val_hash[:HASH_DIGITS]}"
            words = f"{self.data_name}, val, 1x1 views, {scored_on}"
            score_card(self.run.path, self.kept, metrics, words)
            said = "  ".join(f"{metric.title} {value:6.1%}" for metric, value in metrics.items() if metric.tells)
            say(f"epoch {epoch:3d}  loss {loss:.3f}  val {said}")
        self.model.train()
        return evaluation

    def take_weights(self) -> None:
        """Let the model that is kept have the weights so far; every process has to call it."""
        if self.kept is not self.model:
            self.kept.load_state_dict(kept_weights(self.model, self.average))


class StopRequest:
    """Notes Ctrl-C and SIGTERM while it is entered, in place of their ending the process; a second Ctrl-C ends it.

    SIGTERM may come any number of times: torchrun passes on what its workers may have been sent already.
    """

    def __init__(self) -> None:
        self.signal = 0
        """The number of the signal that came, or 0."""
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python hands out no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])


# What fits into a terminal of 80 characters; a wider one has a bar, too, and the time so far.
COLUMNS = (
    TextColumn("epoch {task.fields[epoch]}"),
    TextColumn("step {task.completed}"),
    TextColumn("loss {task.fields[loss]:.3f}"),
    TextColumn("{task.fields[rate]} clips/s"),
    TextColumn("{task.fields[waiting]:.0%} waiting"),
    TimeRemainingColumn(),
    TextColumn("left"),
)
WIDE = 120


class Display:
    """There while it is entered, and in one process only."""

    def __init__(self, schedule: Schedule, visible: bool) -> None:
        self.schedule = schedule
        console = get_console()
        bar, elapsed = ((BarColumn(bar_width=None),), (TimeElapsedColumn(),)) if console.width >= WIDE else ((), ())
        self.progress = Progress(COLUMNS[0], *bar, *COLUMNS[1:], *elapsed, console=console, disable=not visible)
        self.bar = self.progress.add_task("", total=schedule.num_steps, epoch="", loss=0.0, rate="0", waiting=0.0)
        self.epoch = ""

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.progress.stop()

    def begin(self, done: int) -> None:
        """Some steps were done before."""
        self.epoch = f"{done // self.schedule.steps_per_epoch}/{self.schedule.epochs}"
        self.progress.update(self.bar, completed=done, epoch=self.epoch)

    def step(self, done: int, loss: float, rate: float, waiting: float) -> None:
        """
        Args:
            done: steps.
            loss: the mean of the epoch.
            rate: clips a second.
            waiting: which share of the time.
        """
        self.epoch = f"{(done - 1) // self.schedule.steps_per_epoch + 1}/{self.schedule.epochs}"
        figures = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
        self.progress.update(self.bar, completed=done, epoch=self.epoch, loss=loss, rate=figures, waiting=waiting)

    def beside(self, words: str) -> None:
        """Say what is done beside the steps; "" when it is over."""
        self.progress.update(self.bar, epoch=f"{self.epoch}, {words}" if words else self.epoch)

    def print(self, line: str) -> None:
        """Above the line."""
        self.progress.console.print(line, soft_wrap=True)


class Training:
    """A run under way, in one of its processes."""

    def __init__(
        self,
        plan: Plan,
        run: RunFolder,
        accelerator: Accelerator,
        update: Updater,
        source: FromVideos | FromFeatures,
        scorer: Scorer,
        tensors: Callable[[], Mapping[str, Tensor]],
        checkpoint_every: float,
        stop: StopRequest,
        display: Display,
    ) -> None:
        """
        Args:
            tensors: all that a checkpoint has to hold, themselves and not copies.
            checkpoint_every: seconds.
        """
        self.plan, self.schedule, self.run = plan, plan.schedule, run
        self.accelerator, self.update = accelerator, update
        self.source, self.scorer, self.tensors = source, scorer, tensors
        self.checkpoint_every, self.stop, self.display = checkpoint_every, stop, display
        self.checkpoints = Checkpoints(run.checkpoints)
        self.done = 0
        """Steps."""
        self.losses: list[float] = []
        """Of the steps of this epoch."""
        self.unreadable: dict[int, str] = {}
        """Which training videos could not be read, and why."""
        self.times_scored = 0
        self.evaluation: Evaluation | None = None
        """The last of this call."""

    @property
    def is_over(self) -> bool:
        """Whether all steps are done and the last weights are scored."""
        steps = self.schedule.num_steps
        return self.done == steps and self.times_scored == self.schedule.times_scored(steps)

    def resume(self, say: Callable[[str], object]) -> None:
        """Take the last checkpoint's state, where there is one, and the records up to it."""
        found = self.checkpoints.load_latest(self.tensors, say)
        if found is not None:
            self.done, self.losses = found["step"], found["losses"]
            self.unreadable = {int(index): reason for index, reason in found["unreadable"].items()}
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(found["scaler"])
            say(f"going on after step {self.done} of {self.schedule.num_steps}, from {self.run.checkpoints}")
        self.saved = self.done
        self.saved_at = self.begun = time.monotonic()
        if self.accelerator.is_main_process:
            self.run.go_on(self.done, session_of(self.accelerator, self.done))
        self.times_scored = everyones([len(self.run.epochs)])[0]  # the first process has the records
        self.display.begin(self.done)

    def go(self) -> None:
        """All the steps that are left.

        Raises:
            UserError: a loss is no number, too many videos cannot be read, or something cannot be written.
            Stopped: Ctrl-C or SIGTERM came to any of the processes; there is a checkpoint of the last step.
        """
        with self.stop, self.display:
            try:
                self.source.prepare()
                # A run may have been stopped between a step and its score.
                self.score_if_due()
                began = time.monotonic()
                for batch in self.source.batches(self.done):
                    self.step(batch, began)
                    self.check_unreadable(batch)
                    self.save_if_due()
                    self.break_off_if_asked()
                    self.score_if_due()
                    began = time.monotonic()
            except Interrupted:
                self.leave()
            self.checkpoints.wait()

    def step(self, batch: Batch, began: float) -> None:
        """Update the weights, and note it.

        Args:
            began: when the batch was asked for.
        """
        schedule, waited = self.schedule, time.monotonic() - began
        epoch, rate = self.done // schedule.steps_per_epoch, schedule.rate(self.done)
        if self.done % schedule.steps_per_epoch == 0:
            self.losses = []
        try:
            updated = self.update(batch, self.done, epoch, rate, schedule.batch_size)
        except NotFinite as trouble:
            self.checkpoints.wait()
            indices = everyones(trouble.indices)
            names = sorted({str(self.plan.train_set.videos[index].source) for index in indices})
            left = "the last checkpoint is from before" if self.saved else "there is no checkpoint yet"
            raise UserError(
                f"step {self.done + 1}: {trouble}, by {shortened(names, 3) or 'no single clip'}; lower the learning "
                f"rate ({rate:g}), or look at the clips; {left}"
            ) from None
        self.losses.append(updated.loss)
        self.done += 1
        seconds = time.monotonic() - began
        row = {"loss": updated.loss, "learning_rate": rate, "gradient_norm": updated.gradient_norm}
        row |= {"clips_per_second": schedule.batch_size / seconds, "waiting": waited / seconds}
        if self.accelerator.is_main_process:
            self.run.note_step({"step": self.done, "epoch": epoch + 1, **row})
            self.accelerator.log({f"train/{name}": value for name, value in row.items()}, step=self.done)
        self.display.step(self.done, self.mean_loss, row["clips_per_second"], row["waiting"])

    @property
    def mean_loss(self) -> float:
        return sum(self.losses) / len(self.losses)

    def check_unreadable(self, batch: Batch) -> None:
        """Note the videos that could not be read; raises UserError where there are too many."""
        if not summed([bool(batch.failures)], self.accelerator)[0]:
            return
        self.unreadable = {**dict(everyones([(index, str(why)) for index, why in batch.failures])), **self.unreadable}
        videos, share = len(self.plan.train_set.videos), self.plan.recipe.unreadable
        if len(self.unreadable) > share * videos:
            raise UserError(
                f"{len(self.unreadable)} of {videos} training videos cannot be read, more than {share:.0%} "
                f"(--unreadable): {min(self.unreadable.values())}"
            )

    def save_if_due(self) -> None:
        """Before a score, which may take long; and every so many seconds, by the clock of any process."""
        overdue = time.monotonic() - self.saved_at > self.checkpoint_every
        if summed([overdue], self.accelerator)[0] or self.schedule.is_scored(self.done):
            self.save()

    def save(self) -> None:
        """In the background."""
        state: dict[str, Any] = {"step": self.done, "losses": self.losses, "unreadable": self.unreadable}
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        self.checkpoints.save(self.done, self.tensors(), state)
        self.saved, self.saved_at = self.done, time.monotonic()
        self.note_session()

    def note_session(self) -> None:
        """How far this call has come, and what it took."""
        if self.accelerator.is_main_process:
            lasted, peak = time.monotonic() - self.begun, peak_memory(self.accelerator.device)
            self.run.note_session(last_step=self.done, seconds=lasted, peak_memory=peak)

    def score_if_due(self) -> None:
        """Score the weights after those steps that the schedule says; raises Interrupted."""
        schedule = self.schedule
        if not schedule.is_scored(self.done) or self.times_scored == schedule.times_scored(self.done):
            return
        self.evaluation = self.scorer(
            self.done, self.done // schedule.steps_per_epoch, self.mean_loss, self.display.print
        )
        self.times_scored += 1
        self.note_session()
        self.display.beside("")

    def break_off_if_asked(self) -> None:
        """Raises Interrupted in all processes when one was asked to stop."""
        if summed([self.stop.signal != 0], self.accelerator)[0]:
            raise Interrupted

    def leave(self) -> None:
        """Raises Stopped, when the last step is in a checkpoint."""
        if self.saved < self.done:
            self.save()
        self.checkpoints.wait()
        by_hand = bool(summed([self.stop.signal == SIGINT], self.accelerator)[0])
        raise Stopped(f"stopped after step {self.done} of {self.schedule.num_steps}; the same command goes on", by_hand)

    def say_unreadable(self, say: Callable[[str], object]) -> None:
        """Which videos could not be read in the run, and which in its last score."""
        for reason in sorted(set(self.unreadable.values())):
            say(f"not read, others seen in its place: {reason}")
        for reason in self.evaluation.failures.values() if self.evaluation is not None else ():
            say(f"not read, counted as wrong: {reason}")
