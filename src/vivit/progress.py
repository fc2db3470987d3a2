"""The console and the progress bars of all commands."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def console(visible: bool = True) -> Console:
    """A console for plain lines, which are not wrapped, coloured or read as markup; silent if not visible."""
    return Console(soft_wrap=True, markup=False, highlight=False, quiet=not visible)


@contextmanager
def progress_bar(title: str, total: int | None = None, visible: bool = True) -> Iterator[Callable[..., None]]:
    """A bar with counts and the time left. It disappears at the end, and is not shown outside a terminal.

    Yields:
        A function to call with the number of finished items and, once it is known, of all items.
    """
    screen = console(visible)
    columns = (TextColumn(title), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=not (visible and screen.is_terminal)) as progress:
        bar = progress.add_task("", total=total)

        def update(done: int, total: int | None = None) -> None:
            progress.update(bar, completed=done, total=total)

        yield update
