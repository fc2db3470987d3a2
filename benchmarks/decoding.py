"""Clips per second that one core reads from video files: this package, PyAV, torchcodec, decord and transformers.

    .venv/bin/python -m benchmarks.decoding [FILES ...] [--sizes 320,720,1080] [--only ours,torchcodec] [--rounds 5]

One process on one core reads files from the page cache. The contenders take turns in every round, and each opens the
file anew. For training, they read four clips of 32 frames at stride 2, shorter side 256, one by one, from random starts
in the quarters of the video; the starts are the same for all contenders and rounds. For evaluation, they read four
evenly spread clips in one pass, with three crops each. Results are medians over rounds; a ratio is the median of the
rounds' ratios, with its quartiles. CPU seconds stand beside wall-clock seconds, because other work on the machine
affects them less. The frames of each contender are compared with plain decoding and resizing in float64; the command
fails if ours differ.
"""

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import av
import cyclopts
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import on_one_core, setting
from benchmarks.videos import FOLDER, generated
from vivit.inference.speed import Seconds, spread, take_turns, time_of
from vivit.video.clips import clip_indices, view_crops, view_starts
from vivit.video.decode import open_video

NUM_FRAMES, STRIDE, SHORT_SIDE, CROP = 32, 2, 256, 224
CLIPS, CROPS = 4, 3
LIMIT = 2.0  # of 255: the largest mean difference between our frames and plainly decoded ones
COMPARED = 8  # compare every eighth frame of a clip

CPU = torch.device("cpu")
Workload = Literal["training", "evaluation"]
WORKLOADS: tuple[Workload, ...] = ("training", "evaluation")
Read = Callable[[Path, list[int], tuple[int, int]], Tensor]
"""Frames with these numbers at this (height, width), (N, 3, height, width) uint8; from transformers' processor the
central crop, (N, 3, 224, 224) float."""


def ours(path: Path, numbers: list[int], size: tuple[int, int]) -> Tensor:
    with open_video(path) as video:
        return video.frames(numbers, min(size))


def ours_torchcodec(path: Path, numbers: list[int], size: tuple[int, int]) -> Tensor:
    with open_video(path, decoder="torchcodec") as video:
        return video.frames(numbers, min(size))


def pyav_all(path: Path, numbers: list[int], size: tuple[int, int]) -> Tensor:
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return _processed([frames[min(number, len(frames) - 1)] for number in numbers])


def pyav_documented(path: Path, numbers: list[int], size: tuple[int, int]) -> Tensor:
    wanted, last = set(numbers), max(numbers)
    frames: dict[int, np.ndarray] = {}
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                frames[number] = frame.to_ndarray(format="rgb24")
            if number == last:
                break
    return _processed([frames[min(number, max(frames))] for number in numbers])


def _processed(frames: list[np.ndarray]) -> Tensor:
    from transformers import VivitImageProcessor

    processed: Tensor = VivitImageProcessor()(frames, return_tensors="pt")["pixel_values"][0]
    return processed


def torchcodec_exact(path: Path, numbers: list[int], size: tuple[int, int]) -> Tensor:
    return _torchcodec(path, numbers, size, "exact")


def torchcodec_approximate(path: Path, numbers: list[int], size: tuple[int, int]) -> Tensor:
    return _torchcodec(path, numbers, size, "approximate")


def _torchcodec(path: Path, numbers: list[int], size: tuple[int, int], seek: Literal["exact", "approximate"]) -> Tensor:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode=seek)
    frames = decoder.get_frames_at([min(number, len(decoder) - 1) for number in numbers]).data
    # PyTorch's fastest way: bytes with channels last, as they are in memory.
    return frames if frames.shape[-2:] == size else F.interpolate(frames, size, mode="bilinear", antialias=True)


def torchcodec_resizing(path: Path, numbers: list[int], size: tuple[int, int]) -> Tensor:
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="approximate", transforms=[Resize(size)])
    return decoder.get_frames_at([min(number, len(decoder) - 1) for number in numbers]).data


def decord(path: Path, numbers: list[int], size: tuple[int, int]) -> Tensor:
    # Imported by name, because the tests do not install it.
    reader = importlib.import_module("decord").VideoReader(str(path), height=size[0], width=size[1], num_threads=1)
    frames = reader.get_batch([min(number, len(reader) - 1) for number in numbers]).asnumpy()
    return torch.from_numpy(frames).permute(0, 3, 1, 2)  # (N, H, W, 3) → (N, 3, H, W)


