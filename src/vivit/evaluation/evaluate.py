"""How good a model is on labelled videos. Every video counts once; one that cannot be read counts as wrong."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vivit.data.datasets import VideoSet
from vivit.data.loader import evaluation_views, label_tensors
from vivit.errors import Interrupted
from vivit.evaluation.metrics import Calibration, average_precision, calibration, joint_top_k_hits, top_k_hits
from vivit.evaluation.partial import PartialLogits
from vivit.inference.views import BATCH, Average, clip_spec, mean_logits
from vivit.model.vivit import ViViT
from vivit.video.options import ReadOptions

TOP = (1, 5)


@dataclass(frozen=True)
class Evaluation:
    """The scores, and what they rest on."""

    logits: Mapping[str, Tensor]
    """head → (videos, K), averaged over the views; NaN for a video that could not be read."""
    labels: Mapping[str, Tensor]
    """head → (videos,) int64; (videos, K) bool in a set of many labels for each video."""
    classes: Mapping[str, tuple[str, ...]]
    """head → the names of its classes."""
    failures: Mapping[int, str]
    """Which videos could not be read, in order, and why."""

    @property
    def num_videos(self) -> int:
        return len(next(iter(self.labels.values())))

    @property
    def multi_label(self) -> bool:
        """Whether a video has any number of labels."""
        return next(iter(self.labels.values())).ndim == 2

    @property
    def read(self) -> Tensor:
        """(videos,) bool: which could be read."""
        return ~torch.cat(list(self.logits.values()), dim=1).isnan().any(dim=1)

    def accuracy(self, k: int, head: str = "classes") -> float:
        """The share of all videos whose label is among the k highest logits of a head."""
        return _share(top_k_hits(self.logits[head], self.labels[head], k))

    def joint_accuracy(self, k: int) -> float:
        """The share of all videos whose labels of all heads are among the k most probable combinations."""
        heads = list(self.classes)
        return _share(joint_top_k_hits([self.logits[head] for head in heads], [self.labels[head] for head in heads], k))

    def mean_average_precision(self, head: str = "classes") -> float:
        """The mean over the classes that any video has; 0 where no video has a label."""
        found = [value for value in self._average_precisions(head) if value is not None]
        return sum(found) / len(found) if found else 0.0

    def confusion(self, head: str = "classes") -> Tensor:
        """(K, K) counts: rows are the true classes, columns the predicted ones; unreadable videos are not in it."""
        number = len(self.classes[head])
        pairs = self.labels[head][self.read] * number + self.logits[head][self.read].argmax(dim=1)
        return torch.bincount(pairs, minlength=number * number).view(number, number)

    def calibration(self, head: str = "classes") -> Calibration | None:
        """Of the most probable class of each video that could be read; None where none could, or where labels are many.

        Of many labels nearly every class is rightly improbable in nearly every video, so the number would be small for
        any model.
        """
        if self.multi_label:
            return None
        confidence = self.logits[head][self.read].double().softmax(dim=1).amax(dim=1)
        return calibration(confidence, top_k_hits(self.logits[head], self.labels[head], 1)[self.read])

    def scores(self) -> dict[str, float | int]:
        """The shares, how many videos they are of, and how many of these could not be read."""
        return {**self.shares(), "videos": self.num_videos, "unreadable": len(self.failures)}

    def shares(self) -> dict[str, float]:
        """ "top1" and "top5" of one head; "verb_top1" … "action_top5" of several; "mAP" where labels are many."""
        return {f"{head}_{metric}" if head else metric: value for head, metric, value in self._shares()}

    def shares_that_tell(self) -> dict[str, float]:
        """`shares` without a top-5 that cannot be missed, of five classes or fewer."""
        return {f"{head}_{metric}" if head else metric: value for head, metric, value in self._shares_that_tell()}

    def shares_in_words(self) -> dict[str, float]:
        """`shares_that_tell` under names for people: "top-1", "verb top-1"."""
        return {
            f"{head} {metric.replace('top', 'top-')}".lstrip(): value
            for head, metric, value in self._shares_that_tell()
        }

    def _shares_that_tell(self) -> Iterator[tuple[str, str, float]]:
        few = {head if len(self.classes) > 1 else "" for head, names in self.classes.items() if len(names) <= 5}
        yield from (share for share in self._shares() if not (share[1] == "top5" and share[0] in few))

    def _shares(self) -> Iterator[tuple[str, str, float]]:
        """Head, metric and value; the head is "" where there is but one."""
        single = len(self.classes) == 1
        if self.multi_label:
            yield from (("" if single else head, "mAP", self.mean_average_precision(head)) for head in self.classes)
            return
        for head in self.classes:
            yield from (("" if single else head, f"top{k}", self.accuracy(k, head)) for k in TOP)
        if not single:
            # In EPIC-Kitchens verb and noun are an action; a joined name cannot be that of a head.
            together = "action" if set(self.classes) == {"verb", "noun"} else "+".join(self.classes)
            yield from ((together, f"top{k}", self.joint_accuracy(k)) for k in TOP)

    def per_class(self, head: str = "classes") -> list[dict[str, Any]]:
        """For each class its name, how many videos have it, and how well they are found; None where there are none.

        That is the share of them that is named rightly, or the average precision where labels are many.
        """
        labels, names = self.labels[head], self.classes[head]
        if self.multi_label:
            metric, counts, values = "average_precision", labels.sum(dim=0).tolist(), self._average_precisions(head)
        else:
            metric, counts = "accuracy", torch.bincount(labels, minlength=len(names)).tolist()
            right = torch.bincount(labels[top_k_hits(self.logits[head], labels, 1)], minlength=len(names)).tolist()
            values = [hits / count if count else None for hits, count in zip(right, counts, strict=True)]
        return [
            {"class": name, "videos": count, metric: value}
            for name, count, value in zip(names, counts, values, strict=True)
        ]

    def _average_precisions(self, head: str) -> list[float | None]:
        """Of each class."""
        return [
            average_precision(scores, relevant)
            for scores, relevant in zip(self.logits[head].T, self.labels[head].T, strict=True)
        ]


def evaluate(
    model: ViViT,
    videos: VideoSet,
    *,
    num_clips: int,
    num_crops: int,
    average: Average = "logits",
    options: ReadOptions = ReadOptions(),
    progress: Callable[[int], None] | None = None,
    partial: PartialLogits | None = None,
    rank: int = 0,
    world_size: int = 1,
    gather: Callable[[list[Any]], list[Any]] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Run every video through the model and collect its logits.

    Args:
        model: with the heads of `videos`, and as many classes of each; put into eval mode.
        num_clips, num_crops: the views of each video.
        average: of the views' logits, or of their probabilities; see `mean_over_views`.
        progress: called with how many videos of this process are done.
        partial: what an evaluation of the same model, videos and views has found before; those videos are not read
            again, but for such as could not be read then. What is found is added to it.
        rank, world_size: this process takes the videos `rank`, `rank` + `world_size`, …
        gather: makes one list, the same in all processes, out of the list of each (`accelerate.utils.gather_object`);
            every process then returns the same evaluation. It is needed where there is more than one.
        stopping: asked after each video of this process.

    Raises:
        Interrupted: in every process, once `stopping` has said so in one.
    """
    if world_size > 1 and gather is None:
        raise ValueError("gather: each of several processes has a part of the videos only")
    model.eval()
    logits = {head: torch.full((len(videos.videos), len(names)), torch.nan) for head, names in videos.classes.items()}
    done = partial.done if partial is not None else {}
    for index, rows in done.items():
        for head, values in logits.items():
            values[index] = rows[head]
    own = list(range(rank, len(videos.videos), world_size))
    to_do = [index for index in own if index not in done]
    failures: dict[int, str] = {}
    waiting: dict[int, Tensor] = {}

    def answer() -> None:
        if waiting:
            answers = mean_logits(model, list(waiting.values()), average)
            for head, values in logits.items():
                values[list(waiting)] = answers[head]
            if partial is not None:
                partial.add(list(waiting), answers)
            waiting.clear()

    read = evaluation_views([videos.videos[index] for index in to_do], clip_spec(model), num_clips, num_crops, options)
    for number, (index, views) in enumerate(zip(to_do, read, strict=True), start=len(own) - len(to_do) + 1):
        if isinstance(views, str):
            failures[index] = views
        else:
            waiting[index] = views
        # Whoever goes on from here has the same videos in each batch, and so the same logits to the last bit.
        if len(waiting) * num_clips * num_crops >= BATCH:
            answer()
        if progress is not None:
            progress(number)
        if stopping():
            break
    answer()
    if any(gather([stopping()]) if gather is not None else [stopping()]):
        raise Interrupted
    if gather is not None:
        for indices, rows, reasons in gather([(own, {head: values[own] for head, values in logits.items()}, failures)]):
            for head, values in logits.items():
                values[indices] = rows[head]
            failures |= reasons
    return evaluation_of(videos, logits, failures)


def evaluation_of(videos: VideoSet, logits: Mapping[str, Tensor], failures: Mapping[int, str]) -> Evaluation:
    """The scores of logits, however they were come by.

    Args:
        logits: head → (videos, K); rows of NaN for videos that could not be read.
        failures: which these are, and why.
    """
    each = [label_tensors(videos, index) for index in range(len(videos.videos))]
    labels = {head: torch.stack([of_video[head] for of_video in each]) for head in videos.classes}
    if videos.multi_label:
        labels = {head: values.bool() for head, values in labels.items()}
    return Evaluation(logits, labels, videos.classes, dict(sorted(failures.items())))


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()
