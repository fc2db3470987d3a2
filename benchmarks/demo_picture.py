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
    figure = Figure(figsize=(10, 1.15 * (len(videos) + 1) // 2), layout="constrained")
    columns = figure.subfigures(1, 2)
    for column, part in zip(columns, (videos[::2], videos[1::2]), strict=True):
        grid = column.subplots((len(videos) + 1) // 2, FRAMES + 1, width_ratios=[1] * FRAMES + [1.7], squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for row, file in zip(grid, part, strict=False):
            with open_video(file) as video:
                last = video.info.num_frames - 1
                frames = video.frames([last * i // (FRAMES - 1) for i in range(FRAMES)])
            for axes, frame in zip(row, frames, strict=False):
                axes.imshow(frame.permute(1, 2, 0).numpy())  # (C, H, W) → (H, W, C)
            best = predictor.predict(file, VIEWS).labels[0]
            right = best.label == file.parent.name
            words = f"{best.label.replace('_', ' ')}\n{best.score:.0%}"
            row[-1].text(0, 0.5, words, va="center", fontsize=10, color="#1a7f37" if right else "#cf222e")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
