"""Being asked to stop: the step is finished, a checkpoint written, and the exit status says how to go on."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self


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
