"""What freezing the spatial encoder saves in time and costs in accuracy, compared with training the whole model.

    .venv/bin/python -m benchmarks.frozen_spatial [--clips 4] [--videos 1350] [--seeds 1] [--threads 1]

Time: ViViT-B/16x2 with random weights on 32 frames of 224 × 224, one clip per video, read from videos or the cache,
with forward pass, loss, backward pass and AdamW, in batches of two. An epoch of the whole model is measured after one
warm-up step. The frozen model computes its features in the first epoch, and reads them in later ones.

Accuracy: the demo's model and recipe on camera motion, with the same number of epochs in every row, scored on one view
of each held-out video. Without ImageNet, the frozen spatial encoder comes from one of two models that the benchmark
trains:

- on the same nine motions and videos: the cost of freezing if the features are as good as training can make them;
- on pans, tilts and static cameras, to learn zooms and rolls, which it never saw.

A temporal encoder that starts "as the spatial one" is what `vivit train --freeze-spatial` makes from an image ViT. The
heads are new in every row.
"""

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Literal

import cyclopts
import torch
from rich.console import Console
from torch import nn

from benchmarks.harness import setting
from benchmarks.videos import FOLDER, generated
from vivit.config import ModelConfig
from vivit.data.datasets import VideoSet
from vivit.data.loader import Batch, TrainingClips, training_batches
from vivit.data.order import Order, steps_per_epoch
from vivit.data.readers.listing import open_data
from vivit.evaluation.evaluate import evaluate
from vivit.experiments.camera_motion import generate
from vivit.inference.features import TemporalPart
from vivit.inference.views import clip_spec
from vivit.labels import LabelSpace
from vivit.model.vivit import ViViT
from vivit.training.feature_cache import FeatureCache
from vivit.training.initialise import freeze, start_temporal_as_spatial
from vivit.training.optim import build_optimiser, learning_rate, set_learning_rate
from vivit.training.plan import build_augmentation
from vivit.training.recipe import Recipe
from vivit.training.recipes import RECIPES
from vivit.training.update import loss_of
from vivit.weights.adapt import adapt

ADAPTER = 64
BATCH = 2  # for measuring time
LATER_EPOCHS = 5  # with features from the cache
EPOCHS = 16  # of learning camera motions
BEFORE = ("pan_left", "pan_right", "static", "tilt_down", "tilt_up")
NEW = ("roll_clockwise", "roll_counterclockwise", "zoom_in", "zoom_out")
PROGRESS = Console(stderr=True)


def train_on(network: nn.Module, batches: Iterable[Batch], recipe: Recipe, num_steps: int) -> Iterator[float]:
    """Train on batches of clips or features, and yield the loss of each step."""
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
    """The same video many times, with two classes in turn."""
    original = generated("320")
    for number in range(count):
        place = folder / str(number % 2) / f"{number}.mp4"
        place.parent.mkdir(exist_ok=True)
        shutil.copy(original, place)
    return open_data(folder).split("all")


def seconds_of(losses: Iterator[float], steps: int) -> float:
    begun = time.perf_counter()
    for _ in range(steps):
        next(losses)
    return time.perf_counter() - begun


