"""Batches of clips in an order that is a function of (seed, epoch) and the step, and of nothing else.

No worker, process or loader holds a state: every random choice for a clip comes from a generator of its own, seeded by
(seed, epoch, index). So any number of workers gives the same clips, and to resume is to start at step n.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.errors import UserError
from vivit.video.augment import Augmentation, augment_colours
from vivit.video.clips import ClipSpec, cut_training_clip, read_training_clip, read_views, read_whole
from vivit.video.decode import Decoder, check_decoder
from vivit.video.isolated import IsolatedReader, check_timeout
from vivit.video.source import VideoError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# Random crops, half of them mirrored.
PLAIN = Augmentation()
WORKERS_PER_CORE = 16
# How many other videos are tried in place of one that cannot be read.
REPLACEMENTS = 3
# First in every seed: numpy pads seeds with zeros, so that (seed, epoch) alone is (seed, epoch, 0).
_CLIP, _ORDER, _REPLACEMENT, _COLOURS = 0, 1, 2, 3

# PyTorch's advice on their number is as many as there are cores, in three lines for each loader.
warnings.filterwarnings("ignore", "This DataLoader will create")

Labels = dict[str, Tensor]


class Batch(NamedTuple):
    clips: Tensor
    """(B, T, C, H, W) uint8."""
    labels: Labels
    """head → (B,) int64; or (B, K) float of 0 and 1 in a set of many labels for each video."""
    indices: Tensor
    """(B,) int64, which videos of the set; in place of one that cannot be read stands the one that is seen."""
    failures: tuple[tuple[int, VideoError], ...] = ()
    """Which videos of the set could not be read, and why."""


def clip_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The one source of random choices for this video in this epoch."""
    return np.random.default_rng([_CLIP, seed, epoch, index])


def colour_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The source of what happens to the colours of this video's clip, wherever that is done."""
    return np.random.default_rng([_COLOURS, seed, epoch, index])


def label_tensors(videos: VideoSet, index: int, mirrors: Mapping[str, Mapping[int, int]] | None = None) -> Labels:
    """head → the number of the video's class, or (K,) float with 1 at each class that applies.

    Args:
        mirrors: head → what each class becomes when the video is mirrored, as it is.
    """
    tensors = {}
    for head, label in videos.videos[index].labels.items():
        mirror = mirrors[head] if mirrors else {}
        if isinstance(label, int):
            tensors[head] = torch.tensor(mirror.get(label, label))
        else:
            tensors[head] = torch.zeros(len(videos.classes[head]))
            tensors[head][[mirror.get(one, one) for one in label]] = 1.0
    return tensors


