"""Write segments for programs that show, edit or score them. The ending of the file name decides the format."""

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vivit.errors import UserError
from vivit.files import Content, as_json, as_text, write_files
from vivit.inference.timeline import Segment, Timeline
from vivit.labels import ONLY_HEAD
from vivit.tables import csv_text, in_unicode, json_text


class Segmented(NamedTuple):
    """A video's timeline and the segments made of it."""

    timeline: Timeline
    segments: Sequence[Segment]

    @property
    def name(self) -> str:
        """The video's path as text; bytes in file names that are not valid text are escaped."""
        return str(in_unicode(self.timeline.video))

    def to_json(self) -> dict[str, Any]:
        return self.timeline.to_json(self.segments)


def _json(videos: Sequence[Segmented]) -> Content:
    """An object for one video, else a list of them."""
    found = [in_unicode(video.to_json()) for video in videos]
    return as_json(found[0] if len(found) == 1 else found)


def _json_lines(videos: Sequence[Segmented]) -> Content:
    return as_text("".join(f"{json_text(video.to_json())}\n" for video in videos))


def _csv(videos: Sequence[Segmented]) -> Content:
    named = any(not video.timeline.labels.single for video in videos)
    columns = {"video": str, **({"head": str} if named else {}), "start": float, "end": float}
    rows = [
        {"video": video.timeline.video, "head": ONLY_HEAD, **segment.to_json()}
        for video in videos
        for segment in video.segments
    ]
    return as_text(csv_text(rows, {**columns, "label": str, "score": float}, head=True))


def _audacity(videos: Sequence[Segmented]) -> Content:
    """A line for each label, which File > Import > Labels reads: start, end and text, separated by tabs."""
    (video,) = videos
    return as_text("".join(f"{s.start:.6f}\t{s.end:.6f}\t{_text(s)}\n" for s in video.segments))


def _chapters(videos: Sequence[Segmented]) -> Content:
    """WebVTT, as a <track kind="chapters"> shows it."""
    (video,) = videos
    return _vtt([(segment, html.escape(_text(segment), quote=False)) for segment in video.segments])


def _cues(videos: Sequence[Segmented]) -> Content:
    """WebVTT whose cues are JSON, for a script that listens to a <track kind="metadata">."""
    (video,) = videos
    # An arrow would end the cue.
    cues = [json.dumps(in_unicode(segment.to_json())).replace(">", "\\u003e") for segment in video.segments]
    return _vtt(list(zip(video.segments, cues, strict=True)))


def _vtt(cues: Sequence[tuple[Segment, str]]) -> Content:
    import webvtt

    file = webvtt.WebVTT()
    file.captions += [webvtt.Caption(_clock(segment.start), _clock(segment.end), text) for segment, text in cues]
    return as_text(file.content + "\n")


def _clock(seconds: float) -> str:
    """ "01:02:03.456"."""
    whole, thousandths = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}.{thousandths:03d}"


def _elan(videos: Sequence[Segmented]) -> Content:
    """ELAN's annotations: a tier for each head, or for each class of a head with several labels at once."""
    from pympi import Elan

    (video,) = videos
    path = Path(video.name)
    file = Elan.Eaf(author="vivit")
    file.remove_tier("default")
    # ELAN's own word for a video of any kind; pympi knows few endings, and raises an error for the others.
    kind = file.MIMES.get(path.suffix[1:].lower(), "video/*")
    file.add_linked_file(path.resolve().as_uri(), f"./{path.name}", kind)
    labels = video.timeline.labels
    if not labels.multi_label:
        for head in labels.heads:
            file.add_tier(labels.title(head) or "label")
    for segment in video.segments:
        tier = labels.title(segment.head) or "label"
        if labels.multi_label:  # the annotations of a tier must not overlap
            tier = segment.label if labels.single else f"{tier}: {segment.label}"
            if tier not in file.get_tier_names():
                file.add_tier(tier)
        file.add_annotation(tier, round(1000 * segment.start), round(1000 * segment.end), segment.label)
    return file.to_file