CONTENDERS: dict[str, tuple[Read, str]] = {
    "ours": (ours, "`vivit`"),
    "ours-torchcodec": (ours_torchcodec, '`vivit`, `decoder="torchcodec"`'),
    "pyav-all": (pyav_all, "PyAV, every frame to RGB, and transformers' processor"),
    "pyav-documented": (pyav_documented, "PyAV as in transformers' documentation, and its processor"),
    "torchcodec": (torchcodec_exact, "torchcodec, exact, and `F.interpolate`"),
    "torchcodec-approximate": (torchcodec_approximate, "torchcodec, approximate, and `F.interpolate`"),
    "torchcodec-resizing": (torchcodec_resizing, "torchcodec, approximate, its own resizing"),
    "decord": (decord, "decord, its own resizing"),
}
OURS = ("ours", "ours-torchcodec")
COLUMNS = (
    *("file", "workload", "reader", "clips/s", "clips per CPU second"),
    *("time it takes ÷ ours, clock", "÷ ours, CPU", "Δ of 255"),
)


def size_read(path: Path) -> tuple[int, int]:
    """(height, width) with the shorter side SHORT_SIDE."""
    with open_video(path) as video:
        height, width = video.info.height, video.info.width
    scale = SHORT_SIDE / min(height, width)
    return round(height * scale), round(width * scale)


def passes_over(path: Path, workload: Workload) -> list[list[int]]:
    """Frame numbers to read, for each time the file is opened."""
    with open_video(path) as video:
        count = video.info.num_frames
    starts = view_starts(count, NUM_FRAMES, STRIDE, CLIPS)
    if workload == "training":
        rng = np.random.default_rng(0)
        starts = [int((quarter + rng.random()) * (starts[-1] + 1) / CLIPS) for quarter in range(CLIPS)]
    clips = [clip_indices(count, NUM_FRAMES, STRIDE, start) for start in starts]
    return clips if workload == "training" else [[number for clip in clips for number in clip]]


def measure(path: Path, workload: Workload, names: Sequence[str], rounds: int) -> dict[str, list[Seconds]]:
    """Seconds of each contender in each round, after a warm-up."""
    passes, size = passes_over(path, workload), size_read(path)

    def read(name: str) -> Tensor:
        for numbers in passes:
            frames = CONTENDERS[name][0](path, numbers, size)
            if workload == "evaluation" and frames.shape[-2:] == size:
                # transformers' processor takes only the central crop.
                frames = torch.stack(view_crops(frames, (CROP, CROP), CROPS), dim=1)
        return frames

    return take_turns({name: partial(time_of, partial(read, name), CPU) for name in names}, rounds)


def differences(path: Path, names: Sequence[str]) -> dict[str, float]:
    """Mean difference, of 255, between the frames of each contender and plainly decoded ones."""
    size = size_read(path)
    numbers = passes_over(path, "training")[-1]
    plain = read_plainly(path, numbers[::COMPARED], size)
    found = {}
    for name in names:
        frames, expected = CONTENDERS[name][0](path, numbers, size)[::COMPARED].double(), plain
        if frames.shape[-2:] != size:
            expected = view_crops(plain, (CROP, CROP), 1)[0]
            # transformers' processor rescales to [-1, 1], then rescales again as if those values were in [0, 1].
            frames = ((frames * 0.5 + 0.5) + 1) * 127.5
        found[name] = float((frames - expected).abs().mean())
    return found


def read_plainly(path: Path, numbers: Sequence[int], size: tuple[int, int]) -> Tensor:
    """The frames in the middle of these intervals of the time grid, in float64: (N, 3, height, width)."""
    shown: dict[int, av.VideoFrame] = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate, start = float(stream.average_rate or 25), None
        for count, frame in enumerate(container.decode(stream)):
            time = count / rate if frame.time is None else frame.time
            start = time if start is None else start
            shown.update({number: frame for number in numbers if time - start <= (number + 0.5) / rate})
        pictures = torch.stack([_rgb(shown[number]) for number in numbers])
    # A triangle filter that widens with the reduction, which every contender calls bilinear.
    return F.interpolate(pictures, size, mode="bilinear", antialias=True)


