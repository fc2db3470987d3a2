"""Several views of a video, one answer (paper, section 4.1: multi-view inference)."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vivit.model.vivit import ViViT
from vivit.video.clips import ClipSpec

Average = Literal["logits", "probabilities"]
# How many views go through the network at once.
BATCH = 16


def clip_spec(model: ViViT) -> ClipSpec:
    """The clips that the model was trained on."""
    config, preprocessing = model.config, model.preprocessing
    return ClipSpec(
        num_frames=config.num_frames,
        stride=preprocessing.frame_stride,
        size=config.image_size,
        resize=preprocessing.resize,
        short=preprocessing.short_clips,
    )


@torch.inference_mode()
def mean_logits(model: ViViT, videos: Sequence[Tensor], average: Average = "logits") -> dict[str, Tensor]:
    """Each video's logits, averaged over its views.

    Args:
        videos: of each its views, (V, T, C, H, W) uint8; V may differ.
        average: see `mean_over_views`.

    Returns:
        head → (number of videos, K) on the CPU; the one head of a model without named heads is "classes".
    """
    device = next(model.parameters()).device
    answers: dict[str, list[Tensor]] = {}
    for views in torch.cat(list(videos)).split(BATCH):
        logits = model(views.to(device))
        for head, values in (logits if isinstance(logits, dict) else {"classes": logits}).items():
            answers.setdefault(head, []).append(values.float().cpu())
    counts = [len(views) for views in videos]
    multi_label = model.config.multi_label
    return {
        head: torch.stack([mean_over_views(views, average, multi_label) for views in torch.cat(values).split(counts)])
        for head, values in answers.items()
    }


def mean_over_views(logits: Tensor, average: Average, multi_label: bool) -> Tensor:
    """One answer out of those for each view: (V, K) → (K,).

    Args:
        average: "logits" is their mean, as the official code has it by default (Scenic: `test_step` of
            `vivit/train_utils.py`). "probabilities" is that whose softmax is the mean of the views' softmaxes or, where
            labels are many, whose sigmoid is the mean of their sigmoids. So either is a logit to all that comes after.
    """
    if average == "logits":
        return logits.mean(dim=0)
    logits = logits.double()
    if multi_label:
        # The log of p / (1 − p) for the mean p; the number of views is in both sums.
        mean = F.logsigmoid(logits).logsumexp(dim=0) - F.logsigmoid(-logits).logsumexp(dim=0)
    else:
        mean = logits.log_softmax(dim=1).logsumexp(dim=0) - math.log(len(logits))
    return mean.float()