def epoch_order(num_videos: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of the videos."""
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(num_videos)


def steps_per_epoch(num_videos: int, batch_size: int) -> int:
    """Whole batches in an epoch; a set smaller than a batch is one."""
    return max(1, num_videos // batch_size)


def shares_of(batch: int, shares: int, paired: bool) -> list[np.ndarray]:
    """Which clips of a batch each share has, as evenly as can be.

    Args:
        paired: clips that are mixed have to be in the same share. Those at the same place from both ends go together,
            in this order, so that each share, turned around, lies beside what it would lie beside in the whole. Where
            there are too few such pairs, shares are runs of clips all the same.
    """
    pairs = np.array_split(np.arange((batch + 1) // 2), shares)
    if not paired or not len(pairs[-1]):
        return np.array_split(np.arange(batch), shares)
    partners = [batch - 1 - first[::-1] for first in pairs]
    return [np.concatenate([first, last[last > first[-1]]]) for first, last in zip(pairs, partners, strict=True)]


class _Clip(NamedTuple):
    frames: Tensor
    labels: Labels
    video: int
    """Which of the set it is."""
    failures: tuple[tuple[int, VideoError], ...] = ()


@dataclass(frozen=True)
class Reading:
    """How training clips are read."""

    augmentation: Augmentation
    colours: bool
    mirrors: Mapping[str, Mapping[int, int]] | None
    keep: bool
    decoder: Decoder
    timeout: float | None


class TrainingClips(Dataset[_Clip | VideoError]):
    """Clips by (epoch, index). An error is a value here: raised in a worker it would become a page of traceback.

    A video that cannot be read is replaced by another, whose choice, too, depends on (seed, epoch, index) alone.
    """

    def __init__(self, videos: VideoSet, spec: ClipSpec, seed: int, reading: Reading) -> None:
        self.videos, self.spec, self.seed, self.reading = videos, spec, seed, reading
        self.kept: dict[int, Tensor] | None = {} if reading.keep else None
        self.isolated = IsolatedReader(reading.timeout) if reading.timeout is not None else None

    def __getitem__(self, key: tuple[int, int]) -> _Clip | VideoError:
        epoch, index = key
        failures: list[tuple[int, VideoError]] = []
        candidates = [index]
        for chosen in candidates:
            try:
                return self.read_own(epoch, chosen)._replace(failures=tuple(failures))
            except VideoError as error:
                if not failures:
                    candidates += self.replacements(epoch, index)
                failures.append((chosen, error))
        return failures[0][1]

    def replacements(self, epoch: int, index: int) -> list[int]:
        """Which videos are tried in place of one that cannot be read, in this order."""
        # Not of the generator that reading uses: how far that comes depends on the damage.
        rng = np.random.default_rng([_REPLACEMENT, self.seed, epoch, index])
        count = len(self.videos.videos)
        drawn = rng.choice(count, min(REPLACEMENTS + 1, count), replace=False)
        return drawn[drawn != index][:REPLACEMENTS].tolist()

    def read_own(self, epoch: int, index: int) -> _Clip:
        """A clip of this very video; raises VideoError."""
        video, reading, rng = self.videos.videos[index], self.reading, clip_rng(self.seed, epoch, index)
        if self.kept is None:
            frames, mirrored = self._call(
                read_training_clip, video.source, video.span, self.spec, reading.augmentation, rng, reading.decoder
            )
        else:
            if index not in self.kept:
                self.kept[index] = self._call(read_whole, video.source, video.span, self.spec.resize, reading.decoder)
            frames, mirrored = cut_training_clip(self.kept[index], self.spec, reading.augmentation, rng)
        if reading.colours:
            frames = augment_colours(frames, reading.augmentation, colour_rng(self.seed, epoch, index))
        return _Clip(frames, label_tensors(self.videos, index, reading.mirrors if mirrored else None), index)

    def _call(self, read: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if self.isolated is not None:
            return self.isolated(read, *args, **kwargs)
        return read(*args, **kwargs)


class StepKeys:
    """The (epoch, index) keys of each step's batch, for one process out of `world_size`."""

    def __init__(
        self,
        num_videos: int,
        batch_size: int,
        seed: int,
        steps: range,
        clips_of_each: int | None,
        paired: bool,
        rank: int,
        world_size: int,
    ) -> None:
        self.num_videos, self.batch_size, self.seed, self.steps = num_videos, batch_size, seed, steps
        self.clips_of_each, self.paired, self.rank, self.world_size = clips_of_each, paired, rank, world_size

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = steps_per_epoch(self.num_videos, self.batch_size)
        epoch, order = -1, np.empty(0, int)
        for step in self.steps:
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = epoch_order(self.num_videos, self.seed, epoch)
            first = step % per_epoch * self.batch_size
            batch = order[first : first + self.batch_size]
            share = batch[shares_of(len(batch), self.world_size, self.paired)[self.rank]]
            drawn = epoch if self.clips_of_each is None else epoch % self.clips_of_each
            yield [(drawn, int(index)) for index in share]


def training_batches(
    videos: VideoSet,
    spec: ClipSpec,
    *,
    batch_size: int,
    seed: int,
    num_steps: int,
    start_step: int = 0,
    augmentation: Augmentation = PLAIN,
    colours: bool = True,
    mirrors: Mapping[str, Mapping[int, int]] | None = None,
    workers: int = 0,
    keep: bool = False,
    decoder: Decoder = "pyav",
    timeout: float | None = None,
    clips_of_each: int | None = None,
    paired: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """The batches of steps `start_step` to `num_steps` − 1; none before them is read.

    An epoch is `steps_per_epoch` batches of its permutation; what is left over of the permutation is not seen in it.

    Args:
        batch_size: of all processes together; each gets its share, as `shares_of` has it.
        augmentation: what may happen to a clip.
        colours: whether to change its colours here; if not, `augment_colours` with `colour_rng` does the same later,
            as on a GPU.
        mirrors: head → what each class becomes in a mirrored clip, as `mirrored_classes` tells; by default what it is.
        keep: hold every decoded video in memory, resized, so that later epochs decode nothing; the clips are the same.
            Each worker keeps its own, so it goes best with none. With scale jitter they are scaled a second time.
        decoder: see `open_video`.
        timeout: seconds that reading a clip may take; then, or when the decoder crashes, the video counts as
            unreadable. Each worker reads in a process of its own for that.
        clips_of_each: after so many epochs the same clips of each video come again; by default they never do.
        paired: the clips of a batch are going to be mixed.

    Raises:
        UserError: at once, where a batch is too small for every process to have a video of it.
        VideoError: on the way, where neither a video nor those drawn in its place can be read.
    """
    shared = min(batch_size, len(videos.videos))
    if shared < world_size:
        raise UserError(
            f"batch_size: {world_size} processes cannot share a batch of {shared} (batch_size {batch_size}, "
            f"{len(videos.videos)} videos); use a larger batch, more videos or fewer processes"
        )
    loader = DataLoader(
        TrainingClips(videos, spec, seed, Reading(augmentation, colours, mirrors, keep, decoder, timeout)),
        batch_sampler=StepKeys(
            len(videos.videos), batch_size, seed, range(start_step, num_steps), clips_of_each, paired, rank, world_size
        ),
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=begin_worker,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        multiprocessing_context=workers_context(workers),
    )
    return _good_batches(loader)


def _good_batches(loader: DataLoader) -> Iterator[Batch]:
    for batch in items_of(loader):
        if isinstance(batch, VideoError):
            raise batch
        yield batch


def _collate(clips: list[_Clip | VideoError]) -> Batch | VideoError:
    good: list[_Clip] = []
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


class Views(Dataset[Tensor | str]):
    """The evaluation views of each video, (views, T, C, H, W) uint8; of one that cannot be read the reason."""

    def __init__(
        self,
        videos: Sequence[LabelledVideo],
        spec: ClipSpec,
        num_clips: int,
        num_crops: int,
        decoder: Decoder,
        timeout: float | None,
    ) -> None:
        self.videos, self.views = videos, (spec, num_clips, num_crops)
        self.decoder, self.isolated = decoder, IsolatedReader(timeout) if timeout is not None else None

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Tensor | str:
        video = self.videos[index]
        try:
            if self.isolated is not None:
                return self.isolated(read_views, video.source, *self.views, video.span, self.decoder)
            return read_views(video.source, *self.views, video.span, self.decoder)
        except VideoError as error:
            return str(error)


def evaluation_views(
    videos: Sequence[LabelledVideo],
    spec: ClipSpec,
    num_clips: int,
    num_crops: int,
    workers: int = 0,
    decoder: Decoder = "pyav",
    timeout: float | None = None,
) -> Iterator[Tensor | str]:
    """For each video, once and in order, its views (V, T, C, H, W) uint8, or why it cannot be read."""
    loader = DataLoader(
        Views(videos, spec, num_clips, num_crops, decoder, timeout),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=begin_worker,
        multiprocessing_context=workers_context(workers),
    )
    yield from items_of(loader)


def items_of(loader: DataLoader) -> Generator[Any, None, None]:
    """What a loader gives; its workers end with this, however it ends."""
    items = iter(loader)
    try:
        yield from items
    finally:
        # An error that came out of it would keep it, and them, until the interpreter waits for them at its end.
        if isinstance(items, _MultiProcessingDataLoaderIter):
            items._shutdown_workers()


def check_reading(workers: int, decoder: Decoder, timeout: float | None) -> None:
    """Raises UserError where videos cannot be read so; before any process is started that would find it out."""
    most = WORKERS_PER_CORE * (os.cpu_count() or 1)
    if not 0 <= workers <= most:
        raise UserError(f"workers: {workers} processes cannot read here; give 0, for none but this one, to {most}")
    check_decoder(decoder)
    if timeout is not None:
        check_timeout(timeout)


def workers_context(workers: int) -> BaseContext | None:
    """Workers are forked off a clean process, which has imported what they need and started no threads.

    Forked off this one they may hang: a lock that one of its threads holds (of a decoder, of PyTorch's pool) stays
    locked in them for ever.
    """
    if not workers:
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vivit.data.loader"])
    # A scheduler's SIGTERM may go to every process. The one that has the workers needs them to finish its step, and
    # ends them; what is ignored here stays ignored in the process that they are forked off, and in them.
    # So does Ctrl-C to every process of the terminal.
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            forkserver.ensure_running()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return context


def begin_worker(worker: int) -> None:
    """What each worker does first: one thread, no signal that is not for it, and an eye on the process it works for."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    owner = multiprocessing.parent_process()
    assert owner is not None
    threading.Thread(target=_end_with, args=(owner.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End when that process does, of which a worker's own parent, the server that forked it off, knows nothing."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
