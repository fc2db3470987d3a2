"""What training on a part of the tokens saves, and what it costs in accuracy.

    .venv/bin/python -m benchmarks.token_dropping [--rounds 2] [--kept 0.5,0.25] [--threads 2]
    .venv/bin/python -m benchmarks.token_dropping --accuracy [--seconds 100] [--seeds 2] [--threads 2]

Without `--accuracy` it takes the time of an update of each model: ViViT-B/16x2 on a clip of 32 × 224 × 224, and
ViViT-Ti/16x2 on eight of 16 × 112 × 112. It is `vivit train`'s update, by SGD, on random clips in memory. The shares
that are kept take turns, after one update each to warm up. Times are medians of the rounds, and a ratio is the median
of the rounds' own ratios. FLOPs are those of the forward pass's matrix products.

With it the demo's model learns camera motion by the demo's recipe, on all tokens and on a part of them, for the same
time. What an update takes, its batch included, is measured first, by turns, and the number of updates is the time asked
for divided by the median, so that what else the machine does meanwhile changes nothing. Decoding, which is done once
for each training, does not count. Held-out videos are named by one view of each, from all of its tokens.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from statistics import mean, median
from typing import Any

import cyclopts
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.setting import setting
from benchmarks.videos import FOLDER
from vivit.config import SUFFIXES
from vivit.data.datasets import VideoSet
from vivit.data.loader import Batch, TrainingClips, training_batches
from vivit.data.order import Order, steps_per_epoch
from vivit.data.readers.listing import open_data
from vivit.evaluation.evaluate import evaluate
from vivit.experiments.camera_motion import generate
from vivit.inference.views import clip_spec
from vivit.labels import LabelSpace
from vivit.model.embedding import TokenDropping
from vivit.model.vivit import ViViT
from vivit.training.distributed import start_processes
from vivit.training.optim import build_optimiser, learning_rate
from vivit.training.plan import build_augmentation
from vivit.training.recipe import Recipe
from vivit.training.recipes import RECIPES
from vivit.training.update import Learner, Updater

PAPER: dict[str, Any] = {"num_frames": 32, "image_size": 224}
SMALL: dict[str, Any] = {"num_frames": 16, "image_size": 112}
TOY: dict[str, Any] = {"hidden_size": 48, "num_layers": 2, "num_heads": 2, "mlp_dim": 96}
SMALL_CLIPS = 8
CLASSES = 400
ALL = 1.0  # the tokens
# Of the updates that --accuracy times, each time over so many batches.
TIMED_BATCHES = 2
PROGRESS = Console(stderr=True)


class Trainer:
    """A fresh model and what updates it."""

    def __init__(self, recipe: Recipe, classes: Sequence[str]) -> None:
        torch.manual_seed(recipe.seed)
        config = recipe.build_config({"classes": len(classes)})
        self.model = ViViT(config, classes={"classes": classes}, preprocessing=recipe.build_preprocessing()).train()
        self.model.initialise(position_std=recipe.position_std)
        accelerator = start_processes(torch.device("cpu"), "float32", track=None, shard=False)
        learner = Learner(self.model, self.model, build_optimiser(self.model, recipe), self.model)
        self.updater = Updater(learner, accelerator, recipe, LabelSpace({"classes": tuple(classes)}))
        # Another such module of the factorised encoder lies before its temporal encoder, and drops nothing.
        self.droppings = [m for m in self.model.modules() if isinstance(m, TokenDropping) and m.share]

    def update(self, batch: Batch, step: int, rate: float) -> None:
        self.updater(batch, step, epoch=0, rate=rate, batch_size=len(batch.clips))

    def keep(self, share: float) -> None:
        """Train on so much of the tokens from now on; the recipe is one that drops some."""
        for dropping in self.droppings:
            dropping.share = 1 - share


def take_turns(shares: Sequence[float], rounds: int, seconds: Callable[[float], float]) -> dict[float, list[float]]:
    """share → what this gives for it in each round; the round that warms up does not count."""
    taken: dict[float, list[float]] = {share: [] for share in shares}
    for number in range(rounds + 1):
        for share in shares:
            value = seconds(share)
            if number:
                taken[share].append(value)
    return taken


def seconds_of_updates(trainer: Trainer, batches: Iterator[Batch], number: int, share: float) -> float:
    """Of an update on a share of the tokens and of getting its batch: the mean of so many."""
    trainer.keep(share)
    begun = time.perf_counter()
    for step in range(number):
        trainer.update(next(batches), step, rate=1e-3)
    return (time.perf_counter() - begun) / number


# --- time


def recipe_of(suffix: str, small: bool, quick: bool) -> Recipe:
    """For a variant, by its suffix in a model's name."""
    model = "-".join(filter(None, ("vivit", "ti" if small else "b", "16x2", suffix)))
    shape = {"num_frames": 4, "image_size": 64, "architecture": TOY} if quick else SMALL if small else PAPER
    return Recipe(model=model, token_dropping=0.5, **shape)


