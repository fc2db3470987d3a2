"""What a run is about to do, in plain sentences."""

from collections.abc import Callable, Mapping

from vivit.data.datasets import VideoSet, count_classes
from vivit.data.entries import shortened
from vivit.data.manifest import HASH_DIGITS
from vivit.training.initialise import start_lines
from vivit.training.plan import Plan
from vivit.training.recipe import Recipe
from vivit.training.schedule import Schedule


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
