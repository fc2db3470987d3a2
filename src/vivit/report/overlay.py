"""A model's answers drawn on the video: its labels, or the timeline below the picture."""

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from vivit.data.contact_sheet import cut, font_of
from vivit.errors import UserError
from vivit.files import write_files
from vivit.inference.predictor import Prediction
from vivit.inference.timeline import Segment, Timeline
from vivit.labels import ONLY_HEAD
from vivit.progress import console, progress_bar
from vivit.report.drawing import PRINT
from vivit.report.timeline_page import INKS, colours_of
from vivit.text import clock, printable
from vivit.video.decode import Decoder, open_video
from vivit.video.redraw import Drawn, redraw

FONT = "DejaVuSans"
# A fraction of the picture's shorter side, and pixels.
TEXT_SIZE, LEAST_TEXT = 1 / 22, 10
SHADE = (0, 0, 0, 150)
MOST_TRACKS = 8
LEAST_SHOWN = 0.005
FIGURE_SPACE = "\u2007"


def check_overlay(path: Path, source: Path) -> None:
    """Raise UserError if the drawn video cannot be written to this path."""
    if path.suffix.lower() != ".mp4":
        raise UserError(f"{path}: a drawn video is an MP4 file; its name must end in .mp4")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; create it first")
    if path.exists() and source.exists() and path.samefile(source):
        raise UserError(f"{path}: is the video itself; write to another file")


def write_overlay(path: Path, source: Path, drawn: Drawn, decoder: Decoder) -> None:
    """Write the video with the drawing on it, with a progress bar on a terminal. Raises VideoError or UserError."""
    with (
        open_video(source, decoder) as video,
        progress_bar("draw", video.info.num_frames, screen=console(stderr=True)) as update,
    ):
        done = count(1)

        def counted(picture: np.ndarray, seconds: float) -> np.ndarray:
            update(next(done))
            return drawn(picture, seconds)

        write_files({path: lambda target: redraw(video, target, counted)})


def with_labels(prediction: Prediction, top: int) -> Drawn:
    """Draw the labels of a video, the most probable first, in the upper left corner of each picture.

    Labels that would read 0 % are left out, except the first: they would only hide the picture.
    """
    lines = [
        f"{'' if head == ONLY_HEAD else f'{head}  '}{percent(scored.score)}  {printable(scored.label)}"
        for head, labels in prediction.heads.items()
        for rank, scored in enumerate(labels[:top])
        if rank == 0 or scored.score >= LEAST_SHOWN
    ]
    boxes: list[tuple[np.ndarray, np.ndarray]] = []

    def drawn(picture: np.ndarray, seconds: float) -> np.ndarray:
        if not boxes:
            boxes.append(_box(lines, picture))
        colour, opacity = boxes[0]
        height, width = opacity.shape[:2]
        under = picture[:height, :width]
        under[:] = (under * (1 - opacity) + colour * opacity + 0.5).astype(np.uint8)
        return picture

    return drawn


def percent(score: float) -> str:
    """A percentage, equally wide for all scores; a plain space would be narrower than a digit."""
    return f"{score:4.0%}".replace(" ", FIGURE_SPACE)


def _box(lines: Sequence[str], picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lines on a shaded box no larger than the picture: (h, w, 3) RGB and (h, w, 1) opacity, 0 to 1."""
    height, width = picture.shape[:2]
    size = text_size(height, width)
    font, pad = font_of(FONT, size), size // 2
    lines = [cut(line, font, width - 2 * pad) for line in lines]
    wide = min(width, round(max(font.getlength(line) for line in lines)) + 2 * pad)
    step = round(1.35 * size)
    box = Image.new("RGBA", (wide, min(height, len(lines) * step + pad)), SHADE)
    pen = ImageDraw.Draw(box)
    for number, line in enumerate(lines):
        pen.text((pad, number * step + step / 2 + pad / 2), line, "white", font, anchor="lm")
    pixels = np.asarray(box, np.float32)
    return pixels[..., :3], pixels[..., 3:] / 255


def with_timeline(timeline: Timeline, segments: Sequence[Segment]) -> Drawn:
    """Add a panel below each picture: the current labels, and all segments with a mark at the current time."""
    colours = {key: ImageColor.getrgb(colour) for key, colour in colours_of(segments, list(INKS)).items()}
    tracks = _tracks(timeline, segments)
    panels: list[Image.Image] = []

    def drawn(picture: np.ndarray, seconds: float) -> np.ndarray:
        height, width = picture.shape[:2]
        size = text_size(height, width)
        font, pad = font_of(FONT, size), _pad(size, width)
        if not panels:
            panels.append(_panel(timeline, tracks, colours, width, size))
        panel = panels[0].copy()
        pen = ImageDraw.Draw(panel)
        middle = pad + size / 2
        time = clock(seconds)
        pen.text((width - pad, middle), time, PRINT["faint"], font, anchor="rm")
        left, end = float(pad), width - 2 * pad - font.getlength(time)
        for segment in (segment for track in tracks for segment in track if segment.start <= seconds < segment.end):
            text = cut(f"{printable(segment.label)}  {segment.score:.0%}", font, int(end - left))
            if text == "…":
                break
            pen.text((left, middle), text, colours[segment.head, segment.label], font, anchor="lm")
            left += font.getlength(text) + size
        place = _place(seconds, timeline.duration, width, pad)
        top, bottom = 2 * pad + size - pad // 2, panel.height - pad + pad // 2
        pen.line([(place, top), (place, bottom)], PRINT["ink"], max(1, size // 6))
        return np.concatenate([picture, np.asarray(panel)])

    return drawn


def _panel(
    timeline: Timeline,
    tracks: Sequence[Sequence[Segment]],
    colours: Mapping[tuple[str, str], tuple[int, ...]],
    width: int,
    size: int,
) -> Image.Image:
    """The part of the panel that is the same for every picture."""
    pad, bar = _pad(size, width), size // 2
    height = 3 * pad + size + len(tracks) * (bar + pad) - pad
    panel = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(panel)
    for number, track in enumerate(tracks):
        top = 2 * pad + size + number * (bar + pad)
        pen.rectangle([(pad, top), (width - pad, top + bar)], PRINT["rule"])
        for segment in track:
            left, right = (_place(time, timeline.duration, width, pad) for time in (segment.start, segment.end))
            pen.rectangle([(left, top), (right, top + bar)], colours[segment.head, segment.label])
    return panel


def _tracks(timeline: Timeline, segments: Sequence[Segment]) -> list[list[Segment]]:
    """The segments of each head; with several labels at one time (multi_label), those of each of the longest labels."""
    tracks: dict[tuple[str, str], list[Segment]] = {}
    if not timeline.labels.multi_label:
        tracks = {(head, ""): [] for head in timeline.labels.heads}
    for segment in segments:
        label = segment.label if timeline.labels.multi_label else ""
        tracks.setdefault((segment.head, label), []).append(segment)
    longest = sorted(tracks, key=lambda key: -sum(segment.end - segment.start for segment in tracks[key]))[:MOST_TRACKS]
    return [track for key, track in tracks.items() if key in longest]


def _place(seconds: float, duration: float, width: int, pad: int) -> int:
    return pad + round((width - 2 * pad) * min(1.0, seconds / duration))


def _pad(size: int, width: int) -> int:
    """Space around what is drawn, less in a picture that is hardly wider than that."""
    return min(size // 2, width // 4)


def text_size(height: int, width: int) -> int:
    return max(LEAST_TEXT, round(min(height, width) * TEXT_SIZE))