def random_batch(recipe: Recipe, clips: int) -> Batch:
    side = recipe.image_size or 0
    videos = torch.randint(256, (clips, recipe.num_frames or 0, 3, side, side), dtype=torch.uint8)
    return Batch(videos, {"classes": torch.randint(CLASSES, (clips,))}, torch.arange(clips))


def flops(recipe: Recipe, share: float) -> int:
    """Of the forward pass of a clip."""
    config = recipe.model_copy(update={"token_dropping": 1 - share}).build_config({"classes": CLASSES})
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        ViViT(config).train()(torch.empty(1, config.num_frames, 3, *config.image_size))
    return counter.get_total_flops()


def time_in_memory(recipe: Recipe, clips: int, shares: Sequence[float], rounds: int) -> dict[float, list[float]]:
    """share → seconds of an update in each round."""
    trainer, batches = Trainer(recipe, [str(number) for number in range(CLASSES)]), repeat(random_batch(recipe, clips))
    return take_turns(shares, rounds, lambda share: seconds_of_updates(trainer, batches, 1, share))


def take_times(shares: Sequence[float], rounds: int, quick: bool) -> None:
    print("| model | clips | tokens kept | update, s | ÷ that of all tokens | FLOPs ÷ those of all tokens |")
    print("|---|---|---|---|---|---|", flush=True)
    for clips, small in ((1, False), (SMALL_CLIPS, True)):
        for suffix in SUFFIXES:
            recipe = recipe_of(suffix, small, quick)
            taken = time_in_memory(recipe, clips, shares, rounds)
            for row in time_rows(recipe, clips, taken):
                print(row, flush=True)


def time_rows(recipe: Recipe, clips: int, taken: dict[float, list[float]]) -> Iterator[str]:
    for share, seconds in taken.items():
        ratio = median(part / whole for part, whole in zip(seconds, taken[ALL], strict=True))
        work = flops(recipe, share) / flops(recipe, ALL)
        yield f"| {recipe.model} | {clips} | {share:.0%} | {median(seconds):.3g} | {ratio:.2f} | {work:.2f} |"


# --- accuracy


def batches_of(videos: VideoSet, trainer: Trainer, recipe: Recipe, num_steps: int) -> Iterator[Batch]:
    spec, augmentation = clip_spec(trainer.model), build_augmentation(recipe)
    clips = TrainingClips(videos, spec, recipe.seed, augmentation, keep_decoded=True)
    return training_batches(clips, Order(recipe.batch_size, range(num_steps)))


def time_on_videos(videos: VideoSet, recipe: Recipe, shares: Sequence[float], rounds: int) -> dict[float, list[float]]:
    """share → seconds of an update in each round, with videos that are decoded already."""
    few = replace(videos, videos=videos.videos[: TIMED_BATCHES * recipe.batch_size])
    number = steps_per_epoch(len(few.videos), recipe.batch_size)
    trainer = Trainer(recipe, videos.labels.classes["classes"])
    batches = batches_of(few, trainer, recipe, number * (rounds + 1) * len(shares))
    # The round that warms up sees every one of the few videos, and so decodes them.
    return take_turns(shares, rounds, lambda share: seconds_of_updates(trainer, batches, number, share))


