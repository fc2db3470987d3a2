"""How good a model is on labelled videos. Every video counts once; one that cannot be read counts as wrong."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vivit.evaluation.views import BATCH, clip_spec, mean_logits
from vivit.model.vivit import ViViT
from vivit.video.datasets import VideoSet
from vivit.video.loader import evaluation_views


@dataclass(frozen=True)
class Evaluation:
    """The scores, and what they rest on."""

    logits: Tensor
    """(videos, K), averaged over the views; NaN for a video that could not be read."""
    labels: Tensor
    """(videos,)"""
    classes: tuple[str, ...]
    failures: tuple[str, ...]
    """A line for each video that could not be read."""

    @property
    def num_videos(self) -> int:
        return len(self.labels)

    def accuracy(self, k: int) -> float:
        """The share of all videos whose label is among the k highest logits."""
        best = self.logits.nan_to_num(-torch.inf).topk(min(k, len(self.classes))).indices
        right = (best == self.labels[:, None]).any(dim=1) & self.read
        return right.float().mean().item()

    @property
    def read(self) -> Tensor:
        """(videos,) bool: which could be read."""
        return ~self.logits.isnan().any(dim=1)

    @property
    def confusion(self) -> Tensor:
        """(K, K) counts: rows are the true classes, columns the predicted ones; unreadable videos are not in it."""
        number = len(self.classes)
        pairs = self.labels[self.read] * number + self.logits[self.read].argmax(dim=1)
        return torch.bincount(pairs, minlength=number * number).view(number, number)

    def scores(self) -> dict[str, float | int]:
        return {
            "top1": self.accuracy(1),
            "top5": self.accuracy(5),
            "videos": self.num_videos,
            "unreadable": len(self.failures),
        }


def evaluate(
    model: ViViT,
    videos: VideoSet,
    *,
    num_clips: int,
    num_crops: int,
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Run every video through the model and collect its logits.

    Args:
        model: with one head of as many classes as `videos` has; put into eval mode.
        num_clips, num_crops: the views of each video.
        progress: called with how many videos are done.
    """
    model.eval()
    classes = videos.classes["classes"]
    logits = torch.full((len(videos.videos), len(classes)), torch.nan)
    failures: list[str] = []
    waiting: dict[int, Tensor] = {}

    def answer() -> None:
        if waiting:
            logits[list(waiting)] = mean_logits(model, list(waiting.values()))["classes"]
            waiting.clear()

    for index, views in enumerate(evaluation_views(videos.videos, clip_spec(model), num_clips, num_crops, workers)):
        if isinstance(views, str):
            failures.append(views)
        else:
            waiting[index] = views
        if len(waiting) * num_clips * num_crops >= BATCH:
            answer()
        if progress is not None:
            progress(index + 1)
    answer()
    labels = torch.tensor([video.labels["classes"] for video in videos.videos])
    return Evaluation(logits, labels, classes, tuple(failures))
