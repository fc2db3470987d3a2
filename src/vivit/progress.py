"""The console and the progress bars of all commands."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vivit.text import printable


class _Console(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(one) if isinstance(one, str) else one for one in objects), **options)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with status 1


def console(visible: bool = True, stderr: bool = False) -> Console:
    """A console for plain lines, which are not wrapped, coloured or read as markup; silent if not visible.

    Unsafe characters, such as terminal escapes in a class name, are escaped.
    """
    return _Console(soft_wrap=True, markup=False, emoji=False, highlight=False, quiet=not visible, stderr=stderr)


@contextmanager
def progress_bar(
    title: str, total: int | None = None, visible: bool = True, screen: Console | None = None
) -> Iterator[Callable[..., None]]:
    """A bar with counts and the time left. It disappears at the end, and is not shown outside a terminal.

    Yields:
        A function to call with the number of finished items and, if they change, the total and the title.
    """
    screen = screen or console(visible)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns,
        console=screen,
        transient=True,
        disable=screen.quiet or not (visible and screen.is_terminal),
        redirect_stdout=sys.stdout.isatty(),  # lines printed meanwhile appear above the bar, unless stdout is piped
    ) as progress:
        bar = progress.add_task(printable(title), total=total)

        def update(done: int, total: int | None = None, title: str | None = None) -> None:
            progress.update(bar, completed=done, total=total, description=title and printable(title))

        yield update
