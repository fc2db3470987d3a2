"""`vivit evaluate`: the scores on the terminal, in scores.json and as pictures, and a table of every video."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import vivit
from vivit.data.datasets import VideoSet, open_split
from vivit.data.manifest import HASH_DIGITS, data_hash
from vivit.errors import UserError
from vivit.evaluation.evaluate import Evaluation, evaluate
from vivit.evaluation.partial import PartialLogits
from vivit.evaluation.per_video import write_per_video
from vivit.files import as_json, make_folder, write_files
from vivit.inference.views import Average
from vivit.model.vivit import ViViT
from vivit.report.pictures import draw_confusions, draw_reliabilities
from vivit.runtime import pick_device
from vivit.tables import check_table
from vivit.video.decode import Decoder
from vivit.video.options import ReadOptions
from vivit.video.sampling import parse_views
from vivit.video.source import name_of
from vivit.weights.card import score_card
from vivit.weights.store import load


def evaluate_and_report(
    data: str | Path,
    model_source: Path | str,
    *,
    views: str,
    split: str,
    out: Path | None,
    device: str,
    workers: int,
    average: Average = "logits",
    per_video: Path | None = None,
    videos_in: Path | None = None,
    decoder: Decoder = "pyav",
    timeout: float | None = None,
) -> Evaluation:
    """Score a model folder or Hub id; writes scores.json, per_video.csv and pictures to `out`.

    An evaluation that was stopped goes on where it was when it is called again. Under torchrun the processes share the
    videos, and the first of them writes.

    Args:
        out: by default in the model's folder.
        average: see `mean_over_views`.
        workers, decoder, timeout: see `ReadOptions`.
        per_video: a .csv or .parquet file, for the table of the videos once more.

    Raises:
        UserError: the model, the data or the views do not fit, no video can be read, or a file cannot be written.
    """
    num_clips, num_crops = parse_views(views)
    options = ReadOptions(decoder, timeout, workers)
    options.check()
    if per_video is not None:
        check_table(per_video)
    model = load(model_source)
    if model.classes is None:
        raise UserError(f"{model_source}: has no class names in its config.json, so labels cannot be compared")
    videos = open_split(data, split, model.classes, videos_in)
    hashed, model_hash = data_hash(videos), hash_model(model)
    if out is None:
        out = Path(model_source) / "evaluation" if Path(model_source).is_dir() else Path("evaluation")
    make_folder(out)
    processes = PartialState(cpu=device == "cpu")
    model.to(pick_device(device))
    console = Console(soft_wrap=True, markup=False, quiet=not processes.is_main_process)
    console.print(f"{model_source} on {len(videos.videos)} videos ({videos.source}), {views} views each")
    partial = PartialLogits(out, _key(model_hash, videos, hashed, views, average, options))
    if partial.done:
        console.print(f"going on after {len(partial.done):,} of {len(videos.videos):,} videos", highlight=False)
    columns = (TextColumn("evaluate"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not processes.is_main_process) as progress:
        share = range(processes.process_index, len(videos.videos), processes.num_processes)
        bar = progress.add_task("", total=len(share))
        evaluation = evaluate(
            model,
            videos,
            num_clips=num_clips,
            num_crops=num_crops,
            average=average,
            options=options,
            progress=lambda done: progress.update(bar, completed=done),
            partial=partial,
            rank=processes.process_index,
            world_size=processes.num_processes,
            gather=gather_object,
        )
    if not processes.is_main_process:
        return evaluation
    failures = list(evaluation.failures.values())
    if len(failures) == len(videos.videos):
        raise UserError(f"{data}: none of the {len(failures)} videos can be read; the first of them: {failures[0]}")
    written = {
        "confusion matrix": draw_confusions(evaluation, out),
        "reliability": draw_reliabilities(evaluation, out),
        "each video": [out / "per_video.csv", *([per_video] if per_video is not None else [])],
    }
    for table in written["each video"]:
        write_per_video(evaluation, videos, table)
    calibrations = {head: evaluation.calibration(head) for head in evaluation.classes}
    scores = {
        **evaluation.scores(),
        "views": views,
        "average": average,
        "data": _printable(data),
        "split": split,
        "data_hash": hashed,
        "missing": videos.missing,
        "model": {"source": _printable(model_source), "hash": model_hash, "origin": model.origin},
        "versions": {"vivit": vivit.__version__, "torch": torch.__version__},
        "failures": failures,
        "calibration": _of_heads({head: found and asdict(found) for head, found in calibrations.items()}),
        "per_class": _of_heads({head: evaluation.per_class(head) for head in evaluation.classes}),
    }
    write_files({out / "scores.json": as_json(scores)})
    partial.remove()
    scored_on = f"{len(videos.videos)} videos, data {hashed[:HASH_DIGITS]}"
    averaged = ", their probabilities averaged" if average == "probabilities" else ""
    words = f"{name_of(data)}, {split}, {views} views{averaged}, {scored_on}"
    score_card(Path(model_source), model, evaluation.shares_that_tell(), words)
    for failure in failures:
        console.print(f"not read, counted as wrong: {failure}")
    shares = "   ".join(f"{name} {value:.1%}" for name, value in evaluation.shares_in_words().items())
    console.print(f"{shares}   ({scored_on})", highlight=False)
    for head, found in calibrations.items():
        if found is not None:
            of_head = "" if len(calibrations) == 1 else f"{head} "
            console.print(f"{of_head}expected calibration error {found.error:.1%}", highlight=False)
    for what, files in written.items():
        for file in files:
            console.print(f"{what}: {file}")
    return evaluation


def hash_model(model: ViViT) -> str:
    """SHA-256, in hexadecimal, of a model's weights, architecture, preprocessing and classes."""
    about = [model.config.model_dump(mode="json"), model.preprocessing.model_dump(mode="json"), model.classes]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _key(model_hash: str, videos: VideoSet, hashed: str, views: str, average: Average, options: ReadOptions) -> str:
    """A hash of all that the logits depend on: also of the order of the videos, which `data_hash` does not tell."""
    order = [[str(video.source), video.span] for video in videos.videos]
    depends_on = [model_hash, hashed, order, list(videos.classes), views, average, options.decoder]
    return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:HASH_DIGITS]


def _of_heads(values: dict[str, Any]) -> Any:
    """The value of the only head, or head → value."""
    return next(iter(values.values())) if len(values) == 1 else values


def _printable(name: str | Path) -> str:
    """Names of files may have bytes that are not text."""
    return str(name).encode("utf-8", "backslashreplace").decode()