def _otio(videos: Sequence[Segmented]) -> Content:
    """OpenTimelineIO: each video is a clip, and its segments are markers on it."""
    import opentimelineio as otio

    def span(start: float, end: float) -> Any:
        # Microseconds: seconds as floats are not what editors expect, and a video may have no constant rate.
        first, after = (otio.opentime.RationalTime(round(1e6 * seconds), 1e6) for seconds in (start, end))
        return otio.opentime.range_from_start_end_time(first, after)

    track = otio.schema.Track(kind=otio.schema.TrackKind.Video)
    for video in videos:
        whole = span(0, video.timeline.duration)
        media = otio.schema.ExternalReference(Path(video.name).resolve().as_uri(), whole)
        clip = otio.schema.Clip(Path(video.name).name, media, whole)
        for segment in video.segments:
            metadata = {"vivit": in_unicode(segment.to_json())}
            clip.markers.append(otio.schema.Marker(_text(segment), span(segment.start, segment.end), metadata=metadata))
        track.append(clip)
    whole_line = otio.schema.Timeline("vivit", tracks=[track])
    return as_text(otio.adapters.write_to_string(whole_line, "otio_json") + "\n")


def _label_studio(videos: Sequence[Segmented]) -> Content:
    """Tasks with predictions for Label Studio's <TimelineLabels name="label" toName="video">, which counts from 1."""
    tasks = []
    for video in videos:
        rate = video.timeline.frame_rate
        result = [
            {
                "id": str(number),
                "from_name": segment.head if segment.head != ONLY_HEAD else "label",
                "to_name": "video",
                "type": "timelinelabels",
                "score": round(segment.score, 4),
                "value": {
                    "ranges": [{"start": 1 + round(segment.start * rate), "end": max(1, round(segment.end * rate))}],
                    "timelinelabels": [segment.label],
                },
            }
            for number, segment in enumerate(video.segments)
        ]
        tasks.append({"data": {"video": video.name}, "predictions": [{"model_version": "vivit", "result": result}]})
    return as_json(tasks)


def _activitynet(videos: Sequence[Segmented]) -> Content:
    """Results for ActivityNet's detection benchmark; a video's name is its file name without the ending."""
    results: dict[str, Any] = {}
    for video in videos:
        name = Path(video.name).stem
        if name in results:
            raise UserError(
                f"{video.name}: another video is called {name}, too; ActivityNet files need different names"
            )
        results[name] = [
            {"label": segment.label, "score": round(segment.score, 4), "segment": [round(t, 3) for t in times]}
            for segment in video.segments
            for times in [(segment.start, segment.end)]
        ]
    return as_json({"version": "VERSION 1.3", "results": results, "external_data": {"used": False}})


def _text(segment: Segment) -> str:
    return segment.label if segment.head == ONLY_HEAD else f"{segment.head}: {segment.label}"


@dataclass(frozen=True)
class Format:
    content: Callable[[Sequence[Segmented]], Content]
    for_what: str
    package: str = ""
    """The import name of the package that must be installed; "" if none."""
    many: bool = True
    """Whether a file may hold several videos."""


# The first ending that matches decides.
FORMATS = {
    ".labelstudio.json": Format(_label_studio, "Label Studio"),
    ".activitynet.json": Format(_activitynet, "ActivityNet's benchmark"),
    ".json": Format(_json, "JSON"),
    ".jsonl": Format(_json_lines, "JSON lines"),
    ".csv": Format(_csv, "a table"),
    ".cues.vtt": Format(_cues, "WebVTT, metadata", "webvtt", many=False),
    ".vtt": Format(_chapters, "WebVTT, chapters", "webvtt", many=False),
    ".eaf": Format(_elan, "ELAN", "pympi", many=False),
    ".otio": Format(_otio, "OpenTimelineIO", "opentimelineio"),
    ".txt": Format(_audacity, "Audacity", many=False),
}


def check_segment_file(path: Path, videos: int, others: Sequence[str] = ()) -> Format:
    """The format of a file to write. Raises UserError if it cannot be written for so many videos.

    Args:
        others: further endings that a message should name.
    """
    name = path.name.lower()
    found = next((format for ending, format in FORMATS.items() if name.endswith(ending)), None)
    if found is None:
        raise UserError(f"{path}: its name must end in {', '.join(sorted((*others, *FORMATS), key=len))}")
    if videos > 1 and not found.many:
        raise UserError(f"{path}: a file for {found.for_what} is about one video, not {videos}")
    if found.package:
        try:
            __import__(found.package)
        except ImportError:
            raise UserError(f"{path}: {found.for_what} needs {found.package}: pip install 'vivit[timeline]'") from None
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; create it first")
    return found


def write_segments(path: Path, videos: Sequence[Segmented]) -> None:
    """Write the segments of videos in the format of the file's name. Raises UserError."""
    write_files({path: check_segment_file(path, len(videos)).content(videos)})
