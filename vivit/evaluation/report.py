"""`vivit evaluate`: the scores on the terminal, in scores.json and as pictures."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vivit.data.datasets import open_split
from vivit.data.manifest import HASH_DIGITS, data_hash
from vivit.device import pick_device
from vivit.errors import UserError
from vivit.evaluation.evaluate import Evaluation, evaluate
from vivit.evaluation.pictures import draw_confusions
from vivit.video.decode import Decoder
from vivit.video.sampling import parse_views
from vivit.video.source import name_of
from vivit.weights.card import score_card
from vivit.weights.store import load
from vivit.writing import as_json, make_folder, write_files


def evaluate_and_report(
    data: str | Path,
    model_source: Path | str,
    *,
    views: str,
    split: str,
    out: Path | None,
    device: str,
    workers: int,
    videos_in: Path | None = None,
    decoder: Decoder = "pyav",
    timeout: float | None = None,
) -> Evaluation:
    """Score a model folder or Hub id; writes scores.json and pictures to `out`, by default in the model's folder.

    Raises:
        UserError: the model, the data or the views do not fit.
    """
    num_clips, num_crops = parse_views(views)
    model = load(model_source)
    if model.classes is None:
        raise UserError(f"{model_source}: has no class names in its config.json, so labels cannot be compared")
    videos = open_split(data, split, model.classes, videos_in)
    hashed = data_hash(videos)
    model.to(pick_device(device))
    console = Console(soft_wrap=True, markup=False)
    console.print(f"{model_source} on {len(videos.videos)} videos ({videos.source}), {views} views each")
    columns = (TextColumn("evaluate"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(videos.videos))
        evaluation = evaluate(
            model,
            videos,
            num_clips=num_clips,
            num_crops=num_crops,
            workers=workers,
            decoder=decoder,
            timeout=timeout,
            progress=lambda done: progress.update(bar, completed=done),
        )
    if out is None:
        out = Path(model_source) / "evaluation" if Path(model_source).is_dir() else Path("evaluation")
    make_folder(out)
    failures = list(evaluation.failures)
    per_class = {head: evaluation.per_class(head) for head in evaluation.classes}
    scores = {
        **evaluation.scores(),
        "views": views,
        "data": str(data),
        "data_hash": hashed,
        "missing": videos.missing,
        "failures": failures,
        "per_class": next(iter(per_class.values())) if len(per_class) == 1 else per_class,
    }
    write_files({out / "scores.json": as_json(scores)})
    scored_on = f"{len(videos.videos)} videos, data {hashed[:HASH_DIGITS]}"
    words = f"{name_of(data)}, {split}, {views} views, {scored_on}"
    score_card(Path(model_source), model, evaluation.scores(), words)
    pictures = draw_confusions(evaluation, out)
    for failure in failures:
        console.print(f"not read, counted as wrong: {failure}")
    shares = "   ".join(f"{name} {value:.1%}" for name, value in evaluation.shares_in_words().items())
    console.print(f"{shares}   ({scored_on})", highlight=False)
    for picture in pictures:
        console.print(f"confusion matrix: {picture}")
    return evaluation
