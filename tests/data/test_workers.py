"""Signals that come while the server that forks workers starts."""

import os
import signal
import threading
from multiprocessing import forkserver

import pytest
from torch.utils.data import TensorDataset

from vivit.data.workers import load_items


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
        load_items(TensorDataset(), workers=1)
    finally:
        signal.signal(number, before)
    assert number in blocked  # what the server inherits
    assert heard == [number]
    assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
