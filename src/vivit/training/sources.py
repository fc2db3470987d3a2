"""Where the batches and the scores of a run come from: its videos, or the features of a frozen spatial encoder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivit.data.loader import Batch, training_batches
from vivit.evaluation.evaluate import Evaluation, evaluate, evaluation_of
from vivit.inference.features import TemporalPart
from vivit.inference.views import clip_spec
from vivit.model.vivit import ViViT
from vivit.runtime import DTYPES, Precision
from vivit.training.distributed import everyones
from vivit.training.feature_cache import FeatureCache, Features
from vivit.training.plan import Plan
from vivit.video.decode import Decoder


@dataclass(frozen=True)
class Reading:
    """How videos are read, and by which process."""

    workers: int
    decoder: Decoder
    timeout: float | None
    rank: int
    world_size: int
    stopping: Callable[[], bool]
    """Once it says so in any process, what is under way is broken off with `Interrupted` in all."""
    report: Callable[[str], None]
    """Told in words what is done beside the steps."""

    @property
    def flags(self) -> dict[str, Any]:
        """As the loader, the evaluation and the cache name them."""
        names = ("workers", "decoder", "timeout", "rank", "world_size")
        return {name: getattr(self, name) for name in names}


class FromVideos:
    """Clips are read, and seen once each."""

    def __init__(self, plan: Plan, reading: Reading, *, colours: bool, keep_decoded: bool) -> None:
        """
        Args:
            colours: whether clips' colours are changed in reading, and not later on their device.
            keep_decoded: keep the training videos in memory, resized.
        """
        self.plan, self.reading = plan, reading
        self.how: dict[str, Any] = {"colours": colours, "keep": keep_decoded}
        self.flags = reading.flags | ({"workers": 0} if keep_decoded else {})

    def prepare(self) -> None:
        """Nothing is needed before the first step."""

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Those of the steps from this one on; as in `training_batches`."""
        spec = clip_spec(self.plan.model)
        return training_batches(self.plan.train_set, spec, **_steps(self.plan, start_step), **self.how, **self.flags)

    def evaluate(self, model: ViViT) -> Evaluation:
        """One view of each validation video; as in `evaluate`."""
        reading, val_set = self.reading, self.plan.val_set
        count = len(val_set.videos)
        return evaluate(
            model,
            val_set,
            num_clips=1,
            num_crops=1,
            gather=everyones,
            stopping=reading.stopping,
            progress=lambda done: reading.report(f"{min(done * reading.world_size, count)}/{count} scored"),
            **reading.flags,
        )


class FromFeatures:
    """Clips are encoded once, and their features read as often as they are seen."""

    def __init__(self, plan: Plan, reading: Reading, folder: Path, precision: Precision) -> None:
        self.plan = plan
        self.cache = FeatureCache(
            plan.model,
            folder,
            dtype=DTYPES[precision],
            report=lambda done, to_do: reading.report(f"features of {done}/{to_do} clips"),
            stopping=reading.stopping,
            gather=everyones,
            **reading.flags,
        )
        self.held_out: Features | None = None

    def prepare(self) -> None:
        """Encode the validation clips: before any step, so that a stop meanwhile loses none."""
        self.held_out = self.cache.validation(self.plan.val_set, clip_spec(self.plan.model))

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Those of the steps from this one on; as in `FeatureCache.training_batches`."""
        plan, spec = self.plan, clip_spec(self.plan.model)
        clips = plan.recipe.cached_clips
        return self.cache.training_batches(plan.train_set, spec, cached_clips=clips, **_steps(plan, start_step))

    def evaluate(self, model: ViViT) -> Evaluation:
        """One view of each validation video."""
        assert self.held_out is not None
        return evaluation_of(self.plan.val_set, *self.held_out.logits(TemporalPart(model)))


def _steps(plan: Plan, start_step: int) -> dict[str, Any]:
    recipe = plan.recipe
    return {
        "batch_size": recipe.batch_size,
        "seed": recipe.seed,
        "start_step": start_step,
        "num_steps": plan.schedule.num_steps,
        "augmentation": plan.augmentation,
        "mirrors": plan.mirrors,
        "paired": recipe.mixes,
    }
