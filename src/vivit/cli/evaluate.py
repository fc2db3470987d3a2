"""`vivit evaluate`"""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.options import (
    CLIPS,
    INPUT,
    OUTPUT,
    TIMELINE,
    Background,
    Data,
    Decoder,
    Device,
    Merge,
    MergeOver,
    Model,
    Precision,
    Shortest,
    Smooth,
    Step,
    Threshold,
    Timeout,
    Videos,
    Views,
    Workers,
)

app = verb(
    "evaluate",
    "vivit evaluate my_videos --model run",
    "vivit evaluate my_videos --model run --split test --per-video answers.csv",
    "vivit evaluate spans.csv --model run --timeline --split all",
)


@app.default
def evaluate(
    data: Data,
    /,
    *,
    model: Model,
    split: Annotated[Literal["train", "val", "test", "all"], Parameter(group=INPUT, metavar="NAME")] = "val",
    videos: Videos = None,
    views: Views = "4x3",
    average: Annotated[Literal["logits", "probabilities"], Parameter(group=CLIPS, metavar="WHAT")] = "logits",
    timeline: Annotated[bool, Parameter(group=TIMELINE, negative="")] = False,
    step: Step = None,
    smooth: Smooth = 1.0,
    threshold: Threshold = 0.5,
    shortest: Shortest = 0.5,
    background: Background = (),
    out: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FOLDER")] = None,
    per_video: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FILE")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    merge: Merge = 0.0,
    merge_over: MergeOver = None,
    workers: Workers = 2,
    decoder: Decoder = "pyav",
    timeout: Timeout = None,
) -> None:
    """Score a model on labelled videos, from several views of each.

    Every video counts once; one that cannot be read is listed and counts as wrong.

    Args:
        split: The split to score: val is what training held out; all is for data without splits.
        average: What to average over the views of a video.
        timeline: Score the timeline of each whole video, as vivit timeline makes it, against the spans of a list: mAP
            at temporal IoUs, frame accuracy, edit score and F1 (docs/timeline.md). Not with views.
        out: Folder for scores.json, per_video.csv and confusion matrices; by default its own folder in
            MODEL/evaluation for each split, views, data and weights. With --timeline, timeline_scores.json goes there.
        per_video: Also write each video's answer to this .csv or .parquet file.
    """
    if timeline:
        from vivit.evaluation.timelines import score_timelines
        from vivit.inference.predictor import Predictor
        from vivit.inference.timeline import Rule

        rule = Rule(smooth, threshold, shortest, frozenset(background))
        predictor = Predictor(model, device, precision=precision)
        score_timelines(data, predictor, rule, split=split, step=step, out=out, videos_in=videos, decoder=decoder)
        return
    from vivit.evaluation.score import score_model
    from vivit.inference.merging import Merge as Merging
    from vivit.inference.views import Views
    from vivit.video.decode import ReadOptions

    score_model(
        data,
        model,
        views=Views.parse(views, average),
        split=split,
        out=out,
        per_video=per_video,
        videos_in=videos,
        device=device,
        precision=precision,
        merge=Merging(merge, merge_over),
        read=ReadOptions(decoder, timeout, workers),
    )
