"""The plan of a run: its data, model and steps, fixed before the first step, and printed in plain sentences."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vivit.data.advice import check_command, to_leave_out
from vivit.data.check_memory import known_unreadable
from vivit.data.contradictions import say_contradictions
from vivit.data.datasets import VideoSet
from vivit.data.manifest import HASH_DIGITS, data_hash
from vivit.data.mirror import mirrored_classes
from vivit.data.names import shortened
from vivit.data.order import epoch_order
from vivit.data.readers.listing import open_data
from vivit.errors import UserError
from vivit.labels import LabelSpace
from vivit.model.vivit import ViViT
from vivit.training.initialise import build_model, start_lines
from vivit.training.optim import Schedule
from vivit.training.recipe import Recipe
from vivit.training.update import check_split
from vivit.video.augment import Augmentation
from vivit.video.source import name_of
from vivit.weights.fill import Loaded

Say = Callable[[str], object]
Mirrors = dict[str, dict[int, int]]
# The least steps and epochs of a run that overfits on purpose.
OVERFIT_STEPS, OVERFIT_EPOCHS = 100, 10


@dataclass(frozen=True)
class Plan:
    """What a run does; the same in all its processes, and in every call that resumes it."""

    recipe: Recipe
    data_name: str
    train_set: VideoSet
    val_set: VideoSet
    hashes: dict[str, str]
    """ "train_hash" and "val_hash" of the two sets."""
    mirrors: Mirrors
    """head → what each class becomes in a mirrored clip; classes with a side but no mirror image are left out."""
    augmentation: Augmentation
    start: Loaded
    """The model on the CPU before its first step, and what was assumed or changed to build it. In a resumed run its
    weights are random, because the checkpoint has the real ones."""
    resumed: bool
    """Whether there is a checkpoint, so that the architecture came from the run folder."""
    schedule: Schedule
    cure: str
    """Advice on how to leave out unreadable videos."""

    @property
    def model(self) -> ViViT:
        return self.start.model

    @property
    def own_val(self) -> bool:
        """Whether the data has a validation split; if not, some training videos are scored."""
        return any(video.split == "val" for video in self.val_set.videos)

    @property
    def labels(self) -> LabelSpace:
        return self.train_set.labels


def plan_run(
    data: str | Path,
    recipe: Recipe,
    init: str | None,
    videos: Path | None,
    overfit: int | None,
    processes: int,
    resumed_model: ViViT | None,
) -> Plan:
    """Read the data's lists and, unless the run is resumed, the initial weights; arguments are those of `train`.

    Args:
        resumed_model: a model of the run's architecture with random weights, if there is a checkpoint to fill it.

    Raises:
        UserError: data, recipe, initial weights and number of processes do not fit together.
    """
    _check_frozen(recipe)
    data_set = open_data(data, videos)
    train_set, val_set = (data_set.split(split) for split in ("train", "val"))
    if overfit is not None:
        recipe = without_chance(recipe)
        train_set = val_set = few_batches(train_set, overfit, recipe)
    mirrors = _mirrors(recipe, train_set)
    flip = recipe.flip
    if flip is None:
        flip = 0.0 if _one_sided(mirrors, train_set) else 0.5
    # An overfitting run is scored on the very clips it learns, so crops are centred.
    augmentation = replace(build_augmentation(recipe), flip=flip, centred=overfit is not None)
    if resumed_model is None:
        torch.manual_seed(recipe.seed)
        start = build_model(recipe, train_set, init, name_of(data))
    else:
        start = Loaded(resumed_model.train(), ())
    smallest = min(start.model.config.image_size)
    if recipe.resize is not None and recipe.resize < smallest:
        raise UserError(f"resize: a shorter side of {recipe.resize} pixels is too small for a crop of {smallest}")
    schedule = Schedule.planned(recipe, len(train_set.videos))
    check_split(schedule.batch_size, recipe, processes)
    hashes = {"train_hash": data_hash(train_set), "val_hash": data_hash(val_set)}
    name, resumed = name_of(data), resumed_model is not None
    cure = to_leave_out(data, videos, data_set.videos)
    return Plan(recipe, name, train_set, val_set, hashes, mirrors, augmentation, start, resumed, schedule, cure)


def _check_frozen(recipe: Recipe) -> None:
    """Raise UserError if a recipe that trains part of the model on features has settings that cannot work there."""
    if recipe.frozen is None:
        return
    if recipe.freeze_spatial and recipe.probe:
        raise UserError("probe: a probe freezes all of the encoder; leave out --freeze-spatial or --probe")
    if recipe.cutmix:
        raise UserError(f"cutmix: {recipe.frozen} trains on features, which have no boxes; use --mixup")
    if recipe.token_dropping:
        raise UserError(f"token_dropping: {recipe.frozen} computes the features of all tokens once; leave it out")
    if recipe.probe and recipe.ema:
        raise UserError("ema: the weights of a probe are not averaged; leave it out")
    if recipe.probe and recipe.adapter_size:
        raise UserError("adapter_size: a probe has no adapter; leave it out, or use --freeze-spatial")


def too_many_unreadable(plan: Plan, reasons: Collection[str]) -> UserError | None:
    """The error if more training videos are unreadable than the recipe allows.

    Args:
        reasons: why, one for each unreadable video.
    """
    videos, most = len(plan.train_set.videos), plan.recipe.unreadable
    if len(reasons) <= most * videos:
        return None
    return UserError(
        f"{len(reasons)} of {videos} training videos cannot be read, more than {most:.0%} (--unreadable): "
        f"{min(reasons)}; {plan.cure}"
    )


def build_augmentation(recipe: Recipe) -> Augmentation:
    """The recipe's augmentation of training clips.

    Raises:
        UserError: a field is out of range.
    """
    return Augmentation(
        scale_jitter=recipe.scale_jitter,
        flip=0.5 if recipe.flip is None else recipe.flip,
        colour_jitter=recipe.colour_jitter,
        grey_scale=recipe.grey_scale,
        randaugment=recipe.randaugment,
    )


def _mirrors(recipe: Recipe, videos: VideoSet) -> Mirrors:
    """Raises UserError if the recipe names classes that the data does not have."""
    known = {name for names in videos.labels.classes.values() for name in names}
    for name in (*recipe.mirrored, *recipe.mirrored.values()):
        if name not in known:
            raise UserError(f"mirrored: there is no class {name!r}; give names as the data has them")
    mirrors = {}
    for head, names in videos.labels.classes.items():
        swaps = {name: other for name, other in recipe.mirrored.items() if name in names or other in names}
        mirrors[head] = mirrored_classes(names, swaps)
    return mirrors


def _one_sided(mirrors: Mirrors, videos: VideoSet) -> bool:
    """Whether a class has a side, such as left, but no mirror image."""
    return any(len(mirrors[head]) < len(names) for head, names in videos.labels.classes.items())


def say_plan(say: Say, plan: Plan, init: str | None, processes: int) -> None:
    """Say what was chosen, and why.

    Args:
        init: the initial weights, as for `train`.
    """
    _say_data(say, plan)
    for line in start_lines(plan.start, plan.recipe, init, len(plan.train_set.videos)):
        say(line)
    _say_mirrors(say, plan)
    say_schedule(say, plan.recipe, plan.schedule, processes)


def say_faults(say: Say, plan: Plan, data: str | Path, videos: Path | None) -> None:
    """Say which videos have two labels, and how many an earlier check of the data could not read.

    Raises:
        UserError: more training videos are unreadable than the recipe allows.
    """
    train_set, used = plan.train_set, (*plan.train_set.videos, *plan.val_set.videos)
    if plan.labels.heads and not plan.labels.multi_label:
        say_contradictions(say, used, check_command(data, videos))
    known = known_unreadable(data, videos, train_set.videos)
    reasons = [f"{video.source}: {known[video.source]}" for video in train_set.videos if video.source in known]
    if error := too_many_unreadable(plan, reasons):
        raise error
    if reasons:
        count = f"{len(reasons)} of {len(train_set.videos)} training videos"
        say(f"{count} cannot be read, as vivit data check found, such as {min(reasons)}; {plan.cure}")


def _say_data(say: Say, plan: Plan) -> None:
    train_set, val_set = plan.train_set, plan.val_set
    train_hash, val_hash = (plan.hashes[name][:HASH_DIGITS] for name in ("train_hash", "val_hash"))
    say(f"train on {len(train_set.videos)} videos, {train_set.labels} (data {train_hash}): {train_set.description}")
    for remark in train_set.remarks:
        say(remark)
    for head, names in train_set.labels.classes.items():
        seen = {name for video in train_set.videos for name in video.labels[head]}
        unseen = [name for name in names if name not in seen]
        if unseen:
            say(f"no training video of {shortened(unseen)}: the model cannot learn these classes")
    say(f"validate on {len(val_set.videos)} (data {val_hash}): {val_set.description}")


def _say_mirrors(say: Say, plan: Plan) -> None:
    if plan.recipe.flip is None and _one_sided(plan.mirrors, plan.train_set):
        say(
            "no clips are mirrored: a class has a side and no other class is its mirror image (--mirrored NAME NAME "
            "names a pair, --flip 0.5 mirrors anyway)"
        )
    elif plan.augmentation.flip:
        swapped = [
            f"{names[number]} and {names[other]}"
            for head, names in plan.train_set.labels.classes.items()
            for number, other in plan.mirrors[head].items()
            if number < other
        ]
        if swapped:
            say(f"mirrored clips swap these labels: {shortened(swapped, 3)}")


def say_schedule(say: Say, recipe: Recipe, schedule: Schedule, processes: int) -> None:
    """Say how many steps the run takes, with how many clips each, and where this differs from the recipe."""
    batch_size, epochs, rate = schedule.batch_size, schedule.epochs, schedule.highest_rate
    shared = f" over {processes} processes" if processes > 1 else ""
    parts = f", each in {recipe.accumulate} micro-batches" if recipe.accumulate > 1 else ""
    longer = f" ({recipe.epochs} would be too few steps)" if epochs != recipe.epochs else ""
    in_epochs = f"in {epochs} epoch{'s' if epochs > 1 else ''}{longer}"
    steps = f"{schedule.num_steps} step{'s' if schedule.num_steps > 1 else ''}"
    say(f"{steps} of {batch_size} clips{shared}{parts}, {in_epochs}")
    if batch_size < recipe.batch_size:
        say(f"batch size {batch_size} instead of {recipe.batch_size}: there are no more videos")
    if rate != recipe.learning_rate:
        say(
            f"learning rate {rate:g}: the recipe's {recipe.learning_rate:g} is for batches of "
            f"{recipe.learning_rate_batch} clips, and these have {batch_size}"
        )
    if schedule.warmup_steps > schedule.num_steps:
        say(f"the warm-up of {recipe.warmup_epochs:g} epochs is longer than the run, which never reaches this rate")


def without_chance(recipe: Recipe) -> Recipe:
    """Turn off augmentation and regularisation; train for at least OVERFIT_STEPS steps and OVERFIT_EPOCHS epochs."""
    rates = dict.fromkeys(("dropout", "attention_dropout", "stochastic_depth", "token_dropping"), 0.0)
    return recipe.model_copy(
        update={
            "architecture": {**recipe.architecture, **rates},
            "min_steps": OVERFIT_STEPS,
            "epochs": OVERFIT_EPOCHS,
            "cached_clips": 1,
            "warmup_epochs": min(recipe.warmup_epochs / recipe.epochs, 0.5) * OVERFIT_EPOCHS,
            **dict.fromkeys(("weight_decay", "label_smoothing", "stochastic_depth", "dropout", "token_dropping"), 0.0),
            **dict.fromkeys(("flip", "colour_jitter", "grey_scale", "mixup", "cutmix", "ema"), 0.0),
            **dict.fromkeys(("scale_jitter", "randaugment"), None),
        }
    )


def few_batches(videos: VideoSet, number: int, recipe: Recipe) -> VideoSet:
    """The videos of a run's first batches. Raises UserError unless there is at least one batch."""
    if number < 1:
        raise UserError(f"overfit: {number} batches are too few; give 1 or more")
    order = epoch_order(len(videos.videos), recipe.seed, 0)[: number * recipe.batch_size]
    words = f"{len(order)} videos of {videos.description}, to be learnt by heart"
    return replace(videos, videos=tuple(videos.videos[index] for index in order), description=words)


def how_it_went(steps: Sequence[dict[str, Any]]) -> str:
    """Say whether a run that overfits on purpose brought the loss down."""
    first, last = steps[0]["loss"], steps[-1]["loss"]
    fell = f"the loss went from {first:.3g} to {last:.3g} in {steps[-1]['step']} steps"
    if last < first / 10:
        return f"{fell}: the model learns these clips by heart, as it should"
    return f"{fell}: it should be near 0; try another --learning-rate, and look at the clips with vivit data show"
