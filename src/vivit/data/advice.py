"""The command that helps where data has a fault, for messages."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from vivit.data.datasets import LabelledVideo
from vivit.video.source import InShard


def check_command(data: str | Path, videos_in: Path | None, *options: str) -> str:
    """ "vivit data check 'my videos'", as it can be typed."""
    where = [] if videos_in is None else ["--videos", str(videos_in)]
    return shlex.join(["vivit", "data", "check", str(data), *where, *options])


def to_leave_out(data: str | Path, videos_in: Path | None, videos: Iterable[LabelledVideo]) -> str:
    """How to get the data without the videos that cannot be read."""
    if any(isinstance(video.source, InShard) for video in videos):
        return "pack the data again to leave out what cannot be read"
    return f"{check_command(data, videos_in, '--fix', 'good.csv')} makes a list of the others"
