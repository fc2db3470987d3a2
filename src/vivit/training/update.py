"""One update of the weights: forward, loss, backward, clipping, step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from vivit.data.loader import Batch
from vivit.data.order import colour_rng, split_batch
from vivit.errors import UserError
from vivit.inference.features import LinearProbe
from vivit.labels import LabelSpace, by_head
from vivit.model.vivit import ViViT
from vivit.training.distributed import gradients_kept_local, summed
from vivit.training.mixing import mix
from vivit.training.optim import WeightAverage, set_learning_rate
from vivit.training.recipe import Recipe
from vivit.training.tensors import kept_weights, training_tensors
from vivit.video.augment import Augmentation, augment_batch

# The first number of Mixup's and CutMix's seed; data/order.py has the others.
MIXING = 4
# Below this fp16 loss scale, the scale is not to blame for overflowing gradients.
LOWEST_SCALE = 2.0**-10
# Offset between the processes' random seeds, larger than the seed of any update unless the recipe's seed is huge.
PROCESS_STRIDE = 1 << 40


@dataclass(frozen=True)
class Learner:
    """A model in training, its optimiser, and the model to score and save."""

    model: nn.Module
    """The model without a wrapper such as DDP; its parameters may be sharded."""
    network: nn.Module
    """What training calls: the model or, after a frozen part, the rest of it; wrapped for multiple processes."""
    optimiser: torch.optim.Optimizer
    """Torch's own, not Accelerate's wrapper."""
    kept: ViViT
    """The model to score and save: `model` itself or a part of it, or a copy with averaged or unsharded weights."""
    average: WeightAverage | None = None
    probe: LinearProbe | None = None
    """The trained part, if it standardises features. The kept model is then a copy with the statistics folded in."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint, not copies."""
        tensors = training_tensors(self.model, self.optimiser, self.average)
        return tensors if self.probe is None else tensors | {f"probe/{n}": v for n, v in self.probe.named_buffers()}

    def update_kept(self) -> None:
        """Copy the weights, or their average, into the kept model; every process must call it."""
        if all(self.kept is not part for part in self.model.modules()):
            self.kept.load_state_dict(kept_weights(self.model, self.average))
        if self.probe is not None:
            self.probe.fold(self.kept)


class Update(NamedTuple):
    loss: float
    """The mean over the clips of all processes."""
    gradient_norm: float
    """Before clipping."""


class NotFinite(Exception):
    """The loss or gradient of an update is not finite; the weights are unchanged."""

    def __init__(self, update: Update, indices: list[int]) -> None:
        super().__init__(f"the loss is {update.loss:g} and its gradient's norm {update.gradient_norm:g}")
        self.indices = indices
        """The videos in this process's slice of the batch whose loss is not finite."""


