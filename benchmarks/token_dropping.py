"""What training on a fraction of the tokens saves in time and costs in accuracy.

    .venv/bin/python -m benchmarks.token_dropping [--rounds 2] [--kept 0.5,0.25] [--threads 2]
    .venv/bin/python -m benchmarks.token_dropping --accuracy [--seconds 100] [--seeds 2] [--threads 2]

Without `--accuracy`, it measures an update of each model: ViViT-B/16x2 on one clip of 32 × 224 × 224, and ViViT-Ti/16x2
on eight of 16 × 112 × 112. This is `vivit train`'s update with SGD, on random clips in memory. The fractions of tokens
take turns, after a warm-up update each. Times are medians of the rounds, and a ratio is the median of each round's
ratio. FLOPs count the matrix products of the forward pass.

With it, the demo's model learns camera motion with the demo's recipe for the same time, on all tokens and on a fraction
of them. First, the time of an update with its batch is measured, taking turns. The number of updates is the requested
time divided by the median, so other work on the machine does not change it. Decoding happens once per run and does not
count. Scores are for one view of each held-out video, with all tokens.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from statistics import mean, median
from typing import Any

import cyclopts
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import setting
from benchmarks.videos import FOLDER
from vivit.config import SUFFIXES
from vivit.data.datasets import VideoSet
from vivit.data.loader import Batch, TrainingClips, training_batches
from vivit.data.order import Order, steps_per_epoch
from vivit.data.readers.listing import open_data
from vivit.evaluation.evaluate import evaluate
from vivit.experiments.camera_motion import generate
from vivit.inference.speed import take_turns
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
ALL = 1.0  # fraction of the tokens
# Batches of each measurement with --accuracy.
TIMED_BATCHES = 2
PROGRESS = Console(stderr=True)


class Trainer:
    """A new model and its updater."""

    def __init__(self, recipe: Recipe, classes: Sequence[str]) -> None:
        torch.manual_seed(recipe.seed)
        config = recipe.build_config({"classes": len(classes)})
        self.model = ViViT(config, classes={"classes": classes}, preprocessing=recipe.build_preprocessing()).train()
        self.model.initialise(position_std=recipe.position_std)
        accelerator = start_processes(torch.device("cpu"), "f32", track=None, shard=False)
        learner = Learner(self.model, self.model, build_optimiser(self.model, recipe), self.model)
        self.updater = Updater(learner, accelerator, recipe, LabelSpace({"classes": tuple(classes)}))
        # The factorised encoder has another one before its temporal encoder, which drops nothing.
        self.droppings = [m for m in self.model.modules() if isinstance(m, TokenDropping) and m.rate]

    def update(self, batch: Batch, step: int, rate: float) -> None:
        self.updater(batch, step, epoch=0, rate=rate, batch_size=len(batch.clips))

    def keep(self, fraction: float) -> None:
        """Train on this fraction of the tokens from now on; the recipe must drop some."""
        for dropping in self.droppings:
            dropping.rate = 1 - fraction


def seconds_of_updates(trainer: Trainer, batches: Iterator[Batch], number: int, fraction: float) -> float:
    """Mean seconds of an update on a fraction of the tokens, including its batch."""
    trainer.keep(fraction)
    begun = time.perf_counter()
    for step in range(number):
        trainer.update(next(batches), step, rate=1e-3)
    return (time.perf_counter() - begun) / number


# --- time


def recipe_of(suffix: str, small: bool, quick: bool) -> Recipe:
    """The clips of a variant, by its suffix in a model's name."""
    model = "-".join(filter(None, ("vivit", "ti" if small else "b", "16x2", suffix)))
    shape = {"num_frames": 4, "image_size": 64, "architecture": TOY} if quick else SMALL if small else PAPER
    return Recipe(model=model, token_dropping=0.5, **shape)


def random_batch(recipe: Recipe, clips: int) -> Batch:
    side = recipe.image_size or 0
    videos = torch.randint(256, (clips, recipe.num_frames or 0, 3, side, side), dtype=torch.uint8)
    return Batch(videos, {"classes": torch.randint(CLASSES, (clips,))}, torch.arange(clips))


def flops(recipe: Recipe, fraction: float) -> int:
    """FLOPs of the forward pass of one clip."""
    config = recipe.model_copy(update={"token_dropping": 1 - fraction}).build_config({"classes": CLASSES})
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        ViViT(config).train()(torch.empty(1, config.num_frames, 3, *config.image_size))
    return counter.get_total_flops()


def time_in_memory(recipe: Recipe, clips: int, fractions: Sequence[float], rounds: int) -> dict[float, list[float]]:
    """Fraction → seconds of an update in each round."""
    trainer, batches = Trainer(recipe, [str(number) for number in range(CLASSES)]), repeat(random_batch(recipe, clips))
    return take_turns({each: partial(seconds_of_updates, trainer, batches, 1, each) for each in fractions}, rounds)


