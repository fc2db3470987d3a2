"""The time a training loop waits for clips: this package's loader, and PyTorch's with transformers.

    .venv/bin/python -m benchmarks.loader [--tasks demo,b16x2] [--workers 0,1,2] [--step SECONDS] [--rounds 3]

The step is a sleep, which leaves all cores to the loader, like training on a GPU. Measurement starts after the first
batch. Each round measures every kind of loader with every number of workers; results are medians over rounds. The
videos are in the page cache.
"""

import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import av
import cyclopts
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.harness import setting
from benchmarks.videos import FOLDER, generated
from vivit.data.datasets import VideoSet
from vivit.data.loader import TrainingClips, training_batches
from vivit.data.order import Order
from vivit.data.pack import Encoding, pack
from vivit.data.readers.listing import open_data
from vivit.experiments.camera_motion import generate
from vivit.video.clips import ClipSpec, clip_indices, random_start
from vivit.video.decode import ReadOptions

COPIES = 8  # copies of one video, in each of two classes
ENOUGH = 1_000_000  # more steps than are ever taken


@dataclass(frozen=True)
class Task:
    """What a model needs from its loader."""

    spec: ClipSpec
    batch_size: int
    step: float
    """Seconds."""
    assumed: str
    """The source of that time."""
    make_videos: Callable[[Path], None]
    encoding: Encoding
    """How the re-encoded shards are encoded."""


@dataclass(frozen=True)
class Stall:
    first: float
    """Seconds until the first batch."""
    waiting: float
    """Fraction of the time after the first batch."""
    clips: float
    """Per second, after the first batch."""


def _camera_motion(folder: Path) -> None:
    generate(folder, train_videos=90, val_videos=9, workers=2)


def _copies(folder: Path) -> None:
    """Two classes of the same video; its content does not matter here."""
    original = generated("320", folder.parent)
    for name in ("one", "other"):
        (folder / name).mkdir(parents=True)
        for number in range(COPIES):
            shutil.copy(original, folder / name / f"{name}{number}.mp4")


TASKS = {
    "demo": Task(
        ClipSpec(num_frames=8, stride=2, size=(48, 48), resize=48),
        batch_size=32,
        step=0.12,
        assumed="a step of the demo on one core of an AMD EPYC",
        make_videos=_camera_motion,
        encoding=Encoding(short_side=48),
    ),
    "b16x2": Task(
        ClipSpec(num_frames=32, stride=2, size=(224, 224), resize=256),
        batch_size=8,
        step=0.054,
        assumed="3 × 8 × 452 × 10⁹ multiply-adds, of two operations each, at 400 TFLOP/s",
        make_videos=_copies,
        encoding=Encoding(short_side=256),
    ),
}


def ours(data: str, task: Task, workers: int) -> Generator[Tensor, None, None]:
    videos = open_data(data).split("train")
    clips = TrainingClips(videos, task.spec, 0, read=ReadOptions(workers=workers))
    for batch in training_batches(clips, Order(task.batch_size, range(ENOUGH))):
        yield batch.clips


class TransformersClips(Dataset[Tensor]):
    """A random clip of each video, read as in transformers' documentation of ViViT: (T, C, H, W) float."""

    def __init__(self, videos: VideoSet, spec: ClipSpec) -> None:
        from transformers import VivitImageProcessor

        self.videos, self.spec = videos, spec
        self.processor = VivitImageProcessor(
            size={"shortest_edge": spec.resize}, crop_size={"height": spec.size[0], "width": spec.size[1]}
        )

    def __len__(self) -> int:
        return len(self.videos.videos)

    def __getitem__(self, index: int) -> Tensor:
        spec = self.spec
        with av.open(str(self.videos.videos[index].source)) as container:
            stream = container.streams.video[0]
            start = random_start(stream.frames, spec.num_frames, spec.stride, np.random.default_rng())
            numbers = clip_indices(stream.frames, spec.num_frames, spec.stride, start)
            frames = {}
            for number, frame in enumerate(container.decode(stream)):
                if number in numbers:
                    frames[number] = frame.to_ndarray(format="rgb24")
                if number == max(numbers):
                    break
        processed: Mapping[str, Any] = self.processor([frames[number] for number in numbers], return_tensors="pt")
        clip: Tensor = processed["pixel_values"][0]
        return clip


