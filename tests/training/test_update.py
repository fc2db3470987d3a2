"""The losses, and updates with fp16 without a GPU, by a stand-in for the gradient scaler."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn

from vivit.data.loader import Batch
from vivit.errors import UserError
from vivit.labels import LabelSpace, as_classes
from vivit.model.vivit import ViViT
from vivit.training.distributed import start_processes
from vivit.training.recipe import Recipe
from vivit.training.train import train
from vivit.training.update import LOWEST_SCALE, Learner, NotFinite, Updater, loss_of


@dataclass
class Scaler:
    """Halves its scale whenever a step is skipped, as GradScaler does."""

    scale: float
    scales: list[float] = field(default_factory=list)

    def get_scale(self) -> float:
        self.scales.append(self.scale)
        self.scale /= 2
        return self.scales[-1]


def updater(monkeypatch: pytest.MonkeyPatch, scaler: Scaler | None) -> Updater:
    """An updater of a network whose loss is finite and whose gradient is not."""
    accelerator = start_processes(torch.device("cpu"), "f32", None, shard=False)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4 * 3 * 2 * 2, 3))
    network[1].weight.register_hook(lambda gradient: gradient * torch.inf)  # type: ignore[operator]
    monkeypatch.setattr(accelerator, "scaler", scaler)
    monkeypatch.setattr(accelerator, "backward", lambda loss: loss.backward())
    optimiser = torch.optim.SGD(network.parameters(), lr=0.0)
    optimiser.param_groups[0]["lr_scale"] = 1.0
    # Accelerate's wrapper skips the step.
    monkeypatch.setattr(optimiser, "step", lambda: None)
    monkeypatch.setattr(accelerator, "prepare_optimizer", lambda optimiser: optimiser)
    learner = Learner(network, network, optimiser, cast(ViViT, network))
    return Updater(learner, accelerator, Recipe(clip_norm=1.0), LabelSpace(as_classes(["a", "b", "c"])))


def batch() -> Batch:
    clips = torch.ones(2, 4, 3, 2, 2)
    return Batch(clips, {"classes": torch.tensor([0, 1])}, torch.tensor([0, 1]))


def test_a_gradient_that_is_no_number_stops_float32_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFinite):
        updater(monkeypatch, None)(batch(), 0, 0, 0.1, 2)


def test_fp16_leaves_updates_out_until_the_scale_is_not_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = Scaler(4 * LOWEST_SCALE)
    update = updater(monkeypatch, scaler)
    for step in range(3):
        assert not torch.isfinite(torch.tensor(update(batch(), step, 0, 0.1, 2).gradient_norm))
    with pytest.raises(NotFinite):
        update(batch(), 3, 0, 0.1, 2)
    assert scaler.scales == [4 * LOWEST_SCALE, 2 * LOWEST_SCALE, LOWEST_SCALE, LOWEST_SCALE / 2]


def test_fp16_is_refused_with_sharded_parameters(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="precision: fp16 does not work with --shard"):
        train(tmp_path / "data", tmp_path / "out", Recipe(precision="fp16"), shard=True)


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
    # The same labels as distributions, as mixed clips have them.
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