def take_times(fractions: Sequence[float], rounds: int, quick: bool) -> None:
    print("| model | clips | tokens kept | update, s | ÷ update on all tokens | FLOPs ÷ FLOPs on all tokens |")
    print("|---|---|---|---|---|---|", flush=True)
    for clips, small in ((1, False), (SMALL_CLIPS, True)):
        for suffix in SUFFIXES:
            recipe = recipe_of(suffix, small, quick)
            taken = time_in_memory(recipe, clips, fractions, rounds)
            for row in time_rows(recipe, clips, taken):
                print(row, flush=True)


def time_rows(recipe: Recipe, clips: int, taken: dict[float, list[float]]) -> Iterator[str]:
    for fraction, seconds in taken.items():
        ratio = median(part / whole for part, whole in zip(seconds, taken[ALL], strict=True))
        work = flops(recipe, fraction) / flops(recipe, ALL)
        yield f"| {recipe.model} | {clips} | {fraction:.0%} | {median(seconds):.3g} | {ratio:.2f} | {work:.2f} |"


# --- accuracy


def batches_of(videos: VideoSet, trainer: Trainer, recipe: Recipe, num_steps: int) -> Iterator[Batch]:
    spec, augmentation = clip_spec(trainer.model), build_augmentation(recipe)
    clips = TrainingClips(videos, spec, recipe.seed, augmentation, keep_decoded=True)
    return training_batches(clips, Order(recipe.batch_size, range(num_steps)))


def time_on_videos(
    videos: VideoSet, recipe: Recipe, fractions: Sequence[float], rounds: int
) -> dict[float, list[float]]:
    """Fraction → seconds of an update in each round, on decoded videos."""
    few = replace(videos, videos=videos.videos[: TIMED_BATCHES * recipe.batch_size])
    number = steps_per_epoch(len(few.videos), recipe.batch_size)
    trainer = Trainer(recipe, videos.labels.classes["classes"])
    batches = batches_of(few, trainer, recipe, number * (rounds + 1) * len(fractions))
    # The warm-up round reads each of the few videos, so it decodes them all.
    return take_turns({each: partial(seconds_of_updates, trainer, batches, number, each) for each in fractions}, rounds)


def learn(videos: VideoSet, recipe: Recipe, fraction: float, num_steps: int) -> tuple[ViViT, float]:
    """A model after this many updates, and their seconds without decoding."""
    trainer = Trainer(recipe, videos.labels.classes["classes"])
    trainer.keep(fraction)
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
    fractions = (ALL, kept)
    update = {
        fraction: median(taken) for fraction, taken in time_on_videos(train_set, recipe, fractions, rounds).items()
    }
    steps = {fraction: max(1, round(seconds / update[fraction])) for fraction in fractions}
    scores: dict[float, list[float]] = {fraction: [] for fraction in fractions}
    real: dict[float, list[float]] = {fraction: [] for fraction in fractions}
    for seed in range(seeds):
        for fraction in fractions:
            model, took = learn(train_set, recipe.model_copy(update={"seed": seed}), fraction, steps[fraction])
            scores[fraction].append(evaluate(model, val_set).accuracy(1))
            real[fraction].append(took)
            PROGRESS.print(f"seed {seed}, {fraction:.0%} of the tokens: {scores[fraction][-1]:.1%} in {took:.0f} s")
    print(f"{len(train_set.videos)} videos to learn from, {len(val_set.videos)} held out; {seconds:g} s for each.\n")
    print("| tokens kept | update, s | updates | seconds taken | accuracy | each seed |\n|---|---|---|---|---|---|")
    for fraction in fractions:
        each = ", ".join(f"{score:.1%}" for score in scores[fraction])
        clock = ", ".join(f"{value:.0f}" for value in real[fraction])
        accuracy = f"{mean(scores[fraction]):.1%} | {each}"
        print(f"| {fraction:.0%} | {update[fraction]:.3f} | {steps[fraction]} | {clock} | {accuracy} |")


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
        accuracy: measure accuracy on camera motion instead of the time of larger models.
        kept: fractions of the tokens, separated by commas; --accuracy uses the first.
        rounds: measurements of each fraction (default: 2; with --accuracy 20).
        seconds: of each training, at the measured speed.
        videos: training videos.
        seeds: training runs of each kind.
        threads: of PyTorch; by default its own choice.
        quick: toy models, to check that it works.
        folder: holds the generated videos.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    print(setting("accelerate", "av"))
    print(f"{torch.get_num_threads()} threads.\n")
    fractions = [float(fraction) for fraction in kept.split(",")]
    if accuracy:
        take_accuracy(fractions[0], seconds, rounds or 20, videos, seeds, folder)
    else:
        take_times([ALL, *fractions], rounds or 2, quick)


if __name__ == "__main__":
    cyclopts.run(main)
