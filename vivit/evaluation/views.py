"""Several views of a video, one answer (paper, section 4.1: multi-view inference)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vivit.model.vivit import ViViT
from vivit.video.clips import ClipSpec

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
def mean_logits(model: ViViT, videos: Sequence[Tensor]) -> dict[str, Tensor]:
    """Each video's logits, averaged over its views.

    Args:
        videos: of each its views, (V, T, C, H, W) uint8; V may differ.

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
    return {
        head: torch.stack([views.mean(dim=0) for views in torch.cat(values).split(counts)])
        for head, values in answers.items()
    }
