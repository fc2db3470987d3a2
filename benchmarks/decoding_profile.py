"""Where the time goes when a training clip is read: opening, decoding on the way to its frames, making pictures.

    .venv/bin/python -m benchmarks.decoding_profile [FILES ...] [--rounds 5]

Training clips as in `benchmarks.decoding`, of FILES and the generated videos: processor milliseconds of a clip, on one
core, as means of four clips and medians of the rounds.
"""

import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import cyclopts

from benchmarks.decoding import SHORT_SIDE, passes_over
from benchmarks.setting import on_one_core, setting
from benchmarks.videos import FOLDER, SIZES, generated
from vivit.video import decode_pyav
from vivit.video.decode import open_video


def profile(path: Path, numbers: list[int]) -> tuple[float, float, float]:
    """Seconds of opening, of seeking and decoding, and of conversion and scaling."""
    converting = 0.0
    draw = decode_pyav.draw

    def timed(*args: Any) -> None:
        nonlocal converting
        begun = time.process_time()
        draw(*args)
        converting += time.process_time() - begun

    with patch.object(decode_pyav, "draw", timed):
        begun = time.process_time()
        with open_video(path) as video:
            opened = time.process_time()
            video.frames(numbers, SHORT_SIDE)
            read = time.process_time()
    return opened - begun, read - opened - converting, converting


def main(files: tuple[Path, ...] = (), /, rounds: int = 5, folder: Path = FOLDER) -> None:
    """Measure and print a table in Markdown.

    Args:
        files: videos to read besides the generated ones.
        rounds: measured after one to warm up.
        folder: where the generated videos are kept.
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
