"""Batches of clips for training, and the views of each video for evaluation.

Workers, processes and loaders are stateless: every random choice for a clip comes from its own generator, seeded by
(seed, epoch, index). So any number of workers gives the same clips, and resuming means starting at step n.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.data.order import Order, clip_rng, colour_rng, replacement_rng
from vivit.data.workers import load_items, reading
from vivit.errors import UserError
from vivit.runtime import Ranks
from vivit.video.augment import Augmentation, augment_colours
from vivit.video.clips import ClipSpec, cut_training_clip, read_training_clip, read_views, read_whole
from vivit.video.decode import Reader, ReadOptions
from vivit.video.source import VideoError

# Random crops, half of them mirrored.
PLAIN = Augmentation()
# How many other videos to try if one cannot be read.
REPLACEMENTS = 3

LabelTensors = dict[str, Tensor]


class Batch(NamedTuple):
    clips: Tensor
    """(B, T, C, H, W) uint8."""
    labels: LabelTensors
    """head → (B,) int64; or (B, K) float, 0 or 1, if videos have any number of labels."""
    indices: Tensor
    """(B,) int64: the indices in the set of the videos read; a replacement has its own index."""
    failures: tuple[tuple[int, VideoError], ...] = ()
    """The index of each video that could not be read, and why."""


class Clip(NamedTuple):
    frames: Tensor
    """(T, C, H, W) uint8."""
    labels: LabelTensors
    video: int
    """The video's index in the set."""
    failures: tuple[tuple[int, VideoError], ...] = ()


def label_tensors(videos: VideoSet, index: int, mirrors: Mapping[str, Mapping[int, int]] | None = None) -> LabelTensors:
    """head → the index of the video's class, or (K,) float with 1 for each class that applies.

    Args:
        mirrors: head → what each class becomes if the video is mirrored; None: classes stay the same.
    """
    space, tensors = videos.labels, {}
    for head, names in videos.videos[index].labels.items():
        numbers = [space.numbers[head][name] for name in names]
        if mirrors:
            numbers = [mirrors[head].get(number, number) for number in numbers]
        if space.multi_label:
            tensors[head] = torch.zeros(len(space.classes[head]))
            tensors[head][numbers] = 1.0
        else:
            tensors[head] = torch.tensor(numbers[0])
    return tensors


@dataclass(frozen=True)
class TrainingClips(Dataset[Clip | VideoError]):
    """Random clips of videos, by (epoch, index).

    A video that cannot be read is replaced with another; which one depends on (seed, epoch, index) alone. If no
    replacement can be read either, the item is the error: raised in a worker, it would become a page of traceback.
    """

    videos: VideoSet
    spec: ClipSpec
    seed: int
    augmentation: Augmentation = PLAIN
    read: ReadOptions = ReadOptions()
    mirrors: Mapping[str, Mapping[int, int]] | None = None
    """head → what each class becomes in a mirrored clip, from `mirrored_classes`; None: classes stay the same."""
    colours: bool = True
    """Whether to augment colours here; if not, `augment_colours` with `colour_rng` does the same later, as on a GPU."""
    keep_decoded: bool = False
    """Hold every decoded video in memory, resized, so that later epochs decode nothing; the clips are the same.

    Each worker would hold its own copies, so use it without workers. With scale jitter, frames are scaled twice."""

    @cached_property
    def _decoded(self) -> dict[int, Tensor]:
        return {}

    @cached_property
    def _reader(self) -> Reader:
        return self.read.reader()

    def __getitem__(self, key: tuple[int, int]) -> Clip | VideoError:
        return self.or_replacement(*key, self.read_own)

    def or_replacement(self, epoch: int, index: int, read_clip: Callable[[int, int], Clip]) -> Clip | VideoError:
        """Read this video's clip or, on VideoError, a replacement's; the first error if all of them fail."""
        failures: list[tuple[int, VideoError]] = []
        candidates = [index]
        for chosen in candidates:
            try:
                return read_clip(epoch, chosen)._replace(failures=tuple(failures))
            except VideoError as error:
                if not failures:
                    candidates += self._replacements(epoch, index)
                failures.append((chosen, error))
        return failures[0][1]

    def _replacements(self, epoch: int, index: int) -> list[int]:
        """The videos to try, in this order, if this one cannot be read."""
        # Not drawn from the clip's generator: how many numbers a failed read takes from it depends on the damage.
        count = len(self.videos.videos)
        drawn = replacement_rng(self.seed, epoch, index).choice(count, min(REPLACEMENTS + 1, count), replace=False)
        return drawn[drawn != index][:REPLACEMENTS].tolist()

    def read_own(self, epoch: int, index: int) -> Clip:
        """A clip of this video, without replacement. Raises VideoError."""
        video, rng = self.videos.videos[index], clip_rng(self.seed, epoch, index)
        spec, augmentation, decoder = self.spec, self.augmentation, self.read.decoder
        with reading(index):
            if self.keep_decoded:
                if index not in self._decoded:
                    self._decoded[index] = self._reader(read_whole, video.source, video.span, spec, decoder)
                frames, mirrored = cut_training_clip(self._decoded[index], spec, augmentation, rng)
            else:
                where = video.source, video.span
                frames, mirrored = self._reader(read_training_clip, *where, spec, augmentation, rng, decoder)
            if self.colours:
                frames = augment_colours(frames, augmentation, colour_rng(self.seed, epoch, index))
        return Clip(frames, label_tensors(self.videos, index, self.mirrors if mirrored else None), index)


