"""Accuracy of one head or of several jointly, average precision, and calibration.

An unreadable video has NaN logits. It is never correct, and ranks below all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CALIBRATION_BINS = 15


def label_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """The rank of the true class: 1 for the highest logit; among equal logits, the lower class index comes first.

    Args:
        logits: (N, K).
        labels: (N,) int64.

    Returns:
        (N,) int64; meaningless for unreadable videos.
    """
    truth = logits.gather(1, labels[:, None])
    lower_number = torch.arange(logits.shape[1]) < labels[:, None]
    return 1 + ((logits > truth) | ((logits == truth) & lower_number)).sum(dim=1)


def top_k_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the true class has one of the ranks 1 to k: (N,) bool."""
    return (label_ranks(logits, labels) <= k) & ~logits.isnan().any(dim=1)


def joint_top_k_hits(logits: Sequence[Tensor], labels: Sequence[Tensor], k: int) -> Tensor:
    """Whether the true classes of all heads are among the k most probable combinations of classes.

    The probability of a combination is the product of its classes' softmaxes, as in the evaluation of EPIC-Kitchens-100
    (`compute_action_scores`) and in Scenic (`joint_top_k`).

    Args:
        logits: (N, K) for each head; K may differ.
        labels: (N,) int64 for each head.

    Returns:
        (N,) bool.
    """
    number = len(labels[0])
    log_probability = torch.zeros(number, 1, dtype=torch.float64)
    right = torch.ones(number, 1, dtype=torch.bool)
    # The k best combinations consist of the k best classes of each head, so the full table is not needed.
    for values, truth in zip(logits, labels, strict=True):
        ranked, classes = values.double().log_softmax(dim=1).sort(dim=1, descending=True, stable=True)
        best, is_truth = ranked[:, :k], classes[:, :k] == truth[:, None]
        log_probability = (log_probability[:, :, None] + best[:, None]).flatten(1)  # (N, k, k) → (N, k · k)
        right = (right[:, :, None] & is_truth[:, None]).flatten(1)
        log_probability, kept = (x[:, :k] for x in log_probability.sort(dim=1, descending=True, stable=True))
        right = right.gather(1, kept)
    return right.any(dim=1) & ~torch.stack([values.isnan().any(dim=1) for values in logits]).any(dim=0)


def average_precision(scores: Tensor, relevant: Tensor) -> float | None:
    """The area under the precision-recall step curve, without interpolation.

    This is the mean, over the relevant videos, of the precision among all videos that score at least as high; equal
    scores count together (as in scikit-learn's `average_precision_score`).

    Args:
        scores: (N,).
        relevant: (N,) bool.

    Returns:
        0 to 1; None if no video is relevant.
    """
    if not relevant.any():
        return None
    scores = scores.double().nan_to_num(-torch.inf)
    thresholds = scores[relevant]

    def at_least(values: Tensor) -> Tensor:
        return len(values) - torch.searchsorted(values.sort().values, thresholds)

    return (at_least(thresholds) / at_least(scores)).mean().item()


@dataclass(frozen=True)
class Calibration:
    """How far the predicted classes' probabilities are from their accuracy."""

    error: float
    """The expected calibration error, 0 to 1."""
    counts: tuple[int, ...]
    """Predictions in each confidence bin; the bins have equal widths and span 0 to 1."""
    confidence: tuple[float | None, ...]
    """Mean confidence of each bin; None if it is empty."""
    accuracy: tuple[float | None, ...]
    """Accuracy of each bin; None if it is empty."""


def calibration(confidence: Tensor, right: Tensor, bins: int = CALIBRATION_BINS) -> Calibration | None:
    """The expected calibration error and its bins (Guo et al. 2017, arXiv 1706.04599, section 2).

    The error is the distance between a bin's mean confidence and its accuracy, averaged over the predictions. A bin
    includes its upper end and excludes its lower one, as in the authors' code (`ECELoss`).

    Args:
        confidence: (N,) probabilities of the predicted classes.
        right: (N,) bool, whether the predictions are correct.

    Returns:
        None if there are no predictions.
    """
    if not len(confidence):
        return None
    inner_ends = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    confidence = confidence.double()
    bin_of = torch.bucketize(confidence, inner_ends)
    counts = torch.bincount(bin_of, minlength=bins)
    confident = torch.bincount(bin_of, weights=confidence, minlength=bins)
    hits = torch.bincount(bin_of, weights=right.double(), minlength=bins)

    def means(sums: Tensor) -> tuple[float | None, ...]:
        return tuple(
            total / count if count else None for total, count in zip(sums.tolist(), counts.tolist(), strict=True)
        )

    error = (confident - hits).abs().sum().item() / len(confidence)
    return Calibration(error, tuple(counts.tolist()), means(confident), means(hits))
