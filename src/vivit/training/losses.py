"""The losses: of one head or the mean of several, of one label for each clip or many."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def loss_of(
    logits: Tensor | dict[str, Tensor],
    labels: Mapping[str, Tensor],
    label_smoothing: float,
    multi_label: bool,
) -> Tensor:
    """The mean over the heads of their losses (as Scenic has it for EPIC-Kitchens), each the mean over the batch.

    A head's loss is the cross-entropy; where any number of labels applies it is the sum over the classes of their
    binary cross-entropies, as in Scenic (`weighted_sigmoid_cross_entropy`), which smooths labels in the same way too.

    Args:
        logits: (B, K), or head → (B, K).
        labels: head → (B,) int64, or (B, K) float that is a distribution over the classes; with `multi_label`
            (B, K) float, of each class how far it applies, 0 to 1.
        label_smoothing: this share of the labels is spread evenly over all classes.
    """
    by_head = logits if isinstance(logits, dict) else {"classes": logits}
    losses = []
    for head, values in by_head.items():
        values, truth = values.float(), labels[head].to(values.device)
        if multi_label:
            smoothed = truth * (1 - label_smoothing) + label_smoothing / values.shape[1]
            losses.append(F.binary_cross_entropy_with_logits(values, smoothed, reduction="sum") / len(values))
        else:
            losses.append(F.cross_entropy(values, truth, label_smoothing=label_smoothing))
    return torch.stack(losses).mean()
