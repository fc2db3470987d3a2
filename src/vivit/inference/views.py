"""Several views of a video, one answer (paper, section 4.1: multi-view inference)."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from vivit.errors import UserError
from vivit.inference.exported import ExportedModel
from vivit.inference.pieces import Pieces
from vivit.model.vivit import ViViT
from vivit.video.clips import ClipSpec

Average = Literal["logits", "probabilities"]
# Views that go through the network at once.
BATCH = 16
# All views of a video are in memory at once.
MOST_CLIPS = 1000
# Why a video has no answer, though it was read.
NOT_FINITE = "the model's answer is not finite (NaN or infinity): its weights are damaged or out of range"


@dataclass(frozen=True)
class Views:
    """Which views of a video a model sees, and how their answers are averaged."""

    clips: int = 1
    crops: int = 1
    """For each clip."""
    average: Average = "logits"
    """See `mean_over_views`."""

    @classmethod
    def parse(cls, text: str, average: Average = "logits") -> Self:
        """Read "4x3" as 4 clips with 3 crops each. Raises UserError for anything else than a count times 1 or 3."""
        match = re.fullmatch(r"([1-9]\d*)x([13])", text)
        if match is None:
            raise UserError(f"views: {text!r} is not clips x crops with 1 or 3 crops, such as 4x3")
        if len(match[1]) > len(str(MOST_CLIPS)) or int(match[1]) > MOST_CLIPS:
            raise UserError(f"views: {match[1]} clips are too many; at most {MOST_CLIPS} clips are taken")
        return cls(int(match[1]), int(match[2]), average)

    @property
    def count(self) -> int:
        return self.clips * self.crops

    def __str__(self) -> str:
        return f"{self.clips}x{self.crops}"


def clip_spec(model: ViViT | ExportedModel) -> ClipSpec:
    """The kind of clip that the model was trained on."""
    config, preprocessing = model.config, model.preprocessing
    return ClipSpec(
        num_frames=config.num_frames,
        stride=preprocessing.frame_stride,
        size=config.image_size,
        resize=preprocessing.resize,
        short=preprocessing.short_clips,
        rate=preprocessing.frame_rate,
    )


@torch.inference_mode()
def mean_logits(
    model: ViViT | ExportedModel, videos: Sequence[Tensor], average: Average = "logits"
) -> dict[str, Tensor]:
    """The logits of each video, averaged over its views. What views share is computed once.

    Args:
        videos: the views of each video, (V, T, C, H, W) uint8; V may differ.
        average: see `mean_over_views`.

    Returns:
        head → (number of videos, K) on the CPU.
    """
    pieces = Pieces(model)
    answers: dict[str, list[Tensor]] = {}
    for views in torch.cat(list(videos)).split(BATCH):
        for head, values in pieces.logits(views).items():
            answers.setdefault(head, []).append(values.float().cpu())
    counts = [len(views) for views in videos]
    multi_label = model.config.multi_label
    return {
        head: torch.stack([mean_over_views(views, average, multi_label) for views in torch.cat(values).split(counts)])
        for head, values in answers.items()
    }


def are_finite(logits: Mapping[str, Tensor]) -> Tensor:
    """(videos,) bool: whether all logits of a video, head → (videos, K), are finite; if not, no label follows."""
    return torch.stack([values.isfinite().all(dim=1) for values in logits.values()]).all(dim=0)


def mean_over_views(logits: Tensor, average: Average, multi_label: bool) -> Tensor:
    """Average the logits of all views: (V, K) → (K,).

    Args:
        average: "logits" takes their mean, the default of the official code (Scenic: `test_step` in
            `vivit/train_utils.py`). "probabilities" returns logits whose softmax (sigmoid if multi_label) is the mean
            of the views' softmaxes (sigmoids), so that later code treats both alike.
    """
    if average == "logits":
        return logits.mean(dim=0)
    logits = logits.double()
    if multi_label:
        # log(p / (1 − p)) of the mean p; the number of views cancels out.
        mean = F.logsigmoid(logits).logsumexp(dim=0) - F.logsigmoid(-logits).logsumexp(dim=0)
    else:
        mean = logits.log_softmax(dim=1).logsumexp(dim=0) - math.log(len(logits))
    return mean.float()