def _rgb(frame: av.VideoFrame) -> Tensor:
    """(3, H, W) float64 of 0 to 255, by the formulas of ITU-R BT.601 or BT.709."""
    frame = frame if frame.format.name in ("yuv420p", "yuvj420p") else frame.reformat(format="yuv420p")
    planes = [
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:, : plane.width]
        for plane in frame.planes
    ]
    luma, *chroma = (torch.from_numpy(plane.astype(np.float64)) for plane in planes)
    if frame.color_range == 2:  # full range, 0 to 255
        y, (blue, red) = luma, [(plane - 128) / 127.5 for plane in chroma]
    else:
        y, (blue, red) = (luma - 16) * 255 / 219, [(plane - 128) / 112 for plane in chroma]
    blue, red = (_full_size(plane, luma.shape[0], luma.shape[1]) * 127.5 for plane in (blue, red))
    of_red, of_blue = (0.2126, 0.0722) if frame.colorspace == 1 else (0.299, 0.114)
    r, b = y + 2 * (1 - of_red) * red, y + 2 * (1 - of_blue) * blue
    g = (y - of_red * r - of_blue * b) / (1 - of_red - of_blue)
    return torch.stack([r, g, b]).clamp(0, 255)


def _full_size(plane: Tensor, height: int, width: int) -> Tensor:
    """Upsample half-size chroma, whose samples lie between two rows and on every other pixel of a row."""
    rows = F.interpolate(plane[None, None], (2 * plane.shape[0], plane.shape[1]), mode="bilinear")[0, 0]
    after = torch.cat([rows[:, 1:], rows[:, -1:]], dim=1)
    return torch.stack([rows, (rows + after) / 2], dim=2).flatten(1)[:height, :width]


def table(path: Path, workload: Workload, taken: Mapping[str, Sequence[Seconds]], found: Mapping[str, float]) -> str:
    """Rows in Markdown, under `COLUMNS`."""
    rows = []
    for name, seconds in taken.items():
        cells = [path.name, workload, CONTENDERS[name][1]]
        for kind in ("clock", "processor"):
            cells.append(f"{CLIPS / median(getattr(one, kind) for one in seconds):.2f}")
        for kind in ("clock", "processor"):
            pairs = zip(seconds, taken.get("ours", []), strict=False)
            ratios = [getattr(theirs, kind) / getattr(own, kind) for theirs, own in pairs if name != "ours"]
            cells.append(with_spread(ratios) if ratios else "")
        rows.append("| " + " | ".join([*cells, f"{found[name]:.2f}"]) + " |")
    return "\n".join(rows)


def with_spread(values: Sequence[float]) -> str:
    """The median, and the quartiles of several values."""
    found = spread(values)
    quartiles = f" ({found['low']:.2f}–{found['high']:.2f})" if len(values) > 1 else ""
    return f"{found['median']:.2f}{quartiles}"


def installed(names: Sequence[str]) -> list[str]:
    """The contenders whose packages can be imported."""
    found = []
    for name in names:
        needed = {"decord": "decord", "pyav-all": "transformers", "pyav-documented": "transformers"}
        try:
            importlib.import_module("torchcodec" if "torchcodec" in name else needed.get(name, "av"))
        except (ImportError, RuntimeError, OSError) as error:
            print(f"{name} is left out: {str(error).splitlines()[0]}")
            continue
        found.append(name)
    return found


def main(
    files: tuple[Path, ...] = (),
    /,
    sizes: str = "320,720,1080",
    only: str = ",".join(CONTENDERS),
    workloads: str = ",".join(WORKLOADS),
    rounds: int = 5,
    folder: Path = FOLDER,
) -> None:
    """Measure and print a table in Markdown.

    Args:
        files: videos to read in addition to the generated ones.
        sizes: of the generated videos, separated by commas; empty for none.
        only: contenders, separated by commas.
        workloads: separated by commas.
        rounds: measured rounds, after a warm-up.
        folder: holds the generated videos.
    """
    on_one_core()
    warnings.filterwarnings("ignore")
    names = installed(only.split(","))
    paths = [*files, *(generated(size, folder) for size in sizes.split(",") if size)]
    print(setting("av", "torchcodec", "decord", "transformers"))
    clip = f"clips of {NUM_FRAMES} frames at stride {STRIDE}, shorter side {SHORT_SIDE}"
    print(f"One process on one core, {clip}; medians of {rounds} rounds.\n")
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    wrong = []
    for path in paths:
        found = differences(path, names)
        wrong += [f"{path}, {name}: {found[name]:.2f}" for name in names if name in OURS and found[name] > LIMIT]
        for workload in WORKLOADS:
            if workload in workloads.split(","):
                print(table(path, workload, measure(path, workload, names, rounds), found), flush=True)
    if wrong:
        raise SystemExit(f"Further than {LIMIT} of 255 from the plain reading:\n" + "\n".join(wrong))


if __name__ == "__main__":
    cyclopts.run(main)
