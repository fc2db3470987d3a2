"""Search an index: the windows of its videos that look most like a video, or that have a label.

The answers are stretches of videos, each represented by its best window. Windows are taken best first: one that
overlaps an answer of its video joins that answer's stretch, and any other starts a new answer. Answers whose stretches
come to overlap become one.

Shapes: W windows of the index, Q windows of the query, D width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from vivit.inference.index_files import IndexFiles, unit
from vivit.inference.predictor import Predictor
from vivit.inference.streaming import span_of, windows
from vivit.inference.views import NOT_FINITE, clip_spec
from vivit.video.base import Video
from vivit.video.decode import Decoder, open_video
from vivit.video.source import VideoError
from vivit.video.span import Span, frames_in

PRODUCTS = 1 << 24
"""Similarities that are in memory at once."""
FRAMES = 64
"""Frames that are read at once."""


@dataclass(frozen=True)
class Match:
    """A stretch of a video that answers a query, by its best window."""

    video: Path
    start: float
    """Seconds after the first frame of the video."""
    end: float
    measure: Literal["similarity", "score"]
    value: float
    """The cosine similarity of its features, −1 to 1, to those of the query's window most like it; or the probability
    of the label."""
    query: Span | None = None
    """The times of that window of the query."""

    def to_json(self) -> dict[str, Any]:
        """{"video": …, "start": …, "end": …, "similarity": …, "query": {"start": …, "end": …}}, or with "score"."""
        row = {"video": str(self.video), **_times((self.start, self.end)), self.measure: round(self.value, 4)}
        return row if self.query is None else {**row, "query": _times(self.query)}


class Asked(NamedTuple):
    """The windows of a query."""

    vectors: np.ndarray
    """(Q, D) of length 1."""
    times: list[Span]
    """When each starts and ends."""


def query_windows(
    predictor: Predictor, step: int, query: str | Path, span: Span | None = None, decoder: Decoder = "pyav"
) -> Asked:
    """The windows of a video, or of a span of it. A span shorter than a window is widened, as far as the video goes.

    Raises:
        VideoError: the video cannot be read, or does not have the span.
    """
    model = predictor.model
    spec = clip_spec(model)
    found: list[np.ndarray] = []
    times: list[Span] = []
    with open_video(Path(query), decoder, spec.rate) as video:
        wanted, rate = frames_in(video, span), video.rate
        missing = min(span_of(spec), video.num_frames) - len(wanted)
        if missing > 0:
            first = min(max(0, wanted.start - missing // 2), video.num_frames - len(wanted) - missing)
            wanted = range(first, first + len(wanted) + missing)
        for window in windows(model, _frames(video, wanted, spec.resize), step, what="head"):
            assert window.features is not None
            if not window.features.isfinite().all():
                raise VideoError(query, NOT_FINITE)
            first = wanted.start + window.start
            times.append((first / rate, min(first + span_of(spec), wanted.stop) / rate))
            found.append(window.features.numpy())
    return Asked(unit(np.stack(found)), times)


def most_similar(vectors: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of the vectors (W, D) the largest product with a query (Q, D), and which one: 2 × (W,)."""
    best, which = np.empty(len(vectors), np.float32), np.empty(len(vectors), np.int64)
    rows = max(1, PRODUCTS // len(queries))
    for at in range(0, len(vectors), rows):
        products = np.asarray(vectors[at : at + rows]) @ queries.T
        which[at : at + rows] = products.argmax(axis=1)
        best[at : at + rows] = products.max(axis=1)
    return best, which


def column_of(table: np.ndarray, column: int) -> np.ndarray:
    """A column of a table in a file, (W, K) → (W,), without loading the file into memory."""
    rows = max(1, PRODUCTS // table.shape[1])
    found = np.empty(len(table), table.dtype)
    for at in range(0, len(table), rows):
        found[at : at + rows] = table[at : at + rows, column]
    return found


def best_stretches(files: IndexFiles, values: np.ndarray, top: int) -> list[int]:
    """The rows of the best windows of the best stretches; rows of −∞ are ignored."""
    firsts = [video.first for video in files.videos]
    videos = np.repeat(np.arange(len(firsts)), [video.windows for video in files.videos])
    stretches: dict[int, list[_Stretch]] = {}
    count = 0
    for row in np.argsort(-values, kind="stable"):
        start, end = files.times[row]
        of_video = stretches.setdefault(int(videos[row]), [])
        near = [stretch for stretch in of_video if start < stretch.end and end > stretch.start]
        if values[row] == -np.inf or (not near and count == top):
            break
        joined = _Stretch(int(row), start, end) if not near else near[0]
        for other in near[1:]:
            joined.widen(other.start, other.end)
            of_video.remove(other)
        joined.widen(start, end)
        of_video += [] if near else [joined]
        count += 1 - len(near)
    rows = [stretch.row for of_video in stretches.values() for stretch in of_video]
    return sorted(rows, key=lambda row: (-values[row], row))


@dataclass
class _Stretch:
    """Overlapping windows of a video, of which the best came first."""

    row: int
    start: float
    end: float

    def widen(self, start: float, end: float) -> None:
        self.start, self.end = min(self.start, start), max(self.end, end)


def _frames(video: Video, numbers: Sequence[int], short_side: int) -> Iterator[Tensor]:
    if len(numbers) == video.num_frames:
        return video.in_turn(FRAMES, short_side)
    return (video.frames(numbers[at : at + FRAMES], short_side) for at in range(0, len(numbers), FRAMES))


def _times(span: Span) -> dict[str, float]:
    return {"start": round(span[0], 3), "end": round(span[1], 3)}