@dataclass
class Updater:
    """Updates the weights, batch by batch."""

    learner: Learner
    accelerator: Accelerator
    recipe: Recipe
    labels: LabelSpace
    colours: Augmentation | None = None
    """The colour augmentation to apply on the device; None if the clips come with it."""

    def __post_init__(self) -> None:
        self.optimiser = self.accelerator.prepare_optimizer(self.learner.optimiser)
        self.parameters = [parameter for parameter in self.learner.network.parameters() if parameter.requires_grad]

    def __call__(self, batch: Batch, step: int, epoch: int, rate: float, batch_size: int) -> Update:
        """Update the weights with this process's slice of a batch.

        Random numbers (dropout, stochastic depth, token dropping) depend on seed, step and rank alone, so a resumed run
        draws the same. Gradients are averaged over the processes before clipping.

        Args:
            step: the number of updates before this one.
            rate: the learning rate.
            batch_size: clips in the batch, over all processes.

        Raises:
            NotFinite: in every process, before the weights change.
        """
        accelerator, recipe, network = self.accelerator, self.recipe, self.learner.network
        torch.manual_seed(recipe.seed * 1_000_003 + step + accelerator.process_index * PROCESS_STRIDE)
        self.optimiser.zero_grad(set_to_none=True)
        micro_batches = split_batch(len(batch.clips), recipe.accumulate, recipe.mixes)
        sum_of_losses, bad = 0.0, []
        for number, chosen in enumerate(micro_batches, start=1):
            with gradients_kept_local(network, accelerator, local=number < len(micro_batches)):
                loss = self.loss(batch, torch.from_numpy(chosen), step, epoch)
                # DDP and FSDP average over processes, however many clips each has.
                accelerator.backward(loss * (len(chosen) * accelerator.num_processes / batch_size))
            value = loss.item()
            sum_of_losses += value * len(chosen)
            if not math.isfinite(value):
                bad += batch.indices[chosen].tolist()
        norm = accelerator.clip_grad_norm_(self.parameters, math.inf if recipe.clip_norm is None else recipe.clip_norm)
        if hasattr(norm, "full_tensor"):
            norm = norm.full_tensor()
        update = Update(summed(sum_of_losses, accelerator) / batch_size, float(norm))
        if not math.isfinite(update.loss) or not (math.isfinite(update.gradient_norm) or self._scale_may_fall()):
            raise NotFinite(update, bad)
        set_learning_rate(self.optimiser, rate)
        self.optimiser.step()
        if self.learner.average is not None:
            self.learner.average.update(step)
        return update

    def loss(self, batch: Batch, chosen: Tensor, step: int, epoch: int) -> Tensor:
        """The mean loss of these clips of the batch."""
        clips, labels = self._prepared(batch, chosen, step, epoch)
        logits = self.learner.network(clips)
        return loss_of(logits, labels, self.recipe.label_smoothing, self.labels.multi_label)

    def _scale_may_fall(self) -> bool:
        """Whether fp16 may skip this update and lower the loss scale, as it does now and then."""
        scaler = self.accelerator.scaler
        return scaler is not None and scaler.get_scale() >= LOWEST_SCALE

    def _prepared(self, batch: Batch, chosen: Tensor, step: int, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """These clips of the batch on the device, augmented and mixed, and their labels."""
        recipe = self.recipe
        clips = batch.clips[chosen].to(self.accelerator.device, non_blocking=True)
        labels = {head: values[chosen] for head, values in batch.labels.items()}
        if self.colours is not None:
            rngs = [colour_rng(recipe.seed, epoch, index) for index in batch.indices[chosen].tolist()]
            clips = augment_batch(clips, self.colours, rngs)
        if recipe.mixes:
            return mix(
                clips,
                labels,
                self.labels.counts,
                mixup_alpha=recipe.mixup,
                cutmix_alpha=recipe.cutmix,
                rng=np.random.default_rng([MIXING, recipe.seed, step]),
            )
        return clips, labels


def check_split(batch_size: int, recipe: Recipe, num_processes: int) -> None:
    """Raise UserError if a process would get no clip of a batch, or fewer clips than micro-batches."""
    smallest = min(map(len, split_batch(batch_size, num_processes, recipe.mixes)))
    if not smallest:
        raise UserError(
            f"batch_size: {num_processes} processes cannot share a batch of {batch_size}; use a larger one, more "
            "videos or fewer processes"
        )
    if smallest < recipe.accumulate:
        raise UserError(
            f"accumulate: {smallest} clips of a batch of {batch_size} do not make {recipe.accumulate} micro-batches; "
            "lower it, or raise --batch-size"
        )


def loss_of(
    logits: Tensor | Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    label_smoothing: float,
    multi_label: bool,
) -> Tensor:
    """The mean of the heads' losses (as in Scenic for EPIC-Kitchens), each a mean over the batch.

    A head's loss is the cross-entropy or, with `multi_label`, the binary cross-entropy summed over classes, as in
    Scenic (`weighted_sigmoid_cross_entropy`), which smooths labels the same way.

    Args:
        logits: (B, K), or head → (B, K).
        labels: head → (B,) int64, or (B, K) float probabilities; with `multi_label` (B, K) float between 0 and 1, the
            degree to which each class applies.
        label_smoothing: the fraction of each label to spread evenly over all classes.
    """
    losses = []
    for head, values in by_head(logits).items():
        values, truth = values.float(), labels[head].to(values.device)
        if multi_label:
            smoothed = truth * (1 - label_smoothing) + label_smoothing / values.shape[1]
            losses.append(F.binary_cross_entropy_with_logits(values, smoothed, reduction="sum") / len(values))
        else:
            losses.append(F.cross_entropy(values, truth, label_smoothing=label_smoothing))
    return torch.stack(losses).mean()
