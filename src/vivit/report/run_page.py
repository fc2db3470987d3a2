"""A run's page: what was learned, at a glance, in one file that needs nothing else.

Everything on it is of the run's folder, but for the clips of the worst mistakes: they are cut from the data.
"""

import base64
import io
import json
import math
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image
from safetensors import SafetensorError, safe_open

from vivit.data.datasets import LabelledVideo, open_split
from vivit.data.encode import Encoding, encode
from vivit.data.manifest import HASH_DIGITS, data_hash
from vivit.errors import UserError
from vivit.files import as_text, write_files
from vivit.report.curves import draw_curves, number, score_in_words, score_names
from vivit.report.mistakes import ClassScore, Predictions, ScoredVideo, class_scores, confusions, read_predictions
from vivit.training.optim import planned_epochs
from vivit.training.plan import few_batches
from vivit.training.recipe import Recipe
from vivit.training.recipes import RECIPES
from vivit.video.decode import open_video
from vivit.video.source import VideoError
from vivit.weights.files import read_json

Row = dict[str, Any]

# Of a clip on the page, and how much of the page all of them may take.
SECONDS = 4.0
MOST_CLIPS = 8
CLIP_BYTES = 600_000
ENCODINGS = (Encoding(short_side=192, crf=28), Encoding(short_side=128, crf=36), Encoding(short_side=96, crf=46))
# Rows that are seen at once; the others are folded away.
SHOWN = 12
# Classes of a confusion matrix with names and counts, and of one that is a picture.
MOST_NAMED, MOST_DRAWN = 30, 2000
# Of recipe.json: what is no field of the recipe.
NOT_OF_RECIPE = ("data", "videos", "init", "keep_decoded", "overfit", "train_hash", "val_hash")


@dataclass(frozen=True)
class _Run:
    """The files of a run's folder; empty where one is not there."""

    path: Path
    config: Row
    recipe: Row
    epochs: list[Row]
    steps: list[Row]
    sessions: list[Row]
    predictions: Predictions


def write_report(run: Path, data: str | None = None, videos: Path | None = None) -> Path:
    """Write RUN/report.html, of a run that is over, stopped or under way.

    Args:
        run: the run's folder.
        data: the data that it was trained on, where it is no longer where the run found it.
        videos: the folder with the videos that the data lists, where it is another.

    Returns:
        The page's path.

    Raises:
        UserError: `run` is no run, or one of its files is damaged.
    """
    read = _read_run(run)
    named = data is not None or videos is not None
    data = data or read.recipe.get("data")
    videos = videos or (Path(str(read.recipe["videos"])) if read.recipe.get("videos") else None)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vivit.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "figures": _figures, "duration": _duration, "setting": _setting}
    page = environment.get_template("run.html").render(
        name=run.resolve().name,
        state=_state(read),
        model=_model(read),
        scores=_scores(read),
        last_epoch=read.epochs[-1] if read.epochs else None,
        curves=[
            (chart, Markup(chart.svg))
            for chart in draw_curves(read.steps, read.epochs, _known(read.recipe.get("clip_norm")))
        ],
        broken_steps=[row.get("step") for row in read.steps if math.isnan(number(row.get("loss")))],
        heads=[_head(read, head) for head in read.predictions.heads],
        pictures=[] if read.predictions.videos else _pictures(run),
        mistakes=_mistakes(read, data, videos, named),
        multi_label=read.predictions.multi_label,
        unreadable=read.predictions.unreadable,
        epochs=read.epochs,
        epoch_columns=score_names(read.epochs),
        in_words=score_in_words,
        config=_differences(read.recipe),
        recipe=read.recipe,
        data=data,
        hash_digits=HASH_DIGITS,
        sessions=read.sessions,
        cost=_cost(read.sessions),
        shown=SHOWN,
    )
    path = run / "report.html"
    # A name of a file may have bytes that are no text.
    write_files({path: as_text(page.encode("utf-8", "replace").decode())})
    return path


