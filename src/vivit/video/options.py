"""How videos are read: by which decoder, within what time, by how many processes."""

import os
from dataclasses import dataclass

from vivit.errors import UserError
from vivit.video.decode import Decoder, check_decoder
from vivit.video.isolated import check_timeout

WORKERS_PER_CORE = 16


@dataclass(frozen=True)
class ReadOptions:
    """How videos are read."""

    decoder: Decoder = "pyav"
    timeout: float | None = None
    """Seconds for one video; it is then read in a process of its own, which is killed when the time is over."""
    workers: int = 0
    """Processes that read; 0 reads in this one."""

    def check(self) -> None:
        """Raise UserError if videos cannot be read like this, before any process is started."""
        most = WORKERS_PER_CORE * (os.cpu_count() or 1)
        if not 0 <= self.workers <= most:
            raise UserError(f"workers: {self.workers} is out of range; use 0 (read in this process) to {most}")
        check_decoder(self.decoder)
        if self.timeout is not None:
            check_timeout(self.timeout)
