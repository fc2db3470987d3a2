"""The line on the terminal that tells how a run goes."""

from types import TracebackType
from typing import Self

from rich import get_console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vivit.training.schedule import Schedule

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
