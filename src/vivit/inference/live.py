"""The windows of a video as it arrives: from a camera, a URL, a pipe or a file."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np

from vivit.errors import UserError
from vivit.inference.fetch import Url
from vivit.inference.predictor import Predictor, ScoredLabel
from vivit.inference.streaming import Stream, Window, span_of
from vivit.inference.timeline import Rule, ScoredWindow, default_step, scored, scored_windows
from vivit.inference.views import clip_spec
from vivit.labels import LabelSpace
from vivit.video.decode import Decoder
from vivit.video.live import ADDRESS, LiveFrame, LiveReader, LiveVideo, is_live
from vivit.video.source import VideoError

Buffer = Literal["wait", "drop-oldest"]
# The frames of this many windows may wait for the model.
WINDOWS_WAITING = 2
# The median latency is that of this many windows.
LATENCIES = 1000

logger = logging.getLogger("vivit")


class LiveWindows:
    """The windows of a source, each as soon as it is computed: iterate over it once.

    A live source is read in a thread. Its windows are those of `vivit.inference.streaming.Stream`, one at a time.
    Frames without a gap form a stretch, and no window reaches beyond one: a gap, where frames were dropped or the
    connection was lost, ends a stretch as the end of a video does. A file has the windows of
    `vivit.inference.timeline.scored_windows`.
    """

    def __init__(
        self,
        predictor: Predictor,
        source: str | Path,
        step: int | None = None,
        buffer: Buffer | None = None,
        decoder: Decoder = "pyav",
        say: Callable[[str], object] = logger.warning,
    ) -> None:
        """
        Args:
            source: a file, `-` for stdin, a camera such as /dev/video0, or a URL: http, https, rtsp, rtsps, tcp or udp.
            step: frames from the start of a window to the start of the next; None: `default_step`.
            buffer: what happens if frames arrive faster than the model processes them. "wait" makes the source wait;
                "drop-oldest" drops the oldest waiting frames once more than two windows' worth wait. By default cameras
                and URLs drop, and stdin waits, as a file always does.
            decoder: of a file.
            say: called with one line when a connection is lost.

        Raises:
            UserError: `buffer` is "drop-oldest" for a file, or the URL's scheme is unknown.
        """
        self.source, self.live = str(source), is_live(str(source))
        if not self.live and buffer == "drop-oldest":
            raise UserError(f"buffer: {self.source} is a file, which waits; drop-oldest is for live sources")
        self.step = step or default_step(predictor.model)
        self.frames = 0
        """Frames of a live source that windows were made of."""
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        self._longest = 0.0
        self._predictor, self._decoder, self._stopped = predictor, decoder, False
        self._video: LiveVideo | None = None
        self._reader: LiveReader | None = None
        if self.live:
            self._spec = spec = clip_spec(predictor.model)
            name = Url(self.source) if ADDRESS.match(self.source) else "stdin" if self.source == "-" else self.source
            self._video = LiveVideo(self.source, spec.resize, say, name, spec.rate)
            drop = (buffer or ("wait" if self.source == "-" else "drop-oldest")) == "drop-oldest"
            self._queue = WINDOWS_WAITING * span_of(spec), drop

    @property
    def dropped(self) -> int:
        """Frames of a live source that were dropped."""
        return self._reader.dropped if self._reader else 0

    @property
    def latency(self) -> tuple[float, float]:
        """Seconds from the arrival of a window's last frame to its scores: median of the last 1000, and maximum.

        Windows at the end of a stretch are not counted; without others, both are 0.
        """
        return (median(self._latencies), self._longest) if self._latencies else (0.0, 0.0)

    def stop(self) -> None:
        """End the source; a live one still yields its last windows. May be called in a signal handler."""
        self._stopped = True
        if self._video and self._reader:
            self._video.stop()
            self._reader.stop()

    def __iter__(self) -> Iterator[ScoredWindow]:
        """
        Raises:
            VideoError: the source cannot be read, or was lost and did not come back; or the model gives no finite
                scores. Windows that were complete come first.
        """
        if self._video is None:
            for window in scored_windows(self._predictor, self.source, self.step, self._decoder):
                if self._stopped:
                    return
                yield window
            return
        with LiveReader(self._video.frames(), *self._queue) as self._reader:
            yield from self._of_stretches(self._video, self._reader)

    def _of_stretches(self, video: LiveVideo, reader: LiveReader) -> Iterator[ScoredWindow]:
        stream, start = Stream(self._predictor.model, self.step), 0.0
        problem: VideoError | None = None
        try:
            for frame in reader:
                if not frame.follows:
                    yield from self._scored(stream, stream.finish(), start)
                    stream, start = Stream(self._predictor.model, self.step), frame.time
                self.frames += 1
                for window in self._scored(stream, stream.push(frame.picture[None]), start):
                    self._note(frame)
                    yield window
        except VideoError as error:
            problem = error
        yield from self._scored(stream, stream.finish(), start)
        if problem is not None:
            raise problem

    def _scored(self, stream: Stream, windows: list[Window], start: float) -> Iterator[ScoredWindow]:
        """The windows of a stretch that starts `start` seconds after the first frame."""
        assert self._video is not None
        rate = self._video.rate
        for window in windows:
            end = min(window.start + stream.span, stream.count)
            times = start + window.start / rate, start + end / rate
            yield scored(window, self._predictor.labels, self._video.name, *times)

    def _note(self, frame: LiveFrame) -> None:
        self._latencies.append(time.monotonic() - frame.arrived)
        self._longest = max(self._longest, self._latencies[-1])


@dataclass(frozen=True)
class Change:
    """A change of labels."""

    time: float
    """Seconds after the first frame of the video from which they hold."""
    head: str
    labels: tuple[ScoredLabel, ...]
    """One, or none if none is likely enough; with several labels at once (multi_label), the most probable first."""


def changes(windows: Iterable[ScoredWindow], labels: LabelSpace, rule: Rule = Rule()) -> Iterator[Change]:
    """The labels of successive windows whenever they change, starting with those of the first window.

    Later windows are not known yet, so scores are means over the windows whose middles are at most `rule.smooth`
    seconds earlier, and `rule.shortest` has no effect.
    """
    recent: deque[tuple[float, ScoredWindow]] = deque()  # each with its middle
    told: dict[str, list[str]] = {}
    for window in windows:
        middle = (window.start + window.end) / 2
        # As in a timeline, a window stands for the time from halfway to the one before.
        since = max(window.start, (recent[-1][0] + middle) / 2) if recent else window.start
        recent.append((middle, window))
        while recent[0][0] < middle - rule.smooth - 1e-9:
            recent.popleft()
        for head, names in labels.classes.items():
            means = np.mean([one.scores[head] for _, one in recent], axis=0)
            order = np.argsort(-means, kind="stable")
            likely = order if labels.multi_label else order[:1]
            found = [n for n in likely if means[n] >= rule.threshold and names[n] not in rule.background]
            held = sorted(names[number] for number in found)
            if held != told.get(head):
                told[head] = held
                yield Change(since, head, tuple(ScoredLabel(names[n], float(means[n])) for n in found))


def stream(
    predictor: Predictor, source: str | Path, step: int | None = None, buffer: Buffer | None = None
) -> LiveWindows:
    """The windows of a source as it arrives: iterate over them. Takes and raises what `LiveWindows` does."""
    return LiveWindows(predictor, source, step, buffer)
