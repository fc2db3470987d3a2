"""What a run is about to do, in plain sentences."""

from collections.abc import Callable, Mapping

from vivit.data.datasets import VideoSet, count_classes
from vivit.data.entries import shortened
from vivit.data.manifest import HASH_DIGITS
from vivit.data.mirror import mirrored_classes
from vivit.errors import UserError
from vivit.training.recipe import Recipe
from vivit.training.schedule import Schedule

Mirrors = dict[str, dict[int, int]]


def mirrors_of(recipe: Recipe, videos: VideoSet) -> tuple[Mirrors, float]:
    """head → which class each becomes in a mirrored clip, without those that have a side and no mirror; and how often
    clips are mirrored.

    Raises UserError where the recipe names classes that are not there.
    """
    known = {name for names in videos.classes.values() for name in names}
    for name in (*recipe.mirrored, *recipe.mirrored.values()):
        if name not in known:
            raise UserError(f"mirrored: there is no class {name!r}; give names as the data has them")
    mirrors = {}
    for head, names in videos.classes.items():
        swaps = {name: other for name, other in recipe.mirrored.items() if name in names or other in names}
        mirrors[head] = mirrored_classes(names, swaps)
    if recipe.flip is not None:
        return mirrors, recipe.flip
    return mirrors, 0.0 if one_sided(mirrors, videos) else 0.5


def one_sided(mirrors: Mirrors, videos: VideoSet) -> bool:
    """Whether a class has a side and no mirror."""
    return any(len(mirrors[head]) < len(names) for head, names in videos.classes.items())


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


def say_mirrors(say: Callable[[str], object], videos: VideoSet, recipe: Recipe, mirrors: Mirrors, flips: float) -> None:
    """Whether and how clips are mirrored."""
    if recipe.flip is None and not flips:
        say(
            "no mirrored clips: a class has a side and no other is its mirror (--mirrored NAME NAME names a pair, "
            "--flip 0.5 mirrors all the same)"
        )
    elif flips:
        swapped = [
            f"{names[number]} and {names[other]}"
            for head, names in videos.classes.items()
            for number, other in mirrors[head].items()
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
    if rate != recipe.learning_rate:
        say(
            f"learning rate {rate:g}: {recipe.learning_rate:g} is for batches of {recipe.learning_rate_batch} clips, "
            f"and these are of {batch_size}"
        )


def _numbers(label: int | tuple[int, ...]) -> tuple[int, ...]:
    return (label,) if isinstance(label, int) else label
