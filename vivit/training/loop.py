"""Training: the whole run from top to bottom.

A run is a folder. It is a model folder (config.json, model.safetensors: the weights so far), and has recipe.json,
metrics.jsonl (a line for each epoch), tensorboard/, checkpoints/ and confusion matrices besides. The same call again
goes on where the last one was stopped, with the very steps that were left.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from vivit.data.datasets import VideoSet, count_classes, open_split
from vivit.data.entries import shortened
from vivit.data.loader import colour_rng, steps_per_epoch, training_batches
from vivit.data.manifest import HASH_DIGITS, data_hash
from vivit.data.mirror import mirrored_classes
from vivit.device import pick_device
from vivit.errors import UserError, one_line
from vivit.evaluation.evaluate import evaluate
from vivit.evaluation.pictures import draw_confusions
from vivit.evaluation.views import clip_spec
from vivit.model.vivit import ViViT
from vivit.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from vivit.training.mixing import mix
from vivit.training.optim import build_optimiser, learning_rate
from vivit.training.recipe import Recipe
from vivit.video.augment import Augmentation, augment_batch
from vivit.video.decode import Decoder
from vivit.video.source import name_of, place_of
from vivit.writing import as_json, text, write_files

# Seconds between checkpoints within an epoch.
CHECKPOINT_EVERY = 600.0
# First in the seed of what Mixup and CutMix draw; the loader has those below.
MIXING = 4


def train(
    data: str | Path,
    out: Path,
    recipe: Recipe,
    *,
    videos: Path | None = None,
    device: str = "auto",
    workers: int = 2,
    keep_decoded: bool = False,
    decoder: Decoder = "pyav",
    timeout: float | None = None,
) -> ViViT:
    """Train a model on labelled videos and leave it in the folder `out`.

    Args:
        data: a data set as `open_split` reads it.
        out: the run's folder; one that was begun with the same recipe and data is continued.
        videos: the folder with the videos, where it is not beside their list.
        workers: processes that decode.
        keep_decoded: keep the training videos in memory once decoded, resized; for sets that fit.
        decoder: see `open_video`.
        timeout: seconds that reading a video may take before it counts as unreadable.

    Returns:
        The trained model, in eval mode.

    Raises:
        UserError: data or recipe do not fit, a video cannot be read, `out` belongs to another run, or the loss is no
            longer a number.
    """
    say = Console(soft_wrap=True, markup=False).print
    train_set = open_split(data, "train", videos=videos)
    val_set = open_split(data, "val", videos=videos)
    heads = {head: len(names) for head, names in train_set.classes.items()}
    mirrors = _mirrors(recipe, train_set)
    one_sided = any(len(mirrors[head]) < number for head, number in heads.items())
    augmentation = recipe.build_augmentation()
    if one_sided and recipe.flip is None:
        augmentation = replace(augmentation, flip=0.0)
    torch.manual_seed(recipe.seed)
    try:
        model = ViViT(
            recipe.build_config(heads, train_set.multi_label),
            classes=train_set.classes,
            preprocessing=recipe.build_preprocessing(),
            origin=[
                f"trained on {len(train_set.videos)} videos of {count_classes(train_set)} "
                f"({name_of(data)}), in a run of {recipe.epochs} epochs"
            ],
        )
    except ValidationError as error:
        raise UserError(one_line(error)) from None
    except ValueError as error:
        raise UserError(str(error)) from None
    hashes = {"train_hash": data_hash(train_set), "val_hash": data_hash(val_set)}
    model_device = pick_device(device)
    _claim(out, data, recipe, hashes)
    model.initialise(position_std=recipe.position_std)
    on_gpu = model_device.type == "cuda"
    model.to(model_device)
    optimiser = build_optimiser(model, recipe)
    per_epoch = steps_per_epoch(len(train_set.videos), recipe.batch_size)
    num_steps = recipe.epochs * per_epoch
    batch_size = min(recipe.batch_size, len(train_set.videos))
    _say_choices(say, model, train_set, val_set, hashes, recipe, augmentation, mirrors, one_sided)

    start_step = 0
    losses: list[float] = []  # of the steps of this epoch so far
    unreadable: dict[int, str] = {}  # which videos could not be read, and why
    if saved := checkpoints(out / "checkpoints"):
        state = load_checkpoint(saved[-1], model, optimiser)
        start_step, losses = state["step"], state["losses"]
        unreadable = {int(index): reason for index, reason in state["unreadable"].items()}
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
        augmentation=augmentation,
        colours=not on_gpu,
        mirrors=mirrors,
        workers=0 if keep_decoded else workers,
        keep=keep_decoded,
        decoder=decoder,
        timeout=timeout,
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
        untimed = len(losses)
        epoch_begun = saved_at = time.monotonic()
        model.train()
        for step, batch in enumerate(batches, start=start_step):
            # Dropout and stochastic depth draw from the step's own seed: a resumed run draws the same.
            torch.manual_seed(recipe.seed * 1_000_003 + step)
            rate = learning_rate(step, recipe.learning_rate, recipe.warmup_epochs * per_epoch, num_steps)
            clips, labels = batch.clips.to(model_device), batch.labels
            if on_gpu:
                rngs = [colour_rng(recipe.seed, step // per_epoch, index) for index in batch.indices.tolist()]
                clips = augment_batch(clips, augmentation, rngs)
            if recipe.mixup or recipe.cutmix:
                clips, labels = mix(
                    clips,
                    labels,
                    heads,
                    mixup_alpha=recipe.mixup,
                    cutmix_alpha=recipe.cutmix,
                    rng=np.random.default_rng([MIXING, recipe.seed, step]),
                )
            loss = training_step(model, optimiser, clips, labels, rate, recipe, train_set.multi_label)
            losses.append(loss)
            if loss != loss or abs(loss) == float("inf"):
                raise UserError(
                    f"the loss at step {step} is {loss}: lower the learning rate ({recipe.learning_rate:g})"
                )

            for index, failure in batch.failures:
                unreadable.setdefault(index, str(failure))
            if len(unreadable) > recipe.unreadable * len(train_set.videos):
                raise UserError(
                    f"{len(unreadable)} of {len(train_set.videos)} training videos cannot be read, more than "
                    f"{recipe.unreadable:.0%} (--unreadable): {min(unreadable.values())}"
                )

            done = step + 1
            clips_per_second = (len(losses) - untimed) * batch_size / (time.monotonic() - epoch_begun)
            progress.update(bar, completed=done, loss=sum(losses) / len(losses), rate=clips_per_second)
            board.add_scalar("train/loss", loss, step)
            board.add_scalar("train/learning_rate", rate, step)
            epoch_ended = done % per_epoch == 0
            if epoch_ended:
                epoch = done // per_epoch
                evaluation = evaluate(
                    model, val_set, num_clips=1, num_crops=1, workers=workers, decoder=decoder, timeout=timeout
                )
                model.train()
                row: dict[str, Any] = {"epoch": epoch, "loss": sum(losses) / len(losses), **evaluation.scores()}
                row |= {"data_hash": hashes["val_hash"], "clips_per_second": clips_per_second}
                history.append(row)
                _write_history(out, history)
                draw_confusions(evaluation, out)
                for name, value in evaluation.shares().items():
                    board.add_scalar(f"val/{name}", value, step)
                said = "  ".join(f"{name} {value:6.1%}" for name, value in evaluation.shares_in_words().items())
                progress.console.print(f"epoch {epoch:3d}  loss {row['loss']:.3f}  val {said}", soft_wrap=True)
                progress.update(bar, epoch=f"{min(epoch + 1, recipe.epochs)}/{recipe.epochs}")
                losses, untimed, epoch_begun = [], 0, time.monotonic()
            if epoch_ended or time.monotonic() - saved_at > CHECKPOINT_EVERY:
                # The model first: a run whose last checkpoint is there has left all that it leaves.
                model.save_pretrained(out)
                save_checkpoint(
                    out / "checkpoints",
                    done,
                    model,
                    optimiser,
                    {"losses": losses, "unreadable": {str(index): reason for index, reason in unreadable.items()}},
                )
                saved_at = time.monotonic()
    for reason in sorted(set(unreadable.values())):
        say(f"not read, others seen in its place: {reason}")
    for reason in evaluation.failures:
        say(f"not read, counted as wrong: {reason}")
    return model.eval()


def training_step(
    model: ViViT,
    optimiser: torch.optim.Optimizer,
    clips: torch.Tensor,
    labels: Mapping[str, torch.Tensor],
    rate: float,
    recipe: Recipe,
    multi_label: bool,
) -> float:
    """One update on a batch (B, T, C, H, W) on the model's device; returns its loss.

    `labels` and `multi_label` are `loss_of`'s.
    """
    logits = model(clips)
    loss = loss_of(logits, labels, recipe.label_smoothing, multi_label)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if recipe.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    return loss.item()


def loss_of(
    logits: torch.Tensor | dict[str, torch.Tensor],
    labels: Mapping[str, torch.Tensor],
    label_smoothing: float,
    multi_label: bool,
) -> torch.Tensor:
    """The mean over the heads of their losses (as Scenic has it for EPIC-Kitchens), each the mean over the batch.

    A head's loss is the cross-entropy; where any number of labels applies it is the sum over the classes of their
    binary cross-entropies, as in Scenic (`weighted_sigmoid_cross_entropy`), which smooths labels in the same way too.

    Args:
        logits: (B, K), or head → (B, K).
        labels: head → (B,) int64, or (B, K) float that is a distribution over the classes; with `multi_label`
            (B, K) float, of each class how far it applies, 0 to 1.
        label_smoothing: this share of the labels is spread evenly over all classes.
    """
    by_head = logits if isinstance(logits, dict) else {"classes": logits}
    losses = []
    for head, values in by_head.items():
        truth = labels[head].to(values.device)
        if multi_label:
            smoothed = truth * (1 - label_smoothing) + label_smoothing / values.shape[1]
            losses.append(F.binary_cross_entropy_with_logits(values, smoothed, reduction="sum") / len(values))
        else:
            losses.append(F.cross_entropy(values, truth, label_smoothing=label_smoothing))
    return torch.stack(losses).mean()


def _claim(out: Path, data: str | Path, recipe: Recipe, hashes: Mapping[str, str]) -> None:
    """Make the run's folder and note what it is, or raise UserError where it cannot be or is another run's."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: no folder can be made there ({error.strerror}); give another --out") from None
    note = out / "recipe.json"
    this = {"data": place_of(data), **recipe.model_dump(mode="json")}
    if not note.exists():
        write_files({note: as_json({**this, **hashes})})
        return
    found = _parse_json(note.read_text("utf-8"), note, out)
    other = [name for name in this if found.get(name) != this[name]]
    if other:
        was = ", ".join(f"{name} {found.get(name)}" for name in other)
        raise UserError(f"{out}: begun with another {was}; delete it or give another --out")
    for name, videos in (("train_hash", "training"), ("val_hash", "validation")):
        was = found.get(name, "unknown")
        if was != hashes[name]:
            raise UserError(
                f"{out}: begun with other {videos} videos (data {was[:HASH_DIGITS]}, "
                f"and now {hashes[name][:HASH_DIGITS]}); put {data} back as it was, or give another --out"
            )


