import math
from collections.abc import Sequence

import pytest
import torch

from vivit.training.update import loss_of


def cross_entropy(logits: Sequence[float], distribution: Sequence[float]) -> float:
    total = sum(math.exp(value) for value in logits)
    return -sum(share * math.log(math.exp(value) / total) for value, share in zip(logits, distribution, strict=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_several_heads_is_the_mean_of_their_cross_entropies(smoothing: float) -> None:
    torch.manual_seed(0)
    logits = {"verb": torch.randn(4, 3), "noun": torch.randn(4, 5)}
    labels = {"noun": torch.tensor([4, 0, 1, 1]), "verb": torch.tensor([0, 2, 1, 0])}
    expected = 0.0
    for head, values in logits.items():
        number = values.shape[1]
        for row, label in zip(values.tolist(), labels[head].tolist(), strict=True):
            distribution = [(1 - smoothing) * (k == label) + smoothing / number for k in range(number)]
            expected += cross_entropy(row, distribution) / 4 / len(logits)
    assert loss_of(logits, labels, smoothing, False).item() == pytest.approx(expected, rel=1e-5)
    # The same labels as distributions, which two mixed clips have.
    hard = {head: torch.nn.functional.one_hot(labels[head], logits[head].shape[1]).float() for head in logits}
    assert loss_of(logits, hard, smoothing, False).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_many_labels_is_the_sum_of_the_classes_binary_cross_entropies(smoothing: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 4)
    labels = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.25, 0.75, 1.0, 0.0]])
    expected = 0.0
    for values, truths in zip(logits.tolist(), labels.tolist(), strict=True):
        for value, truth in zip(values, truths, strict=True):
            applies = truth * (1 - smoothing) + smoothing / 4
            probability = 1 / (1 + math.exp(-value))
            expected -= (applies * math.log(probability) + (1 - applies) * math.log(1 - probability)) / 3
    assert loss_of(logits, {"classes": labels}, smoothing, True).item() == pytest.approx(expected, rel=1e-5)
    assert loss_of(logits, {"classes": labels}, smoothing, False).item() != pytest.approx(expected, rel=1e-2)