def _read_run(run: Path) -> _Run:
    if not run.is_dir():
        raise UserError(f"{run}: no such folder; give the folder of a run, as vivit train --out had it")
    if not ((run / "recipe.json").exists() or (run / "metrics.jsonl").exists()):
        raise UserError(f"{run}: is no run: it has no recipe.json; give a folder that vivit train wrote")
    read = _Run(
        run,
        config=_read_object(run / "config.json"),
        recipe=_read_object(run / "recipe.json"),
        epochs=_read_lines(run / "metrics.jsonl"),
        steps=_read_lines(run / "steps.jsonl"),
        sessions=_read_lines(run / "sessions.jsonl"),
        predictions=read_predictions(run / "val_predictions.csv"),
    )
    # A top-5 of five classes cannot be missed.
    classes = _classes(read)
    sure = {f"{head}_top5" if len(classes) > 1 else "top5" for head, names in classes.items() if len(names) <= 5}
    return replace(read, epochs=[{k: v for k, v in row.items() if k not in sure} for row in read.epochs])


def _read_object(file: Path) -> Row:
    return read_json(file) if file.exists() else {}


def _read_lines(file: Path) -> list[Row]:
    if not file.exists():
        return []
    rows = []
    lines = file.read_text("utf-8", errors="replace").splitlines(keepends=True)
    for place, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            if place == len(lines) and not line.endswith("\n"):
                break  # as a run that was killed, or is just writing, leaves it
            raise UserError(f"{file}: line {place} is not JSON; take it out") from None
        if not isinstance(row, dict):
            raise UserError(f"{file}: line {place} is not a JSON object; take it out")
        rows.append(row)
    return rows


def _state(run: _Run) -> str:
    """How far the run has come, in words."""
    steps = [
        int(number(row.get("step"))) for row in (run.epochs + run.steps) if not math.isnan(number(row.get("step")))
    ]
    words = f"epoch {_figures(run.epochs[-1].get('epoch'))}{_of_planned(run)}" if run.epochs else "no epoch yet"
    return f"{words}, step {max(steps):,}" if steps else words


def _of_planned(run: _Run) -> str:
    """ " of 30", where that can be told."""
    epoch, step = (number(run.epochs[-1].get(name)) for name in ("epoch", "step"))
    try:
        recipe = Recipe.model_validate({name: run.recipe[name] for name in Recipe.model_fields})
        return f" of {planned_epochs(recipe, round(step / epoch))}"
    except (ValueError, KeyError, ZeroDivisionError):
        return ""  # a run of another version


def _model(run: _Run) -> list[str]:
    """What was trained, each thing in a few words."""
    words = []
    architecture = run.config.get("architecture") or {}
    if "variant" in architecture:
        words.append(f"ViViT, {str(architecture['variant']).replace('_', ' ')}")
    parameters = _parameters(run.path / "model.safetensors")
    if parameters:
        words.append(f"{parameters / 1e6:.1f} M parameters")
    size = architecture.get("image_size")
    if "num_frames" in architecture and isinstance(size, list):
        words.append(f"clips of {architecture['num_frames']} frames of {' × '.join(map(str, size))}")
    for head, names in _classes(run).items():
        words.append(f"{len(names)} classes" if head == "classes" else f"{len(names)} {head} classes")
    if run.recipe:
        words.append(f"from {run.recipe['init']}" if run.recipe.get("init") else "from scratch")
    return words


def _classes(run: _Run) -> dict[str, Sequence[str]]:
    """Head → its classes: of the model or, where it is not written yet, those that were met."""
    if run.config.get("classes"):
        return run.config["classes"]
    met: dict[str, set[str]] = {head: set() for head in run.predictions.heads}
    for video in run.predictions.videos:
        for head, answer in video.answers.items():
            met[head] |= {name for name in (*answer.labels, *answer.predicted) if name}
    return {head: sorted(names) for head, names in met.items()}


def _parameters(weights: Path) -> int:
    if not weights.exists():
        return 0
    try:
        with safe_open(weights, "pt") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (SafetensorError, OSError):
        return 0  # just being written


@dataclass(frozen=True)
class _Score:
    name: str
    last: float
    best: float
    best_epoch: Any
    main: bool
    """Whether it is one that the run is judged by, in large letters."""


def _scores(run: _Run) -> list[_Score]:
    names = score_names(run.epochs)
    # That of all heads together comes last.
    main = [name for name in names if name.endswith("mAP")] or [name for name in names if name.endswith("top1")][-1:]
    scores = []
    for name in names:
        known = [row for row in run.epochs if not math.isnan(number(row.get(name)))]
        best = max(known, key=lambda row: number(row[name]), default={})
        last = number(run.epochs[-1].get(name))
        scores.append(_Score(name, last, number(best.get(name)), best.get("epoch"), name in main))
    return scores


