"""What freezing the spatial encoder saves and costs, beside training the whole factorised encoder.

    .venv/bin/python -m benchmarks.frozen_spatial [--clips 2] [--epochs 5] [--threads 1]
    .venv/bin/python -m benchmarks.frozen_spatial --accuracy [--videos 1350] [--seeds 1] [--threads 1]

Without `--accuracy` it takes the time: ViViT-B/16x2, 32 frames of 224 × 224, as many clips as a batch has, read from
videos or from the cache, forward pass, loss, backward pass and AdamW. The first epoch is not counted; that of the
frozen encoder, which computes the features, is told apart. Times, here and below, are the processor's, of all threads
of the process: what else the machine does counts for little, and with one thread they are those of an idle machine.

With it it takes the accuracy on camera motion, with the model and recipe of the demo. A model is trained from scratch
on pans, tilts and standing cameras; then zooms and rolls, which it never saw, are learned in the ways that the table
names, each for as many epochs, and named in held-out videos, by one view of each. "Fresh" is a temporal encoder of
random weights, "from the spatial encoder" what `freeze_spatial` makes of it; the heads are fresh in every row.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

import torch
import tyro
from rich.console import Console
from torch import nn

from benchmarks.setting import setting
from benchmarks.videos import FOLDER, generated
from vivit.config import ModelConfig
from vivit.data.datasets import VideoSet, open_split
from vivit.data.loader import Batch, steps_per_epoch, training_batches
from vivit.evaluation.evaluate import evaluate
from vivit.evaluation.views import clip_spec
from vivit.experiments.camera_motion import generate
from vivit.model.vivit import ViViT
from vivit.training.feature_cache import training_features
from vivit.training.frozen import freeze_spatial
from vivit.training.losses import loss_of
from vivit.training.optim import build_optimiser, learning_rate, set_learning_rate
from vivit.training.recipe import Recipe
from vivit.training.recipes import demo
from vivit.weights.adapt import adapt

ADAPTER = 64
EPOCHS = 16  # of learning camera motions
SEEN_BEFORE = ("pan_left", "pan_right", "static", "tilt_down", "tilt_up")
NEW = ("roll_clockwise", "roll_counterclockwise", "zoom_in", "zoom_out")
PROGRESS = Console(stderr=True)


def train_on(network: nn.Module, batches: Iterable[Batch], recipe: Recipe, num_steps: int) -> Iterator[float]:
    """Train by batches of clips or features; each step yields its loss."""
    optimiser = build_optimiser(network, recipe)
    network.train()
    for step, batch in enumerate(batches):
        set_learning_rate(optimiser, learning_rate(step, recipe.learning_rate, num_steps / recipe.epochs, num_steps))
        loss = loss_of(network(batch.clips), batch.labels, recipe.label_smoothing, multi_label=False)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield loss.item()


# --- time


def copies(folder: Path, count: int) -> VideoSet:
    """The same video so many times, of two classes by turns."""
    original = generated("320")
    for number in range(count):
        place = folder / str(number % 2) / f"{number}.mp4"
        place.parent.mkdir(exist_ok=True)
        shutil.copy(original, place)
    return open_split(folder, "all")


def epoch_seconds(losses: Iterator[float], epochs: int, steps: int) -> list[float]:
    seconds = []
    for _ in range(epochs):
        begun = time.process_time()
        for _ in range(steps):
            next(losses)
        seconds.append(time.process_time() - begun)
    return seconds


def take_times(clips: int, epochs: int, whole_epochs: int, threads: int, config: ModelConfig) -> None:
    recipe = Recipe(optimiser="adamw", learning_rate=1e-4, label_smoothing=0.1)
    with TemporaryDirectory() as folder:
        videos = copies(Path(folder), clips)
        asked: dict[str, Any] = {"batch_size": clips, "seed": 0, "augmentation": recipe.build_augmentation()}
        steps = steps_per_epoch(clips, clips)
        model = ViViT(config)
        batches = training_batches(videos, clip_spec(model), num_steps=(whole_epochs + 1) * steps, **asked)
        whole = epoch_seconds(train_on(model, batches, recipe, (whole_epochs + 1) * steps), whole_epochs + 1, steps)
        PROGRESS.print(f"whole: {whole}")
        part = freeze_spatial(model, initialise_temporal=True)
        cache = Path(folder, "features")
        batches = training_features(
            model, videos, clip_spec(model), folder=cache, num_steps=(epochs + 1) * steps, **asked
        )
        frozen = epoch_seconds(train_on(part, batches, recipe, (epochs + 1) * steps), epochs + 1, steps)
        PROGRESS.print(f"frozen: {frozen}")
        size = sum(file.stat().st_size for file in cache.iterdir())
    trained = [
        sum(p.numel() for p in network.parameters() if p.requires_grad) / 1e6 for network in (ViViT(config), part)
    ]
    print(f"Batches of {clips} clips, {threads} threads; medians of {whole_epochs} and of {epochs} epochs.\n")
    print("| trained | parameters, M | first epoch, s a clip | later ones, s a clip |\n|---|---|---|---|")
    for words, count, seconds in (("all", trained[0], whole), ("frozen spatial encoder", trained[1], frozen)):
        print(f"| {words} | {count:.1f} | {seconds[0] / clips:.2f} | {median(seconds[1:]) / clips:.3f} |")
    print(f"\n{median(whole[1:]) / median(frozen[1:]):.0f} times less; {size / clips / 1e3:.0f} kB of features a clip.")


# --- accuracy


@dataclass(frozen=True)
class Way:
    """How the new classes are learned."""

    words: str
    start: Callable[[ViViT, tuple[str, ...], Recipe], ViViT]
    """From the model that was trained before, the classes and the recipe to what training starts from."""
    frozen: bool = True
    from_spatial: bool = False
    """Whether the temporal encoder starts from the spatial one."""
    epochs: int = 1
    """As many times as the others."""


def from_scratch(before: ViViT, classes: tuple[str, ...], recipe: Recipe) -> ViViT:
    config = before.config.model_copy(update={"num_classes": len(classes)})
    model = ViViT(config, classes={"classes": classes}, preprocessing=before.preprocessing)
    model.initialise(position_std=recipe.position_std)
    return model


def as_it_was(before: ViViT, classes: tuple[str, ...], recipe: Recipe) -> ViViT:
    return adapt(before, classes=classes)


def with_fresh_temporal(before: ViViT, classes: tuple[str, ...], recipe: Recipe) -> ViViT:
    model = from_scratch(before, classes, recipe)
    spatial = {k: v for k, v in before.state_dict().items() if k.startswith(("embedding.", "model.spatial_"))}
    model.load_state_dict(spatial, strict=False)
    return model


def with_adapter(before: ViViT, classes: tuple[str, ...], recipe: Recipe) -> ViViT:
    return adapt(with_fresh_temporal(before, classes, recipe), adapter_size=ADAPTER)


WAYS = (
    Way("all, from scratch", from_scratch, frozen=False),
    Way("all, from the model trained before", as_it_was, frozen=False),
    Way("frozen; temporal encoder as trained before", as_it_was),
    Way("frozen; temporal encoder fresh", with_fresh_temporal),
    Way("frozen; temporal encoder from the spatial encoder", with_fresh_temporal, from_spatial=True),
    Way("frozen; from the spatial encoder, adapter", with_adapter, from_spatial=True),
    Way("frozen; from the spatial encoder, adapter, 5 × the epochs", with_adapter, from_spatial=True, epochs=5),
    Way("frozen, but of random weights; temporal encoder fresh", from_scratch),
)


def only(videos: VideoSet, classes: tuple[str, ...]) -> VideoSet:
    """Those of some classes, numbered anew."""
    names = videos.classes["classes"]
    numbers = {names.index(name): number for number, name in enumerate(classes)}
    chosen = [(video, video.labels["classes"]) for video in videos.videos]
    kept = [
        replace(video, labels={"classes": numbers[label]})
        for video, label in chosen
        if isinstance(label, int) and label in numbers
    ]
    return replace(videos, videos=tuple(kept), classes={"classes": classes})


def learn(model: ViViT, way: Way, videos: VideoSet, recipe: Recipe, cache: Path) -> float:
    """Train the model, in place; returns the seconds."""
    epochs = recipe.epochs * way.epochs
    num_steps = epochs * steps_per_epoch(len(videos.videos), recipe.batch_size)
    asked: dict[str, Any] = {
        "batch_size": recipe.batch_size,
        "seed": recipe.seed,
        "num_steps": num_steps,
        "augmentation": recipe.build_augmentation(),
    }
    torch.manual_seed(recipe.seed)
    begun = time.process_time()
    if way.frozen:
        part = freeze_spatial(model, way.from_spatial)
        batches = training_features(model, videos, clip_spec(model), folder=cache, **asked)
        steps = train_on(part, batches, recipe, num_steps)
    else:
        batches = training_batches(videos, clip_spec(model), keep=True, **asked)
        steps = train_on(model, batches, recipe, num_steps)
    for _ in steps:
        pass
    return time.process_time() - begun


def take_accuracy(videos: int, seeds: int, folder: Path) -> None:
    data = folder / f"camera_motion_{videos}"
    generate(data, train_videos=videos, val_videos=videos // 5, seed=0)
    train_set, val_set = open_split(data, "train"), open_split(data, "val")
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(seeds):
        recipe = demo().model_copy(update={"seed": seed, "epochs": EPOCHS})
        torch.manual_seed(seed)
        before = ViViT(
            recipe.build_config({"classes": len(SEEN_BEFORE)}),
            classes={"classes": SEEN_BEFORE},
            preprocessing=recipe.build_preprocessing(),
        )
        before.initialise(position_std=recipe.position_std)
        learn(before, WAYS[0], only(train_set, SEEN_BEFORE), recipe, folder)
        score = evaluate(before, only(val_set, SEEN_BEFORE), num_clips=1, num_crops=1).accuracy(1)
        PROGRESS.print(f"seed {seed}: trained before, {score:.1%} of the classes that it was trained on")
        for way in WAYS:
            torch.manual_seed(seed)
            model = way.start(before, NEW, recipe)
            with TemporaryDirectory() as cache:
                seconds = learn(model, way, only(train_set, NEW), recipe, Path(cache))
            score = evaluate(model, only(val_set, NEW), num_clips=1, num_crops=1).accuracy(1)
            PROGRESS.print(f"seed {seed}: {way.words}, {score:.1%}, {seconds:.0f} s")
            found.setdefault(way.words, []).append((score, seconds))
    held_out = len(only(val_set, NEW).videos)
    print(f"{len(only(train_set, NEW).videos)} videos of {len(NEW)} classes, {held_out} held out; {seeds} seeds.\n")
    print("| trained | accuracy | of each seed | s |\n|---|---|---|---|")
    for words, runs in found.items():
        each = ", ".join(f"{score:.1%}" for score, _ in runs)
        score, seconds = (mean(values) for values in zip(*runs, strict=True))
        print(f"| {words} | {score:.1%} | {each} | {seconds:.0f} |")


def main(
    accuracy: bool = False,
    clips: int = 2,
    epochs: int = 5,
    whole_epochs: int = 1,
    videos: int = 1350,
    seeds: int = 1,
    threads: int = 1,
    folder: Path = FOLDER,
) -> None:
    """Measure and print a table in Markdown.

    Args:
        accuracy: on camera motion, in place of the time on ViViT-B/16x2.
        clips: of a batch, and in all; whole models take some ten seconds for each.
        epochs: with features from the cache.
        whole_epochs: of the whole model.
        videos: to be trained on, of all nine camera motions.
        seeds: how often all is done.
        folder: where videos are kept.
    """
    torch.set_num_threads(threads)
    print(setting("av", "safetensors"))
    if accuracy:
        take_accuracy(videos, seeds, folder)
    else:
        config = ModelConfig.named("vivit-b-16x2-fe", num_classes=2, adapter_size=ADAPTER)
        take_times(clips, epochs, whole_epochs, threads, config)


if __name__ == "__main__":
    tyro.cli(main)
