"""Choose which frames of a video make a clip, by number from 0."""

from typing import Literal

import numpy as np

ShortClips = Literal["loop", "pad"]


def clip_indices(
    num_video_frames: int, num_frames: int, stride: int, start: int, short: ShortClips = "loop"
) -> list[int]:
    """The frames `start`, `start` + `stride`, …

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
