"""Mixup and CutMix: pairs of clips in one, with labels in proportion."""

import math
from collections.abc import Mapping

import numpy as np
import torch.nn.functional as F
from torch import Tensor


def mix(
    clips: Tensor,
    labels: Mapping[str, Tensor],
    num_classes: Mapping[str, int],
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    rng: np.random.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Each clip with the one at the same place from the batch's end, by one share for the whole batch.

    With several processes each mixes its own part of the batch, as the official code does on its devices.

    Mixup (paper, table 7; Scenic, dataset_lib/dataset_utils.py) averages the pixels: what comes back is floating point,
    rounded nowhere. CutMix (arXiv 1905.04899) puts a box of the other clip into all frames, and the pixels stay as they
    are. With both, each batch gets either, as likely.

    Args:
        clips: (B, T, C, H, W) uint8, or floating point in [−1, 1]; on any device, not changed.
        labels: head → (B,) int64, or (B, K) float of probabilities, or of 0 and 1 for many labels.
        num_classes: head → K.
        mixup_alpha, cutmix_alpha: the share is drawn from Beta(α, α); 0 leaves that one out.

    Returns:
        The clips, float32 in [−1, 1] where Mixup met uint8, else as they were; and head → (B, K) float32.
    """
    targets = {
        head: (F.one_hot(given, num_classes[head]) if given.ndim == 1 else given).float()
        for head, given in labels.items()
    }
    alphas = {_mixup: mixup_alpha, _cutmix: cutmix_alpha}
    ways = [way for way, alpha in alphas.items() if alpha > 0]
    if not ways:
        return clips, targets
    way = ways[rng.integers(len(ways))]
    clips, share = way(clips, float(rng.beta(alphas[way], alphas[way])), rng)
    return clips, {head: share * own + (1 - share) * own.flip(0) for head, own in targets.items()}


def _mixup(clips: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    if clips.is_floating_point():
        return (clips * share).add_(clips.flip(0), alpha=1 - share), share
    # From 0 … 255 to [−1, 1] on the way; the mirrored batch is held as bytes.
    mixed = clips.float().mul_(share * 2 / 255)
    return mixed.add_(clips.flip(0), alpha=(1 - share) * 2 / 255).sub_(1), share


def _cutmix(clips: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """A box of 1 − share of the area around any pixel; what falls outside of the frame counts for neither."""
    height, width = clips.shape[-2:]
    box_height, box_width = (int(side * math.sqrt(1 - share)) for side in (height, width))
    top, left = int(rng.integers(height)) - box_height // 2, int(rng.integers(width)) - box_width // 2
    bottom, right = min(top + box_height, height), min(left + box_width, width)
    top, left = max(top, 0), max(left, 0)
    mixed = clips.clone()
    mixed[..., top:bottom, left:right] = clips[..., top:bottom, left:right].flip(0)
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
