"""A run's page: the whole run in one file, whether finished, interrupted or in progress."""

import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from markupsafe import Markup
from safetensors import SafetensorError, safe_open

from vivit.data.manifest import HASH_DIGITS
from vivit.report.clips import worst_mistakes
from vivit.report.curves import number, run_curves
from vivit.report.drawing import confusion_svg
from vivit.report.page import data_uri, duration, figures, write_page
from vivit.report.run_files import RunFiles, read_run
from vivit.training.optim import planned_epochs
from vivit.training.recipe import PretrainRecipe, Recipe
from vivit.training.recipes import PRETRAIN_RECIPES, RECIPES
from vivit.training.records import Row

# Rows of a table shown at once; the others are folded away.
SHOWN = 12
# Classes of the largest confusion matrix.
MOST_DRAWN = 2000
# Fields of recipe.json that do not belong to the recipe.
NOT_OF_RECIPE = ("data", "videos", "init", "keep", "keep_decoded", "overfit", "train_hash", "val_hash")


def write_report(run: Path, data: str | None = None, videos: Path | None = None) -> Path:
    """Write RUN/report.html.

    Args:
        run: the run folder.
        data: the training data, if it has moved.
        videos: the folder of the videos that the data lists, if it has moved.

    Returns:
        The page's path.

    Raises:
        UserError: `run` is not a run, one of its files is damaged, or the data is not where the user says.
    """
    read = read_run(run)
    mistakes, remark = worst_mistakes(read, data, videos)
    scored = bool(read.predictions.videos)
    clip_norm = number(read.recipe.get("clip_norm"))
    drawn = [] if scored else sorted(run.glob("confusion*.png"))  # by training, before there are predictions
    drawn += sorted(run.glob("reconstructions.png"))
    return write_page(
        run / "report.html",
        "run.html",
        name=run.resolve().name,
        state=_state(read),
        model=_model(read),
        scores=_scores(read),
        metrics=read.metrics,
        epochs=read.epochs,
        kept=read.kept,
        curves=run_curves(read.steps, read.epochs, read.metrics, None if math.isnan(clip_norm) else clip_norm),
        broken_steps=[row.get("step") for row in read.steps if math.isnan(number(row.get("loss")))],
        heads=[_head(read, head) for head in read.space.heads] if scored else [],
        drawn=[(file.stem, data_uri(file.read_bytes(), "image/png")) for file in drawn],
        mistakes=mistakes,
        remark=remark,
        space=read.space,
        unreadable=read.predictions.unreadable,
        config=_differences(read.recipe),
        recipe=read.recipe,
        data=data or read.recipe.get("data"),
        videos=videos or read.recipe.get("videos"),
        hash_digits=HASH_DIGITS,
        sessions=read.sessions,
        cost=_cost(read.sessions),
        shown=SHOWN,
    )


def _state(run: RunFiles) -> str:
    """How far the run is: "epoch 3 of 30, step 1,234"."""
    steps = [int(step) for step in (number(row.get("step")) for row in run.epochs + run.steps) if not math.isnan(step)]
    words = f"epoch {figures(run.epochs[-1].get('epoch'))}{_of_planned(run)}" if run.epochs else "no epoch yet"
    return f"{words}, step {max(steps):,}" if steps else words


def _of_planned(run: RunFiles) -> str:
    """ " of 30", or "" for a run of another version."""
    epoch, step = (number(run.epochs[-1].get(name)) for name in ("epoch", "step"))
    try:
        kind = PretrainRecipe if "mask_ratio" in run.recipe else Recipe
        recipe = kind.model_validate({name: run.recipe[name] for name in kind.model_fields})
        return f" of {planned_epochs(recipe, round(step / epoch))}"
    except (ValueError, KeyError, ZeroDivisionError):
        return ""


