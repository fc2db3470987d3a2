"""Where the time goes when a training clip is read: opening, decoding, conversion.

    .venv/bin/python -m benchmarks.decoding_profile [FILES ...] [--rounds 5]

Reads training clips of FILES and of the generated videos, as `benchmarks.decoding` does. Prints CPU milliseconds per
clip on one core: the mean of four clips, and the median of the rounds.
"""

import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import cyclopts

from benchmarks.decoding import SHORT_SIDE, passes_over
from benchmarks.harness import on_one_core, setting
from benchmarks.videos import FOLDER, SIZES, generated
from vivit.video import display
from vivit.video.decode import open_video


def profile(path: Path, numbers: list[int]) -> tuple[float, float, float]:
    """Seconds for opening, for seeking and decoding, and for conversion and scaling."""
    converting = 0.0
    draw = display.draw

    def timed(*args: Any) -> None:
        nonlocal converting
        begun = time.process_time()
        draw(*args)
        converting += time.process_time() - begun

    with patch.object(display, "draw", timed):
        begun = time.process_time()
        with open_video(path) as video:
            opened = time.process_time()
            video.frames(numbers, SHORT_SIDE)
            read = time.process_time()
    return opened - begun, read - opened - converting, converting


def main(files: tuple[Path, ...] = (), /, rounds: int = 5, folder: Path = FOLDER) -> None:
    """Measure and print a table in Markdown.

    Args:
        files: videos to read in addition to the generated ones.
        rounds: measured rounds, after a warm-up.
        folder: holds the generated videos.
    """
    on_one_core()
    print(setting("av"))
    print("\n| file | opening, ms | decoding, ms | conversion and scaling, ms |\n|---|---|---|---|")
    for path in [*files, *(generated(size, folder) for size in SIZES)]:
        passes = passes_over(path, "training")
        taken = [
            [sum(part) / len(passes) for part in zip(*(profile(path, numbers) for numbers in passes), strict=True)]
            for _ in range(rounds + 1)
        ]
        parts = zip(*taken[1:], strict=True)
        print(f"| {path.name} | " + " | ".join(f"{1000 * median(part):.1f}" for part in parts) + " |", flush=True)


if __name__ == "__main__":
    cyclopts.run(main)
