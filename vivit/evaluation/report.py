"""`vivit evaluate`: the scores on the terminal, in scores.json and as a picture."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vivit.device import pick_device
from vivit.errors import UserError
from vivit.evaluation.evaluate import Evaluation, evaluate
from vivit.evaluation.pictures import draw_confusion
from vivit.video.datasets import open_split
from vivit.video.sampling import parse_views
from vivit.weights.card import score_card
from vivit.weights.store import load
from vivit.weights.writing import as_json, make_folder, write_files


def evaluate_and_report(
    data: Path, model_source: Path | str, *, views: str, split: str, out: Path | None, device: str, workers: int
) -> Evaluation:
    """Score a model folder or Hub id; writes scores.json and confusion.png to `out`, by default in the model's folder.

    Raises:
        UserError: the model, the data or the views do not fit.
    """
    num_clips, num_crops = parse_views(views)
    model = load(model_source)
    if model.classes is None or list(model.classes) != ["classes"]:
        raise UserError(f"{model_source}: has no class names for one head, so labels cannot be compared")
    videos = open_split(data, split, model.classes["classes"])
    model.to(pick_device(device))
    console = Console(soft_wrap=True)
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
            progress=lambda done: progress.update(bar, completed=done),
        )
    if out is None:
        out = Path(model_source) / "evaluation" if Path(model_source).is_dir() else Path("evaluation")
    make_folder(out)
    failures = list(evaluation.failures)
    scores = {**evaluation.scores(), "views": views, "data": str(data), "failures": failures}
    write_files({out / "scores.json": as_json(scores)})
    score_card(Path(model_source), model, evaluation.scores(), f"{data.resolve().name}, {split}, {views} views")
    draw_confusion(evaluation.confusion, evaluation.classes, out / "confusion.png")
    for failure in failures:
        console.print(f"not read, counted as wrong: {failure}", markup=False)
    console.print(f"top-1 {evaluation.accuracy(1):.1%}   top-5 {evaluation.accuracy(5):.1%}")
    console.print(f"confusion matrix: {out}/confusion.png")
    return evaluation
