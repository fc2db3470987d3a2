"""The cost of a window of an endless video for a factorised encoder, beside computing every window alone.

    .venv/bin/python -m benchmarks.streaming [--rounds 5] [--threads 1] [--precisions f32,bf16]

ViViT-B/16x2 on 32 frames of 224 × 224 at every second frame, random weights and frames in memory, and windows that
start one tubelet apart. "alone" is `model(clip)`, "live" a `Stream` that answers after each tubelet, "recorded" one
that computes windows in batches. The three take turns; ratios are within a round. Differences of logits are from
`model(clip)` in the same precision, on windows of noise, relative to the largest logit. The last column shows how far
`model(clip)` itself differs in bf16 from f32.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cyclopts
import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.contenders import QUICK
from vivit.config import ModelConfig, Preprocessing
from vivit.inference.prepare import prepare
from vivit.inference.speed import Seconds, spread, take_turns, time_of
from vivit.inference.streaming import Stream, window_cost
from vivit.model.vivit import ViViT
from vivit.runtime import Precision

CPU = torch.device("cpu")
ALONE, LIVE, RECORDED = "alone", "live", "recorded"
LIVE_WINDOWS = 4  # of each measurement


class Video:
    """Endless noise, the same for everyone who reads it."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def frames(self, first: int, count: int) -> Tensor:
        return torch.stack([self._frame(number) for number in range(first, first + count)])

    def _frame(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        return torch.randint(0, 256, (3, *self.size), dtype=torch.uint8, generator=generator)


class Reader:
    """A stream, and how far it has read."""

    def __init__(self, model: ViViT, video: Video, step: int, batch: int) -> None:
        self.stream, self.video, self.batch = Stream(model, step, batch), video, batch
        self.last = self.stream.push(video.frames(0, self.stream.span + (batch - 1) * step))

    def seconds(self, count: int) -> Seconds:
        """Seconds per window, the mean over `count` batches, without making the frames."""
        taken = [self._batch() for _ in range(count)]
        number = count * self.batch
        return Seconds(sum(each.clock for each in taken) / number, sum(each.processor for each in taken) / number)

    def _batch(self) -> Seconds:
        frames = self.video.frames(self.stream.count, self.batch * self.stream.step)

        def push() -> None:
            self.last = self.stream.push(frames)

        return time_of(push, CPU)


def clip_of(video: Video, stream: Stream, start: int) -> Tensor:
    return video.frames(start, stream.span)[None, :: stream.spec.stride]


def random_model(quick: bool) -> ViViT:
    torch.manual_seed(0)
    config = ModelConfig.named("vivit-b-16x2-fe", **(QUICK if quick else {}))
    # Frames already have the size of the crop: scaling them belongs to reading.
    model = ViViT(config, preprocessing=Preprocessing(resize=min(config.image_size))).eval()
    for head in model.heads.parameters():
        torch.nn.init.normal_(head, std=0.02)
    return model


@torch.inference_mode()
def measure(precision: Precision, rounds: int, batch: int, quick: bool) -> list[dict[str, Any]]:
    """The rows of one precision, one for each way."""
    plain, model = random_model(quick), random_model(quick)
    prepare(model, "cpu", precision)
    stride = model.preprocessing.frame_stride
    video, step = Video(model.config.image_size), model.config.tubelet_size[0] * stride
    readers = {LIVE: Reader(model, video, step, 1), RECORDED: Reader(model, video, step, batch)}
    clip = clip_of(video, readers[LIVE].stream, 0)
    cost = window_cost(model, step)
    counts = {LIVE: LIVE_WINDOWS, RECORDED: 1}
    steps: dict[str, Callable[[], Seconds]] = {
        way: partial(reader.seconds, counts[way]) for way, reader in readers.items()
    }
    taken = take_turns({ALONE: lambda: time_of(lambda: model(clip), CPU), **steps}, rounds)
    differences, of_precision = {ALONE: 0.0}, 0.0
    for way, reader in readers.items():
        window = reader.last[-1]
        clip = clip_of(video, reader.stream, window.start)
        logits = model(clip)[0].float()
        differences[way] = _relative(window.logits["classes"], logits)
        of_precision = _relative(logits, plain(clip)[0])
    return [
        {
            "model": "vivit",
            "variant": "factorised_encoder",
            "precision": precision,
            "way": way,
            "multiply_adds": cost.alone if way == ALONE else cost.shared,
            "seconds": spread([each.clock for each in taken[way]]),
            "processor": spread([each.processor for each in taken[way]]),
            "ratio": _ratio(taken[ALONE], taken[way], "clock"),
            "processor_ratio": _ratio(taken[ALONE], taken[way], "processor"),
            "difference": differences[way],
            "difference_of_precision": of_precision,
        }
        for way in (ALONE, LIVE, RECORDED)
    ]


def _ratio(over: list[Seconds], under: list[Seconds], of: str) -> float:
    return median(getattr(one, of) / getattr(other, of) for one, other in zip(over, under, strict=True))


def _relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def main(
    rounds: int = 5,
    batch: int = 16,
    threads: int | None = None,
    precisions: str = "f32,bf16",
    quick: bool = False,
    out: Path = harness.RESULTS / "streaming.json",
) -> None:
    """Measure, print a table in Markdown and write a record.

    Args:
        rounds: measurements of each way.
        batch: windows of a recorded video that are computed together.
        threads: of PyTorch; by default its own choice.
        precisions: of the weights, separated by commas.
        quick: a toy model, to check that it works.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    load = os.getloadavg()[0]
    print(f"{harness.setting()}\n{torch.get_num_threads()} threads, {rounds} rounds.\n")
    print("| precision | window | GMAC | s | CPU s | × faster than alone | in CPU s | max Δ of the logits | of bf16 |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    rows = []
    for name in precisions.split(","):
        precision: Precision = name  # type: ignore[assignment]
        for row in measure(precision, rounds, batch, quick):
            rows.append(row)
            print(
                f"| {name} | {row['way']} | {row['multiply_adds'] / 1e9:.1f} | {row['seconds']['median']:.3g} "
                f"| {row['processor']['median']:.3g} | {row['ratio']:.1f} | {row['processor_ratio']:.1f} "
                f"| {row['difference']:.1e} | {row['difference_of_precision']:.1e} |",
                flush=True,
            )
    task = {"batch": batch, "quick": quick, "threads": torch.get_num_threads()}
    harness.write(out, {"task": task, "load": load, "rows": rows})


if __name__ == "__main__":
    cyclopts.run(main)
