"""Training: the whole run from top to bottom.

A run is a folder. It is a model folder (config.json, model.safetensors: the weights so far), and has recipe.json,
metrics.jsonl (a line for each epoch), tensorboard/, checkpoints/ and confusion.png besides. The same call again goes on
where the last one was stopped, with the very steps that were left.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from vivit.device import pick_device
from vivit.errors import UserError, one_line
from vivit.evaluation.evaluate import evaluate
from vivit.evaluation.pictures import draw_confusion
from vivit.evaluation.views import clip_spec
from vivit.model.vivit import ViViT
from vivit.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from vivit.training.optim import build_optimiser, learning_rate
from vivit.training.recipes import Recipe
from vivit.video.datasets import VideoSet, count_classes, open_split
from vivit.video.loader import steps_per_epoch, training_batches
from vivit.weights.writing import as_json, text, write_files

# Seconds between checkpoints within an epoch.
CHECKPOINT_EVERY = 600.0
MIRRORED = ("left", "right", "clockwise", "counterclockwise", "anticlockwise")


def train(
    data: Path, out: Path, recipe: Recipe, *, device: str = "auto", workers: int = 2, keep_decoded: bool = False
) -> ViViT:
    """Train a model on labelled videos and leave it in the folder `out`.

    Args:
        data: a data set as `open_split` reads it.
        out: the run's folder; one that was begun with the same recipe is continued.
        workers: processes that decode.
        keep_decoded: keep the training videos in memory once decoded, resized; for sets that fit.

    Returns:
        The trained model, in eval mode.

    Raises:
        UserError: data or recipe do not fit, a video cannot be read, `out` belongs to another run, or the loss is no
            longer a number.
    """
    say = Console(soft_wrap=True, markup=False).print
    train_set, val_set = open_split(data, "train"), open_split(data, "val")
    torch.manual_seed(recipe.seed)
    try:
        model = ViViT(
            recipe.build_config({head: len(names) for head, names in train_set.classes.items()}),
            classes=train_set.classes,
            preprocessing=recipe.build_preprocessing(),
            origin=[
                f"trained on {len(train_set.videos)} videos of {count_classes(train_set)} "
                f"({data.resolve().name}), in a run of {recipe.epochs} epochs"
            ],
        )
    except ValidationError as error:
        raise UserError(one_line(error)) from None
    except ValueError as error:
        raise UserError(str(error)) from None
    _claim(out, data, recipe)
    model.initialise(position_std=recipe.position_std)
    model.to(pick_device(device))
    optimiser = build_optimiser(model, recipe)
    per_epoch = steps_per_epoch(len(train_set.videos), recipe.batch_size)
    num_steps = recipe.epochs * per_epoch
    flip = _flip_probability(recipe, train_set)
    _say_choices(say, model, train_set, val_set, recipe, flip)

    start_step = 0
    losses: list[float] = []  # of the steps of this epoch so far
    if saved := checkpoints(out / "checkpoints"):
        state = load_checkpoint(saved[-1], model, optimiser)
        start_step, losses = state["step"], state["losses"]
        say(f"going on after step {start_step} of {num_steps}, from {saved[-1]}")
    history = _history(out, start_step // per_epoch)
    if start_step == num_steps:
        say(f"{out} is trained already")
        return model.eval()

    batches = training_batches(
        train_set,
        clip_spec(model),
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        num_steps=num_steps,
        start_step=start_step,
        flip_probability=flip,
        workers=0 if keep_decoded else workers,
        keep=keep_decoded,
    )
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:.0f} clips/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with SummaryWriter(str(out / "tensorboard"), purge_step=start_step) as board, Progress(*columns) as progress:
        epochs_of = f"{start_step // per_epoch + 1}/{recipe.epochs}"
        bar = progress.add_task("", total=num_steps, completed=start_step, epoch=epochs_of, loss=0.0, rate=0.0)
        unreadable: set[str] = set()
        untimed = len(losses)
        epoch_begun = saved_at = time.monotonic()
        model.train()
        for step, batch in enumerate(batches, start=start_step):
            # Dropout and stochastic depth draw from the step's own seed: a resumed run draws the same.
            torch.manual_seed(recipe.seed * 1_000_003 + step)
            rate = learning_rate(step, recipe.learning_rate, recipe.warmup_epochs * per_epoch, num_steps)
            loss = training_step(model, optimiser, batch.clips, batch.labels, rate, recipe)
            losses.append(loss)
            if loss != loss or abs(loss) == float("inf"):
                raise UserError(
                    f"the loss at step {step} is {loss}: lower the learning rate ({recipe.learning_rate:g})"
                )

            unreadable |= {str(failure) for failure in batch.failures}
            if len(unreadable) > recipe.unreadable * len(train_set.videos):
                raise UserError(
                    f"{len(unreadable)} of {len(train_set.videos)} training videos cannot be read, more than "
                    f"{recipe.unreadable:.0%} (--unreadable): {sorted(unreadable)[0]}"
                )

            done = step + 1
            clips_per_second = (len(losses) - untimed) * recipe.batch_size / (time.monotonic() - epoch_begun)
            progress.update(bar, completed=done, loss=sum(losses) / len(losses), rate=clips_per_second)
            board.add_scalar("train/loss", loss, step)
            board.add_scalar("train/learning_rate", rate, step)
            epoch_ended = done % per_epoch == 0
            if epoch_ended:
                epoch = done // per_epoch
                evaluation = evaluate(model, val_set, num_clips=1, num_crops=1, workers=workers)
                model.train()
                row = {"epoch": epoch, "loss": sum(losses) / len(losses), **evaluation.scores()}
                row["clips_per_second"] = clips_per_second
                history.append(row)
                _write_history(out, history)
                draw_confusion(evaluation.confusion, train_set.classes["classes"], out / "confusion.png")
                for name in ("top1", "top5"):
                    board.add_scalar(f"val/{name}", row[name], step)
                progress.console.print(
                    f"epoch {epoch:3d}  loss {row['loss']:.3f}  val top-1 {row['top1']:6.1%}  top-5 {row['top5']:6.1%}"
                )
                progress.update(bar, epoch=f"{min(epoch + 1, recipe.epochs)}/{recipe.epochs}")
                losses, untimed, epoch_begun = [], 0, time.monotonic()
            if epoch_ended or time.monotonic() - saved_at > CHECKPOINT_EVERY:
                # The model first: a run whose last checkpoint is there has left all that it leaves.
                model.save_pretrained(out)
                save_checkpoint(out / "checkpoints", done, model, optimiser, {"losses": losses})
                saved_at = time.monotonic()
    for failure in sorted(unreadable):
        say(f"not read, others seen in its place: {failure}")
    for failure in evaluation.failures:
        say(f"not read, counted as wrong: {failure}")
    return model.eval()


def training_step(
    model: ViViT,
    optimiser: torch.optim.Optimizer,
    clips: torch.Tensor,
    labels: Mapping[str, torch.Tensor],
    rate: float,
    recipe: Recipe,
) -> float:
    """One update on a batch (B, T, C, H, W) uint8; returns its loss."""
    device = next(model.parameters()).device
    logits = model(clips.to(device, non_blocking=True))
    loss = loss_of(logits, labels, recipe.label_smoothing)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if recipe.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    return loss.item()


def loss_of(
    logits: torch.Tensor | dict[str, torch.Tensor], labels: Mapping[str, torch.Tensor], label_smoothing: float
) -> torch.Tensor:
    """The sum over the heads of their cross-entropies; of sigmoids where any number of labels applies.

    Args:
        logits: (B, K), or head → (B, K).
        labels: head → (B,) int64; (B, K) float is a distribution over the classes.
    """
    by_head = logits if isinstance(logits, dict) else {"classes": logits}
    losses = [
        F.cross_entropy(values, labels[head].to(values.device), label_smoothing=label_smoothing)
        for head, values in by_head.items()
    ]
    return torch.stack(losses).sum()


def _claim(out: Path, data: Path, recipe: Recipe) -> None:
    """Make the run's folder and note what it is, or raise UserError where it cannot be or is another run's."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: no folder can be made there ({error.strerror}); give another --out") from None
    note = out / "recipe.json"
    this = {"data": str(data.resolve()), **recipe.model_dump(mode="json")}
    if not note.exists():
        write_files({note: as_json(this)})
        return
    found = json.loads(note.read_text())
    other = [name for name in this if found.get(name) != this[name]]
    if other:
        was = ", ".join(f"{name} {found.get(name)}" for name in other)
        raise UserError(f"{out}: begun with another {was}; delete it or give another --out")


