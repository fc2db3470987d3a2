"""Scores out of logits and labels: accuracy of one head, of several together, and average precision.

A video that could not be read has logits of NaN. It is never among the right ones, and below everything in a ranking.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def top_k_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the true class is among the k highest logits; of equal ones, that with the lower number is higher.

    Args:
        logits: (N, K).
        labels: (N,) int64.

    Returns:
        (N,) bool.
    """
    truth = logits.gather(1, labels[:, None])
    lower_number = torch.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > truth) | ((logits == truth) & lower_number)).sum(dim=1)
    return (rank < k) & ~logits.isnan().any(dim=1)


def joint_top_k_hits(logits: Sequence[Tensor], labels: Sequence[Tensor], k: int) -> Tensor:
    """Whether the true classes of all heads together are among the k most probable combinations of classes.

    A combination is as probable as the product of its classes' softmaxes, as the evaluation of EPIC-Kitchens-100 (its
    `compute_action_scores`) and Scenic (`joint_top_k`) have it.

    Args:
        logits: of each head (N, K); K may differ.
        labels: of each head (N,) int64.

    Returns:
        (N,) bool.
    """
    number = len(labels[0])
    log_probability = torch.zeros(number, 1, dtype=torch.float64)
    right = torch.ones(number, 1, dtype=torch.bool)
    # Only the k best of each head can be part of one of the k best combinations, so the whole table is not needed.
    for values, truth in zip(logits, labels, strict=True):
        ranked, classes = values.double().log_softmax(dim=1).sort(dim=1, descending=True, stable=True)
        best, is_truth = ranked[:, :k], classes[:, :k] == truth[:, None]
        log_probability = (log_probability[:, :, None] + best[:, None]).flatten(1)  # (N, k, k) → (N, k · k)
        right = (right[:, :, None] & is_truth[:, None]).flatten(1)
        log_probability, kept = (x[:, :k] for x in log_probability.sort(dim=1, descending=True, stable=True))
        right = right.gather(1, kept)
    return right.any(dim=1) & ~torch.stack([values.isnan().any(dim=1) for values in logits]).any(dim=0)


def average_precision(scores: Tensor, relevant: Tensor) -> float | None:
    """The mean, over the relevant videos, of the share of relevant ones among all that score as high or higher.

    This is the area under the steps of precision over recall, without interpolation (scikit-learn's
    `average_precision_score`); videos of equal scores enter together.

    Args:
        scores: (N,).
        relevant: (N,) bool.

    Returns:
        0 to 1; None where no video is relevant.
    """
    if not relevant.any():
        return None
    scores = scores.double().nan_to_num(-torch.inf)
    thresholds = scores[relevant]

    def at_least(values: Tensor) -> Tensor:
        return len(values) - torch.searchsorted(values.sort().values, thresholds)

    return (at_least(thresholds) / at_least(scores)).mean().item()
