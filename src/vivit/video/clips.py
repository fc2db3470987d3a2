"""Read clips of videos: random ones for training, and all views for evaluation."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vivit.video.augment import Augmentation, Geometry, cover, crop, draw_geometry, resized
from vivit.video.decode import Decoder, open_video
from vivit.video.source import VideoSource
from vivit.video.span import Span, frames_in

ShortClips = Literal["loop", "pad"]


@dataclass(frozen=True)
class ClipSpec:
    """The clips that a model takes."""

    num_frames: int
    stride: int
    """Distance between the clip's frames, in frames of the video."""
    size: tuple[int, int]
    """Height and width of the crop."""
    resize: int
    """Pixels of the shorter side before the crop."""
    short: ShortClips = "loop"
    rate: float | None = None
    """Frames a second to resample the video to, before the stride; None: its own."""


def clip_indices(
    num_video_frames: int, num_frames: int, stride: int, start: int, short: ShortClips = "loop"
) -> list[int]:
    """The numbers of a clip's frames, counted from 0: `start`, `start` + `stride`, …

    Past the end of the video, "loop" continues from its beginning, as the official data pipeline does, and "pad"
    repeats its last frame.
    """
    indices = [start + i * stride for i in range(num_frames)]
    if short == "loop":
        return [index % num_video_frames for index in indices]
    return [min(index, num_video_frames - 1) for index in indices]


def _last_start(num_video_frames: int, num_frames: int, stride: int) -> int:
    """The latest start at which the whole clip is inside the video; 0 if the video is too short."""
    return max(0, num_video_frames - ((num_frames - 1) * stride + 1))


def random_start(num_video_frames: int, num_frames: int, stride: int, rng: np.random.Generator) -> int:
    """A start at which the clip fits, all with equal probability; 0 if the video is too short."""
    return int(rng.integers(_last_start(num_video_frames, num_frames, stride) + 1))


def view_starts(num_video_frames: int, num_frames: int, stride: int, num_clips: int) -> list[int]:
    """Starts of clips spread evenly over the video, from its beginning to its end; a single clip is in the middle."""
    last = _last_start(num_video_frames, num_frames, stride)
    if num_clips == 1:
        return [last // 2]
    return [round(last * i / (num_clips - 1)) for i in range(num_clips)]


def draw_clip(
    num_video_frames: int, spec: ClipSpec, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Geometry, list[int]]:
    """Draw a training clip: its geometry, and then the numbers of its frames."""
    geometry = draw_geometry(augmentation, rng)
    if augmentation.centred:
        (start,) = view_starts(num_video_frames, spec.num_frames, spec.stride, 1)
    else:
        start = random_start(num_video_frames, spec.num_frames, spec.stride, rng)
    return geometry, clip_indices(num_video_frames, spec.num_frames, spec.stride, start, spec.short)


def read_training_clip(
    source: VideoSource,
    span: Span | None,
    spec: ClipSpec,
    augmentation: Augmentation,
    rng: np.random.Generator,
    decoder: Decoder = "pyav",
) -> tuple[Tensor, bool]:
    """Read a clip at a random time and place: (T, C, H, W) uint8, and whether it is mirrored. Colours are unchanged.

    Args:
        span: take the clip from within these seconds; None: from the whole video.
        rng: the source of every random choice.

    Raises:
        VideoError: the file cannot be read, or does not have the span.
    """
    with open_video(source, decoder, spec.rate) as opened:
        shown = frames_in(opened, span)
        geometry, numbers = draw_clip(len(shown), spec, augmentation, rng)
        size = geometry.frame_size(opened.info.height, opened.info.width, spec.resize, spec.size)
        frames = opened.frames([shown[number] for number in numbers], size=size)
    return geometry.apply(frames, spec.size), geometry.mirrored


def read_whole(source: VideoSource, span: Span | None, spec: ClipSpec, decoder: Decoder = "pyav") -> Tensor:
    """Read all frames, or those in a span, with the shorter side and at the rate of `spec`: (N, C, H, W) uint8."""
    with open_video(source, decoder, spec.rate) as video:
        return video.frames(frames_in(video, span), short_side=spec.resize)


def cut_training_clip(
    frames: Tensor, spec: ClipSpec, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Tensor, bool]:
    """Like `read_training_clip`, from the frames that `read_whole` returned."""
    geometry, numbers = draw_clip(len(frames), spec, augmentation, rng)
    clip = frames[numbers]
    size = geometry.frame_size(clip.shape[-2], clip.shape[-1], spec.resize, spec.size)
    return geometry.apply(resized(clip, size), spec.size), geometry.mirrored


class ViewsOfVideo(NamedTuple):
    """The evaluation views of a video: `num_clips` · `num_crops` = V of them, with the crops of a clip adjacent."""

    frames: Tensor
    """(V, T, C, H, W) uint8."""
    shown: int
    """Frames in the video, or in the span. A clip that reaches past them repeats frames."""
    times: tuple[tuple[float, ...], ...]
    """For each view, when its T frames appear on screen, in seconds after the first frame of the video."""

    @property
    def distinct(self) -> int:
        """The smallest number of distinct frames, of T, in any view."""
        return min(len(set(of_view)) for of_view in self.times)


def read_views(
    source: VideoSource,
    spec: ClipSpec,
    num_clips: int,
    num_crops: int,
    span: Span | None = None,
    decoder: Decoder = "pyav",
) -> ViewsOfVideo:
    """Read all views of a video in one pass.

    Args:
        span: take the clips from within these seconds; None: from the whole video.

    Raises:
        VideoError: the file cannot be read, or does not have the span.
    """
    with open_video(source, decoder, spec.rate) as video:
        shown = frames_in(video, span)
        starts = view_starts(len(shown), spec.num_frames, spec.stride, num_clips)
        numbers = [n for s in starts for n in clip_indices(len(shown), spec.num_frames, spec.stride, s, spec.short)]
        frames, times = video.timed_frames([shown[number] for number in numbers], short_side=spec.resize)
    crops = torch.stack(view_crops(frames, spec.size, num_crops), dim=1)  # (clips · T, crops, C, H, W)
    views = crops.unflatten(0, (num_clips, spec.num_frames)).transpose(1, 2)  # (clips, crops, T, C, H, W)
    of_clips = [tuple(times[at : at + spec.num_frames]) for at in range(0, len(times), spec.num_frames)]
    of_views = tuple(of_clip for of_clip in of_clips for _ in range(num_crops))
    return ViewsOfVideo(views.flatten(0, 1), len(shown), of_views)


def view_crops(frames: Tensor, size: tuple[int, int], num_crops: int) -> list[Tensor]:
    """One crop: the centre. Three: both ends and the centre of the longer side."""
    frames = cover(frames, size)
    spare_height, spare_width = frames.shape[-2] - size[0], frames.shape[-1] - size[1]
    top, left = spare_height // 2, spare_width // 2
    if num_crops == 1:
        return [crop(frames, top, left, size)]
    if spare_height > spare_width:
        return [crop(frames, top, left, size) for top in (0, top, spare_height)]
    return [crop(frames, top, left, size) for left in (0, left, spare_width)]