def learn(videos: VideoSet, recipe: Recipe, share: float, num_steps: int) -> tuple[ViViT, float]:
    """A model that was updated so often, and the seconds that it took, decoding left out."""
    trainer = Trainer(recipe, videos.labels.classes["classes"])
    trainer.keep(share)
    batches = batches_of(videos, trainer, recipe, num_steps)
    warmup_steps = recipe.warmup_epochs / recipe.epochs * num_steps
    first_epoch = [next(batches) for _ in range(min(num_steps, steps_per_epoch(len(videos.videos), recipe.batch_size)))]
    begun = time.perf_counter()
    for step, batch in enumerate(chain(first_epoch, batches)):
        trainer.update(batch, step, learning_rate(step, recipe.learning_rate, warmup_steps, num_steps))
    return trainer.model, time.perf_counter() - begun


def take_accuracy(kept: float, seconds: float, rounds: int, videos: int, seeds: int, folder: Path) -> None:
    data = folder / f"camera_motion_{videos}"
    generate(data, train_videos=videos, val_videos=max(videos * 3 // 20, 9), seed=0)
    train_set, val_set = map(open_data(data).split, ("train", "val"))
    recipe = RECIPES["demo"].model_copy(update={"token_dropping": 0.5})
    shares = (ALL, kept)
    update = {share: median(taken) for share, taken in time_on_videos(train_set, recipe, shares, rounds).items()}
    steps = {share: max(1, round(seconds / update[share])) for share in shares}
    scores: dict[float, list[float]] = {share: [] for share in shares}
    real: dict[float, list[float]] = {share: [] for share in shares}
    for seed in range(seeds):
        for share in shares:
            model, took = learn(train_set, recipe.model_copy(update={"seed": seed}), share, steps[share])
            scores[share].append(evaluate(model, val_set).accuracy(1))
            real[share].append(took)
            PROGRESS.print(f"seed {seed}, {share:.0%} of the tokens: {scores[share][-1]:.1%} in {took:.0f} s")
    print(f"{len(train_set.videos)} videos to learn from, {len(val_set.videos)} held out; {seconds:g} s for each.\n")
    print(
        "| tokens kept | update, s | updates | s that they took | accuracy | of each seed |\n|---|---|---|---|---|---|"
    )
    for share in shares:
        each = ", ".join(f"{score:.1%}" for score in scores[share])
        clock = ", ".join(f"{value:.0f}" for value in real[share])
        print(f"| {share:.0%} | {update[share]:.3f} | {steps[share]} | {clock} | {mean(scores[share]):.1%} | {each} |")


def main(
    accuracy: bool = False,
    kept: str = "0.5,0.25",
    rounds: int | None = None,
    seconds: float = 100.0,
    videos: int = 3000,
    seeds: int = 2,
    threads: int | None = None,
    quick: bool = False,
    folder: Path = FOLDER,
) -> None:
    """Measure and print a table in Markdown.

    Args:
        accuracy: on camera motion, in place of the time of larger models.
        kept: shares of the tokens beside all of them, with commas; with --accuracy the first.
        rounds: how often each share is timed (default: 2; with --accuracy 20).
        seconds: of each training, at the speed that was measured before.
        videos: to be trained on.
        seeds: trainings of each kind.
        threads: of PyTorch; by default as many as it takes.
        quick: toys in place of the models that are timed, to see that all works.
        folder: where videos are kept.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    print(setting("accelerate", "av"))
    print(f"{torch.get_num_threads()} threads.\n")
    shares = [float(share) for share in kept.split(",")]
    if accuracy:
        take_accuracy(shares[0], seconds, rounds or 20, videos, seeds, folder)
    else:
        take_times([ALL, *shares], rounds or 2, quick)


if __name__ == "__main__":
    cyclopts.run(main)
