"""How well `vivit search` finds clips known to be alike, and how long an exact search takes.

    .venv/bin/python -m benchmarks.search recall [--clips 36] [--videos FOLDER] [--sheet search.jpg]
    .venv/bin/python -m benchmarks.search time [--windows 1000000] [--width 384]

"recall" films the scenes of `vivit experiment camera-motion`, four clips of each motion, writes five variants of each,
and queries the index of all these files with each clip, whose true neighbours are its five variants. Last, among the
plain clips alone, the true neighbours are those with the same motion. With --videos, pieces of 2.5 seconds of real
videos are a second set.
"""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import cyclopts
import numpy as np
from PIL import Image

import vivit
from benchmarks import harness
from vivit.data.readers.folders import find_videos
from vivit.experiments.camera_motion import CLASSES
from vivit.experiments.film import encode
from vivit.experiments.footage import make_footage
from vivit.inference.search import most_similar
from vivit.report.search_sheet import write_search_sheet
from vivit.video.decode import open_video

PIECE = 2.5
"""Seconds."""
RANKS = (5, 10)
NEAREST = 5
app = cyclopts.App(help=__doc__)


def _cropped(frames: np.ndarray) -> np.ndarray:
    """The central 80 % of each side, with even sizes."""
    height, width = frames.shape[1:3]
    top, left = height // 10, width // 10
    return frames[:, top : top + (height - 2 * top) // 2 * 2, left : left + (width - 2 * left) // 2 * 2]


# The change to the frames (T, H, W, 3), to the frame rate, and x264's rate factor.
WAYS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int, int]] = {
    "poor quality": (lambda frames: frames, 1, 40),
    "half the size": (lambda frames: frames[:, ::2, ::2][:, : -(-frames.shape[1] // 4) * 2], 1, 24),
    "cropped": (_cropped, 1, 24),
    "half the frame rate": (lambda frames: frames[::2], 2, 24),
    "darker": (lambda frames: (frames * 0.6).astype(np.uint8), 1, 24),
}


def read(path: Path, first: int = 0, count: int | None = None) -> tuple[np.ndarray, int]:
    """(T, H, W, 3) uint8 with even sides, and the frame rate."""
    with open_video(path) as video:
        stop = video.info.num_frames if count is None else first + count
        frames = video.frames(range(first, stop)).permute(0, 2, 3, 1).numpy()
        rate = round(video.info.frame_rate)
    return np.ascontiguousarray(frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]), rate


def cut(videos: Path, folder: Path) -> None:
    """Write non-overlapping pieces of videos."""
    folder.mkdir()
    for path in map(Path, find_videos(str(videos)).videos):
        with open_video(path) as video:
            length = round(PIECE * video.info.frame_rate)
            starts = range(0, video.info.num_frames - length + 1, length)
        for start in starts:
            frames, rate = read(path, start, length)
            scale = max(1, round(min(frames.shape[1:3]) / 240))
            frames = np.ascontiguousarray(frames[:, ::scale, ::scale])
            even = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
            encode(np.ascontiguousarray(even), folder / f"{path.stem}-{start:05d}.mp4", rate, 18)


def write_others(clips: list[Path], folder: Path) -> None:
    """Write each clip in all WAYS, as `<clip>.<number of the way>.mp4`."""
    for clip in clips:
        frames, rate = read(clip)
        for number, (change, slower, quality) in enumerate(WAYS.values()):
            changed = change(frames)
            even = changed[:, : changed.shape[1] // 2 * 2, : changed.shape[2] // 2 * 2]
            encode(np.ascontiguousarray(even), folder / f"{clip.stem}.{number}.mp4", rate // slower, quality)


def measure(name: str, clips: list[Path], folder: Path, index: vivit.Index) -> None:
    """Print a row for each way, and one for all."""
    ranks = {
        clip: {match.video.name: rank for rank, match in enumerate(index.search(clip, top=max(RANKS)), start=1)}
        for clip in clips
    }
    within = {
        way: [[ranks[clip].get(f"{clip.stem}.{number}.mp4", 1 << 30) <= rank for clip in clips] for rank in RANKS]
        for number, way in enumerate(WAYS)
    }
    for way, found in {**within, "all": np.mean(list(within.values()), axis=0).tolist()}.items():
        print(f"| {name} | {way} | {len(clips)} | {' | '.join(f'{np.mean(each):.1%}' for each in found)} |", flush=True)


def same_motion(clips: list[Path], index: vivit.Index) -> None:
    """Print how many of the other clips of the same motion are among the nearest."""
    found = sum(match.video.parent == clip.parent for clip in clips for match in index.search(clip, top=NEAREST))
    there = sum(sum(other.parent == clip.parent for other in clips) - 1 for clip in clips)
    chance = NEAREST / (len(clips) - 1)
    print(f"\nOther clips of the same motion among the {NEAREST} nearest: {found / there:.1%}; by chance {chance:.1%}.")


@app.command
def recall(
    clips: int = 36, videos: Path | None = None, seed: int = 1, model: str = "camera-motion", sheet: Path | None = None
) -> None:
    """Make the sets, run the queries, and print tables in Markdown.

    Args:
        clips: number of generated clips.
        videos: a folder with real videos.
        seed: of the generated clips.
        sheet: a .jpg or .png file for a picture of one query and its answers.
    """
    print(f"{harness.setting('av')}\n")
    heads = "| ".join(f"recall@{rank} " for rank in RANKS)
    print(f"| clips | written again | queries | {heads}|\n|---|---|---|---|---|", flush=True)
    predictor = vivit.Predictor(model)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_footage(folder / "made", pictures=None, videos=None, count=clips, seed=seed)
        if videos is not None:
            cut(videos, folder / "real")
        for name in ("made", "real"):
            sources = (
                [Path(path) for path in find_videos(str(folder / name)).videos] if (folder / name).is_dir() else []
            )
            if not sources:
                continue
            if name == "made":
                plain = vivit.Index(folder / "plain.index", predictor)
                plain.update(folder / name)
            write_others(sources, folder / name)
            index = vivit.Index(folder / f"{name}.index", predictor)
            index.update(folder / name)
            measure(name, sources, folder, index)
            if sheet is not None and name == "made":
                query = sources[0]
                write_search_sheet(folder / "sheet.png", plain.search(query, top=3), query)
                Image.open(folder / "sheet.png").save(sheet, quality=80)
        if clips > len(CLASSES):
            same_motion([plain.files.source(n) for n in range(len(plain.files.videos))], plain)


@app.command(name="time")
def time_of(windows: int = 1_000_000, width: int = 384) -> None:
    """Time the search among random vectors in a file."""
    print(f"{harness.setting('numpy')}\n")
    rng = np.random.default_rng(0)
    print("| windows | width | windows of the query | s | CPU s |\n|---|---|---|---|---|", flush=True)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        vectors = np.lib.format.open_memmap(path, "w+", np.float32, (windows, width))
        for at in range(0, windows, 1 << 14):
            vectors[at : at + (1 << 14)] = rng.standard_normal(vectors[at : at + (1 << 14)].shape, np.float32)
        vectors.flush()
        held = np.load(path, mmap_mode="r")
        for count in (1, 10, 100):
            queries = rng.standard_normal((count, width), np.float32)
            clock, processor = time.perf_counter(), time.process_time()
            most_similar(held, queries)
            clock, processor = time.perf_counter() - clock, time.process_time() - processor
            print(f"| {windows:,} | {width} | {count} | {clock:.2f} | {processor:.2f} |", flush=True)


if __name__ == "__main__":
    app()
