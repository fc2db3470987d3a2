"""The order of clips: a function of seed, epoch and step alone, so a run can resume at any step."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vivit.runtime import Ranks

# The first number of every seed. numpy pads seeds with zeros, so (seed, epoch) alone would equal (seed, epoch, 0).
_CLIP, _ORDER, _REPLACEMENT, _COLOURS = 0, 1, 2, 3
_MASK = 5  # 4 is Mixup's


def clip_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator for every random choice in reading this video's clip, except its colours."""
    return np.random.default_rng([_CLIP, seed, epoch, index])


def colour_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator for augmenting the colours of this video's clip, whether while reading or on the GPU."""
    return np.random.default_rng([_COLOURS, seed, epoch, index])


def mask_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator that chooses which tubes of this video's clip to hide in pretraining."""
    return np.random.default_rng([_MASK, seed, epoch, index])


def replacement_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator that chooses other videos if this one cannot be read."""
    return np.random.default_rng([_REPLACEMENT, seed, epoch, index])


def epoch_order(num_videos: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of the videos."""
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(num_videos)


def steps_per_epoch(num_videos: int, batch_size: int) -> int:
    """The number of full batches in an epoch; a set smaller than a batch makes one."""
    return max(1, num_videos // batch_size)


def split_batch(batch: int, parts: int, paired: bool) -> list[np.ndarray]:
    """Split the clips 0 … batch-1 into parts, as evenly as possible: one part for each rank or micro-batch.

    Args:
        paired: keep clips that are mixed with each other in one part. Clip i is mixed with clip batch-1-i, so each part
            holds such pairs, ordered so that reversing the part pairs them as reversing the batch does. With fewer
            pairs than parts, the parts are plain runs of clips.
    """
    pairs = np.array_split(np.arange((batch + 1) // 2), parts)
    if not paired or not len(pairs[-1]):
        return np.array_split(np.arange(batch), parts)
    partners = [batch - 1 - first[::-1] for first in pairs]
    return [np.concatenate([first, last[last > first[-1]]]) for first, last in zip(pairs, partners, strict=True)]


@dataclass(frozen=True)
class Order:
    """The clips of each training step."""

    batch_size: int
    """Clips in a batch, over all ranks together."""
    steps: range
    """The steps to read; a run that resumes starts at a later one."""
    clips_of_each: int | None = None
    """How many different clips of each video to use, in turn over the epochs; None: a new one in every epoch."""
    paired: bool = False
    """Whether the clips of a batch will be mixed in pairs, see `split_batch`."""

    def keys(self, num_videos: int, seed: int, ranks: Ranks) -> Iterator[list[tuple[int, int]]]:
        """For each step, the (epoch, video) keys of this rank's slice of the batch.

        An epoch is `steps_per_epoch` batches of its permutation; leftover videos are skipped in that epoch.
        """
        per_epoch = steps_per_epoch(num_videos, self.batch_size)
        epoch, order = -1, np.empty(0, int)
        for step in self.steps:
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = epoch_order(num_videos, seed, epoch)
            first = step % per_epoch * self.batch_size
            batch = order[first : first + self.batch_size]
            own = batch[split_batch(len(batch), ranks.world_size, self.paired)[ranks.rank]]
            number = epoch if self.clips_of_each is None else epoch % self.clips_of_each
            yield [(number, int(index)) for index in own]