def take_times(clips: int, config: ModelConfig) -> None:
    recipe = Recipe(optimiser="adamw", learning_rate=1e-4, label_smoothing=0.1)
    with TemporaryDirectory() as folder:
        videos = copies(Path(folder), clips)
        steps = steps_per_epoch(clips, BATCH)
        model = ViViT(config)
        sizes = [sum(p.numel() for p in model.parameters()) / 1e6]
        inputs = TrainingClips(videos, clip_spec(model), 0, build_augmentation(recipe))
        batches = training_batches(inputs, Order(BATCH, range(1 + steps)))
        losses = train_on(model, batches, recipe, 1 + steps)
        next(losses)
        whole = seconds_of(losses, steps)
        PROGRESS.print(f"whole: {whole:.1f} s")

        part, cache = freeze(model, TemporalPart), Path(folder, "features")
        sizes.append(sum(p.numel() for p in part.parameters()) / 1e6)
        num_steps = (1 + LATER_EPOCHS) * steps
        batches = FeatureCache(model, cache).training_batches(inputs, Order(BATCH, range(num_steps), clips_of_each=1))
        losses = train_on(part, batches, recipe, num_steps)
        first, *later = (seconds_of(losses, steps) for _ in range(1 + LATER_EPOCHS))
        PROGRESS.print(f"frozen: {first:.1f} s, then {later}")
        on_disk = sum(file.stat().st_size for file in cache.iterdir())
    print(f"Epochs of {clips} clips; of later ones the median of {LATER_EPOCHS}.\n")
    print("| trained | parameters, M | first epoch, s | later ones, s |\n|---|---|---|---|")
    print(f"| all | {sizes[0]:.1f} | {whole:.1f} | as the first |")
    print(f"| what follows the frozen spatial encoder | {sizes[1]:.1f} | {first:.1f} | {median(later):.3f} |")
    print(f"\nLater epochs take {whole / median(later):.0f} times less than the whole model's, the first ", end="")
    print(f"{whole / first:.1f} times less. Features are {on_disk / clips / 1e3:.0f} kB a clip.\n")


# --- accuracy


@dataclass(frozen=True)
class Way:
    """A way to learn the classes."""

    words: str
    temporal: Literal["fresh", "kept", "as the spatial one"]
    spatial_kept: bool = True
    """Whether the spatial encoder comes from the model trained before; else it is new."""
    frozen: bool = True
    adapter: bool = False
    clips: int = 1
    """Clips of each video, with a frozen spatial encoder."""


FROM_SCRATCH = Way("all, from scratch", "fresh", spatial_kept=False, frozen=False)
FROZEN = (
    Way("frozen; temporal encoder fresh", "fresh"),
    Way("frozen; temporal encoder as the spatial one", "as the spatial one"),
    Way("frozen; as the spatial one, adapter", "as the spatial one", adapter=True),
    Way("frozen; as the spatial one, adapter, 4 clips of each video", "as the spatial one", adapter=True, clips=4),
)
WAYS_OF_NEW = (
    FROM_SCRATCH,
    Way("all, from the model trained before", "kept", frozen=False),
    Way("frozen; temporal encoder as trained before", "kept"),
    *FROZEN,
    Way("frozen, but of random weights; temporal encoder fresh", "fresh", spatial_kept=False),
)


def start_of(way: Way, before: ViViT, classes: tuple[str, ...], recipe: Recipe) -> ViViT:
    """The model at the start of training, with a zero head."""
    config = before.config.model_copy(update={"num_classes": len(classes)})
    model = ViViT(config, classes={"classes": classes}, preprocessing=before.preprocessing)
    model.initialise(position_std=recipe.position_std)
    parts = ["embedding.", "encoder.spatial."] * way.spatial_kept + ["encoder.temporal."] * (way.temporal == "kept")
    kept = {name: value for name, value in before.state_dict().items() if name.startswith(tuple(parts))}
    model.load_state_dict(kept, strict=False)
    if way.temporal == "as the spatial one":
        start_temporal_as_spatial(model)
    return adapt(model, adapter_size=ADAPTER) if way.adapter else model


def only(videos: VideoSet, classes: tuple[str, ...]) -> VideoSet:
    """The videos of some classes, with labels of these classes only."""
    kept = tuple(video for video in videos.videos if video.labels["classes"][0] in classes)
    return replace(videos, videos=kept, labels=LabelSpace({"classes": classes}))


