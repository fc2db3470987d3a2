"""Processes that read videos for a training or an evaluation."""

import multiprocessing
import signal
import threading
import warnings
from collections.abc import Generator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from vivit.runtime import exit_after

# What stops a run between two steps; its workers are needed until then.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# PyTorch advises as many workers as there are cores, in three lines for each loader.
warnings.filterwarnings("ignore", "This DataLoader will create")


def load_items(dataset: Dataset[Any], workers: int, **options: Any) -> Generator[Any, None, None]:
    """The items of a `DataLoader` over the dataset. Its workers end with this generator, also after an error.

    Args:
        workers: number of worker processes; 0 reads in this process.
        options: further arguments of `DataLoader`.
    """
    context = _clean_processes() if workers else None
    loader = DataLoader(dataset, num_workers=workers, worker_init_fn=_start, multiprocessing_context=context, **options)
    return _items(loader)


def _items(loader: DataLoader) -> Generator[Any, None, None]:
    items = iter(loader)
    try:
        yield from items
    finally:
        # An exception holds a reference to the iterator, which would keep the workers until the interpreter ends.
        if isinstance(items, _MultiProcessingDataLoaderIter):
            items._shutdown_workers()


def start_worker(*ignored: signal.Signals) -> None:
    """What a worker process does first: use one thread, ignore these signals, and end when its parent does."""
    torch.set_num_threads(1)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    # The process that forked it is a server, which lives on when the parent is killed.
    exit_after(parent.join)


def _start(worker: int) -> None:
    start_worker(*STOPPING)


def _clean_processes() -> BaseContext:
    """Fork workers from a clean server process that has imported what they need and started no threads.

    A worker forked from this process may hang: a lock held by one of its threads (a decoder's, PyTorch's pool) would
    stay locked in the worker for ever.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vivit.data.loader"])
    # Ctrl-C and the end of a terminal reach every process in it, and a scheduler may send SIGTERM to every process of a
    # job. The parent needs its workers to finish the step, then ends them itself. Signals blocked here stay blocked in
    # the server and in the workers it forks; one that comes meanwhile reaches this process a moment later.
    if threading.current_thread() is threading.main_thread():
        resource_tracker.ensure_running()  # the server needs it, and its start would unblock signals
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return context
