"""Videos a second that are labelled: one by one, and read ahead of the model by several processes.

    .venv/bin/python -m benchmarks.predicting [--tasks demo,small,small_4x3] [--videos 128] [--workers 2] [--rounds 5]

"One by one" is `Predictor.predict` for each video: reading and the model take turns, in one process. "Ahead" is
`Predictor.predict_all` with processes that read. Their start, which importing PyTorch takes, is shown by itself: the
time until the first answer; the rate is that of the answers after it. "Work" is the time of processors for each video,
of all processes together, which depends little on what else the machine does. The two ways take turns in each round,
and the results are medians of the rounds. The videos, H.264 of 340 × 256 and ten seconds, are copies of one file, in
the page cache.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cyclopts
import psutil
import torch

from benchmarks.harness import setting
from benchmarks.videos import FOLDER, generated
from vivit.config import ModelConfig, Preprocessing
from vivit.inference.predictor import Predictor
from vivit.model.vivit import ViViT
from vivit.video.decode import ReadOptions
from vivit.weights.store import save


@dataclass(frozen=True)
class Task:
    model: str
    fields: dict[str, Any]
    preprocessing: Preprocessing
    views: str = "1x1"


SMALL: dict[str, Any] = {"num_frames": 16, "image_size": 112, "num_classes": 10}
TASKS = {
    "demo": Task(
        "vivit-ti-16x2-fe",
        {"num_frames": 8, "image_size": 48, "num_classes": 9, "num_layers": 4, "temporal_layers": 2},
        Preprocessing(frame_stride=2, resize=48),
    ),
    "small": Task("vivit-ti-16x2-fe", SMALL, Preprocessing(frame_stride=4, resize=128)),
    "small_4x3": Task("vivit-ti-16x2-fe", SMALL, Preprocessing(frame_stride=4, resize=128), "4x3"),
}


@dataclass(frozen=True)
class Speed:
    start: float
    """Seconds until the first answer."""
    rate: float
    """Videos a second after it."""
    work: float
    """Seconds of processors for each video, in the middle of the work."""


def one_by_one(predictor: Predictor, videos: Sequence[Path], views: str) -> Speed:
    return measured((predictor.predict(video, views) for video in videos), len(videos))


def ahead(predictor: Predictor, videos: Sequence[Path], views: str) -> Speed:
    return measured(predictor.predict_all(videos, views), len(videos))


def measured(answers: Iterable[object], count: int) -> Speed:
    """The speed of `count` answers."""
    begun = time.perf_counter()
    times, works = [], {}
    for number, _ in enumerate(answers):
        times.append(time.perf_counter() - begun)
        if number in (count // 4, count * 3 // 4):
            works[number] = _work()
    # Answers of one batch come together, so the first of the next batch would be counted without its work.
    first = max(number for number, moment in enumerate(times) if moment <= times[0] * 1.02)
    (start, before), (end, after) = works.items()
    return Speed(times[0], (count - 1 - first) / (times[-1] - times[first]), (after - before) / (end - start))


def _work() -> float:
    """Seconds of processors that this process and those it started have used."""
    here = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (here, *here.children()))


def model_shares(predictor: Predictor, video: Path, views: str) -> float:
    """The part of the time of one video, one by one, that the model takes."""
    from vivit.inference import predictor as module

    spent = 0.0
    really: Callable[..., Any] = module.mean_logits

    def timed(*args: Any) -> Any:
        nonlocal spent
        begun = time.perf_counter()
        try:
            return really(*args)
        finally:
            spent += time.perf_counter() - begun

    setattr(module, "mean_logits", timed)  # noqa: B010
    try:
        begun = time.perf_counter()
        for _ in range(5):
            predictor.predict(video, views)
        return spent / (time.perf_counter() - begun)
    finally:
        setattr(module, "mean_logits", really)  # noqa: B010


def main(tasks: str = ",".join(TASKS), videos: int = 128, workers: int = 2, rounds: int = 5) -> None:
    load = os.getloadavg()[0]
    print(f"{setting('av')}\n{torch.get_num_threads()} threads of PyTorch, {workers} processes that read.")
    print(f"{videos} videos, medians of {rounds} rounds; load of the machine before: {load:.1f}.\n")
    print("task        model      one by one: work      ahead: start, then      work   ratio (of each round)")
    for name in tasks.split(","):
        task = TASKS[name]
        with tempfile.TemporaryDirectory() as folder:
            made = generated("320", FOLDER)
            copies = [Path(shutil.copy(made, f"{folder}/{number:04}.mp4")) for number in range(videos)]
            config = ModelConfig.named(task.model, **task.fields)
            classes = {"classes": [f"class {number}" for number in range(task.fields["num_classes"])]}
            torch.manual_seed(0)
            save(ViViT(config, classes=classes, preprocessing=task.preprocessing), f"{folder}/model")
            alone = Predictor(f"{folder}/model")
            several = Predictor(f"{folder}/model", read=ReadOptions(workers=workers))
            part = model_shares(alone, copies[0], task.views)
            both = [(one_by_one(alone, copies, task.views), ahead(several, copies, task.views)) for _ in range(rounds)]
        before, after = (median(each.rate for each in way) for way in zip(*both, strict=True))
        work = [1e3 * median(each.work for each in way) for way in zip(*both, strict=True)]
        start = median(each.start for _, each in both)
        ratios = sorted(each.rate / other.rate for other, each in both)
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(
            f"{name:10s} {part:6.0%} {before:15.1f}/s {work[0]:7.0f} ms "
            f"{start:11.1f} s {after:8.1f}/s {work[1]:7.0f} ms  {median(ratios):6.2f} ({each})",
            flush=True,
        )


if __name__ == "__main__":
    cyclopts.run(main)
