"""What a run is: data, start, model and steps, settled before the first one."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vivit.data.datasets import VideoSet, open_split
from vivit.data.manifest import data_hash
from vivit.data.mirror import mirrored_classes
from vivit.errors import UserError
from vivit.model.vivit import ViViT
from vivit.training.initialise import build_model
from vivit.training.overfit import few_batches, without_chance
from vivit.training.recipe import Recipe
from vivit.training.schedule import Schedule
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
