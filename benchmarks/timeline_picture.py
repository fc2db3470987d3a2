"""Makes the pictures of docs/timeline.md: a video with known camera moves, and its timeline.

.venv/bin/python -m benchmarks.timeline_picture docs

A camera films one of scikit-image's photographs: it pans, stands still, zooms in, rolls and tilts, two seconds each.
The package's model says what happens when.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image

from vivit.experiments.film import Window, encode
from vivit.experiments.footage import FINE_STEP, camera_path
from vivit.video.decode import open_video

RATE, SECONDS = 25, 2.0
SIZE = (320, 240)
# Along x and y in heights of the picture a second, log of the window's size, radians: those of `camera_path`.
MOVES = ((0.25, 0, 0, 0), (0, 0, 0, 0), (0, 0, -0.3, 0), (0, 0, 0, 0.3), (0, -0.25, 0, 0))
SHOWN = 5.0  # seconds into the video
FILE = "camera.mp4"


def film(out: Path) -> None:
    times = np.arange(0, SECONDS * len(MOVES), 1 / RATE)
    fine = np.arange(0, times[-1] + 2 * FINE_STEP, FINE_STEP)
    rates = np.array(MOVES)[(fine / SECONDS).astype(int).clip(0, len(MOVES) - 1)]
    window = Window.along(camera_path(rates, np.zeros_like(rates), times), *SIZE)
    width, height = window.canvas_size
    photograph = torch.from_numpy(skimage.data.coffee()).permute(2, 0, 1)[None].float()
    clip = window.show(F.interpolate(photograph, (height, width), mode="bilinear", antialias=True))
    encode(clip.clamp(0, 255).byte().permute(0, 2, 3, 1).numpy(), out, RATE, 20)


def draw(out: Path) -> None:
    """Write timeline.png, and timeline_frame.jpg: a frame of the video with the timeline below it."""
    with TemporaryDirectory() as folder:
        film(Path(folder) / FILE)
        for made in ("timeline.png", "shown.mp4"):
            subprocess.run([sys.executable, "-m", "vivit", "timeline", FILE, "--out", made], cwd=folder, check=True)
        with Image.open(Path(folder) / "timeline.png") as drawn:
            drawn.convert("RGB").quantize(128).save(out / "timeline.png", optimize=True)
        with open_video(Path(folder) / "shown.mp4") as shown:
            frame = shown.frames([round(SHOWN * RATE)])[0]
    Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()).save(out / "timeline_frame.jpg", quality=85)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
