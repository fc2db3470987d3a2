"""Scores out of logits and labels: accuracy of one head, of several together, average precision and calibration.

A video that could not be read has logits of NaN. It is never among the right ones, and below everything in a ranking.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CALIBRATION_BINS = 15


def label_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """The place of the true class among all, 1 for the highest logit; of equal ones the lower number comes first.

    Args:
        logits: (N, K).
        labels: (N,) int64.

    Returns:
        (N,) int64; of no meaning for a video that could not be read.
    """
    truth = logits.gather(1, labels[:, None])
    lower_number = torch.arange(logits.shape[1]) < labels[:, None]
    return 1 + ((logits > truth) | ((logits == truth) & lower_number)).sum(dim=1)


def top_k_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the true class is among the k highest logits, in the order of `label_ranks`: (N,) bool."""
    return (label_ranks(logits, labels) <= k) & ~logits.isnan().any(dim=1)


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


@dataclass(frozen=True)
class Calibration:
    """How far the probability of the predicted class is from the share of right predictions."""

    error: float
    """The expected calibration error, 0 to 1."""
    counts: tuple[int, ...]
    """Predictions in each bin of confidence; the bins are of equal width, the first begins at 0, the last ends at 1."""
    confidence: tuple[float | None, ...]
    """Their mean confidence; None where there are none."""
    accuracy: tuple[float | None, ...]
    """The share of them that is right; None where there are none."""


def calibration(confidence: Tensor, right: Tensor, bins: int = CALIBRATION_BINS) -> Calibration | None:
    """The expected calibration error, and what it is made of (Guo et al. 2017, arXiv 1706.04599, section 2).

    Of each bin the distance between mean confidence and accuracy, averaged over the predictions. A bin has its upper
    end and not its lower one, as in the authors' code (`ECELoss`).

    Args:
        confidence: (N,) probabilities of the predicted classes.
        right: (N,) bool, whether the predictions are right.

    Returns:
        None where there is no prediction.
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
