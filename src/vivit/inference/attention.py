"""Where in a video a model looked: attention maps of its consecutive clips.

Shapes: T temporal positions, n_h × n_w spatial ones.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vivit.errors import UserError, no_class
from vivit.files import Content, as_weights
from vivit.inference.attention_maps import Method, attention_maps
from vivit.inference.exported import ExportedModel
from vivit.inference.predictor import Predictor, ScoredLabel
from vivit.inference.streaming import span_of
from vivit.inference.views import NOT_FINITE, are_finite, clip_spec
from vivit.labels import ONLY_HEAD, LabelSpace
from vivit.model.vivit import ViViT
from vivit.video.clips import ClipSpec, clip_indices, view_crops
from vivit.video.decode import Decoder, open_video
from vivit.video.source import VideoError
from vivit.video.span import Span, frames_in

ARRAYS = ("map", "times", "start", "end", "box")
Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as fractions of the picture's width and height."""


@dataclass(frozen=True)
class ClipAttention:
    """Where a model looked in a clip."""

    start: float
    """Seconds after the first frame of the video: when the clip's first frame is shown."""
    end: float
    """When the last temporal index ends."""
    map: np.ndarray
    """(T, n_h, n_w) float32 with a sum of 1: each tubelet's share of the attention."""
    times: np.ndarray
    """(T,) seconds after the first frame of the video: the mean time of each temporal index's frames."""
    box: Box
    """The part of the picture that the model sees."""
    labels: Mapping[str, ScoredLabel]
    """head → the best class."""
    about: Mapping[str, ScoredLabel]
    """head → the class whose score the map explains; empty if the method ignores classes."""

    @property
    def curve(self) -> np.ndarray:
        """(T,) with a sum of 1: each temporal index's share of the attention."""
        curve: np.ndarray = self.map.sum(axis=(1, 2))
        return curve

    @property
    def places(self) -> np.ndarray:
        """(n_h, n_w) with a sum of 1: each place's share of the attention."""
        places: np.ndarray = self.map.sum(axis=0)
        return places

    @property
    def peak(self) -> tuple[float, float, float]:
        """The tubelet with the largest share: seconds, and x and y of its middle as fractions of the picture."""
        time, row, column = np.unravel_index(self.map.argmax(), self.map.shape)
        return float(self.times[time]), *self._place(float(column), float(row))

    @property
    def centre(self) -> tuple[float, float]:
        """x and y of the centre of mass, as fractions of the picture."""
        rows, columns = (self.places.sum(axis=axis) for axis in (1, 0))
        return self._place(float(columns @ np.arange(len(columns))), float(rows @ np.arange(len(rows))))

    @property
    def half(self) -> float:
        """The smallest fraction of the tubelets that holds half of the attention: 0.5 if it is spread evenly."""
        largest = np.sort(self.map, axis=None)[::-1].cumsum()
        return (int(np.searchsorted(largest, 0.5 * largest[-1])) + 1) / self.map.size

    def to_json(self) -> dict[str, Any]:
        """The attention over time, its peak, its centre of mass, and the fraction of tubelets that holds half of it."""

        def named(labels: Mapping[str, ScoredLabel]) -> dict[str, Any]:
            rows = {head: {"label": scored.label, "score": scored.score} for head, scored in labels.items()}
            return rows.get(ONLY_HEAD, rows)

        seconds, *peak = self.peak
        row: dict[str, Any] = {
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            "best": named(self.labels),
            "about": named(self.about),
            "times": [round(float(time), 3) for time in self.times],
            "curve": [round(float(part), 6) for part in self.curve],
            "peak": dict(zip(("time", "x", "y"), (round(at, 4) for at in (seconds, *peak)), strict=True)),
            "centre": dict(zip(("x", "y"), (round(at, 4) for at in self.centre), strict=True)),
            "half": round(self.half, 4),
        }
        return row if self.about else {key: value for key, value in row.items() if key != "about"}

    def _place(self, column: float, row: float) -> tuple[float, float]:
        (left, top, right, bottom), (height, width) = self.box, self.map.shape[1:]
        return left + (right - left) * (column + 0.5) / width, top + (bottom - top) * (row + 0.5) / height


