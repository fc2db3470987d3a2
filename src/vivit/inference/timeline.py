"""What happens when in a video: the scores of a model's windows over time, and the segments that they make.

A window is a clip of the model's length, and one starts every few frames. Its scores stand for the time around its
middle, up to halfway to the middles of its neighbours; the first and the last reach to the ends of the video.
`Rule` says how scores become segments.

Shapes: W windows, K classes of a head.
"""

from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vivit.errors import UserError, no_class
from vivit.inference.exported import ExportedModel
from vivit.inference.predictor import Predictor
from vivit.inference.streaming import Window, span_of, windows
from vivit.inference.tokens import What
from vivit.inference.views import BATCH, NOT_FINITE, clip_spec
from vivit.labels import ONLY_HEAD, LabelSpace
from vivit.model.vivit import FactorisedEncoder, ViViT
from vivit.video.base import Video
from vivit.video.decode import Decoder, open_video
from vivit.video.source import VideoError

# Frames that are read at once.
FRAMES = 64
NOTHING = -1


@dataclass(frozen=True)
class ScoredWindow:
    """A model's scores for a stretch of a video."""

    start: float
    """Seconds after the first frame of the video."""
    end: float
    scores: dict[str, np.ndarray]
    """head → (K,) float32 probabilities."""
    features: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    """(…) float32; empty if none are wanted."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a video with a label."""

    start: float
    """Seconds after the first frame of the video."""
    end: float
    head: str
    label: str
    score: float
    """The mean of its smoothed scores, 0 to 1."""

    def to_json(self) -> dict[str, Any]:
        """{"start": …, "end": …, "label": …, "score": …}, with "head" if heads have names."""
        head = {} if self.head == ONLY_HEAD else {"head": self.head}
        times = {"start": round(self.start, 3), "end": round(self.end, 3)}
        return {**times, **head, "label": self.label, "score": round(self.score, 4)}


@dataclass(frozen=True)
class Rule:
    """How scores over time become segments, in this order.

    1. Each score becomes the mean over all windows whose middles are at most `smooth` / 2 seconds away.
    2. The label at a time is the class with the highest score, unless that is below `threshold`; with several labels
       at once (multi_label), every class whose score reaches it. Time without a label is background.
    3. A background gap shorter than `shortest` between two stretches of one label gets that label; then stretches
       shorter than `shortest` become background, and gaps are closed once more.
    """

    smooth: float = 1.0
    """Seconds, 0 or more."""
    threshold: float = 0.5
    """A probability."""
    shortest: float = 0.5
    """Seconds, 0 or more."""
    background: frozenset[str] = frozenset()
    """Classes that make no segments."""

    def check(self, labels: LabelSpace) -> None:
        """Raise UserError if the rule cannot be used with these labels."""
        if not self.smooth >= 0:
            raise UserError(f"smooth: {self.smooth:g} seconds is out of range; give 0 or more")
        if not self.shortest >= 0:
            raise UserError(f"shortest: {self.shortest:g} seconds is out of range; give 0 or more")
        if not 0 <= self.threshold <= 1:
            raise UserError(f"threshold: {self.threshold:g} is not a probability; give 0 to 1")
        for name in sorted(self.background):
            if not any(name in names for names in labels.classes.values()):
                raise no_class("background", name, chain.from_iterable(labels.classes.values()))


@dataclass(frozen=True)
class Timeline:
    """The scores of a model over a video."""

    video: str
    duration: float
    """Seconds from the first frame to the end of the last."""
    frame_rate: float
    """Frames a second, on average."""
    labels: LabelSpace
    starts: np.ndarray
    """(W,) seconds after the first frame: where each window starts, in order."""
    ends: np.ndarray
    """(W,) where it ends; the same time after its start for all windows within the video."""
    scores: dict[str, np.ndarray]
    """head → (W, K) float32 probabilities."""

    @property
    def bounds(self) -> np.ndarray:
        """(W + 1,) seconds: window i stands for the time from bound i to bound i + 1."""
        middles = self.middles
        return np.concatenate([[0.0], (middles[1:] + middles[:-1]) / 2, [self.duration]])

    @property
    def middles(self) -> np.ndarray:
        """(W,) seconds."""
        middles: np.ndarray = (self.starts + np.minimum(self.ends, self.duration)) / 2
        return middles

    def smoothed(self, head: str, seconds: float) -> np.ndarray:
        """(W, K): the mean over the windows whose middles are at most `seconds` / 2 away."""
        middles, half = self.middles, seconds / 2 + 1e-9
        sums = np.concatenate([np.zeros((1, self.scores[head].shape[1])), self.scores[head].cumsum(0, np.float64)])
        first, last = np.searchsorted(middles, middles - half), np.searchsorted(middles, middles + half, "right")
        means: np.ndarray = (sums[last] - sums[first]) / (last - first)[:, None]
        return means

    def segments(self, rule: Rule = Rule()) -> list[Segment]:
        """The segments, by head and then by time. Raises UserError if the rule does not fit the labels."""
        rule.check(self.labels)
        return [segment for head in self.labels.heads for segment in self._segments(head, rule)]

    def _segments(self, head: str, rule: Rule) -> list[Segment]:
        scores, names, bounds = self.smoothed(head, rule.smooth), self.labels.classes[head], self.bounds
        foreground = np.array([name not in rule.background for name in names])
        if self.labels.multi_label:
            chosen = (scores >= rule.threshold) & foreground
            tracks = [np.where(chosen[:, number], number, NOTHING) for number in np.flatnonzero(chosen.any(axis=0))]
        else:
            best = scores.argmax(axis=1)
            sure = (scores.max(axis=1) >= rule.threshold) & foreground[best]
            tracks = [np.where(sure, best, NOTHING)]
        lengths = np.diff(bounds)
        found = [run for track in tracks for run in _runs(_settled(track, lengths, rule.shortest))]
        return [
            Segment(
                float(bounds[first]),
                float(bounds[end]),
                head,
                names[label],
                float(np.average(scores[first:end, label], weights=lengths[first:end])),
            )
            for label, first, end in sorted(found, key=lambda run: (run[1], run[2]))
            if label != NOTHING
        ]

    def to_json(self, segments: Sequence[Segment]) -> dict[str, Any]:
        """{"video": …, "duration": …, "segments": [{"start": …, "end": …, "label": …, "score": …}, …]}."""
        return {
            "video": self.video,
            "duration": round(self.duration, 3),
            "segments": [segment.to_json() for segment in segments],
        }


