"""A model's attention over the frames of the video: dark where it did not look, bright where it did.

Attention is relative to an even share: 1 is what each tubelet would have if the model looked everywhere equally.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from vivit.data.contact_sheet import cut, font_of
from vivit.inference.attention import Box, ClipAttention
from vivit.report.drawing import PRINT, any_text, shortened, write_png
from vivit.report.overlay import FONT, text_size
from vivit.text import printable
from vivit.video.redraw import Drawn

# Perceptually uniform, and its brightness alone shows the value.
COLOURS = matplotlib.colormaps["inferno"]
FAINTEST, STRONGEST = 0.5, 0.75
"""How opaque the colours are, for no attention and for the most."""
# The percentile of the tubelets that gets the brightest colour; a few may have more attention.
TOP = 99.5
MOST_FRAMES = 6


def top_of(clips: Sequence[ClipAttention]) -> float:
    """The attention that gets the brightest colour, for all clips."""
    return max(1.0, float(np.percentile(np.concatenate([clip.map.ravel() * clip.map.size for clip in clips]), TOP)))


def overlaid(picture: np.ndarray, attention: np.ndarray, box: Box, top: float) -> np.ndarray:
    """Lay attention over a picture.

    Args:
        picture: (height, width, 3) uint8.
        attention: (n_h, n_w), relative to an even share.
        box: the part of the picture that the model saw; there is no attention elsewhere.
        top: the attention that gets the brightest colour.

    Returns:
        A new picture of the same size.
    """
    height, width = picture.shape[:2]
    left, upper, right, lower = (round(part * side) for part, side in zip(box, (width, height) * 2, strict=True))
    coarse = Image.fromarray((attention / top).clip(0, 1).astype(np.float32))
    values = np.zeros((height, width), np.float32)
    fine = coarse.resize((right - left, lower - upper), Image.Resampling.BILINEAR)
    values[upper:lower, left:right] = np.asarray(fine)
    opacity = (FAINTEST + (STRONGEST - FAINTEST) * values)[..., None]
    mixed = picture * (1 - opacity) + COLOURS(values)[..., :3] * 255 * opacity
    return mixed.round().astype(np.uint8)


def with_attention(clips: Sequence[ClipAttention], method: str) -> Drawn:
    """Lay attention over each picture, and add a panel below with the label and the scale.

    Pictures outside all clips stay as they are.
    """
    top = top_of(clips)
    panels: dict[str, np.ndarray] = {}

    def drawn(picture: np.ndarray, seconds: float) -> np.ndarray:
        clip = next((clip for clip in clips if clip.start <= seconds < clip.end), None)
        text = ""
        if clip is not None:
            index = int(np.abs(clip.times - seconds).argmin())
            picture = overlaid(picture, clip.map[index] * clip.map.size, clip.box, top)
            named = (
                f"{printable(scored.label)}  {scored.score:.0%}" for scored in (clip.about or clip.labels).values()
            )
            text = f"{method}   {'   '.join(named)}"
        if text not in panels:
            panels[text] = _panel(text, top, picture)
        return np.concatenate([picture, panels[text]])

    return drawn


def _panel(text: str, top: float, picture: np.ndarray) -> np.ndarray:
    """A line of text, and the scale of colours with its ends."""
    height, width = picture.shape[:2]
    size = text_size(height, width)
    font, pad = font_of(FONT, size), size // 2
    panel = Image.new("RGB", (width, size + 2 * pad), "white")
    pen, middle = ImageDraw.Draw(panel), pad + size / 2
    ends = ("0", f"{top:.2g}× even")
    bar = COLOURS(np.linspace(0, 1, max(1, width // 5))[None].repeat(size, axis=0))[..., :3] * 255
    right = round(width - pad - font.getlength(ends[1]))
    pen.text((width - pad, middle), ends[1], PRINT["faint"], font, anchor="rm")
    left = right - pad - bar.shape[1]
    panel.paste(Image.fromarray(bar.round().astype(np.uint8)), (left, pad))
    pen.text((left - pad, middle), ends[0], PRINT["faint"], font, anchor="rm")
    room = round(left - 3 * pad - font.getlength(ends[0]))
    pen.text((pad, middle), cut(text, font, max(0, room)), PRINT["ink"], font, anchor="lm")
    return np.asarray(panel)


def moments(clips: Sequence[ClipAttention]) -> list[tuple[int, int]]:
    """Which frames to show, as clips and their temporal indices: evenly spread over all."""
    every = [(number, index) for number, clip in enumerate(clips) for index in range(len(clip.times))]
    count = min(MOST_FRAMES, len(every))
    return [every[int((place + 0.5) * len(every) / count)] for place in range(count)]


def attention_figure(
    title: str, clips: Sequence[ClipAttention], shown: Sequence[tuple[int, int]], pictures: Sequence[np.ndarray]
) -> Figure:
    """Draw pictures of a video, the attention over them, and its course over time.

    Args:
        shown: for each picture, the clip and the temporal index.
        pictures: (height, width, 3) uint8 each.
    """
    top = top_of(clips)
    height, width = pictures[0].shape[:2]
    row = 8.2 / len(pictures) * height / width
    with any_text():
        figure = Figure(figsize=(9, 2 * row + 2.4), layout="constrained")
        grid = figure.add_gridspec(3, len(pictures), height_ratios=(row, row, 1.4))
        overlays = []
        for column, ((number, index), picture) in enumerate(zip(shown, pictures, strict=True)):
            clip = clips[number]
            above, below = (figure.add_subplot(grid[line, column]) for line in (0, 1))
            above.imshow(picture)
            above.set_title(f"{clip.times[index]:.1f} s", fontsize=8, color=PRINT["faint"])
            below.imshow(overlaid(picture, clip.map[index] * clip.map.size, clip.box, top))
            overlays.append(below)
            for axes in (above, below):
                axes.set_axis_off()
        bar = figure.colorbar(ScalarMappable(Normalize(0, top), COLOURS), ax=overlays, aspect=8, pad=0.01)
        bar.set_label("× even", fontsize=8, color=PRINT["faint"])
        bar.ax.tick_params(labelsize=8, color=PRINT["rule"])
        curve = figure.add_subplot(grid[2, :])
        for clip in clips:
            curve.plot(clip.times, clip.curve * len(clip.times), ".-", color=PRINT["one"], linewidth=1.6)
        curve.axhline(1, color=PRINT["faint"], linewidth=0.8, linestyle=(0, (4, 3)))
        curve.set_ylim(bottom=0)
        curve.set_xlabel("seconds", color=PRINT["faint"], fontsize=9)
        curve.set_ylabel("attention,\n× even", color=PRINT["faint"], fontsize=9)
        curve.tick_params(color=PRINT["rule"], labelcolor=PRINT["ink"], labelsize=9)
        curve.grid(axis="y", color=PRINT["rule"], linewidth=0.6)
        curve.spines[["top", "right", "left"]].set_visible(False)
        curve.spines["bottom"].set_color(PRINT["rule"])
        figure.suptitle(shortened(title, 100), x=0.01, ha="left", fontsize=10, color=PRINT["ink"])
    return figure


def write_attention_png(
    path: Path,
    title: str,
    clips: Sequence[ClipAttention],
    shown: Sequence[tuple[int, int]],
    pictures: Sequence[np.ndarray],
) -> None:
    """Write `attention_figure`. Raises UserError."""
    with any_text():
        write_png(path, attention_figure(title, clips, shown, pictures))
