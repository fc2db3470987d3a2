"""Choose how videos are read: with which decoder, time limit and number of processes."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

from vivit.errors import UserError
from vivit.video.decode import Decoder, check_decoder
from vivit.video.isolated import IsolatedReader, check_timeout

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

WORKERS_PER_CORE = 16


class Reader(Protocol):
    """Calls a function that reads a video, and returns what it returns."""

    def __call__(
        self, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result: ...


def read_here(function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
    return function(*args, **kwargs)


@dataclass(frozen=True)
class ReadOptions:
    """Which decoder reads videos, how long one may take, and how many processes read."""

    decoder: Decoder = "pyav"
    timeout: float | None = None
    """Seconds for one video. It is read in another process, which may crash or be killed when the time is up."""
    workers: int = 0
    """Processes that read; 0: this one."""

    def check(self) -> None:
        """Raise UserError if videos cannot be read like this, before any process is started."""
        most = WORKERS_PER_CORE * (os.cpu_count() or 1)
        if not 0 <= self.workers <= most:
            raise UserError(f"workers: {self.workers} is out of range; use 0 (read in this process) to {most}")
        check_decoder(self.decoder)
        if self.timeout is not None:
            check_timeout(self.timeout)

    def reader(self) -> Reader:
        """A function that reads in this process, or, if there is a timeout, in an isolated one."""
        return read_here if self.timeout is None else IsolatedReader(self.timeout)