def _runs(track: np.ndarray) -> list[tuple[int, int, int]]:
    """Stretches of one label: (label, its first window, the one after its last)."""
    runs, at = [], 0
    for label, stretch in groupby(track.tolist()):
        count = sum(1 for _ in stretch)
        runs.append((label, at, at + count))
        at += count
    return runs


def _settled(track: np.ndarray, lengths: np.ndarray, shortest: float) -> np.ndarray:
    """Close short gaps, drop short stretches, and close the gaps that these leave."""
    too_short = shortest - 1e-6

    def close_gaps(track: np.ndarray) -> None:
        runs = _runs(track)
        for before, (label, first, end), after in zip(runs, runs[1:], runs[2:], strict=False):
            if label == NOTHING and before[0] == after[0] and lengths[first:end].sum() < too_short:
                track[first:end] = before[0]

    track = track.copy()
    close_gaps(track)
    for _, first, end in _runs(track):
        if lengths[first:end].sum() < too_short:
            track[first:end] = NOTHING
    close_gaps(track)
    return track


def default_step(model: ViViT | ExportedModel) -> int:
    """Frames between windows: one tubelet where windows share computation, else a quarter of a window."""
    spec = clip_spec(model)
    if isinstance(model, ViViT) and isinstance(model.encoder, FactorisedEncoder):
        return model.embedding.tubelet_size[0] * spec.stride
    return max(1, span_of(spec) // 4)


def scored_windows(
    predictor: Predictor,
    video: str | Path,
    step: int | None = None,
    decoder: Decoder = "pyav",
    what: What | None = None,
) -> Iterator[ScoredWindow]:
    """The windows of a video, in order, as they are computed; memory does not grow with the video.

    Args:
        step: frames from the start of a window to the start of the next; None: `default_step`.
        what: the features wanted besides the scores, see `vivit.inference.tokens`.

    Raises:
        VideoError: the video cannot be read, or the model gives no finite scores for it.
        UserError: the model does not have these features.
    """
    with open_video(Path(video), decoder, predictor.model.preprocessing.frame_rate) as opened:
        yield from _windows_of(predictor, opened, step, what)


def timeline(predictor: Predictor, video: str | Path, step: int | None = None, decoder: Decoder = "pyav") -> Timeline:
    """The scores of a model over a whole video. Takes and raises what `scored_windows` does."""
    # Not a list of windows: their small arrays, scattered among the large ones of the model, would fragment memory.
    times, scores = array("d"), {head: array("f") for head in predictor.labels.heads}
    with open_video(Path(video), decoder, predictor.model.preprocessing.frame_rate) as opened:
        for window in _windows_of(predictor, opened, step):
            times.extend((window.start, window.end))
            for head, values in window.scores.items():
                scores[head].frombytes(values.tobytes())
        info = opened.info
    starts, ends = np.array(times).reshape(-1, 2).T
    return Timeline(
        str(video),
        info.duration,
        info.frame_rate,
        predictor.labels,
        starts,
        ends,
        {head: np.array(values).reshape(len(starts), -1) for head, values in scores.items()},
    )


def _windows_of(
    predictor: Predictor, video: Video, step: int | None, what: What | None = None
) -> Iterator[ScoredWindow]:
    model = predictor.model
    spec = clip_spec(model)
    frames = _ahead(video.in_turn(FRAMES, spec.resize))
    for window in windows(model, frames, step or default_step(model), BATCH, what):
        end = min(window.start + span_of(spec), video.num_frames)
        yield scored(window, predictor.labels, video.source, window.start / video.rate, end / video.rate)


def scored(window: Window, labels: LabelSpace, source: object, start: float, end: float) -> ScoredWindow:
    """A window with its times and probabilities. Raises VideoError if the model's answer is not finite."""
    features = {} if window.features is None else {"features": window.features.numpy()}
    made = [*window.logits.values(), *([] if window.features is None else [window.features])]
    if not all(values.isfinite().all() for values in made):
        raise VideoError(source, NOT_FINITE)
    scores = {head: labels.probabilities(logits).numpy() for head, logits in window.logits.items()}
    return ScoredWindow(start, end, scores, **features)


def _ahead(items: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same items; a thread makes the next one while one is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
