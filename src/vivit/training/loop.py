"""The loop over a run's steps, with their scores, checkpoints and records."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Self

from rich import get_console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from vivit.data.loader import Batch
from vivit.data.manifest import HASH_DIGITS
from vivit.data.names import shortened
from vivit.errors import Interrupted, Stopped, UserError
from vivit.evaluation.evaluate import Evaluation
from vivit.evaluation.per_video import write_per_video
from vivit.evaluation.pictures import draw_confusions
from vivit.runtime import peak_memory
from vivit.text import printable
from vivit.training.checkpoint import Checkpoints
from vivit.training.distributed import everyones, summed, together
from vivit.training.optim import Schedule
from vivit.training.plan import Plan, too_many_unreadable
from vivit.training.run_folder import RunFolder
from vivit.training.sources import FromFeatures, FromVideos
from vivit.training.update import NotFinite, Updater


class StopRequest:
    """Inside this context, records Ctrl-C, SIGTERM and SIGHUP instead of ending; a second Ctrl-C ends the process.

    SIGTERM and SIGHUP may come any number of times: torchrun forwards them to workers that may have had them already.
    SIGHUP, which a closed terminal sends, stays ignored under nohup.
    """

    def __init__(self) -> None:
        self.signal = 0
        """The number of the signal received, or 0."""
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Self:
        self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
        if threading.current_thread() is threading.main_thread():  # Python delivers signals to no other thread
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])
        elif number == signal.SIGHUP:
            # The terminal is closed; writing to it would fail.
            null = os.open(os.devnull, os.O_WRONLY)
            for stream in self._terminals:
                os.dup2(null, stream)
            os.close(null)


# These fit in 80 characters; a wider terminal also shows a bar and the elapsed time.
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
    """Inside this context, a progress line on the terminal."""

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

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def begin(self, done: int) -> None:
        """Show the number of steps completed by earlier calls."""
        self.epoch = f"{done // self.schedule.steps_per_epoch}/{self.schedule.epochs}"
        self.progress.update(self.bar, completed=done, epoch=self.epoch)

    def step(self, done: int, loss: float, rate: float, waiting: float) -> None:
        """
        Args:
            done: steps completed.
            loss: the epoch's mean loss so far.
            rate: clips per second.
            waiting: the fraction of the time spent waiting for clips.
        """
        self.epoch = f"{(done - 1) // self.schedule.steps_per_epoch + 1}/{self.schedule.epochs}"
        figures = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
        self.progress.update(self.bar, completed=done, epoch=self.epoch, loss=loss, rate=figures, waiting=waiting)

    def status(self, words: str) -> None:
        """Show what happens between steps; "" clears it."""
        self.progress.update(self.bar, epoch=f"{self.epoch}, {words}" if words else self.epoch)


@dataclass
class Training:
    """A run in progress, in one of its processes."""

    plan: Plan
    run: RunFolder
    update: Updater
    source: FromVideos | FromFeatures
    stop: StopRequest
    display: Display
    checkpoint_every: float
    """Seconds between checkpoints."""

    def __post_init__(self) -> None:
        self.schedule, self.accelerator, self.learner = self.plan.schedule, self.update.accelerator, self.update.learner
        self.checkpoints = Checkpoints(self.run.checkpoints)
        self.done = 0
        """Optimiser steps completed."""
        self.losses: list[float] = []
        """One for each step of the current epoch."""
        self.unreadable: dict[int, str] = {}
        """Index of each unreadable training video → why."""
        self.scored = 0
        """Steps before the last score."""
        self.evaluation: Evaluation | None = None
        """The last one of this call."""

    @property
    def is_over(self) -> bool:
        """Whether all steps are done and the last weights are scored."""
        return self.done == self.scored == self.schedule.num_steps

    def resume(self, say: Callable[[str], object]) -> None:
        """Load the last checkpoint, if there is one, and the records up to it."""
        found = self.checkpoints.load_latest(self.learner.tensors, say, self.check_state)
        if found is not None:
            self.done, self.losses = found["step"], found["losses"]
            self.unreadable = {int(index): reason for index, reason in found["unreadable"].items()}
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(found["scaler"])
            say(f"resuming after step {self.done} of {self.schedule.num_steps}, from {self.run.checkpoints}")
        elif self.plan.resumed:
            raise UserError(f"{self.run.checkpoints}: the checkpoints are gone; run the command again to start over")
        self.saved = self.done
        self.saved_at = self.begun = time.monotonic()
        # Only rank 0 has the records.
        together(lambda: self.run.go_on(self.done, self.accelerator) if self.accelerator.is_main_process else None)
        self.scored = everyones([self.run.scored if self.run.has_model else 0])[0]
        self.display.begin(self.done)

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise ValueError if a checkpoint's state is not one of this run."""
        step, losses, unreadable = (state.get(name) for name in ("step", "losses", "unreadable"))
        if not (isinstance(step, int) and 0 < step <= self.schedule.num_steps):
            raise ValueError(f"it is of step {step}, and the run has {self.schedule.num_steps}")
        in_epoch = (step - 1) % self.schedule.steps_per_epoch + 1
        if not (isinstance(losses, list) and len(losses) == in_epoch and all(map(_is_finite, losses))):
            raise ValueError(f"it lacks the losses of its epoch's {in_epoch} steps")
        videos = len(self.plan.train_set.videos)
        if not (
            isinstance(unreadable, dict)
            and all(index.isdecimal() and int(index) < videos for index in unreadable)
            and all(isinstance(reason, str) for reason in unreadable.values())
        ):
            raise ValueError("its unreadable videos are not those of this run")
        if (scaler := self.accelerator.scaler) is not None:
            kept = state.get("scaler")
            if not (isinstance(kept, dict) and kept.keys() == scaler.state_dict().keys()):
                raise ValueError("it has no loss scale")
            if not all(map(_is_finite, kept.values())):
                raise ValueError("its loss scale is not a number")

    def go(self) -> None:
        """Run all remaining steps.

        Raises:
            UserError: a loss is not finite, too many videos are unreadable, or something cannot be written.
            Stopped: a process got Ctrl-C, SIGTERM or SIGHUP; the last step is in a checkpoint.
        """
        with self.stop, self.display:
            try:
                self.source.prepare()
                # The last call may have stopped between a step and its score.
                self.score_if_due()
                began = time.monotonic()
                for batch in self.source.batches(self.done):
                    self.step(batch, began)
                    self.check_unreadable(batch)
                    self.save_if_due()
                    if summed(self.stop.signal != 0, self.accelerator):
                        raise Interrupted
                    self.score_if_due()
                    began = time.monotonic()
            except Interrupted:
                self.leave()
            finally:
                self.checkpoints.settle()
            self.checkpoints.wait()

    def step(self, batch: Batch, began: float) -> None:
        """Update the weights and record the step.

        Args:
            began: when the loop asked for the batch.
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
                f"step {self.done + 1}: {trouble}, because of {shortened(names, 3) or 'no single clip'}; lower the "
                f"learning rate ({rate:g}), or look at the clips; {left}"
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
        """Record unreadable videos. Raises UserError if there are too many."""
        if not summed(bool(batch.failures), self.accelerator):
            return
        self.unreadable = {**dict(everyones([(index, str(why)) for index, why in batch.failures])), **self.unreadable}
        if error := too_many_unreadable(self.plan, self.unreadable.values()):
            raise error

    def save_if_due(self) -> None:
        """Save before scoring, which may take long, and once `checkpoint_every` seconds have passed in any process."""
        overdue = time.monotonic() - self.saved_at > self.checkpoint_every
        if summed(overdue, self.accelerator) or self.schedule.is_scored(self.done):
            self.save()

    def save(self) -> None:
        """Write a checkpoint in the background."""
        state: dict[str, Any] = {"step": self.done, "losses": self.losses, "unreadable": self.unreadable}
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        self.checkpoints.save(self.done, self.learner.tensors(), state)
        self.saved, self.saved_at = self.done, time.monotonic()
        self.note_session()

    def note_session(self) -> None:
        """Record this call's last step, time and memory."""
        if self.accelerator.is_main_process:
            lasted, peak = time.monotonic() - self.begun, peak_memory(self.accelerator.device)
            self.run.note_session(last_step=self.done, seconds=lasted, peak_memory=peak)

    def score_if_due(self) -> None:
        """Score the weights if the schedule says so after this step. Raises Interrupted."""
        if self.schedule.is_scored(self.done) and self.scored != self.done:
            self.evaluation = self.score()
            self.scored = self.done
            self.note_session()
            self.display.status("")

    def score(self) -> Evaluation | None:
        """Score the weights, and write weights and score to the run folder; every process must call it.

        Raises:
            Interrupted: the evaluation was interrupted; nothing is written.
            UserError: no video can be scored; nothing is written.
        """
        kept, run, plan = self.learner.kept, self.run, self.plan
        self.learner.update_kept()
        with self.accelerator.autocast():
            evaluation = self.source.evaluate(kept)
        if 0 < evaluation.num_videos == len(evaluation.failures):
            first = next(iter(evaluation.failures.values()))
            raise UserError(f"none of the {evaluation.num_videos} validation videos can be scored; the first: {first}")
        if self.accelerator.is_main_process:
            epoch = self.done // self.schedule.steps_per_epoch
            val_hash, metrics = plan.hashes["val_hash"], evaluation.metrics()
            about: dict[str, Any] = {"epoch": epoch, "step": self.done, "loss": self.mean_loss}
            row = {**about, **evaluation.scores(), "data_hash": val_hash}
            scored_on = f"{evaluation.num_videos} videos, data {val_hash[:HASH_DIGITS]}"
            if run.models.save(kept, row, metrics, f"{plan.data_name}, val, 1x1 views, {scored_on}"):
                draw_confusions(evaluation, run.path)
                write_per_video(evaluation, plan.val_set, run.path / "val_predictions.csv")
            # Only after the models are saved: a recorded score is not computed again.
            run.note_epoch(row)
            self.accelerator.log({f"val/{metric.key}": value for metric, value in metrics.items()}, step=self.done)
            said = "  ".join(f"{metric.title} {value:6.1%}" for metric, value in metrics.items() if metric.informative)
            line = f"epoch {epoch:3d}  loss {self.mean_loss:.3f}  val {said}"
            self.display.progress.console.print(Text(printable(line)), soft_wrap=True)
        self.learner.model.train()
        return evaluation

    def leave(self) -> None:
        """Raise Stopped once the last step is in a checkpoint."""
        if self.saved < self.done:
            self.save()
        self.checkpoints.wait()
        by_hand = bool(summed(self.stop.signal == signal.SIGINT, self.accelerator))
        raise Stopped(
            f"stopped after step {self.done} of {self.schedule.num_steps}; run the same command to resume", by_hand
        )

    def say_unreadable(self, say: Callable[[str], object]) -> None:
        """List the videos that training could not read, and those that the last evaluation could not."""
        for reason in sorted(set(self.unreadable.values())):
            say(f"unreadable, replaced by others: {reason}")
        for reason in self.evaluation.failures.values() if self.evaluation is not None else ():
            say(f"unreadable, counted as wrong: {reason}")
        if self.unreadable or (self.evaluation is not None and self.evaluation.failures):
            say(self.plan.cure)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
