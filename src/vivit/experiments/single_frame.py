"""What single frames reveal: logistic regression on an image ViT's features of a data set's frames."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vivit.data.datasets import LabelledVideo
from vivit.data.readers.listing import open_data
from vivit.model.vivit import ViViT
from vivit.progress import progress_bar
from vivit.video.clips import view_crops
from vivit.video.decode import open_video
from vivit.weights.image_vit import from_image_vit

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)  # the best one on val is used
MOST_VAL = 200


@dataclass(frozen=True)
class Frames:
    """The frames to use."""

    count: int
    """Spread evenly over the video; 1 is the middle one. Their features are averaged, so their order is lost."""
    side: int
    """The side of the square crop in pixels."""

    def read(self, video: LabelledVideo) -> Tensor:
        """(count, 3, side, side) uint8."""
        with open_video(video.source) as opened:
            places = (np.arange(self.count) + 0.5) / self.count * opened.info.num_frames
            frames = opened.frames(places.astype(int).tolist(), self.side)
        return view_crops(frames, (self.side, self.side), 1)[0]


def measure(data: Path, image_model: Path, frames: Frames, train_videos: int) -> dict[str, Any]:
    """Accuracy on test videos of a regression for each head, trained on the first of the training videos.

    Args:
        data: a data set with train, val and test.
        image_model: an image ViT, see `from_image_vit`.

    Raises:
        UserError: the data set lacks a split, or the model does not fit the frames.
    """
    opened = open_data(data)
    space = opened.labels
    # A tubelet of two equal frames has the features of the image.
    model = from_image_vit(
        image_model, num_frames=2, image_size=frames.side, variant="spatiotemporal", classes=dict(space.classes)
    )
    features: dict[str, Tensor] = {}
    labels: dict[str, dict[str, Tensor]] = {}
    for split, most in (("train", train_videos), ("val", MOST_VAL), ("test", None)):
        videos = opened.split(split).videos[:most]
        features[split] = _features(model, videos, frames, f"look at {split}")
        labels[split] = {
            head: torch.tensor([space.numbers[head][video.labels[head][0]] for video in videos]) for head in space.heads
        }
    answers = {
        head: _probe(features, {split: of[head] for split, of in labels.items()}, len(space.classes[head]))
        for head in space.heads
    }
    right = {head: answers[head] == labels["test"][head] for head in space.heads}
    scores = {head: float(hits.float().mean()) for head, hits in right.items()}
    scores[space.joint] = float(torch.stack([*right.values()]).all(dim=0).float().mean())
    confusion = {
        head: torch.bincount(labels["test"][head] * len(names) + answers[head], minlength=len(names) ** 2)
        .reshape(len(names), len(names))
        .tolist()
        for head, names in space.classes.items()
    }
    return {
        **asdict(frames),
        "videos": {split: len(of) for split, of in features.items()},
        "scores": scores,
        "classes": {head: list(names) for head, names in space.classes.items()},
        "confusion": confusion,
    }


@torch.no_grad()
def _features(model: ViViT, videos: Sequence[LabelledVideo], frames: Frames, doing: str) -> Tensor:
    """(videos, D): the mean over the frames of each video."""
    rows = []
    with progress_bar(doing) as progress:
        for done, video in enumerate(videos, start=1):
            pictures = frames.read(video)
            rows.append(model.features(pictures[:, None].expand(-1, 2, -1, -1, -1)).mean(dim=0))
            progress(done, len(videos))
    return torch.stack(rows)


def _probe(features: dict[str, Tensor], labels: dict[str, Tensor], classes: int) -> Tensor:
    """The answers on test of a multinomial regression trained on train, with the weight decay that is best on val."""
    mean, deviation = features["train"].mean(dim=0), features["train"].std(dim=0) + 1e-6
    inputs = {split: (of - mean) / deviation for split, of in features.items()}
    best = (-1.0, torch.empty(0))
    for decay in DECAYS:
        layer = torch.nn.Linear(inputs["train"].shape[1], classes)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=60, line_search_fn="strong_wolfe")

        def loss(layer: torch.nn.Linear = layer, decay: float = decay) -> Tensor:
            layer.zero_grad()
            value = F.cross_entropy(layer(inputs["train"]), labels["train"]) + decay * layer.weight.square().sum()
            value.backward()
            return value.detach()

        optimiser.step(loss)
        with torch.no_grad():
            answers = {split: layer(inputs[split]).argmax(dim=1) for split in ("val", "test")}
        accuracy = float((answers["val"] == labels["val"]).float().mean())
        best = max(best, (accuracy, answers["test"]), key=lambda one: one[0])
    return best[1]
