"""One cell: train a model as `vivit train` does, score it as `vivit evaluate` does, and write the record."""

import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from vivit.data.readers.listing import open_data
from vivit.evaluation.evaluate import evaluate
from vivit.experiments.paper.cells import Cell, Pretrained
from vivit.experiments.paper.cost import work_of
from vivit.experiments.paper.folder import PaperFolder
from vivit.experiments.record import write_record
from vivit.files import as_text, make_folder, write_files
from vivit.inference.views import Views
from vivit.labels import LabelSpace
from vivit.training.pretrain import pretrain
from vivit.training.recipe import Recipe
from vivit.training.records import read_lines
from vivit.training.train import train
from vivit.video.decode import ReadOptions
from vivit.weights.adapt import TubeletInit
from vivit.weights.describe import multiply_adds
from vivit.weights.image_vit import from_image_vit
from vivit.weights.store import WEIGHTS_FILE, save

CHECKPOINT_EVERY = 120.0  # seconds


def run_cell(cell: Cell, folder: PaperFolder, work: Path, image_vit: str | None, device: str) -> None:
    """Train and score a cell's model and write its record; resume what a stopped process left in `work`.

    Args:
        work: the cell's folder, claimed.
        image_vit: the source of the image ViT that some cells start from.

    Raises:
        UserError, Stopped: as for `train` and `evaluate`.
        InUse: another process is making the pretrained model that this cell starts from.
    """
    began, run = time.monotonic(), work / "run"
    with (work / "log.txt").open("a", encoding="utf-8") as log, redirect_stdout(log):
        start = _start(cell, folder, work, image_vit, device)
        ready, cpu = time.monotonic(), time.process_time()
        model = train(
            _training_data(cell, folder.videos, work),
            run,
            cell.recipe,
            init=start,
            videos=folder.videos,
            device=device,
            workers=0,
            keep_decoded=True,
            checkpoint_every=CHECKPOINT_EVERY,
            keep="last",
        )
        assert model.labels is not None
        trained, trained_cpu = time.monotonic() - ready, time.process_time() - cpu
        videos, read = open_data(folder.videos).split("test", model.labels), ReadOptions(workers=0)
        scored = {views: evaluate(model, videos, Views.parse(views), read=read) for views in cell.views}
    last = read_lines(run / "metrics.jsonl")[-1]
    values = {
        "key": cell.key,
        "label": cell.label,
        "scale": cell.scale.name,
        "settings": cell.settings,
        "val": _by_head(last, model.labels),
        "test": {views: _by_head(found.scores(), found.space) for views, found in scored.items()},
        "loss": last["loss"],
        "steps": last["step"],
        "multiply_adds": multiply_adds(model.config),
        "work": work_of(cell),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(time.monotonic() - began, 1),
        "train_seconds": round(trained, 1),
        "train_cpu_seconds": round(trained_cpu, 1),
    }
    write_record(folder.result(cell), values, seed=cell.recipe.seed, device=device)


def _training_data(cell: Cell, videos: Path, work: Path) -> Path:
    """The benchmark, or lists of its first training videos (balanced over classes) and all its validation videos."""
    if cell.fraction == 1:
        return videos
    header, *rows = (videos / "train.csv").read_text("utf-8").splitlines(keepends=True)
    make_folder(work / "data")
    some = rows[: max(1, round(cell.fraction * len(rows)))]
    write_files(
        {
            work / "data" / "train.csv": as_text("".join([header, *some])),
            work / "data" / "val.csv": as_text((videos / "val.csv").read_text("utf-8")),
        }
    )
    return work / "data"


def _start(cell: Cell, folder: PaperFolder, work: Path, image_vit: str | None, device: str) -> str | None:
    """The initial weights of a cell, as for `train`, made if missing; None trains from scratch."""
    if isinstance(cell.start, Pretrained):
        out = folder.pretrained(cell.start)
        pretrain(
            folder.videos,
            out,
            cell.start.recipe,
            device=device,
            workers=0,
            keep_decoded=True,
            checkpoint_every=CHECKPOINT_EVERY,
        )
        return str(out)
    if cell.start is None:
        return None
    assert image_vit is not None
    if cell.start.tubelet_init is None:
        return image_vit
    if not (work / "start" / WEIGHTS_FILE).exists():
        _make_start(cell.recipe, cell.start.tubelet_init, cell.start.layers, image_vit, work / "start")
    return str(work / "start")


def _make_start(recipe: Recipe, tubelet_init: TubeletInit, layers: int, image_vit: str, folder: Path) -> None:
    """Write the video model that the image ViT becomes before its first step."""
    fields = {name: value for name, value in recipe.config_fields(False).items() if value is not None}
    torch.manual_seed(recipe.seed)  # for a randomly initialised kernel
    save(from_image_vit(image_vit, tubelet_init, num_layers=layers, **fields), folder)


def _by_head(scores: Mapping[str, Any], space: LabelSpace) -> dict[str, float]:
    """Top-1 accuracies: verb, noun and, for both together, action."""
    return {metric.head: scores[metric.key] for metric in space.metrics() if metric.top == 1}
