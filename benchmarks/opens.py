"""Whether memory or open files grow as videos are opened, read and closed many times. Linux only.

    .venv/bin/python -m benchmarks.opens [--count 10000] [--decoders pyav,torchcodec]

Small files of several containers take turns: open, read two frames, close. Each decoder does so in its own process and
in a loader worker. The command fails if there are more open files at the end than at the start, or if
resident memory grows by more than 32 MB after the first tenth.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
import cyclopts
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.harness import resident, setting
from vivit.video.decode import Decoder, open_video

CONTAINERS = {"mp4": "libx264", "mov": "libx264", "mkv": "libx264", "webm": "libvpx", "avi": "mpeg4"}
"""ending → codec."""
MOST_GROWTH = 32.0  # MB


@dataclass(frozen=True)
class Use:
    """Resources that the process holds after some number of files."""

    opened: int
    resident: float
    """MB."""
    files: int


def make_files(folder: Path) -> list[Path]:
    paths = []
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    for ending, codec in CONTAINERS.items():
        paths.append(folder / f"small.{ending}")
        with av.open(str(paths[-1]), "w") as container:
            stream = container.add_stream(codec, rate=25)
            assert isinstance(stream, av.VideoStream)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for number in range(10):
                frame = av.VideoFrame.from_ndarray(np.roll(picture, number, axis=1), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return paths


def open_often(paths: Sequence[Path], decoder: Decoder, count: int) -> list[Use]:
    """After one read of each file, after a tenth of the reads, and at the end."""
    torch.set_num_threads(1)
    uses = []
    for opened in range(1, len(paths) + count + 1):
        with open_video(paths[opened % len(paths)], decoder) as video:
            video.frames([1, 5])
        if opened - len(paths) in (0, count // 10, count):
            uses.append(Use(opened - len(paths), resident("VmRSS") / 1e6, len(os.listdir("/proc/self/fd"))))
    return uses


class _InWorker(IterableDataset[list[Use]]):
    def __init__(self, paths: Sequence[Path], decoder: Decoder, count: int) -> None:
        self.paths, self.decoder, self.count = paths, decoder, count

    def __iter__(self) -> Iterator[list[Use]]:
        yield open_often(self.paths, self.decoder, self.count)


def measure(paths: Sequence[Path], decoder: Decoder, count: int) -> dict[str, list[Use]]:
    """Place (a process, and a loader worker) → the resources held there."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        alone = pool.submit(open_often, paths, decoder, count).result()
    loader = DataLoader(
        _InWorker(paths, decoder, count), batch_size=None, num_workers=1, multiprocessing_context="forkserver"
    )
    return {"process": alone, "loader's worker": next(iter(loader))}


def problems(uses: Sequence[Use]) -> list[str]:
    start, early, end = uses
    found = []
    if end.files > start.files:
        found.append(f"{end.files} open files after {end.opened:,}, {start.files} at the start")
    if end.resident > early.resident + MOST_GROWTH:
        found.append(f"{end.resident:.0f} MB after {end.opened:,}, {early.resident:.0f} after {early.opened:,}")
    return found


def main(count: int = 10_000, decoders: str = "pyav,torchcodec") -> None:
    """Measure and print a table in Markdown.

    Args:
        count: how many times to open a file.
        decoders: separated by commas.
    """
    print(setting("av", "torchcodec"))
    print(f"Containers in turn: {', '.join(CONTAINERS)}.\n")
    print("| decoder | place | opened | resident, MB | open files |\n|---|---|---|---|---|")
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        paths = make_files(Path(folder))
        for decoder in decoders.split(","):
            for place, uses in measure(paths, cast(Decoder, decoder), count).items():
                for use in uses:
                    print(f"| {decoder} | {place} | {use.opened:,} | {use.resident:.1f} | {use.files} |", flush=True)
                wrong += [f"{decoder}, {place}: {problem}" for problem in problems(uses)]
    if wrong:
        raise SystemExit("Something is kept:\n" + "\n".join(wrong))


if __name__ == "__main__":
    cyclopts.run(main)
