"""Scores a model on labelled videos. Every video counts once; one without an answer counts as wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from vivit.data.datasets import VideoSet
from vivit.data.loader import evaluation_views, label_tensors
from vivit.errors import Interrupted
from vivit.evaluation.metrics import Calibration, average_precision, calibration, joint_top_k_hits, top_k_hits
from vivit.evaluation.partial import PartialLogits
from vivit.inference.exported import ExportedModel
from vivit.inference.views import BATCH, NOT_FINITE, Views, are_finite, clip_spec, mean_logits
from vivit.labels import ONLY_HEAD, LabelSpace, Metric
from vivit.model.vivit import ViViT
from vivit.runtime import Ranks
from vivit.video.decode import ReadOptions
from vivit.video.source import VideoError


@dataclass(frozen=True)
class Evaluation:
    """A model's logits on a set of videos, the true labels, and the resulting scores."""

    space: LabelSpace
    logits: Mapping[str, Tensor]
    """head → (videos, K), averaged over the views; NaN for a video that failed."""
    truth: Mapping[str, Tensor]
    """head → true labels: (videos,) int64, or (videos, K) bool if multi_label."""
    failures: Mapping[int, str]
    """Index of each video without an answer, ascending → why: it is unreadable, or the answer is not finite."""

    @property
    def num_videos(self) -> int:
        return len(next(iter(self.truth.values())))

    @property
    def readable(self) -> Tensor:
        """(videos,) bool: which videos have logits."""
        return ~torch.cat(list(self.logits.values()), dim=1).isnan().any(dim=1)

    def accuracy(self, k: int, head: str = ONLY_HEAD) -> float:
        """The fraction of all videos whose label is among the k highest logits of a head."""
        return _fraction(top_k_hits(self.logits[head], self.truth[head], k))

    def joint_accuracy(self, k: int) -> float:
        """The fraction of all videos whose labels on all heads are among the k most probable combinations."""
        logits, truth = ([values[head] for head in self.space.heads] for values in (self.logits, self.truth))
        return _fraction(joint_top_k_hits(logits, truth, k))

    def mean_average_precision(self, head: str = ONLY_HEAD) -> float:
        """The mean over the classes that at least one video has; 0 if there are none."""
        found = [value for value in self._average_precisions(head) if value is not None]
        return sum(found) / len(found) if found else 0.0

    def metrics(self) -> dict[Metric, float]:
        """Every metric of the label space, between 0 and 1."""

        def value(metric: Metric) -> float:
            if metric.top is None:
                return self.mean_average_precision(metric.heads[0])
            single = len(metric.heads) == 1
            return self.accuracy(metric.top, metric.heads[0]) if single else self.joint_accuracy(metric.top)

        return {metric: value(metric) for metric in self.space.metrics()}

    def scores(self) -> dict[str, float | int]:
        """The scores as recorded in files: metrics under their keys, and the numbers of videos and unreadable ones."""
        values = {metric.key: value for metric, value in self.metrics().items()}
        return {**values, "videos": self.num_videos, "unreadable": len(self.failures)}

    def confusion(self, head: str = ONLY_HEAD) -> Tensor:
        """(K, K) counts of readable videos: rows are the true classes, columns the predicted ones."""
        number = self.space.counts[head]
        pairs = self.truth[head][self.readable] * number + self.logits[head][self.readable].argmax(dim=1)
        return torch.bincount(pairs, minlength=number * number).view(number, number)

    def calibration(self, head: str = ONLY_HEAD, at_least: int = 1) -> Calibration | None:
        """Calibration of the most probable class, over the readable videos; None if multi_label.

        With multi_label, nearly every class is rightly improbable in nearly every video, so any model would score well.

        Args:
            at_least: with fewer readable videos than this, return None.
        """
        if self.space.multi_label or self.readable.sum() < at_least:
            return None
        confidence = self.logits[head][self.readable].double().softmax(dim=1).amax(dim=1)
        return calibration(confidence, top_k_hits(self.logits[head], self.truth[head], 1)[self.readable])

    def per_class(self, head: str = ONLY_HEAD) -> list[dict[str, Any]]:
        """A row for each class: "class", "videos", and "accuracy" or (multi_label) "average_precision".

        Accuracy is the fraction of the class's videos that are predicted correctly; None for a class without videos.
        """
        truth, names = self.truth[head], self.space.classes[head]
        if self.space.multi_label:
            metric, counts, values = "average_precision", truth.sum(dim=0).tolist(), self._average_precisions(head)
        else:
            metric, counts = "accuracy", torch.bincount(truth, minlength=len(names)).tolist()
            right = torch.bincount(truth[top_k_hits(self.logits[head], truth, 1)], minlength=len(names)).tolist()
            values = [hits / count if count else None for hits, count in zip(right, counts, strict=True)]
        return [
            {"class": name, "videos": count, metric: value}
            for name, count, value in zip(names, counts, values, strict=True)
        ]

    def _average_precisions(self, head: str) -> list[float | None]:
        return [
            average_precision(scores, relevant)
            for scores, relevant in zip(self.logits[head].T, self.truth[head].T, strict=True)
        ]


