"""The sources of a run's batches and scores: its videos, or the features of the model's frozen part."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vivit.data.loader import Batch, TrainingClips, training_batches
from vivit.data.order import Order
from vivit.errors import UserError
from vivit.evaluation.evaluate import Evaluation, evaluate, evaluation_of
from vivit.inference.features import LinearProbe, TrainedPart, feature_bytes
from vivit.inference.views import clip_spec
from vivit.model.vivit import ViViT
from vivit.runtime import DTYPES, Precision, Ranks
from vivit.training.feature_cache import FeatureCache, Features
from vivit.training.memory import size_in_words
from vivit.training.plan import Plan
from vivit.video.decode import ReadOptions


@dataclass(frozen=True)
class Reading:
    """How a process reads videos during a run."""

    options: ReadOptions
    ranks: Ranks
    stopping: Callable[[], bool]
    """Once true in any process, reading ends with `Interrupted` in all of them."""
    report: Callable[[str], None]
    """Called with a few words on what happens between steps."""


@dataclass
class FromVideos:
    """Reads every clip from its video."""

    plan: Plan
    reading: Reading
    colours: bool
    """Whether to augment colours while reading, not later on the device."""
    keep_decoded: bool
    """Hold the training videos in memory, resized."""

    def prepare(self) -> None:
        """Nothing to do before the first step."""

    def batches(self, start_step: int) -> Iterator[Batch]:
        """The batches from this step on, see `training_batches`."""
        read = replace(self.reading.options, workers=0) if self.keep_decoded else self.reading.options
        clips = _clips(self.plan, read, colours=self.colours, keep_decoded=self.keep_decoded)
        return training_batches(clips, _order(self.plan, start_step), self.reading.ranks)

    def evaluate(self, model: ViViT) -> Evaluation:
        """Score one view of each validation video. Raises Interrupted."""
        reading, ranks, val_set = self.reading, self.reading.ranks, self.plan.val_set
        count = len(val_set.videos)
        return evaluate(
            model,
            val_set,
            read=reading.options,
            ranks=ranks,
            stopping=reading.stopping,
            progress=lambda done: reading.report(f"{min(done * ranks.world_size, count)}/{count} scored"),
        )


@dataclass
class FromFeatures:
    """Encodes clips once and reads their features from then on."""

    plan: Plan
    reading: Reading
    folder: Path
    precision: Precision
    part: TrainedPart

    def room(self) -> str:
        """Say how much disk space the features take. Raises UserError if there is not enough."""
        recipe, videos = self.plan.recipe, len(self.plan.train_set.videos)
        passes = min(recipe.cached_clips, self.plan.schedule.epochs)
        clips = passes * videos + len(self.plan.val_set.videos)
        size = clips * feature_bytes(self.plan.model.config, type(self.part))
        stored = str(self.part.stored).removeprefix("torch.")
        said = f"features of {clips:,} clips in {self.folder}: {size_in_words(size)} as {stored}"
        there = sum(path.stat().st_size for path in self.folder.glob("*")) if self.folder.is_dir() else 0
        if size - there > (free := shutil.disk_usage(self.folder.parent).free):
            fewer = "lower --cached-clips, " if passes > 1 else ""
            raise UserError(
                f"{said}, but only {size_in_words(free)} are free there; {fewer}use smaller or shorter clips "
                "(--image-size, --num-frames), or give an --out on another disk"
            )
        return said

    def prepare(self) -> None:
        """Encode the validation clips before any step, so an interruption here loses no step. Raises Interrupted."""
        reading = self.reading
        # Not earlier: a resumed run loads its frozen part from the checkpoint.
        self.cache = FeatureCache(
            self.plan.model,
            self.folder,
            type(self.part),
            dtype=DTYPES[self.precision],
            read=reading.options,
            ranks=reading.ranks,
            report=lambda done, to_do: reading.report(f"features of {done}/{to_do} clips"),
            stopping=reading.stopping,
        )
        self.held_out: Features = self.cache.validation(self.plan.val_set, clip_spec(self.plan.model))

    def batches(self, start_step: int) -> Iterator[Batch]:
        """The batches from this step on, see `FeatureCache.training_batches`. Raises Interrupted.

        Before the first step, a linear probe gets the features' mean and standard deviation; checkpoints store them.
        """
        clips = _clips(self.plan, self.reading.options)
        if start_step == 0 and isinstance(self.part, LinearProbe):
            self.part.standardise(*self.cache.training(clips, 0).moments())
        order = replace(_order(self.plan, start_step), clips_of_each=self.plan.recipe.cached_clips)
        return self.cache.training_batches(clips, order)

    def evaluate(self, model: ViViT) -> Evaluation:
        """Score one view of each validation video."""
        return evaluation_of(self.plan.val_set, *self.held_out.logits(type(self.part)(model)))


def _clips(plan: Plan, read: ReadOptions, *, colours: bool = True, keep_decoded: bool = False) -> TrainingClips:
    return TrainingClips(
        plan.train_set,
        clip_spec(plan.model),
        plan.recipe.seed,
        augmentation=plan.augmentation,
        read=read,
        mirrors=plan.mirrors,
        colours=colours,
        keep_decoded=keep_decoded,
    )


def _order(plan: Plan, start_step: int) -> Order:
    return Order(plan.recipe.batch_size, range(start_step, plan.schedule.num_steps), paired=plan.recipe.mixes)
