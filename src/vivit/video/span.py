"""Find the frames of a video in a span of seconds, and refuse spans that a video does not have."""

from math import isfinite

from vivit.video.base import Video
from vivit.video.source import VideoError

Span = tuple[float, float]
"""From and to, in seconds after the first frame."""

# Annotations are rounded to seconds, and a copy of a video may be a little shorter than the one they were made for.
ROUNDING = 1.0
# A span may end further beyond the video, as the last of equal parts does, but not after this many video lengths.
MOST_LENGTHS = 2


def frames_in(video: Video, span: Span | None) -> range:
    """The numbers of the frames on screen within a span, or of all frames if it is None.

    The part of a span beyond the video, as far as `span_problem` allows it, is left out.

    Raises:
        VideoError: the video does not have the span.
    """
    if span is None:
        return range(video.num_frames)
    if span_problem(span, video.info.duration, video.info.frame_rate):
        video.measure()  # its container may say less than it holds
        if problem := span_problem(span, video.info.duration, video.info.frame_rate):
            raise VideoError(video.source, problem)
    first, end = (round(seconds * video.rate) for seconds in span)
    first = min(max(first, 0), video.num_frames - 1)
    return range(first, min(max(end, first + 1), video.num_frames))


def span_problem(span: Span, duration: float, frame_rate: float) -> str:
    """Why a video of this many seconds does not have the span, or "" if it does.

    A span must start within the video, or up to a second before. It may end after the video, but by more than a second
    only if it ends before twice the video's length: times in milliseconds, or numbers of frames, end later.
    """
    start, end = span
    named = f"the span {_number(start)} to {_number(end)} s"
    if not (isfinite(start) and isfinite(end) and start < end):
        return f"{named} has no length; its end must be a number after its start"
    if start < -ROUNDING or end <= 0:
        return f"{named} starts before the video; 0 is its first frame"
    if start >= duration:
        where = "starts after"
    elif end > max(duration + ROUNDING, MOST_LENGTHS * duration):
        where = "ends long after"
    else:
        return ""
    length = f"{_number(duration)} s ({round(duration * frame_rate)} frames, {frame_rate:.4g} a second)"
    return f"{named} {where} the end of the video at {length}; {_advice(span, duration, frame_rate)}"


def _advice(span: Span, duration: float, frame_rate: float) -> str:
    """Suggest what the times may be instead of seconds: any unit that puts the span within the video."""
    start, end = span
    units = {"frame numbers": frame_rate, "milliseconds": 1000.0}
    fitting = [
        unit
        for unit, per_second in units.items()
        # Frames may be counted from 1, and a span is not shorter than a frame.
        if end / per_second <= duration + 2 / frame_rate and (end - start) / per_second >= 1 / frame_rate
    ]
    if fitting:
        return f"are these {' or '.join(fitting)}? Write seconds"
    return "write times within it, in seconds"


def _number(seconds: float) -> str:
    return f"{round(seconds, 3):.15g}"
