"""A video's labels over time: a page with the video beside them, and a picture."""

import colorsys
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from vivit.inference.timeline import Segment, Timeline
from vivit.report.drawing import LINES, PRINT, Chart, Curve, any_text, draw_curves, shortened, write_png
from vivit.report.page import data_uri, write_page
from vivit.text import clock, counted

INKS = ("#266edc", "#b35900", "#1a7f37", "#8250df")
"""The colours of the first labels on paper; on a page, they are the page's own."""
LONGEST_LABEL = 28


def write_timeline_page(
    path: Path, timeline: Timeline, segments: Sequence[Segment], pictures: Sequence[np.ndarray], smooth: float
) -> None:
    """Write the page; it plays the video's file, which it does not contain. Raises UserError.

    Args:
        pictures: (height, width, 3) uint8 each, evenly spread over the video.
        smooth: seconds over which the drawn scores are averaged.
    """
    colours = colours_of(segments, [f"var(--{name})" for name in LINES])
    rows = [_row(segment, timeline, colours) for segment in segments]
    tracks = []
    for head in timeline.labels.heads:
        of_head = [row for row in rows if row["head"] == head]
        labels = dict.fromkeys(row["label"] for row in of_head) if timeline.labels.multi_label else [None]
        for label in labels:  # labels at one time lie in tracks of their own
            title = " ".join(filter(None, [timeline.labels.title(head), label]))
            tracks.append({"title": title, "segments": [row for row in of_head if label in (None, row["label"])]})
    source = os.path.relpath(Path(timeline.video).resolve(), path.parent.resolve())
    write_page(
        path,
        "timeline.html",
        name=Path(timeline.video).name,
        facts=f"{clock(timeline.duration)}, {counted(len(timeline.starts), 'window')}, "
        f"{counted(len(segments), 'segment')}",
        source=quote(os.fsencode(source)),
        pictures=[data_uri(_jpeg(picture), "image/jpeg") for picture in pictures],
        tracks=tracks,
        rows=rows,
        ends=(clock(0), clock(timeline.duration)),
        duration=timeline.duration,
        charts=_charts(timeline, segments, smooth),
    )


def _row(segment: Segment, timeline: Timeline, colours: dict[tuple[str, str], str]) -> dict[str, Any]:
    title = timeline.labels.title(segment.head)
    return {
        "head": segment.head,
        "label": segment.label,
        "name": f"{title}: {segment.label}" if title else segment.label,
        "colour": colours[segment.head, segment.label],
        "left": f"{100 * segment.start / timeline.duration:.3f}",
        "long": f"{100 * (segment.end - segment.start) / timeline.duration:.3f}",
        "start": f"{segment.start:.3f}",
        "stop": f"{segment.end:.3f}",
        "from": clock(segment.start),
        "to": clock(segment.end),
        "score": segment.score,
    }


def _charts(timeline: Timeline, segments: Sequence[Segment], smooth: float) -> list[Chart]:
    """The scores of the labels with the longest total time."""
    charts = []
    for head in timeline.labels.heads:
        scores, names = timeline.smoothed(head, smooth), timeline.labels.classes[head]
        labels = _longest([segment for segment in segments if segment.head == head])[: len(LINES)]
        curves = [
            Curve(label, timeline.middles, scores[:, names.index(label)], colour)
            for (_, label), colour in zip(labels, LINES, strict=False)
        ]
        title = timeline.labels.title(head) or "Scores"
        if len(curves) == 1:  # which has no legend
            title = f"{title}: {shortened(curves[0].name, LONGEST_LABEL)}"
        chart = draw_curves(title, curves, "seconds", note=["probability in %"], percent=True) if curves else None
        charts += [chart] if chart is not None else []
    return charts


def timeline_figure(timeline: Timeline, segments: Sequence[Segment], pictures: Sequence[np.ndarray] = ()) -> Figure:
    """Draw a bar for each label over the seconds of a video, below pictures of it."""
    labels = _longest(segments)
    colours = colours_of(segments, list(INKS))
    with any_text():
        figure = Figure(figsize=(9, 1.9 + 0.3 * max(1, len(labels))), layout="constrained")
        film, bars = figure.subplots(2, 1, height_ratios=(1.0, 0.3 * max(1, len(labels)) + 0.2))
        film.set_axis_off()
        film.set_title(shortened(Path(timeline.video).name, 80), loc="left", fontsize=10, color=PRINT["ink"])
        if len(pictures):
            film.imshow(np.concatenate(pictures, axis=1), aspect="auto")
        for row, label in enumerate(labels):
            stretches = [(s.start, s.end - s.start) for s in segments if (s.head, s.label) == label]
            bars.broken_barh(stretches, (row - 0.38, 0.76), color=colours[label])
        bars.set_yticks(range(len(labels)), [shortened(label, LONGEST_LABEL) for _, label in labels])
        bars.set_xlim(0, timeline.duration)
        bars.set_ylim(max(1, len(labels)) - 0.4, -0.6)
        bars.set_xlabel("seconds", color=PRINT["faint"], fontsize=9)
        bars.tick_params(color=PRINT["rule"], labelcolor=PRINT["ink"], labelsize=9)
        bars.grid(axis="x", color=PRINT["rule"], linewidth=0.6)
        bars.set_axisbelow(True)
        bars.spines[["top", "right", "left"]].set_visible(False)
        bars.spines["bottom"].set_color(PRINT["rule"])
        if not labels:
            bars.text(timeline.duration / 2, 0, "no label is likely enough", ha="center", color=PRINT["faint"])
    return figure


def write_timeline_png(
    path: Path, timeline: Timeline, segments: Sequence[Segment], pictures: Sequence[np.ndarray] = ()
) -> None:
    """Write `timeline_figure`. Raises UserError."""
    with any_text():
        write_png(path, timeline_figure(timeline, segments, pictures))


def _longest(segments: Sequence[Segment]) -> list[tuple[str, str]]:
    """(head, label), by falling total time."""
    seconds: dict[tuple[str, str], float] = {}
    for segment in segments:
        key = segment.head, segment.label
        seconds[key] = seconds.get(key, 0.0) + segment.end - segment.start
    return sorted(seconds, key=lambda key: -seconds[key])


def colours_of(segments: Sequence[Segment], first: Sequence[str]) -> dict[tuple[str, str], str]:
    """(head, label) → its own colour; after the first few, colours are steps of the golden angle apart."""
    labels = _longest(segments)
    more = [_hex(137.5 * number) for number in range(len(labels))]
    return dict(zip(labels, [*first, *more], strict=False))


def _hex(hue: float) -> str:
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue / 360 % 1, 0.45, 0.5))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _jpeg(picture: np.ndarray) -> bytes:
    memory = io.BytesIO()
    Image.fromarray(picture).save(memory, "JPEG", quality=80)
    return memory.getvalue()