def _flip_probability(recipe: Recipe, videos: VideoSet) -> float:
    if recipe.flip is not None:
        return recipe.flip
    names = " ".join(name for classes in videos.classes.values() for name in classes)
    words = set(names.lower().replace("_", " ").replace("-", " ").split())
    return 0.0 if words.intersection(MIRRORED) else 0.5


def _say_choices(say: Any, model: ViViT, train_set: VideoSet, val_set: VideoSet, recipe: Recipe, flip: float) -> None:
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    config = model.config
    say(f"train on {len(train_set.videos)} videos of {count_classes(train_set)}: {train_set.source}")
    say(f"validate on {len(val_set.videos)}: {val_set.source}")
    say(
        f"{config.variant.replace('_', ' ')} of {parameters:.1f} M parameters from scratch, "
        f"{config.num_frames} frames of {config.image_size[0]} × {config.image_size[1]}, "
        f"every {_ordinal(recipe.frame_stride)} frame, on {next(model.parameters()).device}"
    )
    if recipe.flip is None and flip == 0.0:
        say("no mirrored clips: the class names speak of left and right (--flip 0.5 mirrors them all the same)")


def _ordinal(stride: int) -> str:
    return {1: "single", 2: "second", 3: "third"}.get(stride, f"{stride}th")


def _history(out: Path, epochs: int) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, up to the epoch that the checkpoint ended."""
    file = out / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [row for row in rows if row["epoch"] <= epochs]


def _write_history(out: Path, history: list[dict[str, Any]]) -> None:
    write_files({out / "metrics.jsonl": text("".join(json.dumps(row) + "\n" for row in history))})
