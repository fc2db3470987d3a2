"""What a run is: data, start, model and steps, settled before the first one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vivit.data.datasets import VideoSet, count_classes, open_split
from vivit.data.entries import shortened
from vivit.data.manifest import HASH_DIGITS, data_hash
from vivit.data.mirror import mirrored_classes
from vivit.data.order import epoch_order
from vivit.errors import UserError
from vivit.model.vivit import ViViT
from vivit.training.initialise import build_model, start_lines
from vivit.training.optim import Schedule
from vivit.training.recipe import Recipe
from vivit.training.update import check_shares
from vivit.video.augment import Augmentation
from vivit.video.source import name_of

Mirrors = dict[str, dict[int, int]]


@dataclass(frozen=True)
class Plan:
    """The same in every process of a run, and in every call that goes on with it."""

    recipe: Recipe
    train_set: VideoSet
    val_set: VideoSet
    hashes: dict[str, str]
    """ "train_hash" and "val_hash", of the two sets."""
    mirrors: Mirrors
    """head → which class each becomes in a mirrored clip; those that have a side and no mirror are left out."""
    augmentation: Augmentation
    model: ViViT
    """Before its first step, on the CPU."""
    schedule: Schedule

    @property
    def heads(self) -> dict[str, int]:
        """head → number of classes."""
        return {head: len(names) for head, names in self.train_set.classes.items()}

    @property
    def one_sided(self) -> bool:
        """Whether a class has a side and no mirror."""
        return _one_sided(self.mirrors, self.train_set)


def plan_run(
    data: str | Path, recipe: Recipe, init: str | None, videos: Path | None, overfit: int | None, processes: int
) -> Plan:
    """Read the data's lists and the weights to start from; the arguments are those of `train`.

    Raises:
        UserError: data, recipe, start and number of processes do not fit.
    """
    if recipe.freeze_spatial and recipe.cutmix:
        raise UserError("cutmix: with --freeze-spatial no picture is seen in training that has boxes; --mixup goes")
    if recipe.freeze_spatial and recipe.token_dropping:
        raise UserError("token_dropping: with --freeze-spatial features are computed once, of all tokens; leave it out")
    train_set, val_set = (open_split(data, split, videos=videos) for split in ("train", "val"))
    if overfit is not None:
        recipe = without_chance(recipe)
        train_set = val_set = few_batches(train_set, overfit, recipe)
    mirrors = _mirrors(recipe, train_set)
    flip = recipe.flip
    if flip is None:
        flip = 0.0 if _one_sided(mirrors, train_set) else 0.5
    # What is learnt by heart is the very clips that are scored.
    augmentation = replace(build_augmentation(recipe), flip=flip, centred=overfit is not None)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe, train_set, init, name_of(data))
    smallest = min(model.config.image_size)
    if recipe.resize is not None and recipe.resize < smallest:
        raise UserError(f"resize: a shorter side of {recipe.resize} pixels has no room for a crop of {smallest}")
    schedule = Schedule.planned(recipe, len(train_set.videos))
    check_shares(schedule.batch_size, recipe, processes)
    hashes = {"train_hash": data_hash(train_set), "val_hash": data_hash(val_set)}
    return Plan(recipe, train_set, val_set, hashes, mirrors, augmentation, model, schedule)


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
    """Raises UserError where the recipe names classes that are not there."""
    known = {name for names in videos.classes.values() for name in names}
    for name in (*recipe.mirrored, *recipe.mirrored.values()):
        if name not in known:
            raise UserError(f"mirrored: there is no class {name!r}; give names as the data has them")
    mirrors = {}
    for head, names in videos.classes.items():
        swaps = {name: other for name, other in recipe.mirrored.items() if name in names or other in names}
        mirrors[head] = mirrored_classes(names, swaps)
    return mirrors


def _one_sided(mirrors: Mirrors, videos: VideoSet) -> bool:
    return any(len(mirrors[head]) < len(names) for head, names in videos.classes.items())


def say_plan(say: Callable[[str], object], plan: Plan, init: str | None, processes: int) -> None:
    """All that was chosen, and why.

    Args:
        init: what training starts from, as `train` takes it.
    """
    say_data(say, plan.train_set, plan.val_set, plan.hashes)
    for line in start_lines(plan.model, plan.recipe, init, len(plan.train_set.videos)):
        say(line)
    say_mirrors(say, plan)
    say_schedule(say, plan.recipe, plan.schedule, processes)


def say_data(say: Callable[[str], object], train_set: VideoSet, val_set: VideoSet, hashes: Mapping[str, str]) -> None:
    """What is learnt from and what is scored on."""
    train_hash, val_hash = (hashes[name][:HASH_DIGITS] for name in ("train_hash", "val_hash"))
    say(
        f"train on {len(train_set.videos)} videos of {count_classes(train_set)} (data {train_hash}): {train_set.source}"
    )
    for head, names in train_set.classes.items():
        seen = {number for video in train_set.videos for number in _numbers(video.labels[head])}
        unseen = [name for number, name in enumerate(names) if number not in seen]
        if unseen:
            say(f"no training video of {shortened(unseen)}: such videos cannot be learned")
    say(f"validate on {len(val_set.videos)} (data {val_hash}): {val_set.source}")


def say_mirrors(say: Callable[[str], object], plan: Plan) -> None:
    """Whether and how clips are mirrored."""
    if plan.recipe.flip is None and plan.one_sided:
        say(
            "no mirrored clips: a class has a side and no other is its mirror (--mirrored NAME NAME names a pair, "
            "--flip 0.5 mirrors all the same)"
        )
    elif plan.augmentation.flip:
        swapped = [
            f"{names[number]} and {names[other]}"
            for head, names in plan.train_set.classes.items()
            for number, other in plan.mirrors[head].items()
            if number < other
        ]
        if swapped:
            say(f"in mirrored clips these become each other: {shortened(swapped, 3)}")


def say_schedule(say: Callable[[str], object], recipe: Recipe, schedule: Schedule, processes: int) -> None:
    """How long, in which steps, and at which learning rate."""
    batch_size, epochs, rate = schedule.batch_size, schedule.epochs, schedule.highest_rate
    shared = f" over {processes} processes" if processes > 1 else ""
    parts = f", each in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""
    longer = f" ({recipe.epochs} would be too few steps)" if epochs != recipe.epochs else ""
    in_epochs = f"in {epochs} epoch{'s' if epochs > 1 else ''}{longer}"
    say(f"{schedule.num_steps} steps of {batch_size} clips{shared}{parts}, {in_epochs}")
    if batch_size < recipe.batch_size:
        say(f"batches of {batch_size} and not of {recipe.batch_size}: there are no more videos")
    if rate != recipe.learning_rate:
        say(
            f"learning rate {rate:g}: {recipe.learning_rate:g} is for batches of {recipe.learning_rate_batch} clips, "
            f"and these are of {batch_size}"
        )
    if schedule.warmup_steps > schedule.num_steps:
        say(
            f"the warm-up of {recipe.warmup_epochs:g} epochs is longer than the run: its learning rate stays below this"
        )


def _numbers(label: int | tuple[int, ...]) -> tuple[int, ...]:
    return (label,) if isinstance(label, int) else label


OVERFIT_STEPS = 100
OVERFIT_EPOCHS = 10


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
            **dict.fromkeys(("weight_decay", "label_smoothing", "stochastic_depth", "dropout"), 0.0),
            **dict.fromkeys(("token_dropping", "flip", "colour_jitter", "grey_scale", "mixup", "cutmix", "ema"), 0.0),
            **dict.fromkeys(("scale_jitter", "randaugment"), None),
        }
    )


def few_batches(videos: VideoSet, number: int, recipe: Recipe) -> VideoSet:
    """The videos of a run's first batches; raises UserError where there is none."""
    if number < 1:
        raise UserError(f"overfit: {number} batches cannot be learnt; give 1 or more")
    order = epoch_order(len(videos.videos), recipe.seed, 0)[: number * recipe.batch_size]
    words = f"{len(order)} videos of {videos.source}, to be learnt by heart"
    return replace(videos, videos=tuple(videos.videos[index] for index in order), source=words)


def how_it_went(steps: Sequence[dict[str, Any]]) -> str:
    """In words, whether the loss fell as it must."""
    first, last = steps[0]["loss"], steps[-1]["loss"]
    fell = f"the loss went from {first:.3g} to {last:.3g} in {steps[-1]['step']} steps"
    if last < first / 10:
        return f"{fell}: the model learns these clips by heart, as it should"
    return f"{fell}: it should be near 0; try another --learning-rate, and look at the clips with vivit data show"