@dataclass(frozen=True)
class _Head:
    """What is shown of one head."""

    name: str
    classes: Sequence[str]
    scored: list[ClassScore]
    pairs: list[tuple[str, str, int, int]]
    """True class, predicted, how often, and of how many videos of the class; the most frequent first."""
    counts: list[list[int]]
    """(K, K), rows the true classes; empty where they are too many to be read."""
    picture: str
    """The same as a picture, where they are many."""
    commonest: float
    """The share of the most frequent class: who names it each time is right as often. NaN for many labels."""


def _head(run: _Run, head: str) -> _Head:
    predictions = run.predictions
    names = _classes(run).get(head) or []
    scored = class_scores(predictions, head, names)
    if predictions.multi_label:
        return _Head(head, names, scored, [], [], "", math.nan)
    counts = confusions(predictions, head)
    videos = {each.name: each.videos for each in scored}
    wrong = ((true, said, count) for (true, said), count in counts.most_common() if true != said)
    return _Head(
        head,
        names,
        scored,
        [(true, said, count, videos.get(true, count)) for true, said, count in wrong],
        [[counts[true, said] for said in names] for true in names] if len(names) <= MOST_NAMED else [],
        _confusion_picture(counts, names) if MOST_NAMED < len(names) <= MOST_DRAWN else "",
        max(videos.values(), default=0) / max(len(predictions.videos), 1),
    )


def _confusion_picture(counts: Counter[tuple[str, str]], names: Sequence[str]) -> str:
    """A pixel for each pair, the more opaque the larger the share of the true class's videos."""
    place = {name: i for i, name in enumerate(names)}
    shares = np.zeros((len(names), len(names)), dtype=np.float32)
    for (true, said), count in counts.items():
        if true in place and said in place:
            shares[place[true], place[said]] = count
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1)
    pixels = np.zeros((*shares.shape, 4), dtype=np.uint8)
    pixels[..., :3] = (207, 66, 56)
    pixels[np.eye(len(names), dtype=bool), :3] = (38, 110, 220)
    # One of fifty videos is still to be seen.
    pixels[..., 3] = np.where(shares > 0, 120 + 135 * shares, 0)
    # Enlarged here: some viewers blur what they enlarge.
    scale = max(1, round(900 / len(names)))
    written = io.BytesIO()
    Image.fromarray(pixels).resize((scale * len(names),) * 2, Image.Resampling.NEAREST).save(written, format="PNG")
    return _data_uri(written.getvalue(), "image/png")


def _pictures(run: Path) -> list[tuple[str, str]]:
    """The confusion matrices that training draws after each epoch, where there is no table of its answers yet."""
    return [(file.stem, _data_uri(file.read_bytes(), "image/png")) for file in sorted(run.glob("confusion*.png"))]


@dataclass(frozen=True)
class _Mistake:
    scored: ScoredVideo
    clip: str
    """As a data URI; empty where there is none."""
    problem: str
    """Why there is no clip."""


@dataclass(frozen=True)
class _Mistakes:
    worst: list[_Mistake]
    remark: str
    """Why there are no clips at all, or why they may not be what was scored."""


def _mistakes(run: _Run, data: str | None, videos: Path | None, named: bool) -> _Mistakes:
    """
    Args:
        named: whether the user has said where the data is: then not to find it is a mistake.
    """
    worst = run.predictions.worst(MOST_CLIPS)
    if not worst:
        return _Mistakes([], "")
    try:
        if not data:
            raise UserError("recipe.json does not say which data; name it")
        overfit = run.recipe.get("overfit")
        found = open_split(data, "train" if overfit else "val", run.config.get("classes"), videos)
        if overfit:
            fields = {name: run.recipe[name] for name in Recipe.model_fields}
            found = few_batches(found, overfit, Recipe.model_validate(fields))
    except (UserError, OSError) as error:
        if named:
            raise
        return _Mistakes([_Mistake(scored, "", "") for scored in worst], f"No clips: {error}.")
    scored_hash, hashed = run.recipe.get("val_hash"), data_hash(found)
    remark = ""
    if scored_hash and hashed != scored_hash:
        was, now = str(scored_hash)[:HASH_DIGITS], hashed[:HASH_DIGITS]
        remark = f"The validation videos are not those that were scored: their hash was {was}, and is {now}."
    by_name = defaultdict(list)
    for video in found.videos:
        by_name[_parts(str(video.source))[-1]].append(video)
    return _Mistakes([_with_clip(scored, by_name[_parts(scored.video)[-1]]) for scored in worst], remark)


