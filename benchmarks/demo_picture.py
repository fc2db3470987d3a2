"""Draw the README's picture: frames of the demo's held-out videos, each row with the model's answer.

vivit demo
.venv/bin/python -m benchmarks.demo_picture demo docs/demo.png
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

import vivit
from vivit.video.decode import open_video

FRAMES = 4
VIEWS = "4x1"


def draw(demo: Path, out: Path) -> None:
    """One held-out video of each motion: frames spread over it, its label and the model's first answer."""
    predictor = vivit.Predictor(demo / "factorised_encoder")
    videos = [sorted(folder.glob("*.mp4"))[0] for folder in sorted((demo / "videos" / "val").iterdir())]
    rows = (len(videos) + 1) // 2
    figure = Figure(figsize=(10, 0.8 * rows), layout="constrained")
    widths = [*[1] * FRAMES, 1.7] * 2  # two videos in a row: their frames, then the answer
    grid = figure.subplots(rows, 2 * (FRAMES + 1), width_ratios=widths, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for row, file in zip(grid.reshape(-1, FRAMES + 1), videos, strict=False):
        with open_video(file) as video:
            last = video.info.num_frames - 1
            frames = video.frames([last * i // (FRAMES - 1) for i in range(FRAMES)])
        for axes, frame in zip(row, frames, strict=False):
            axes.imshow(frame.permute(1, 2, 0).numpy())  # (C, H, W) → (H, W, C)
        best = predictor.predict(file, VIEWS).labels[0]
        colour = "#1a7f37" if best.label == file.parent.name else "#cf222e"
        row[-1].text(0, 0.5, f"{best.label.replace('_', ' ')}\n{best.score:.0%}", va="center", color=colour)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