def evaluate(
    model: ViViT | ExportedModel,
    videos: VideoSet,
    views: Views = Views(),
    *,
    read: ReadOptions = ReadOptions(),
    ranks: Ranks = Ranks(),
    partial: PartialLogits | None = None,
    progress: Callable[[int], object] = lambda done: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Run every video through the model.

    Args:
        model: has the heads of `videos`, with as many classes; put into eval mode.
        ranks: each rank evaluates every `world_size`-th video, and all of them return the same evaluation.
        partial: logits saved by an interrupted evaluation of the same model, videos and views; new ones are added.
            Videos that could not be read then are retried.
        progress: called with the number of videos this rank has finished.
        stopping: checked after each video of this rank.

    Raises:
        Interrupted: in every rank, once `stopping` is true in one.
    """
    if ranks.world_size > 1 and ranks.gather is Ranks().gather:
        raise ValueError("ranks: a gather function is needed, because each rank has only a part of the videos")
    if isinstance(model, ViViT):
        model.eval()
    space = videos.labels
    logits = {head: torch.full((len(videos.videos), count), torch.nan) for head, count in space.counts.items()}
    done = partial.done if partial is not None else {}
    for index, rows in done.items():
        for head, values in logits.items():
            values[index] = rows[head]
    own = list(range(ranks.rank, len(videos.videos), ranks.world_size))
    to_do = [index for index in own if index not in done]
    failures: dict[int, str] = {}
    waiting: dict[int, Tensor] = {}

    def run_waiting() -> None:
        if waiting:
            answers = mean_logits(model, list(waiting.values()), views.average)
            good = are_finite(answers)
            for index in compress(waiting, ~good):
                failures[index] = str(VideoError(videos.videos[index].source, NOT_FINITE))
            indices, answers = list(compress(waiting, good)), {head: values[good] for head, values in answers.items()}
            for head, values in logits.items():
                values[indices] = answers[head]
            if partial is not None and indices:
                partial.add(indices, answers)
            waiting.clear()

    clips = evaluation_views(
        [videos.videos[index] for index in to_do], clip_spec(model), views.clips, views.crops, read
    )
    for number, (index, found) in enumerate(zip(to_do, clips, strict=True), start=len(own) - len(to_do) + 1):
        if isinstance(found, str):
            failures[index] = found
        else:
            waiting[index] = found
        # Batches hold the same videos with and without an interruption, so the logits are bitwise equal.
        if len(waiting) * views.count >= BATCH:
            run_waiting()
        progress(number)
        if stopping():
            break
    run_waiting()
    if ranks.any(stopping()):
        raise Interrupted
    for indices, rows, reasons in ranks.gather([(own, {head: v[own] for head, v in logits.items()}, failures)]):
        for head, values in logits.items():
            values[indices] = rows[head]
        failures |= reasons
    return evaluation_of(videos, logits, failures)


def evaluation_of(videos: VideoSet, logits: Mapping[str, Tensor], failures: Mapping[int, str]) -> Evaluation:
    """The evaluation of known logits; see the fields of `Evaluation`."""
    space = videos.labels
    each = [label_tensors(videos, index) for index in range(len(videos.videos))]
    truth = {head: torch.stack([of_video[head] for of_video in each]) for head in space.heads}
    if space.multi_label:
        truth = {head: values.bool() for head, values in truth.items()}
    return Evaluation(space, logits, truth, dict(sorted(failures.items())))


def _fraction(hits: Tensor) -> float:
    return hits.double().mean().item()
