"""What is odd about a file that can be read."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from vivit.data.manifest import FileRecord

CLIP_FRAMES = 64
"""Of the paper's clips: 32 frames, every second one."""
# A stretch may end so many seconds past the last frame: annotations are rounded.
TOLERANCE = 0.1


@dataclass(frozen=True)
class Remark:
    kind: str
    """Which of `KINDS`."""
    text: str
    count: int = 1
    """Videos or stretches that it is about."""


class Words(NamedTuple):
    one: str
    many: str


KINDS = {
    "excess": Words("file has less than its container claims", "files have less than their containers claim"),
    "empty": Words("stretch has no length", "stretches have no length"),
    "outside": Words("stretch goes past the end of its file", "stretches go past the ends of their files"),
    "short": Words(
        f"video is shorter than a clip of the paper ({CLIP_FRAMES} frames): clips begin again at its start",
        f"videos are shorter than a clip of the paper ({CLIP_FRAMES} frames): clips begin again at their start",
    ),
}


def remarks_on(record: FileRecord) -> Iterator[Remark]:
    scan = record.scan
    if scan.problem or scan.duration is None or scan.frame_rate is None or scan.frames is None:
        return
    if scan.excess:
        yield Remark("excess", scan.excess)
    spans = [use.span for use in record.uses if use.span is not None]
    empty = [span for span in spans if span[1] <= span[0]]
    if empty:
        yield Remark("empty", f"{_some(empty, spans)} of no length", len(empty))
    outside = [span for span in spans if max(span) > scan.duration + TOLERANCE]
    if outside:
        yield Remark("outside", f"{_some(outside, spans)} past its end at {scan.duration:.1f} s", len(outside))
    lengths = [(use.span, _frames(use.span, scan.duration, scan.frame_rate, scan.frames)) for use in record.uses]
    short = [(span, frames) for span, frames in lengths if frames < CLIP_FRAMES]
    whole = [frames for span, frames in short if span is None]
    if whole:
        yield Remark("short", f"has {whole[0]} frames", len(whole))
    elif short:
        stretches = [span for span, _ in short if span is not None]
        yield Remark("short", f"{_some(stretches, spans)} of {short[0][1]} frames", len(short))


def _frames(span: tuple[float, float] | None, duration: float, rate: float, frames: int) -> int:
    if span is None:
        return frames
    return max(1, round((min(span[1], duration) - max(0.0, span[0])) * rate))


def _some(chosen: list[tuple[float, float]], all_spans: list[tuple[float, float]]) -> str:
    start, end = chosen[0]
    of = f"{len(chosen)} of {len(all_spans)} stretches, such as " if len(all_spans) > 1 else ""
    return f"{of}{start:g} to {end:g} s"
