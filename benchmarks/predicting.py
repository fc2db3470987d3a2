"""Videos labelled per second: one by one, and read ahead of the model by several processes.

    .venv/bin/python -m benchmarks.predicting [--tasks demo,small,small_4x3] [--videos 128] [--workers 2] [--rounds 5]

"One by one" is `Predictor.predict` for each video: reading and the model alternate, in one process. "Ahead" is
`Predictor.predict_all` with reader processes, and "reading alone" is the same processes without the model. Their start,
which is spent importing PyTorch, is shown separately, as the time until the first answer; the rate is that of the
answers after it. "Work" is the CPU time per video of all processes together, which depends little on other work on the
machine. The ways take turns in each round; results are medians over rounds with quartiles, and ratios are within a
round. The videos, H.264 of 340 × 256 and ten seconds, are copies of one file in the page cache.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import cyclopts
import psutil
import torch

from benchmarks import harness
from benchmarks.videos import FOLDER, generated
from vivit.config import ModelConfig, Preprocessing
from vivit.inference.fetch import Fetching
from vivit.inference.pipeline import Reading, views_in_order
from vivit.inference.predictor import Predictor
from vivit.inference.speed import spread
from vivit.inference.views import BATCH, Views, clip_spec
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
    """CPU seconds per video, in the middle of the work."""


def one_by_one(predictor: Predictor, videos: Sequence[Path], views: str) -> Speed:
    return measured((predictor.predict(video, views) for video in videos), len(videos))


def ahead(predictor: Predictor, videos: Sequence[Path], views: str) -> Speed:
    return measured(predictor.predict_all(videos, views), len(videos))


def reading_alone(predictor: Predictor, videos: Sequence[Path], views: str) -> Speed:
    """Read the views of all videos as `predict_all` does, and discard them."""
    wanted, options = Views.parse(views), predictor._options
    reading = Reading(clip_spec(predictor.model), wanted, options, Fetching())
    return measured(views_in_order(videos, reading, options.workers + ceil(BATCH / wanted.count)), len(videos))


WAYS = {"one by one": one_by_one, "ahead": ahead, "reading alone": reading_alone}


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
    """CPU seconds used by this process and those it started."""
    here = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (here, *here.children()))


def model_shares(predictor: Predictor, video: Path, views: str) -> float:
    """The fraction of the time of one video, one by one, that the model takes."""
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


def row_of(name: str, videos: int, workers: int, rounds: int) -> dict[str, Any]:
    """Measure a task."""
    task = TASKS[name]
    taken: dict[str, list[Speed]] = {way: [] for way in WAYS}
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
        for _ in range(rounds):
            for way, run in WAYS.items():
                taken[way].append(run(alone if way == "one by one" else several, copies, task.views))
    shape = f"{config.num_frames} frames of {config.image_size[0]}², {config.num_layers} layers"

    def ratio(over: str, under: str, of: str) -> dict[str, Any]:
        pairs = zip(taken[over], taken[under], strict=True)
        return spread([getattr(one, of) / getattr(other, of) for one, other in pairs])

    return {
        "what": f"{shape}, {task.views} views",
        "precision": str(alone.precision),
        "part of the model": part,
        **{way: spread([each.rate for each in speeds]) for way, speeds in taken.items()},
        "work": {way: spread([each.work for each in speeds]) for way, speeds in taken.items()},
        "start": spread([each.start for each in taken["ahead"]]),
        "ahead ÷ one by one": ratio("ahead", "one by one", "rate"),
        "ahead ÷ reading alone": ratio("ahead", "reading alone", "rate"),
        "work ahead ÷ reading alone": ratio("ahead", "reading alone", "work"),
    }


def main(
    tasks: str = ",".join(TASKS),
    videos: int = 128,
    workers: int = 2,
    rounds: int = 5,
    out: Path = harness.RESULTS / "predicting.json",
) -> None:
    """Measure, and write a record; `benchmarks.tables` makes the table.

    Args:
        tasks: separated by commas.
        videos: of each measurement.
        workers: reader processes.
    """
    rows = []
    for name in tasks.split(","):
        rows.append(row_of(name, videos, workers, rounds))
        settings = {"videos": videos, "workers": workers, "rounds": rounds}
        harness.write(out, {"task": settings, "rows": rows}, packages=["av"])
        print(f"{name}: done", flush=True)


if __name__ == "__main__":
    cyclopts.run(main)
