"""From video files to labels: `Predictor(folder).predict("clip.mp4")`."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from vivit.inference.exported import ExportedModel, fingerprint, open_model
from vivit.inference.fetch import Fetching
from vivit.inference.merging import Merge
from vivit.inference.pipeline import Reading, Video, views_in_order
from vivit.inference.prepare import prepare
from vivit.inference.views import BATCH, NOT_FINITE, Views, are_finite, clip_spec, mean_logits
from vivit.labels import ONLY_HEAD
from vivit.runtime import WantedPrecision
from vivit.video.clips import ClipSpec, ViewsOfVideo, clip_indices, read_views, view_starts
from vivit.video.decode import ReadOptions
from vivit.video.source import VideoError
from vivit.weights.shipped import CAMERA_MOTION, Answers
from vivit.weights.source import Source

# The most answers that wait for their batch to fill, which is slow if many of them are errors.
MOST_WAITING = 8 * BATCH


@dataclass(frozen=True)
class ScoredLabel:
    label: str
    score: float
    """Its probability: the softmax of the logits averaged over the views, or their sigmoid if multi_label."""


@dataclass(frozen=True)
class Prediction:
    """The labels that a model gives a video."""

    video: Video
    heads: dict[str, tuple[ScoredLabel, ...]]
    """head → its labels, the most probable first."""
    note: str = ""
    """Why the labels are doubtful: the video is far shorter than a clip, or the model is not sure."""
    frames: tuple[tuple[int, ...], ...] = ()
    """The numbers of the frames of each clip, counted from 0."""
    times: tuple[tuple[float, ...], ...] = ()
    """When these frames are shown, in seconds after the first frame of the video."""

    @property
    def labels(self) -> tuple[ScoredLabel, ...]:
        """The labels of a model with one head."""
        (labels,) = self.heads.values()
        return labels

    def to_json(self, top: int, frames: bool = False) -> dict[str, Any]:
        """{"video": …, "predictions": [{"label": …, "score": …}, …]}; named heads give head → such a list.

        With "note" if there is one, and with "frames" and "times" of each clip on request.
        """
        lists = {
            head: [{"label": scored.label, "score": scored.score} for scored in labels[:top]]
            for head, labels in self.heads.items()
        }
        row: dict[str, Any] = {"video": str(self.video), "predictions": lists.get(ONLY_HEAD, lists)}
        if self.note:
            row["note"] = self.note
        if frames:
            row |= {"frames": [list(clip) for clip in self.frames], "times": [list(clip) for clip in self.times]}
        return row


class Predictor:
    """A model that labels video files."""

    def __init__(
        self,
        model: str | Path = CAMERA_MOTION,
        device: str = "auto",
        read: ReadOptions = ReadOptions(),
        precision: WantedPrecision = "auto",
        merge: float | Merge = 0.0,
    ) -> None:
        """Load a model folder, an exported one, or a Hub id; by default the package's model of camera motions.

        Args:
            read: with a timeout, videos are read in another process, whose crashes and memory do no harm to this one.
            precision: of most arithmetic; auto takes bf16 where the hardware makes it faster, else f32.
            merge: the fraction of the tokens that is merged into similar ones, see `Merge`.

        Raises:
            UserError: there is no such model, its runtime is missing, or it has no classes or no names for them; the
                device does not exist, or does not compute in this precision; or the model cannot merge these tokens.
        """
        read.check()
        self.source = Source.find(model)
        self.model, self.labels = open_model(self.source)
        self.about = Answers.of(self.source.folder)
        self.merge = merge if isinstance(merge, Merge) else Merge(merge)
        self.precision = prepare(self.model, device, precision, self.merge)
        self._options, self._read = read, read.reader()

    def fingerprint(self) -> str:
        """A hash of everything that the answers depend on, except precision and merging."""
        # The model's own weights may have been converted.
        stored = self.model if isinstance(self.model, ExportedModel) else open_model(self.source)[0]
        return fingerprint(stored)

    def predict(self, video: str | Path, views: str = "1x1") -> Prediction:
        """Label a video by the mean over views, given as clips x crops.

        Raises:
            VideoError: the video cannot be read, or the model's answer is not finite.
        """
        wanted, spec, path = Views.parse(views), clip_spec(self.model), Path(video)
        found = self._read(read_views, path, spec, wanted.clips, wanted.crops, None, self._options.decoder)
        (answer,) = self._answers([(path, found)], wanted, spec)
        if isinstance(answer, VideoError):
            raise answer
        return answer

    def predict_all(
        self, videos: Iterable[Video | str | VideoError], views: str = "1x1", fetching: Fetching = Fetching()
    ) -> Generator[Prediction | VideoError, None, None]:
        """Label any number of videos: yields, in order, the answer to each or the reason why there is none.

        The next videos are read while the model works. With `workers` in the predictor's read options, that many
        processes read, a crash of one loses only its video, and the clips of several videos go through the model
        together. Only a few videos are in memory at a time.

        Args:
            videos: paths and URLs. An error among them keeps its place.
            fetching: what may be fetched from URLs, which are always read in another process.
        """
        wanted, spec = Views.parse(views), clip_spec(self.model)
        batch = BATCH if self._options.workers else 1
        ahead = self._options.workers + ceil(batch / wanted.count)
        waiting: list[tuple[Video, ViewsOfVideo] | VideoError] = []
        readable = 0
        sources = (Path(video) if isinstance(video, str) else video for video in videos)
        for found in views_in_order(sources, Reading(spec, wanted, self._options, fetching), ahead):
            waiting.append(found)
            readable += not isinstance(found, VideoError)
            # Batches do not depend on how fast videos are read, nor on unreadable ones, so the same videos get
            # bit-identical scores.
            if readable * wanted.count >= batch or not readable or len(waiting) >= MOST_WAITING:
                yield from self._answers(waiting, wanted, spec)
                waiting, readable = [], 0
        yield from self._answers(waiting, wanted, spec)

    def _answers(
        self, read: Sequence[tuple[Video, ViewsOfVideo] | VideoError], views: Views, spec: ClipSpec
    ) -> Iterator[Prediction | VideoError]:
        """The answers to videos, from their views; errors stay as they are."""
        each = [found[1].frames for found in read if not isinstance(found, VideoError)]
        logits = mean_logits(self.model, each) if each else {}
        good = iter(are_finite(logits).tolist() if each else [])
        rows = zip(*logits.values(), strict=True)
        for found in read:
            if isinstance(found, VideoError):
                yield found
                continue
            (video, views_of_video), of_video = found, next(rows)
            if not next(good):
                yield VideoError(video, NOT_FINITE)
                continue
            heads = {
                head: tuple(ScoredLabel(*scored) for scored in self.labels.ranked(head, values))
                for head, values in zip(logits, of_video, strict=True)
            }
            yield Prediction(
                video,
                heads,
                "; ".join(filter(None, [_note(views_of_video, spec), self._doubt(heads)])),
                _numbers(views_of_video.shown, spec, views.clips),
                views_of_video.times[:: views.crops],
            )

    def _doubt(self, heads: Mapping[str, Sequence[ScoredLabel]]) -> str:
        """A note that the model is not sure, if its folder says below which probability; else ""."""
        if self.about is None or all(labels[0].score >= self.about.unsure_below for labels in heads.values()):
            return ""
        return f"not sure: the best label has less than {self.about.unsure_below:.0%}"


def _note(views: ViewsOfVideo, spec: ClipSpec) -> str:
    """A note that more than half of a clip had to be repeated frames; else ""."""
    spanned = (spec.num_frames - 1) * spec.stride + 1
    if 2 * views.shown >= spanned and 2 * views.distinct >= spec.num_frames:
        return ""
    has = "is a single picture" if views.shown == 1 else f"has {views.shown} frames"
    how = {"loop": "it is played again and again", "pad": "its last frame is repeated"}[spec.short]
    return f"the video {has}, and a clip spans {spanned}: {how}"


def _numbers(shown: int, spec: ClipSpec, num_clips: int) -> tuple[tuple[int, ...], ...]:
    starts = view_starts(shown, spec.num_frames, spec.stride, num_clips)
    return tuple(tuple(clip_indices(shown, spec.num_frames, spec.stride, start, spec.short)) for start in starts)
