"""Signals that come while the server that forks workers starts, and workers that are killed."""

import inspect
import os
import signal
import threading
from multiprocessing import forkserver

import pytest
from torch.utils.data import Dataset, TensorDataset

from tests.support import refused
from vivit.data.workers import load_items, reading


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="only this thread hears signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_server_starts_is_for_this_process_alone(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    blocked: set[int] = set()

    def start() -> None:
        os.kill(os.getpid(), number)
        blocked.update(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    monkeypatch.setattr(forkserver, "ensure_running", start)
    before = signal.signal(number, lambda received, frame: heard.append(received))
    try:
        load_items(TensorDataset(), 1, str)
    finally:
        signal.signal(number, before)
    assert number in blocked  # what the server inherits
    assert heard == [number]
    assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


class Deadly(Dataset[int]):
    """Numbers; the worker that reads the fourth is killed, as when memory runs out."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        with reading(index):
            if index == 4:
                os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_worker_that_is_killed_is_said_with_its_video() -> None:
    items = load_items(Deadly(), 2, lambda index: f"video {index}.mp4", batch_size=None)
    came: list[int] = []
    killed = r"was killed \(signal 9\) while it was reading video 4\.mp4"
    refused(lambda: came.extend(items), killed, "--workers", "--timeout")
    assert came == [0, 1, 2, 3][: len(came)]
    assert next(items, None) is None


def test_a_worker_that_is_killed_between_videos_names_none() -> None:
    items = load_items(Deadly(), 1, str, batch_size=None, sampler=[0, 1, 2, 3])
    next(items)
    (worker,) = inspect.getgeneratorlocals(items)["items"]._workers
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()

    def rest() -> None:
        for _ in items:
            pass

    refused(rest, "signal 9.*while it was reading no video")
