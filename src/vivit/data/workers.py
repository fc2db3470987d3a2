"""Processes that read videos for training or evaluation."""

import multiprocessing
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from ctypes import Array
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from pickle import UnpicklingError
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from vivit.errors import UserError
from vivit.runtime import exit_after

# These signals stop a run after its current step, which still needs the workers.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# PyTorch advises at most one worker per core, in three lines for each loader.
warnings.filterwarnings("ignore", "This DataLoader will create")


# In a table shared by all workers: the index of the video that each is reading, or NOTHING.
NOTHING = -1
_reading: tuple[Array[Any], int] | None = None
"""In a worker: that table, and the worker's row in it."""


def load_items(
    dataset: Dataset[Any], workers: int, source_of: Callable[[int], object], **options: Any
) -> Generator[Any, None, None]:
    """The items of a `DataLoader` over the dataset. Its workers end with this generator, even after an error.

    Args:
        workers: number of worker processes; 0 reads in this process.
        source_of: maps the number that the dataset passes to `reading` to the video's name in errors.
        options: further arguments of `DataLoader`.

    Raises:
        UserError: later, if a worker was killed or crashed.
    """
    context = _clean_processes() if workers else None
    table = context.RawArray("q", [NOTHING] * workers) if context else None
    loader = DataLoader(
        dataset,
        num_workers=workers,
        worker_init_fn=partial(_start, table),
        multiprocessing_context=context,
        **options,
    )
    return _items(loader, table, source_of)


@contextmanager
def reading(video: int) -> Iterator[None]:
    """Inside this context, a worker reads the video with this number; if the worker is killed, the error names it."""
    if _reading is not None:
        table, worker = _reading
        table[worker] = video
    try:
        yield
    finally:
        if _reading is not None:
            table[worker] = NOTHING


def _items(
    loader: DataLoader, table: Array[Any] | None, source_of: Callable[[int], object]
) -> Generator[Any, None, None]:
    items = iter(loader)
    try:
        yield from items
    except (RuntimeError, OSError, EOFError, UnpicklingError):  # for example, from an incomplete answer
        if isinstance(items, _MultiProcessingDataLoaderIter) and table is not None:
            _explain(items, table, source_of)
        raise
    finally:
        # An exception holds a reference to the iterator, which would keep the workers until the interpreter ends.
        if isinstance(items, _MultiProcessingDataLoaderIter):
            items._shutdown_workers()


def _explain(items: _MultiProcessingDataLoaderIter, table: Array[Any], source_of: Callable[[int], object]) -> None:
    """Raise UserError if a worker has died, and say which video it was reading."""
    dead = [(number, worker) for number, worker in enumerate(items._workers) if not worker.is_alive()]
    if not dead:
        return
    videos = [str(source_of(table[number])) for number, _ in dead if table[number] != NOTHING]
    how = {worker.exitcode for _, worker in dead}
    killed = "was killed" if -signal.SIGKILL in how else "crashed"
    codes = ", ".join(sorted(f"signal {-code}" if code and code < 0 else f"exit code {code}" for code in how))
    what = f"while it was reading {', '.join(videos)}" if videos else "while it was reading no video"
    raise UserError(
        f"a process that reads videos {killed} ({codes}) {what}: if memory ran out, use fewer --workers; --timeout 60 "
        "reads each video in a process that can be killed, and continues with the others"
    ) from None


def start_worker(*ignored: signal.Signals) -> None:
    """Set up a worker process: use one thread, ignore these signals, and end when the parent does."""
    torch.set_num_threads(1)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    # The worker was forked by a server, which survives if the parent is killed.
    exit_after(parent.join)


def _start(table: Array[Any] | None, worker: int) -> None:
    global _reading
    _reading = None if table is None else (table, worker)
    start_worker(*STOPPING)


def _clean_processes() -> BaseContext:
    """Fork workers from a clean server process that has imported what they need and started no threads.

    A worker forked from this process could hang: a lock held by one of its threads (a decoder's, PyTorch's pool) would
    stay locked in the worker for ever.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vivit.data.loader"])
    # Ctrl-C and SIGHUP reach every process of a terminal, and a scheduler may send SIGTERM to every process of a job.
    # The parent needs its workers to finish the step, then ends them itself. Signals blocked here stay blocked in the
    # server and in the workers it forks; one that arrives meanwhile reaches this process a moment later.
    if threading.current_thread() is threading.main_thread():
        resource_tracker.ensure_running()  # the server needs it, and its start would unblock signals
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return context
