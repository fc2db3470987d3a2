"""`vivit evaluate`: score a model, print the scores, and write them with pictures and a table of all videos."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

import vivit
from vivit.data.advice import check_command, to_leave_out
from vivit.data.contradictions import say_contradictions
from vivit.data.datasets import VideoSet
from vivit.data.file_state import file_states
from vivit.data.manifest import HASH_DIGITS, data_hash
from vivit.data.readers.listing import open_data
from vivit.errors import UserError
from vivit.evaluation.evaluate import Evaluation, evaluate
from vivit.evaluation.partial import PartialLogits
from vivit.evaluation.per_video import write_per_video
from vivit.evaluation.pictures import draw_confusions, draw_reliabilities
from vivit.files import as_json, make_folder, write_files
from vivit.inference.exported import fingerprint, open_model
from vivit.inference.merging import Merge
from vivit.inference.prepare import prepare
from vivit.inference.views import Views
from vivit.model.vivit import ViViT
from vivit.progress import console, progress_bar
from vivit.runtime import Ranks, WantedPrecision, leave_gloo_at_exit
from vivit.tables import check_table
from vivit.text import printable
from vivit.video.decode import Decoder, ReadOptions
from vivit.video.source import name_of
from vivit.weights.card import score_card
from vivit.weights.files import read_json
from vivit.weights.source import Source

SCORES_FILE = "scores.json"
SHOWN_CLASSES = 20
# Hexadecimal digits of hashes in the names of folders.
NAME_DIGITS = 8
# Calibration is reported for at least this many readable videos. With 200 videos and evenly spread confidences, the
# expected calibration error of a perfectly calibrated model is about 8 %; with 20, it is 24 %.
CALIBRATED_FROM = 200


def score_model(
    data: str | Path,
    model_source: Path | str,
    *,
    views: Views,
    split: str = "val",
    out: Path | None = None,
    per_video: Path | None = None,
    videos_in: Path | None = None,
    device: str = "auto",
    precision: WantedPrecision = "auto",
    merge: Merge = Merge(),
    read: ReadOptions = ReadOptions(),
) -> Evaluation:
    """Score a model folder, an exported one, or a Hub id; write scores.json, per_video.csv and pictures to `out`.

    Has one parameter for each option of `vivit evaluate`. After an interruption, the same call resumes. Under torchrun,
    each rank evaluates its slice of the videos, and rank 0 writes.

    Args:
        out: by default a folder in `evaluation/` of the model's folder, with a different name for other videos, views,
            precision, merging or weights.
        per_video: another file for the table of all videos, in a format that `write_table` supports.
        videos_in: the folder of the videos, if they are not where the data lists them.

    Raises:
        UserError: the model, the data or the views do not fit, no video can be read, `out` has other results, or a file
            cannot be written.
    """
    read.check()
    if per_video is not None:
        check_table(per_video)
    model, labels = open_model(Source.find(model_source))
    videos = open_data(data, videos_in).split(split, labels)
    hashed, model_hash = data_hash(videos), fingerprint(model)
    processes = PartialState(cpu=device == "cpu")
    leave_gloo_at_exit()
    ranks = Ranks(processes.process_index, processes.num_processes, gather_object)
    main = processes.is_main_process
    choice = prepare(model, device, precision, merge)
    merged = f", {merge} of the tokens merged" if merge.ratio else ""
    computed = f"{choice.precision}{merged}"
    say = console(main).print
    say(
        f"{model_source} on {len(videos.videos)} videos ({videos.description}), {views} views each, in {choice}{merged}"
    )
    for remark in videos.remarks:
        say(remark)
    if main and not videos.labels.multi_label:
        say_contradictions(say, videos.videos, check_command(data, videos_in))
    # Use rank 0's key: other ranks may have the data on their own disks.
    key = ranks.gather([_key(model_hash, computed, videos, hashed, views, read.decoder)])[0]
    folder = out or _default_folder(model_source, split, views, hashed, key)
    make_folder(folder)
    trouble = _other_results(folder, key) if main and out is not None else ""
    for message in filter(None, ranks.gather([trouble])):
        raise UserError(message)
    partial = PartialLogits(folder, key)
    if partial.done:
        say(f"resuming: {len(partial.done):,} of {len(videos.videos):,} videos are scored already")
    with progress_bar("evaluate", len(range(ranks.rank, len(videos.videos), ranks.world_size)), main) as progress:
        evaluation = evaluate(model, videos, views, read=read, ranks=ranks, partial=partial, progress=progress)
    if not main:
        return evaluation
    if len(evaluation.failures) == len(videos.videos):
        first = next(iter(evaluation.failures.values()))
        raise UserError(f"{data}: none of the {len(videos.videos)} videos can be read; the first: {first}")
    about = {
        "key": key,
        "views": str(views),
        "average": views.average,
        "precision": choice.precision,
        "merge": str(merge),
        "data": _printable(data),
        "split": split,
        "data_hash": hashed,
        "missing": videos.missing,
        "model": {"source": _printable(model_source), "hash": model_hash, "origin": model.origin},
        "versions": {"vivit": vivit.__version__, "torch": torch.__version__},
    }
    tables = [folder / "per_video.csv", *([per_video] if per_video is not None else [])]
    written = _write(evaluation, videos, folder, tables, about)
    partial.remove()
    scored_on = f"{len(videos.videos)} videos, data {hashed[:HASH_DIGITS]}"
    averaged = ", their probabilities averaged" if views.average == "probabilities" else ""
    described = f"{name_of(data)}, {split}, {views} views{averaged}, {computed}, {scored_on}"
    if isinstance(model, ViViT):
        score_card(Path(model_source), model, evaluation.metrics(), described)
    for line in _summary(evaluation, scored_on, to_leave_out(data, videos_in, videos.videos)):
        say(line)
    for head in evaluation.space.heads:
        for line in class_lines(evaluation, head, folder / SCORES_FILE):
            say(line)
    for what, files in written.items():
        for file in files:
            say(f"{what}: {file}")
    say(f"all scores: {folder / SCORES_FILE}")
    return evaluation


def _default_folder(model_source: Path | str, split: str, views: Views, hashed: str, key: str) -> Path:
    """The folder of an evaluation; evaluations whose results may differ have different folders."""
    model = Path(model_source)
    averaged = "-probabilities" if views.average == "probabilities" else ""
    name = f"{split}-{views}{averaged}-{hashed[:NAME_DIGITS]}-{key[:NAME_DIGITS]}"
    return (model if model.is_dir() else Path()) / "evaluation" / name


def _other_results(out: Path, key: str) -> str:
    """Why a folder that the user gave cannot be used: it has files from another evaluation; "" if it can."""
    names = (SCORES_FILE, "per_video.csv", "confusion*.png", "reliability*.png")
    there = [file.name for name in names for file in out.glob(name)]
    if unfinished := [file.name for file in out.glob("unfinished-*") if file.name != f"unfinished-{key}"]:
        return f"{out}: has {unfinished[0]}, of another evaluation; give another --out, or leave it out"
    if not there:
        return ""
    try:
        if (out / SCORES_FILE).exists() and read_json(out / SCORES_FILE).get("key") == key:
            return ""
    except UserError:
        pass  # damaged
    return f"{out}: has the {there[0]} of another evaluation; give another --out, or leave it out"


def _write(
    evaluation: Evaluation, videos: VideoSet, out: Path, tables: Sequence[Path], about: Mapping[str, Any]
) -> dict[str, Sequence[Path]]:
    """Write pictures, tables and, last, scores.json. Returns the pictures and tables by what they show."""
    confusions = draw_confusions(evaluation, out)
    reliabilities = draw_reliabilities(evaluation, out, CALIBRATED_FROM)
    for table in tables:
        write_per_video(evaluation, videos, table)
    calibrations = {head: evaluation.calibration(head, CALIBRATED_FROM) for head in evaluation.space.heads}
    scores = {
        **evaluation.scores(),
        **about,
        "failures": list(evaluation.failures.values()),
        "calibration": _of_heads({head: found and asdict(found) for head, found in calibrations.items()}),
        "per_class": _of_heads({head: evaluation.per_class(head) for head in evaluation.space.heads}),
    }
    write_files({out / SCORES_FILE: as_json(scores)})
    return {"confusion matrix": confusions, "reliability": reliabilities, "each video": tables}


def _summary(evaluation: Evaluation, scored_on: str, cure: str) -> Iterator[str]:
    """Unreadable videos and how to leave them out, metrics and calibration, one line each."""
    for failure in evaluation.failures.values():
        yield f"not read, counted as wrong: {failure}"
    if evaluation.failures:
        yield cure
    metrics = (f"{metric.title} {value:.1%}" for metric, value in evaluation.metrics().items() if metric.informative)
    yield f"{'   '.join(metrics)}   ({scored_on})"
    read = int(evaluation.readable.sum())
    if read < CALIBRATED_FROM and not evaluation.space.multi_label:
        yield f"calibration left out: {read} videos were read, and below {CALIBRATED_FROM} it is mostly chance"
    for head in evaluation.space.heads:
        if (found := evaluation.calibration(head, CALIBRATED_FROM)) is not None:
            of_head = "" if evaluation.space.single else f"{head} "
            yield f"{of_head}expected calibration error {found.error:.1%}"


def class_lines(evaluation: Evaluation, head: str, everything: Path) -> Iterator[str]:
    """A table of the classes with the lowest scores, one line each.

    Args:
        everything: the file with the scores of all classes.
    """
    metric = "average_precision" if evaluation.space.multi_label else "accuracy"
    rows = evaluation.per_class(head)
    scored = sorted((row for row in rows if row["videos"]), key=lambda row: (row[metric], -row["videos"]))
    of_head = "" if evaluation.space.single else f" of {head}"
    yield f"classes{of_head}, the worst first:" if len(scored) > 1 else f"classes{of_head}:"
    yield f"  {metric.replace('_', ' '):>8}  videos  class"
    for row in scored[:SHOWN_CLASSES]:
        yield f"  {row[metric]:>{max(len(metric), 8)}.1%}  {row['videos']:>6,}  {printable(row['class'])}"
    if len(scored) > SHOWN_CLASSES:
        yield f"  and {len(scored) - SHOWN_CLASSES:,} better ones, in {everything}"
    if len(scored) < len(rows):
        yield f"  {len(rows) - len(scored):,} of {len(rows):,} classes have no videos here"


def _key(model_hash: str, computed: str, videos: VideoSet, hashed: str, views: Views, decoder: Decoder) -> str:
    """A hash of everything the saved logits depend on, including the videos' order and times, unlike `data_hash`."""
    states = file_states(video.source for video in videos.videos)
    order = [[str(video.source), video.span, *states[video.source][:3]] for video in videos.videos]
    depends_on = [model_hash, computed, hashed, order, list(videos.labels.heads), str(views), views.average, decoder]
    return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:HASH_DIGITS]


def _of_heads(values: dict[str, Any]) -> Any:
    """The value of the only head, or head → value."""
    return next(iter(values.values())) if len(values) == 1 else values


def _printable(name: str | Path) -> str:
    """Escape bytes of a file name that are not text."""
    return str(name).encode("utf-8", "backslashreplace").decode()
