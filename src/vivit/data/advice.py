"""Commands that messages about faulty data recommend."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from vivit.data.datasets import LabelledVideo
from vivit.video.source import InShard


def check_command(data: str | Path, videos_in: Path | None, *options: str) -> str:
    """ "vivit data check 'my videos'", quoted for the shell."""
    where = [] if videos_in is None else ["--videos", str(videos_in)]
    return shlex.join(["vivit", "data", "check", str(data), *where, *options])


def to_leave_out(data: str | Path, videos_in: Path | None, videos: Iterable[LabelledVideo]) -> str:
    """Advice on how to leave out unreadable videos."""
    if any(isinstance(video.source, InShard) for video in videos):
        return "pack the data again to leave out what cannot be read"
    return f"{check_command(data, videos_in, '--fix', 'good.csv')} makes a list of the others"
