"""What a command shows while it works: lines of text, and a bar for what takes long."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def console(visible: bool = True) -> Console:
    """A console for plain lines: nothing is wrapped, coloured or read as markup. Silent in all ranks but the first."""
    return Console(soft_wrap=True, markup=False, highlight=False, quiet=not visible)


@contextmanager
def progress_bar(title: str, total: int | None = None, visible: bool = True) -> Iterator[Callable[..., None]]:
    """A bar with counts and time left, gone when the work is done; nothing outside a terminal.

    Yields:
        A function to call with how many items are done and, if it has become known, how many there are in total.
    """
    screen = console(visible)
    columns = (TextColumn(title), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=not (visible and screen.is_terminal)) as progress:
        bar = progress.add_task("", total=total)

        def update(done: int, total: int | None = None) -> None:
            progress.update(bar, completed=done, total=total)

        yield update
