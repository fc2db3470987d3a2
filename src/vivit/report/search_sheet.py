"""The answers of a search as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from vivit.data.contact_sheet import Row, Section, contact_sheet
from vivit.inference.search import Match
from vivit.text import clock, printable
from vivit.video.clips import view_crops
from vivit.video.decode import open_video
from vivit.video.source import VideoError
from vivit.video.span import Span, frames_in

COLUMNS = 6
SIZE = 96, 128
"""Height and width of a picture, in pixels: the middle of a frame."""


def write_search_sheet(path: Path, matches: Sequence[Match], query: Path | str, span: Span | None = None) -> None:
    """Write frames of the query, if it is a video, and of each answer, the best first, as a PNG. Raises UserError.

    Args:
        query: a video, or a label.
        span: the seconds of the query that were compared; None: all.
    """
    sections = [_section(query, span, "query")] if isinstance(query, Path) else []
    for number, match in enumerate(matches, start=1):
        value = f"similarity {match.value:.3f}" if match.measure == "similarity" else f"{query} {match.value:.1%}"
        sections.append(_section(match.video, (match.start, match.end), f"{number}\n{value}"))
    contact_sheet(sections, path)


def _section(video: Path, span: Span | None, name: str) -> Section:
    title = printable(video.name)
    try:
        with open_video(video) as opened:
            numbers = frames_in(opened, span)
            rate = opened.info.frame_rate
            chosen = [numbers[int(place)] for place in np.linspace(0, len(numbers) - 1, COLUMNS).round()]
            frames: Tensor = view_crops(opened.frames(chosen, short_side=max(SIZE)), SIZE, 1)[0]
            note = f"{clock(numbers.start / rate)} – {clock(numbers.stop / rate)}    {printable(video.parent.name)}"
    except VideoError as error:  # deleted since
        return Section(title, "", problem=str(error))
    return Section(title, note, tuple(number / rate for number in chosen), (Row(name, frames),))