def _with_clip(scored: ScoredVideo, candidates: Sequence[LabelledVideo]) -> _Mistake:
    """
    Args:
        candidates: videos of the same file name.
    """
    video = _find(scored, candidates)
    if video is None:
        return _Mistake(scored, "", "not in the data")
    try:
        return _Mistake(scored, _data_uri(_cut_clip(video), "video/mp4"), "")
    except VideoError as error:
        return _Mistake(scored, "", str(error))


def _find(scored: ScoredVideo, candidates: Sequence[LabelledVideo]) -> LabelledVideo | None:
    """That whose path ends like the one that was scored: the data may lie elsewhere now. None if two are alike."""

    def shared(video: LabelledVideo) -> int:
        pairs = zip(reversed(_parts(str(video.source))), reversed(_parts(scored.video)), strict=False)
        return next((i for i, (one, other) in enumerate(pairs) if one != other), 1 << 16)

    ranked = sorted((video for video in candidates if video.span == scored.span), key=shared, reverse=True)
    if len(ranked) > 1 and shared(ranked[0]) == shared(ranked[1]):
        return None
    return ranked[0] if ranked else None


def _parts(path: str) -> list[str]:
    return path.replace("\\", "/").split("/")


def _cut_clip(video: LabelledVideo) -> bytes:
    """The middle of what was scored, as an MP4 that is small enough. Raises VideoError."""
    with open_video(video.source) as opened, tempfile.TemporaryDirectory() as folder:
        start, end = video.span or (0.0, opened.info.duration)
        middle = (start + min(end, max(opened.info.duration, start))) / 2
        span = (max(start, middle - SECONDS / 2), min(end, middle + SECONDS / 2))
        file = Path(folder) / "clip.mp4"
        for encoding in ENCODINGS:
            try:
                encode(opened, file, encoding, span)
            except OSError as error:
                raise VideoError(video.source, f"cannot be encoded: {error.strerror}") from None
            if file.stat().st_size <= CLIP_BYTES:
                return file.read_bytes()
    raise VideoError(video.source, f"{SECONDS:g} seconds of it are too large for the page")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True)
class _Config:
    recipe: str
    """The named recipe that is nearest."""
    changed: list[tuple[str, Any, Any]]
    """Field, its value in this run, and in that recipe."""
    same: list[tuple[str, Any]]


def _differences(settings: Row) -> _Config | None:
    """What the run has set otherwise than the named recipe from which it differs least."""
    fields = {name: value for name, value in settings.items() if name not in NOT_OF_RECIPE}
    if not fields:
        return None
    named = {name: recipe.model_dump(mode="json") for name, recipe in RECIPES.items()}

    def changed(name: str) -> list[str]:
        return [field for field, value in fields.items() if field not in named[name] or named[name][field] != value]

    nearest = min(named, key=lambda name: len(changed(name)))
    others = changed(nearest)
    return _Config(
        nearest,
        [(field, fields[field], named[nearest].get(field)) for field in others],
        [(field, value) for field, value in fields.items() if field not in others],
    )


def _cost(sessions: Iterable[Row]) -> list[str]:
    """ "24 minutes on 1 process of AMD EPYC", for each kind of machine."""
    seconds: defaultdict[tuple[int, str], float] = defaultdict(float)
    for session in sessions:
        time = number(session.get("seconds"))
        if not math.isnan(time):
            processes = number(session.get("processes"))
            key = (1 if math.isnan(processes) else int(processes), str(session.get("device") or "an unknown device"))
            seconds[key] += time
    words = []
    for (processes, device), time in seconds.items():
        each = f", {time * processes / 3600:.1f} process-hours" if processes > 1 else ""
        words.append(
            f"{_duration(time)} on {processes} {'process' if processes == 1 else 'processes'} of {device}{each}"
        )
    return words


def _duration(seconds: Any) -> str:
    value = number(seconds)
    if math.isnan(value):
        return "–"
    if value < 90:
        return f"{value:.0f} second{'' if round(value) == 1 else 's'}"
    return f"{value / 60:.0f} minutes" if value < 5400 else f"{value / 3600:.1f} hours"


def _setting(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _known(value: Any) -> float | None:
    return None if math.isnan(number(value)) else number(value)


def _percent(value: Any) -> str:
    return "–" if math.isnan(number(value)) else f"{100 * number(value):.1f}\N{NO-BREAK SPACE}%"


def _figures(value: Any) -> str:
    """A number with as many digits as are of use."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "–" if math.isnan(number(value)) else f"{number(value):.4g}"
