"""One update of the weights: forward, loss, backward, clipping, step."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from vivit.data.loader import Batch
from vivit.data.order import colour_rng, split_batch
from vivit.errors import UserError
from vivit.training.distributed import gradients_kept_local, summed
from vivit.training.mixing import mix
from vivit.training.optim import WeightAverage, set_learning_rate
from vivit.training.recipe import Recipe
from vivit.video.augment import Augmentation, augment_batch

# First in the seed of what Mixup and CutMix draw; the loader has those below.
MIXING = 4
# Of the loss, with fp16: where gradients are too large even so, it is not for the scale.
LOWEST_SCALE = 2.0**-10
# More updates than any run has, times any seed of a few digits.
PROCESS_STRIDE = 1 << 40


class Update(NamedTuple):
    loss: float
    """The mean over the clips of all processes."""
    gradient_norm: float
    """Before clipping."""


class NotFinite(Exception):
    """The loss or the gradient of an update is no number; the weights are as they were."""

    def __init__(self, update: Update, indices: list[int]) -> None:
        super().__init__(f"the loss is {update.loss:g} and its gradient's norm {update.gradient_norm:g}")
        self.indices = indices
        """The videos of this process's part of the batch whose loss is no number."""


class Updater:
    """Updates a network by batches; one for a run."""

    def __init__(
        self,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        average: WeightAverage | None,
        accelerator: Accelerator,
        recipe: Recipe,
        heads: dict[str, int],
        multi_label: bool,
        colours: Augmentation | None,
    ) -> None:
        """
        Args:
            network: from clips (B, T, C, H, W), or what else the batches hold, to logits; wrapped for many processes.
            optimiser: of its parameters, prepared by Accelerate.
            heads: head → number of classes.
            colours: what to do to the clips' colours on their device; None where it is done already.
        """
        self.network, self.optimiser, self.average, self.accelerator = network, optimiser, average, accelerator
        self.recipe, self.heads, self.multi_label, self.colours = recipe, heads, multi_label, colours
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def __call__(self, batch: Batch, step: int, epoch: int, rate: float, batch_size: int) -> Update:
        """Update the weights by this process's part of a batch.

        What is drawn on the way (dropout, stochastic depth, tokens) depends on the seed, the step and the process: a
        resumed run draws the same. Gradients are averaged over the processes, and only then clipped.

        Args:
            step: how many updates came before.
            rate: the learning rate.
            batch_size: clips of all processes together.

        Raises:
            NotFinite: in every process, before the weights are changed.
        """
        accelerator, recipe = self.accelerator, self.recipe
        torch.manual_seed(recipe.seed * 1_000_003 + step + accelerator.process_index * PROCESS_STRIDE)
        self.optimiser.zero_grad(set_to_none=True)
        parts = split_batch(len(batch.clips), recipe.accumulate, recipe.mixes)
        sum_of_losses, bad = 0.0, []
        for number, chosen in enumerate(parts, start=1):
            clips, labels = self._prepared(batch, torch.from_numpy(chosen), step, epoch)
            with gradients_kept_local(self.network, accelerator, local=number < len(parts)):
                loss = loss_of(self.network(clips), labels, recipe.label_smoothing, self.multi_label)
                # Processes are averaged over, however many clips each has.
                accelerator.backward(loss * (len(chosen) * accelerator.num_processes / batch_size))
            value = loss.item()
            sum_of_losses += value * len(chosen)
            if not math.isfinite(value):
                bad += batch.indices[chosen].tolist()
        largest = math.inf if recipe.clip_norm is None else recipe.clip_norm
        norm = accelerator.clip_grad_norm_(self.parameters, largest)
        if hasattr(norm, "full_tensor"):
            norm = norm.full_tensor()
        update = Update(summed([sum_of_losses], accelerator)[0] / batch_size, float(norm))
        if not math.isfinite(update.loss) or not (math.isfinite(update.gradient_norm) or self._scale_may_fall()):
            raise NotFinite(update, bad)
        set_learning_rate(self.optimiser, rate)
        self.optimiser.step()
        if self.average is not None:
            self.average.update(step)
        return update

    def _scale_may_fall(self) -> bool:
        """With fp16 too large a gradient is nothing unusual: the update is left out, and the loss's scale lowered."""
        scaler = self.accelerator.scaler
        return scaler is not None and scaler.get_scale() >= LOWEST_SCALE

    def _prepared(self, batch: Batch, chosen: Tensor, step: int, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """These clips of a batch on the device, augmented and mixed, and their labels."""
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
                self.heads,
                mixup_alpha=recipe.mixup,
                cutmix_alpha=recipe.cutmix,
                rng=np.random.default_rng([MIXING, recipe.seed, step]),
            )
        return clips, labels


def check_shares(batch_size: int, recipe: Recipe, num_processes: int) -> None:
    """Raises UserError where a process has no clip of a batch, or too few to accumulate over."""
    smallest = min(map(len, split_batch(batch_size, num_processes, recipe.mixes)))
    if not smallest:
        raise UserError(
            f"batch_size: {num_processes} processes cannot share a batch of {batch_size}; use a larger one, more "
            "videos or fewer processes"
        )
    if smallest < recipe.accumulate:
        raise UserError(
            f"accumulate: {smallest} clips of a batch of {batch_size} cannot be computed in {recipe.accumulate} parts; "
            "lower it, or raise --batch-size"
        )


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