def training_batches(clips: TrainingClips, order: Order, ranks: Ranks = Ranks()) -> Iterator[Batch]:
    """This rank's slices of the batches of `order.steps`; earlier steps are skipped without reading.

    Raises:
        UserError: at once, if a batch is too small for every rank to have a video.
        VideoError: later, if neither a video nor its replacements can be read.
    """
    count = len(clips.videos.videos)
    smallest = min(order.batch_size, count)
    if smallest < ranks.world_size:
        raise UserError(
            f"batch_size: {ranks.world_size} processes cannot share a batch of {smallest} (batch_size "
            f"{order.batch_size}, {count} videos); use a larger batch, more videos or fewer processes"
        )
    workers = clips.read.workers
    items = load_items(
        clips,
        workers,
        lambda index: clips.videos.videos[index].source,
        batch_sampler=order.keys(count, clips.seed, ranks),
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
    )
    return _raise_errors(items)


def _raise_errors(items: Iterator[Batch | VideoError]) -> Iterator[Batch]:
    for batch in items:
        if isinstance(batch, VideoError):
            raise batch
        yield batch


def collate(clips: list[Clip | VideoError]) -> Batch | VideoError:
    """The batch of these clips, or the first error among them."""
    good: list[Clip] = []
    for clip in clips:
        if isinstance(clip, VideoError):
            return clip
        good.append(clip)
    return Batch(
        torch.stack([clip.frames for clip in good]),
        {head: torch.stack([clip.labels[head] for clip in good]) for head in good[0].labels},
        torch.tensor([clip.video for clip in good]),
        tuple(failure for clip in good for failure in clip.failures),
    )


@dataclass(frozen=True)
class EvaluationViews(Dataset[Tensor | str]):
    """The evaluation views of each video, (V, T, C, H, W) uint8, or why it cannot be read."""

    videos: Sequence[LabelledVideo]
    spec: ClipSpec
    num_clips: int
    num_crops: int
    read: ReadOptions

    @cached_property
    def _reader(self) -> Reader:
        return self.read.reader()

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Tensor | str:
        video, counts = self.videos[index], (self.num_clips, self.num_crops)
        try:
            with reading(index):
                return self._reader(read_views, video.source, self.spec, *counts, video.span, self.read.decoder).frames
        except VideoError as error:
            return str(error)


def evaluation_views(
    videos: Sequence[LabelledVideo],
    spec: ClipSpec,
    num_clips: int,
    num_crops: int,
    read: ReadOptions = ReadOptions(),
) -> Iterator[Tensor | str]:
    """For each video, once and in order, its views (V, T, C, H, W) uint8, or why it cannot be read."""
    views = EvaluationViews(videos, spec, num_clips, num_crops, read)
    yield from load_items(views, read.workers, lambda index: videos[index].source, batch_size=None)
