"""`vivit evaluate --timeline`: score a model's timelines against a list of spans with labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vivit.data.datasets import LabelledVideo
from vivit.data.manifest import HASH_DIGITS, data_hash
from vivit.data.readers.listing import open_data
from vivit.errors import UserError
from vivit.evaluation.segments import Stretch, segment_scores
from vivit.files import as_json, make_folder, write_files
from vivit.inference.predictor import Predictor
from vivit.inference.timeline import Rule, Segment, Timeline, timeline
from vivit.labels import LabelSpace
from vivit.progress import console, progress_bar
from vivit.text import printable
from vivit.video.decode import Decoder
from vivit.video.source import VideoError

SCORES_FILE = "timeline_scores.json"
Scores = Mapping[str, Mapping[str, float]]
"""head → the name of a score → its value."""


def score_timelines(
    data: str | Path,
    predictor: Predictor,
    rule: Rule,
    *,
    split: str = "val",
    step: int | None = None,
    out: Path | None = None,
    videos_in: Path | None = None,
    decoder: Decoder = "pyav",
) -> Scores:
    """Compute the timeline of every video of a split, score its segments, and print the scores.

    Nothing of a video that cannot be read is correct, not even its background.

    Args:
        data: a list whose videos have spans; time that no span covers is background.
        step: as for `timeline`.
        out: a folder for timeline_scores.json, which also has the segments.

    Raises:
        UserError: the data has no spans, does not fit the model, or lies in shards; the rule does not fit; no video
            can be read; or a file cannot be written.
    """
    labels = predictor.labels
    rule.check(labels)
    videos = open_data(data, videos_in).split(split, labels)
    by_file: dict[Path, list[LabelledVideo]] = {}
    for video in videos.videos:
        if video.span is None or not isinstance(video.source, Path):
            raise UserError(f"{data}: {video.source} has no start and end; a timeline is scored against spans of files")
        by_file.setdefault(video.source, []).append(video)
    say, hashed = console().print, data_hash(videos)
    say(f"timelines of {len(by_file)} videos with {len(videos.videos)} segments (data {hashed[:HASH_DIGITS]})")
    lines: dict[Path, Timeline] = {}
    with progress_bar("timelines", len(by_file)) as progress:
        for done, path in enumerate(by_file, start=1):
            try:
                lines[path] = timeline(predictor, path, step, decoder)
            except VideoError as error:
                say(f"not read: {error}")
            progress(done)
    if not lines:
        raise UserError(f"{data}: none of its videos can be read")
    found = {path: line.segments(rule) for path, line in lines.items()}
    scores = {head: _scores_of(head, labels, by_file, lines, found, rule) for head in labels.heads}
    for head, of_head in scores.items():
        title = labels.title(head)
        prefix = f"{printable(title)} " if title else ""
        for name, value in of_head.items():
            say(f"  {prefix}{name:15} {value:6.1%}")
    if out is not None:
        make_folder(out)
        record = {
            "scores": scores,
            "data_hash": hashed,
            "model_hash": predictor.fingerprint(),
            "precision": predictor.precision.precision,
            "unreadable": [str(path) for path in by_file if path not in lines],
            "videos": [lines[path].to_json(segments) for path, segments in found.items()],
        }
        write_files({out / SCORES_FILE: as_json(record)})
        say(f"written to {printable(out / SCORES_FILE)}")
    return scores


def _scores_of(
    head: str,
    labels: LabelSpace,
    by_file: Mapping[Path, list[LabelledVideo]],
    lines: Mapping[Path, Timeline],
    segments: Mapping[Path, Sequence[Segment]],
    rule: Rule,
) -> dict[str, float]:
    truth, found, durations = {}, {}, {}
    for path, videos in by_file.items():
        spans = [(video.span, video.labels.get(head, ())) for video in videos]
        true = [Stretch(*span, name) for span, names in spans if span for name in names if name not in rule.background]
        truth[str(path)] = sorted(true)
        # Take an unreadable file to last until the end of its last span.
        last = max((stretch.end for stretch in true), default=0.0)
        durations[str(path)] = lines[path].duration if path in lines else last
        if path in segments:
            found[str(path)] = [Stretch(s.start, s.end, s.label, s.score) for s in segments[path] if s.head == head]
    if not any(truth.values()):
        raise UserError(f"{labels.title(head) or 'segments'}: the data has no segment that is not background")
    return segment_scores(truth, found, durations, labels.multi_label)