def attention(
    predictor: Predictor,
    video: str | Path,
    method: Method = "gradient",
    label: str | None = None,
    span: Span | None = None,
    decoder: Decoder = "pyav",
) -> Iterator[ClipAttention]:
    """Where a model looks in a video, clip by clip, as they are computed.

    The clips are consecutive, without gaps; the last one ends with the video and may overlap the one before. A video
    shorter than a clip gives one clip, looped or padded as by `predict`.

    Args:
        method: "raw" is the last layer's attention, "rollout" that of all layers, and "gradient" that of all layers
            weighted by its effect on a class; see `vivit.inference.attention_maps`.
        label: the class for the method "gradient"; None: the best class of each head.
        span: from and to, in seconds after the first frame; None: the whole video.

    Raises:
        UserError: the model is exported or merges tokens, has no such class, or nothing in a clip supports it.
        VideoError: the video cannot be read or does not have the span, or the model's answer is not finite.
    """
    model, labels = predictor.model, predictor.labels
    if isinstance(model, ExportedModel):
        raise UserError(
            f"{model.folder}: an exported model does not expose its attention; give the model that it was exported from"
        )
    if label is not None and method != "gradient":
        raise UserError(f"class: the method {method} ignores classes; use the method gradient")
    chosen = None if label is None else find_class(labels, label)
    spec = clip_spec(model)
    frames_of_index = _frames_of_index(model)
    with open_video(Path(video), decoder, spec.rate) as opened:
        shown = frames_in(opened, span)
        for start in clip_starts(len(shown), spec):
            numbers = clip_indices(len(shown), spec.num_frames, spec.stride, start, spec.short)
            frames, times = opened.timed_frames([shown[number] for number in numbers], short_side=spec.resize)
            box = box_of_crop(frames.shape[-2], frames.shape[-1], spec.size)
            clip = view_crops(frames, spec.size, 1)[0][None].to(model.embedding.weight.device)
            number = None if chosen is None else {chosen[0]: [chosen[1]]}
            maps, logits = attention_maps(model, clip, method, number)
            if not bool(are_finite(logits).all()):
                raise VideoError(video, NOT_FINITE)
            of_heads = {head: labels.ranked(head, values[0].float().cpu()) for head, values in logits.items()}
            best = {head: ScoredLabel(*ranked[0]) for head, ranked in of_heads.items()}
            about = best if method == "gradient" else {}
            if chosen is not None:
                name = labels.classes[chosen[0]][chosen[1]]
                about = {chosen[0]: ScoredLabel(name, dict(of_heads[chosen[0]])[name])}
            yield ClipAttention(
                times[0],
                min(max(times) + spec.stride / opened.rate, max(opened.info.duration, max(times))),
                maps[0].cpu().numpy(),
                np.array([np.mean([times[frame] for frame in of_index]) for of_index in frames_of_index]),
                box,
                best,
                about,
            )


def array_content(ending: str, video: str, method: str, clips: Sequence[ClipAttention]) -> Content:
    """A file of arrays, C clips: map (C, T, n_h, n_w), times (C, T), start and end (C,), box (C, 4).

    The metadata of .safetensors, or the array "about" of .npz, has the video, the method and the labels as JSON.

    Args:
        ending: ".npz" or ".safetensors".
    """
    columns: dict[str, Any] = {name: np.stack([np.asarray(getattr(clip, name)) for clip in clips]) for name in ARRAYS}
    rows = [{key: value for key, value in clip.to_json().items() if key in ("best", "about")} for clip in clips]
    about = json.dumps({"video": video, "method": method, "clips": rows}, ensure_ascii=False)
    if ending == ".safetensors":
        return as_weights({name: torch.from_numpy(array) for name, array in columns.items()}, {"about": about})

    def write(path: Path) -> None:
        with path.open("wb") as file:  # np.savez adds an ending to a name
            np.savez(file, about=np.array(about), **columns)

    return write


def clip_starts(shown: int, spec: ClipSpec) -> list[int]:
    """The first frames of consecutive clips; the last clip ends with the last of the `shown` frames."""
    last = max(0, shown - span_of(spec))
    return [*range(0, last, spec.num_frames * spec.stride), last]


def find_class(labels: LabelSpace, name: str) -> tuple[str, int]:
    """The head and the index of a class. Raises UserError if there is none, or several heads have it."""
    heads = [head for head, numbers in labels.numbers.items() if name in numbers]
    if not heads:
        raise no_class("class", name, chain.from_iterable(labels.classes.values()))
    if len(heads) > 1:
        raise UserError(f"class: {name!r} is a class of several heads: {', '.join(heads)}")
    return heads[0], labels.numbers[heads[0]][name]


def box_of_crop(height: int, width: int, size: tuple[int, int]) -> Box:
    """The part of a frame that its only crop shows; the inverse of `view_crops`."""
    scale = max(1.0, size[0] / height, size[1] / width)
    part_height, part_width = min(1.0, size[0] / (height * scale)), min(1.0, size[1] / (width * scale))
    return (1 - part_width) / 2, (1 - part_height) / 2, (1 + part_width) / 2, (1 + part_height) / 2


def _frames_of_index(model: ViViT) -> Sequence[Sequence[int]]:
    """For each temporal index, which of the clip's frames it sees."""
    frames = model.embedding.frame_indices or range(model.config.num_frames)
    tubelet = model.embedding.tubelet_size[0]
    return [frames[at : at + tubelet] for at in range(0, len(frames), tubelet)]