def theirs(data: str, task: Task, workers: int) -> Generator[Tensor, None, None]:
    clips = TransformersClips(open_data(data).split("train"), task.spec)
    loader = DataLoader(
        clips,
        batch_size=task.batch_size,
        shuffle=True,
        drop_last=len(clips) > task.batch_size,
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
        persistent_workers=workers > 0,
    )
    while True:
        yield from loader


def sources(name: str, task: Task, folder: Path) -> dict[str, str]:
    """The videos as files, packed unchanged, and packed with more key frames."""
    videos = folder / name
    if not videos.exists():
        task.make_videos(videos)
    listing = open_data(videos)
    packed, encoded = folder / f"{name}_shards", folder / f"{name}_encoded_shards"
    pack(listing, packed)
    pack(listing, encoded, encoding=task.encoding)
    return {"files": str(videos), "shards": str(packed), "shards, encoded anew": str(encoded)}


def measure(batches: Iterator[Tensor], batch_size: int, step: float, steps: int) -> Stall:
    begun = time.perf_counter()
    next(batches)
    first = time.perf_counter()
    waiting = 0.0
    for _ in range(steps):
        asked = time.perf_counter()
        clips = next(batches)
        waiting += time.perf_counter() - asked
        assert len(clips) == batch_size
        time.sleep(step)
    seconds = time.perf_counter() - first
    return Stall(first - begun, waiting / seconds, steps * batch_size / seconds)


def main(
    tasks: str = ",".join(TASKS),
    workers: str = "0,1,2",
    step: float | None = None,
    steps: int = 8,
    rounds: int = 3,
    folder: Path = FOLDER,
) -> None:
    """Measure and print a table in Markdown.

    Args:
        tasks: separated by commas.
        workers: numbers of workers, separated by commas.
        step: seconds of a step; by default the time assumed for each task.
        steps: measured after the first batch.
        rounds: measurements of every loader with every number of workers.
        folder: holds the generated videos and shards.
    """
    torch.set_num_threads(1)
    print(setting("av", "transformers"))
    print(f"{steps} steps after the first batch; medians of {rounds} rounds.")
    for name in tasks.split(","):
        task = TASKS[name]
        seconds = task.step if step is None else step
        places = sources(name, task, folder)
        loaders = [(f"`vivit`, {place}", ours, data) for place, data in places.items()]
        loaders.append(("`DataLoader`, PyAV and transformers, files", theirs, places["files"]))
        kinds = [(*loader, int(count)) for loader in loaders for count in workers.split(",")]
        found: dict[tuple[str, int], list[Stall]] = {}
        for _ in range(rounds):
            for words, load, data, count in kinds:
                with closing(load(data, task, count)) as batches:
                    stall = measure(batches, task.batch_size, seconds, steps)
                found.setdefault((words, count), []).append(stall)
        spec = task.spec
        assumed = task.assumed if step is None else "given"
        print(
            f"\n{name}: batches of {task.batch_size} clips of {spec.num_frames} × {spec.size[0]} × {spec.size[1]}, "
            f"a step of {seconds:g} s ({assumed}), which takes {task.batch_size / seconds:.0f} clips/s.\n"
        )
        print("| loader | workers | first batch, s | waiting | clips/s |\n|---|---|---|---|---|")
        for (words, count), stalls in found.items():
            first, waiting, clips = (median(getattr(s, what) for s in stalls) for what in ("first", "waiting", "clips"))
            print(f"| {words} | {count} | {first:.2f} | {waiting:.0%} | {clips:.1f} |")


if __name__ == "__main__":
    cyclopts.run(main)
