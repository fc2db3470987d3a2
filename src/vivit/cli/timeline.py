"""`vivit timeline`"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.errors import complain
from vivit.cli.options import (
    INPUT,
    OUTPUT,
    Background,
    Decoder,
    Device,
    Model,
    Precision,
    Shortest,
    Smooth,
    Step,
    Threshold,
    check_new,
    check_step,
)
from vivit.cli.predict import CAMERA_MOTION, say_model, stopping
from vivit.errors import UserError
from vivit.text import clock, counted, printable

if TYPE_CHECKING:
    from vivit.inference.pipeline import Video
    from vivit.inference.predictor import Predictor
    from vivit.inference.segment_files import Segmented
    from vivit.inference.timeline import Rule, ScoredWindow, Segment
    from vivit.labels import LabelSpace
    from vivit.video.source import VideoError

app = verb(
    "timeline",
    "vivit timeline holiday.mp4",
    "vivit timeline talk.mp4 --model run --background nothing --out talk.vtt",
    "vivit timeline match.mp4 --model run --out match.html",
    "vivit timeline my_videos --model run --threshold 0.7 --out segments.csv",
    "vivit timeline clip.mp4 --windows --json > scores.jsonl",
)
PAGES = (".html", ".png", ".mp4")
# Letters in the strip; labels beyond them share the last.
LETTERS = f"{ascii_uppercase}*"
WIDEST = 100  # columns of the strip
PICTURES, PICTURE_SIDE = 8, 96  # of the video, in a page


@app.default
@stopping(lambda: "stopped")
def timeline(
    *videos: Annotated[str, Parameter(group=INPUT, required=True)],
    model: Model = CAMERA_MOTION,
    step: Step = None,
    smooth: Smooth = 1.0,
    threshold: Threshold = 0.5,
    shortest: Shortest = 0.5,
    background: Background = (),
    windows: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False,
    json_lines: Annotated[bool, Parameter(name="--json", group=OUTPUT, negative="")] = False,
    out: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FILE")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    decoder: Decoder = "pyav",
) -> int:
    """Divide a video into labelled segments.

    The model labels a window of the video every few frames. Its scores over time become segments with a start, an end
    and a label; where no label is likely enough, there is no segment. All times are seconds after the first frame, even
    if the frame rate varies. docs/timeline.md has the details and the formats.

    Args:
        videos: Files, folders, quoted patterns such as 'clips/**/*.mp4', - for a list on stdin, @FILE for a list in a
            file.
        windows: Print each window's scores instead; for one video.
        json_lines: Print JSON, a line for each video or window.
        out: Write the segments to this new file. Its ending sets the format: .json, .jsonl, .csv, .html and .png (a
            page and a picture), .mp4 (the video with the timeline below it), .vtt (chapters), .cues.vtt (metadata),
            .eaf (ELAN), .otio (OpenTimelineIO), .txt (Audacity), .labelstudio.json, .activitynet.json.
    """
    check_step(step)
    if windows and out is not None:
        raise UserError("windows: are printed, not written to a file; leave out --out")
    from vivit.inference.inputs import find_inputs
    from vivit.inference.predictor import Predictor
    from vivit.inference.segment_files import Segmented, check_segment_file, write_segments
    from vivit.inference.timeline import Rule, default_step, scored_windows
    from vivit.inference.timeline import timeline as timeline_of
    from vivit.progress import console
    from vivit.tables import json_text
    from vivit.video.source import VideoError

    inputs = list(find_inputs(videos, sys.stdin.buffer, False, complain))
    if windows and len(inputs) > 1:
        raise UserError(f"windows: prints those of one video, not of {len(inputs)}")
    if out is not None:
        _check_page(out, inputs) if out.suffix.lower() in PAGES else check_segment_file(out, len(inputs), PAGES)
        check_new(out)
    predictor = Predictor(model, device, precision=precision)
    say_model(model, predictor)
    rule = Rule(smooth, threshold, shortest, frozenset(background))
    rule.check(predictor.labels)
    step = step or default_step(predictor.model)
    say_cost(predictor, step)
    screen, unreadable = console(), 0
    found: list[Segmented] = []
    for video in inputs:
        try:
            if isinstance(video, VideoError):
                raise video
            if windows:
                for window in scored_windows(predictor, Path(str(video)), step, decoder):
                    print(window_line(window, predictor.labels, json_lines), flush=True)
                continue
            line = timeline_of(predictor, Path(str(video)), step, decoder)
        except VideoError as error:
            complain(str(error))
            unreadable += 1
            continue
        segmented = Segmented(line, line.segments(rule))
        if json_lines:
            print(json_text(segmented.to_json()), flush=True)
        elif out is None:
            print("\n".join(_lines(segmented, min(WIDEST, screen.width - 4))), flush=True)
        if out is not None:
            found.append(segmented)
    if out is not None and found:
        if out.suffix.lower() in PAGES:
            _write_page(out, found[0], rule, decoder)
        else:
            write_segments(out, found)
        count = sum(len(segmented.segments) for segmented in found)
        print(f"{counted(count, 'segment')} in {printable(out)}", file=sys.stderr)
    return 2 if unreadable else 0


def say_cost(predictor: "Predictor", step: int) -> None:
    """Say on stderr what windows cost, if they overlap but share no computation."""
    from vivit.inference.streaming import span_of, window_cost
    from vivit.inference.views import clip_spec
    from vivit.model.vivit import ViViT

    if step >= span_of(clip_spec(predictor.model)):
        return
    often = f"every {step} frames; a longer --step costs less"
    if not isinstance(predictor.model, ViViT):
        print(f"an exported model computes a whole window {often}", file=sys.stderr)
        return
    cost = window_cost(predictor.model, step)
    if cost.shared == cost.alone:
        print(f"this model computes a whole window, {cost.alone / 1e9:.3g} GMAC, {often}", file=sys.stderr)


def _check_page(path: Path, videos: "Sequence[Video | VideoError]") -> None:
    """Raise UserError if the page, the picture or the video cannot be written."""
    if len(videos) > 1:
        raise UserError(f"{path}: shows one video, not {len(videos)}")
    if path.suffix.lower() == ".mp4":
        from vivit.report.overlay import check_overlay

        check_overlay(path, Path(str(videos[0])))
    else:
        import vivit.report.timeline_page  # noqa: F401, needs matplotlib and jinja2: say so before the model runs


def _write_page(path: Path, found: "Segmented", rule: "Rule", decoder: Decoder) -> None:
    """Write the page or picture, with frames of the video; or the video with the timeline below it."""
    if path.suffix.lower() == ".mp4":
        from vivit.report.overlay import with_timeline, write_overlay

        write_overlay(path, Path(found.timeline.video), with_timeline(*found), decoder)
        return
    from vivit.report.timeline_page import write_timeline_page, write_timeline_png
    from vivit.video.decode import open_video

    with open_video(Path(found.timeline.video), decoder) as video:
        numbers = [int((place + 0.5) * video.info.num_frames / PICTURES) for place in range(PICTURES)]
        pictures = list(video.frames(numbers, short_side=PICTURE_SIDE).permute(0, 2, 3, 1).numpy())
    if path.suffix.lower() == ".png":
        write_timeline_png(path, found.timeline, found.segments, pictures)
    else:
        write_timeline_page(path, found.timeline, found.segments, pictures, rule.smooth)


def window_line(window: "ScoredWindow", labels: "LabelSpace", as_json: bool) -> str:
    """{"start": …, "end": …, "scores": {class: …}}, or with named heads head → such scores; or each best label."""
    from vivit.tables import json_text

    named = {
        head: dict(zip(labels.classes[head], map(float, scores), strict=True)) for head, scores in window.scores.items()
    }
    if as_json:
        scores = next(iter(named.values())) if labels.single else named
        return json_text({"start": round(window.start, 6), "end": round(window.end, 6), "scores": scores})
    best = (max(scores.items(), key=lambda found: found[1]) for scores in named.values())
    answers = "  ".join(f"{score:6.1%}  {printable(label)}" for label, score in best)
    return f"{clock(window.start)} – {clock(window.end)}  {answers}"


def _lines(found: "Segmented", width: int) -> Iterator[str]:
    """A timeline for people: a strip with a letter for each label, and the segments."""
    timeline, segments = found.timeline, found.segments
    yield f"{printable(timeline.video)}  {clock(timeline.duration)}, {counted(len(timeline.starts), 'window')}"
    for head in timeline.labels.heads:
        of_head = [segment for segment in segments if segment.head == head]
        labels = list(dict.fromkeys(segment.label for segment in of_head))
        letters = {label: LETTERS[min(number, len(LETTERS) - 1)] for number, label in enumerate(labels)}
        title = timeline.labels.title(head)
        if title:
            yield f"  {printable(title)}"
        if not timeline.labels.multi_label:
            yield f"  {_strip(of_head, letters, timeline.duration, width)}"
        for segment in of_head:
            times = f"{clock(segment.start)} – {clock(segment.end)}"
            yield f"  {letters[segment.label]}  {times}  {segment.score:6.1%}  {printable(segment.label)}"
        if not of_head:
            yield "  no label is likely enough; --threshold says how likely one must be"


def _strip(segments: "Sequence[Segment]", letters: dict[str, str], duration: float, width: int) -> str:
    """The letter at the middle of each of `width` equal parts; a dot where there is no label."""
    middles = [(column + 0.5) * duration / width for column in range(width)]
    labels = (next((s.label for s in segments if s.start <= middle < s.end), None) for middle in middles)
    return "".join("·" if label is None else letters[label] for label in labels)
