"""Mixup and CutMix: mix pairs of clips, and their labels in proportion."""

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
    """Mix clip i with clip B−1−i, one lambda for the batch.

    With several processes, each mixes its own slice of the batch, as the official code does on each device.

    Mixup (paper, table 7; Scenic, dataset_lib/dataset_utils.py) averages pixels, in floating point without rounding.
    CutMix (arXiv 1905.04899) pastes a box of the other clip into all frames. With both, each batch gets one of them
    with equal probability.

    Args:
        clips: (B, T, C, H, W) uint8, or floating point in [−1, 1], on any device; not changed.
        labels: head → (B,) int64, or (B, K) float probabilities, or 0 and 1 for several labels per clip.
        num_classes: head → K.
        mixup_alpha, cutmix_alpha: lambda is drawn from Beta(α, α); 0 turns that one off.

    Returns:
        The clips: float32 in [−1, 1] if Mixup got uint8, else in their own dtype. And head → (B, K) float32.
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
    clips, lam = way(clips, float(rng.beta(alphas[way], alphas[way])), rng)
    return clips, {head: lam * own + (1 - lam) * own.flip(0) for head, own in targets.items()}


def _mixup(clips: Tensor, lam: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    if clips.is_floating_point():
        return (clips * lam).add_(clips.flip(0), alpha=1 - lam), lam
    # Maps 0 … 255 to [−1, 1] on the way; the reversed batch stays uint8, to save memory.
    mixed = clips.float().mul_(lam * 2 / 255)
    return mixed.add_(clips.flip(0), alpha=(1 - lam) * 2 / 255).sub_(1), lam


def _cutmix(clips: Tensor, lam: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Paste a box of 1 − lambda of the area, centred anywhere; return lambda as the fraction actually left."""
    height, width = clips.shape[-2:]
    box_height, box_width = (int(side * math.sqrt(1 - lam)) for side in (height, width))
    top, left = int(rng.integers(height)) - box_height // 2, int(rng.integers(width)) - box_width // 2
    bottom, right = min(top + box_height, height), min(left + box_width, width)
    top, left = max(top, 0), max(left, 0)
    mixed = clips.clone()
    mixed[..., top:bottom, left:right] = clips[..., top:bottom, left:right].flip(0)
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