def _model(run: RunFiles) -> list[str]:
    """The model in a few words each: variant, size, clips, classes, start."""
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
    if run.space.heads:
        words.append(str(run.space))
    if run.recipe:
        words.append(f"from {run.recipe['init']}" if run.recipe.get("init") else "from scratch")
    return words


def _parameters(weights: Path) -> int:
    """The number of parameters in a file; 0 if it cannot be read, for example while it is being written."""
    try:
        with safe_open(weights, "pt") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (SafetensorError, OSError):
        return 0


def _scores(run: RunFiles) -> list[Row]:
    """Each metric of the weights in the folder, after the last epoch, and at its best.

    "main" says whether the run is judged by it.
    """
    main = run.space.main_metrics()
    scores = []
    for metric in run.metrics:
        known = [row for row in run.epochs if not math.isnan(number(row.get(metric.key)))]
        best = max(known, key=lambda row: number(row[metric.key]), default={})
        values = {"kept": run.kept.get(metric.key), "last": run.epochs[-1].get(metric.key)}
        values |= {"best": best.get(metric.key), "best_epoch": best.get("epoch")}
        scores.append({"metric": metric, "main": metric in main, **values})
    return scores


def _head(run: RunFiles, head: str) -> Row:
    """A head's classes and, unless multi_label, its confusions.

    "pairs" are true class, predicted class, count, and the class's number of videos; the most frequent first.
    "commonest" is the accuracy of always predicting the most frequent class.
    """
    predictions, names = run.predictions, run.space.classes[head]
    scored = predictions.class_scores(head)
    about = {"name": run.space.title(head), "classes": len(names), "scored": scored, "pairs": [], "matrix": ""}
    if run.space.multi_label:
        return about
    confusion = predictions.confusion(head)
    videos = {each.name: each.videos for each in scored}
    wrong = sorted(
        ((int(confusion[i, j]), names[i], names[j]) for i, j in zip(*confusion.nonzero(), strict=True) if i != j),
        key=lambda each: -each[0],
    )
    return {
        **about,
        "pairs": [(true, predicted, count, videos[true]) for count, true, predicted in wrong],
        "matrix": Markup(confusion_svg(confusion, names, f"confusion {head}")) if len(names) <= MOST_DRAWN else "",
        "commonest": max(videos.values(), default=0) / max(len(predictions.videos), 1),
    }


def _differences(settings: Row) -> Row | None:
    """The settings of a run compared with the named recipe that differs least.

    "changed" are field, its value in this run, and in that recipe; "same" are field and value.
    """
    fields = {name: value for name, value in settings.items() if name not in NOT_OF_RECIPE}
    if not fields:
        return None
    recipes = PRETRAIN_RECIPES if "mask_ratio" in settings else RECIPES
    named = {name: recipe.model_dump(mode="json") for name, recipe in recipes.items()}

    def changed(name: str) -> list[str]:
        return [field for field, value in fields.items() if field not in named[name] or named[name][field] != value]

    nearest = min(named, key=lambda name: len(changed(name)))
    others = changed(nearest)
    return {
        "recipe": nearest,
        "changed": [(field, fields[field], named[nearest].get(field)) for field in others],
        "same": [(field, value) for field, value in fields.items() if field not in others],
    }


def _cost(sessions: Iterable[Row]) -> list[str]:
    """ "24 minutes in 1 process on AMD EPYC", for each kind of machine."""
    seconds: defaultdict[tuple[int, str], float] = defaultdict(float)
    for session in sessions:
        time, processes = number(session.get("seconds")), number(session.get("processes"))
        if not math.isnan(time):
            key = (1 if math.isnan(processes) else int(processes), str(session.get("device") or "an unknown device"))
            seconds[key] += time
    words = []
    for (processes, device), time in seconds.items():
        each = f", {time * processes / 3600:.1f} process-hours" if processes > 1 else ""
        words.append(
            f"{duration(time)} in {processes} {'process' if processes == 1 else 'processes'} on {device}{each}"
        )
    return words