def _mirrors(recipe: Recipe, videos: VideoSet) -> dict[str, dict[int, int]]:
    """head → which class each becomes in a mirrored clip, without those that have a side and no mirror."""
    known = {name for names in videos.classes.values() for name in names}
    for name in (*recipe.mirrored, *recipe.mirrored.values()):
        if name not in known:
            raise UserError(f"mirrored: there is no class {name!r}; give names as the data has them")
    mirrors = {}
    for head, names in videos.classes.items():
        swaps = {name: other for name, other in recipe.mirrored.items() if name in names or other in names}
        mirrors[head] = mirrored_classes(names, swaps)
    return mirrors


def _say_choices(
    say: Any,
    model: ViViT,
    train_set: VideoSet,
    val_set: VideoSet,
    hashes: Mapping[str, str],
    recipe: Recipe,
    augmentation: Augmentation,
    mirrors: Mapping[str, Mapping[int, int]],
    one_sided: bool,
) -> None:
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    config = model.config
    train_hash, val_hash = (hashes[name][:HASH_DIGITS] for name in ("train_hash", "val_hash"))
    say(
        f"train on {len(train_set.videos)} videos of {count_classes(train_set)} (data {train_hash}): {train_set.source}"
    )
    for head, names in train_set.classes.items():
        seen = {number for video in train_set.videos for number in _numbers(video.labels[head])}
        unseen = [name for number, name in enumerate(names) if number not in seen]
        if unseen:
            say(f"no training video of {shortened(unseen)}: such videos cannot be learned")
    say(f"validate on {len(val_set.videos)} (data {val_hash}): {val_set.source}")
    say(
        f"{config.variant.replace('_', ' ')} of {parameters:.1f} M parameters from scratch, "
        f"{config.num_frames} frames of {config.image_size[0]} × {config.image_size[1]}, "
        f"every {_ordinal(model.preprocessing.frame_stride)} frame, on {next(model.parameters()).device}"
    )
    if one_sided and recipe.flip is None:
        say(
            "no mirrored clips: a class has a side and no other is its mirror (--mirrored NAME NAME names a pair, "
            "--flip 0.5 mirrors all the same)"
        )
    elif augmentation.flip:
        swapped = [
            f"{names[number]} and {names[other]}"
            for head, names in train_set.classes.items()
            for number, other in mirrors[head].items()
            if number < other
        ]
        if swapped:
            say(f"in mirrored clips these become each other: {shortened(swapped, 3)}")


def _numbers(label: int | tuple[int, ...]) -> tuple[int, ...]:
    return (label,) if isinstance(label, int) else label


def _ordinal(stride: int) -> str:
    return {1: "single", 2: "second", 3: "third"}.get(stride, f"{stride}th")


def _parse_json(content: str, file: Path, out: Path) -> dict[str, Any]:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: damaged ({error}); delete {out} or give another --out") from None


def _history(out: Path, epochs: int) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, up to the epoch that the checkpoint ended."""
    file = out / "metrics.jsonl"
    rows = [_parse_json(line, file, out) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
    return [row for row in rows if row["epoch"] <= epochs]


def _write_history(out: Path, history: list[dict[str, Any]]) -> None:
    write_files({out / "metrics.jsonl": text("".join(json.dumps(row) + "\n" for row in history))})
