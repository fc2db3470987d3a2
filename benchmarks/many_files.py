"""How long it takes to find the videos among many files, and to record their state. Linux only.

    .venv/bin/python -m benchmarks.many_files [--count 100000] [--states 10000]

Class folders are filled with files of one kind, and read as a data set: named videos; videos, text and noise without an
extension; and videos and noise in equal parts, all of which must be opened. Then the state and samples of videos of
60 kB and of folders of 30 frames are taken, as before a run. All files are in the page cache.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cyclopts
import numpy as np

from benchmarks.harness import setting
from benchmarks.opens import make_files
from vivit.data.file_state import file_samples, file_states, sample_size
from vivit.data.readers.listing import open_data
from vivit.errors import UserError
from vivit.video.source import VideoSource

CLASSES = 100
FRAMES = 30


def seconds(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def find(folder: Path, count: int, name: str, contents: list[bytes]) -> str:
    """Make the files and search them for videos; return what was found, in words."""
    for number in range(count):
        path = folder / f"class{number % CLASSES}" / name.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[number // CLASSES % len(contents)])
    found: list[str] = []

    def look() -> None:
        try:
            found.append(f"{len(open_data(folder).videos):,} videos")
        except UserError:
            found.append("no videos")

    took = seconds(look)
    return f"{took:7.1f} s   {found[0]}"


def take_states(sources: list[VideoSource]) -> str:
    states = seconds(lambda: file_states(sources))
    samples = seconds(lambda: file_samples(sources, sample_size(len(sources))))
    return f"states {states:6.2f} s   samples {samples:6.2f} s"


def main(count: int = 100_000, states: int = 10_000) -> None:
    """Measure and print a line for each kind.

    Args:
        count: number of files in the class folders.
        states: number of files, and of folders of frames, whose state is taken.
    """
    print(setting("av"))
    rng = np.random.default_rng(0)
    noise, text = rng.bytes(20_000), b"Not a video.\n" * 20
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        video = make_files(folder)[0].read_bytes()
        kinds = {
            "named videos": ("{}.mp4", [video]),
            "videos": ("{}", [video]),
            "text": ("{}", [text]),
            "noise": ("{}", [noise]),
            "videos and noise": ("{}", [video, noise]),
        }
        for number, (kind, (name, contents)) in enumerate(kinds.items()):
            print(f"{count:,} files, {kind:17s}{find(folder / str(number), count, name, contents)}", flush=True)
        files: list[VideoSource] = []
        frames: list[VideoSource] = []
        for number in range(states):
            files.append(folder / f"{number}.mp4")
            (folder / f"{number}.mp4").write_bytes(noise * 3)
            frames.append(folder / f"frames{number}")
            (folder / f"frames{number}").mkdir()
            for frame in range(FRAMES):
                (folder / f"frames{number}" / f"{frame}.jpg").write_bytes(noise[: 100 + frame])
        print(f"{states:,} files of 60 kB             {take_states(files)}")
        print(f"{states:,} folders of {FRAMES} frames         {take_states(frames)}")


if __name__ == "__main__":
    cyclopts.run(main)
