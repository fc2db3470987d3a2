"""Draw the pictures of docs/benchmark.md: frames of one video of each verb.

vivit experiment motion-benchmark --out set --pictures photos --objects stamps
python -m benchmarks.benchmark_picture set docs/benchmark_medium.jpg
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from vivit.data.readers.listing import open_data
from vivit.video.decode import open_video

FRAMES = 6


def draw(data: Path, out: Path) -> None:
    """The first video of each verb: frames spread over it, and its labels."""
    opened = open_data(data)
    first = {
        video.labels["verb"][0]: video for split in ("test", "train") for video in opened.split(split).videos[::-1]
    }
    rows = (len(first) + 1) // 2
    figure = Figure(figsize=(10, 0.66 * rows), layout="constrained")
    widths = [1.4, *[1] * FRAMES] * 2  # two videos in a row: the labels, then the frames
    grid = figure.subplots(rows, 2 * (FRAMES + 1), width_ratios=widths, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    # Verbs go down the left half, then the right one.
    halves = [*grid[:, : FRAMES + 1], *grid[:, FRAMES + 1 :]]
    for row, verb in zip(halves, sorted(first), strict=False):
        video = first[verb]
        with open_video(video.source) as reader:
            last = reader.info.num_frames - 1
            frames = reader.frames([last * i // (FRAMES - 1) for i in range(FRAMES)])
        words = f"{verb.replace('_', ' ')}".replace("counterclockwise", "counter-\nclockwise").replace(
            " then", "\nthen"
        )
        row[0].text(1, 0.5, f"{words}\n({video.labels['noun'][0]})", va="center", ha="right", fontsize=7)
        for axes, frame in zip(row[1:], frames, strict=False):
            axes.imshow(frame.permute(1, 2, 0).numpy())  # (C, H, W) → (H, W, C)
    figure.savefig(out, dpi=100, pil_kwargs={"quality": 80})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