def learn(model: ViViT, way: Way, videos: VideoSet, recipe: Recipe) -> float:
    """Train the model in place, and return the seconds."""
    num_steps = recipe.epochs * steps_per_epoch(len(videos.videos), recipe.batch_size)
    clips = TrainingClips(
        videos, clip_spec(model), recipe.seed, build_augmentation(recipe), keep_decoded=not way.frozen
    )
    order = Order(recipe.batch_size, range(num_steps), clips_of_each=way.clips if way.frozen else None)
    torch.manual_seed(recipe.seed)
    begun = time.perf_counter()
    with TemporaryDirectory() as folder:
        if way.frozen:
            cache = FeatureCache(model, Path(folder))
            steps = train_on(freeze(model, TemporalPart), cache.training_batches(clips, order), recipe, num_steps)
        else:
            steps = train_on(model, training_batches(clips, order), recipe, num_steps)
        for _ in steps:
            pass
    return time.perf_counter() - begun


def take_accuracy(videos: int, seeds: int, epochs: int, folder: Path) -> None:
    data = folder / f"camera_motion_{videos}"
    generate(data, train_videos=videos, val_videos=videos // 5, seed=0)
    train_set, val_set = map(open_data(data).split, ("train", "val"))
    everything = train_set.labels.classes["classes"]
    found: dict[tuple[str, ...], dict[str, list[tuple[float, float]]]] = {everything: {}, NEW: {}}

    def take(way: Way, before: ViViT, classes: tuple[str, ...], recipe: Recipe) -> ViViT:
        torch.manual_seed(recipe.seed)
        model = start_of(way, before, classes, recipe)
        seconds = learn(model, way, only(train_set, classes), recipe)
        score = evaluate(model, only(val_set, classes)).accuracy(1)
        PROGRESS.print(f"seed {recipe.seed}, {len(classes)} classes: {way.words}, {score:.1%}, {seconds:.0f} s")
        found.setdefault(classes, {}).setdefault(way.words, []).append((score, seconds))
        return model

    for seed in range(seeds):
        recipe = RECIPES["demo"].model_copy(update={"seed": seed, "epochs": epochs})
        nothing = ViViT(recipe.build_config({"classes": 1}), preprocessing=recipe.build_preprocessing())
        for classes, classes_before, ways in ((everything, everything, FROZEN), (NEW, BEFORE, WAYS_OF_NEW)):
            before = take(FROM_SCRATCH, nothing, classes_before, recipe)
            for way in ways:
                take(way, before, classes, recipe)
    for classes, words in (
        (everything, "Trained before on the same videos"),
        (NEW, f"Trained before on {', '.join(BEFORE)}"),
    ):
        train_count, val_count = (len(only(videos_, classes).videos) for videos_ in (train_set, val_set))
        print(f"{words}: {train_count} videos of {len(classes)} classes, {val_count} held out, {epochs} epochs.\n")
        print("| trained | accuracy | each seed | s |\n|---|---|---|---|")
        for way_words, runs in found[classes].items():
            each = ", ".join(f"{score:.1%}" for score, _ in runs)
            score, seconds = (mean(values) for values in zip(*runs, strict=True))
            print(f"| {way_words} | {score:.1%} | {each} | {seconds:.0f} |")
        print()


def main(
    clips: int = 4, videos: int = 1350, seeds: int = 1, threads: int = 1, quick: bool = False, folder: Path = FOLDER
) -> None:
    """Measure and print tables in Markdown.

    Args:
        clips: in an epoch of ViViT-B/16x2; the whole model takes about twenty seconds per clip.
        videos: training videos of all nine camera motions.
        seeds: repetitions of the accuracy part.
        quick: tiny sizes, to check that it works.
        folder: holds the generated videos.
    """
    torch.set_num_threads(threads)
    print(f"{setting('av', 'safetensors')}\n{threads} threads.\n")
    config = ModelConfig.named("vivit-b-16x2-fe", num_classes=2, adapter_size=ADAPTER)
    if quick:
        videos = 45
        small = {"num_layers": 2, "temporal_layers": 1, "hidden_size": 96, "num_heads": 2, "mlp_dim": 192}
        config = config.model_copy(update={"num_frames": 4, "image_size": (64, 64), **small})
    take_times(clips, config)
    take_accuracy(videos, seeds, 1 if quick else EPOCHS, folder)


if __name__ == "__main__":
    cyclopts.run(main)
