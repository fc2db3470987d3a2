"""Where the batches and the scores of a run come from: its videos, or the features of a frozen spatial encoder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vivit.data.loader import Batch, TrainingClips, training_batches
from vivit.data.order import Order
from vivit.evaluation.evaluate import Evaluation, evaluate, evaluation_of
from vivit.inference.features import TemporalPart
from vivit.inference.views import clip_spec
from vivit.model.vivit import ViViT
from vivit.runtime import DTYPES, Precision, Ranks
from vivit.training.feature_cache import FeatureCache, Features
from vivit.training.plan import Plan
from vivit.video.options import ReadOptions


@dataclass(frozen=True)
class Reading:
    """How videos are read, and by which process."""

    options: ReadOptions
    ranks: Ranks
    stopping: Callable[[], bool]
    """Once it says so in any process, what is under way is broken off with `Interrupted` in all."""
    report: Callable[[str], None]
    """Told in words what is done beside the steps."""


class FromVideos:
    """Clips are read, and seen once each."""

    def __init__(self, plan: Plan, reading: Reading, *, colours: bool, keep_decoded: bool) -> None:
        """
        Args:
            colours: whether clips' colours are changed in reading, and not later on their device.
            keep_decoded: keep the training videos in memory, resized.
        """
        self.plan, self.reading = plan, reading
        self.colours, self.keep_decoded = colours, keep_decoded
        self.options = replace(reading.options, workers=0) if keep_decoded else reading.options

    def prepare(self) -> None:
        """Nothing is needed before the first step."""

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Those of the steps from this one on; as in `training_batches`."""
        clips = _clips(self.plan, self.options, colours=self.colours, keep_decoded=self.keep_decoded)
        return training_batches(clips, _order(self.plan, start_step), self.reading.ranks)

    def evaluate(self, model: ViViT) -> Evaluation:
        """One view of each validation video; as in `evaluate`."""
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


class FromFeatures:
    """Clips are encoded once, and their features read as often as they are seen."""

    def __init__(self, plan: Plan, reading: Reading, folder: Path, precision: Precision) -> None:
        self.plan, self.options = plan, reading.options
        self.cache = FeatureCache(
            plan.model,
            folder,
            dtype=DTYPES[precision],
            report=lambda done, to_do: reading.report(f"features of {done}/{to_do} clips"),
            stopping=reading.stopping,
            options=reading.options,
            ranks=reading.ranks,
        )
        self.held_out: Features | None = None

    def prepare(self) -> None:
        """Encode the validation clips: before any step, so that a stop meanwhile loses none."""
        self.held_out = self.cache.validation(self.plan.val_set, clip_spec(self.plan.model))

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Those of the steps from this one on; as in `FeatureCache.training_batches`."""
        order = replace(_order(self.plan, start_step), clips_of_each=self.plan.recipe.cached_clips)
        return self.cache.training_batches(_clips(self.plan, self.options), order)

    def evaluate(self, model: ViViT) -> Evaluation:
        """One view of each validation video."""
        assert self.held_out is not None
        return evaluation_of(self.plan.val_set, *self.held_out.logits(TemporalPart(model)))


def _clips(plan: Plan, options: ReadOptions, *, colours: bool = True, keep_decoded: bool = False) -> TrainingClips:
    return TrainingClips(
        plan.train_set,
        clip_spec(plan.model),
        plan.recipe.seed,
        augmentation=plan.augmentation,
        options=options,
        mirrors=plan.mirrors,
        colours=colours,
        keep_decoded=keep_decoded,
    )


def _order(plan: Plan, start_step: int) -> Order:
    return Order(plan.recipe.batch_size, range(start_step, plan.schedule.num_steps), paired=plan.recipe.mixes)
