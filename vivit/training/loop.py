"""Training: the whole run from top to bottom.

A run is a folder (`vivit.training.run_folder` says what it holds), and each update of the weights is an `Updater`'s.
The same call again goes on where the last one was stopped, with the very steps that were left.
"""

import copy
import errno
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any

import torch
from accelerate.utils import gather_object as everyones
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vivit.data.datasets import open_split
from vivit.data.entries import shortened
from vivit.data.loader import check_workers, training_batches
from vivit.data.manifest import data_hash
from vivit.device import pick_device
from vivit.errors import Stopped, UserError
from vivit.evaluation.evaluate import Evaluation, evaluate, evaluation_of
from vivit.evaluation.views import clip_spec
from vivit.model.encoder import Encoder
from vivit.model.vivit import ViViT
from vivit.training.averaging import WeightAverage
from vivit.training.checkpoint import Checkpoints
from vivit.training.choices import mirrors_of, say_data, say_mirrors, say_schedule
from vivit.training.feature_cache import FeatureCache
from vivit.training.frozen import TemporalPart, freeze_spatial
from vivit.training.memory import check_memory, out_of_memory
from vivit.training.optim import build_optimiser
from vivit.training.overfit import few_batches, how_it_went, without_chance
from vivit.training.processes import (
    DTYPES,
    Tracker,
    distribute,
    pick_precision,
    start_processes,
    start_trackers,
    summed,
)
from vivit.training.recipe import Recipe
from vivit.training.run_folder import RunFolder
from vivit.training.run_report import write_report
from vivit.training.schedule import Schedule
from vivit.training.scoring import Scorer
from vivit.training.session import device_words, peak_memory, session_of
from vivit.training.start import build_model, start_lines
from vivit.training.state import training_tensors
from vivit.training.stopping import StopRequest
from vivit.training.update import NotFinite, Updater, check_shares
from vivit.video.decode import Decoder
from vivit.video.source import name_of

COLUMNS = (
    TextColumn("epoch {task.fields[epoch]}"),
    BarColumn(bar_width=None),
    MofNCompleteColumn(),
    TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:.3g} clips/s  {task.fields[waiting]:.0%} waiting"),
    TimeElapsedColumn(),
    TextColumn("left"),
    TimeRemainingColumn(),
)


def train(
    data: str | Path,
    out: Path,
    recipe: Recipe,
    *,
    init: str | None = None,
    videos: Path | None = None,
    device: str = "auto",
    workers: int = 2,
    keep_decoded: bool = False,
    decoder: Decoder = "pyav",
    timeout: float | None = None,
    compile: bool = False,
    activation_checkpointing: bool = False,
    shard: bool = False,
    checkpoint_every: float = 600.0,
    track: Tracker | None = None,
    overfit: int | None = None,
) -> ViViT:
    """Train a model on labelled videos and leave it in the folder `out`.

    Started by torchrun, as many processes as there are share the work.

    Args:
        data: a data set as `open_split` reads it.
        out: the run's folder; one that was begun with the same recipe and data is continued.
        init: what to start from, as `vivit.training.start.build_model` takes it; None is from scratch.
        videos: the folder with the videos, where it is not beside their list.
        workers: processes that decode, for each process that trains.
        keep_decoded: keep the training videos in memory once decoded, resized; for sets that fit.
        decoder: see `open_video`.
        timeout: seconds that reading a video may take before it counts as unreadable.
        compile: compile each transformer block.
        activation_checkpointing: compute activations again for the gradient, in place of keeping them.
        shard: spread weights, gradients and the optimiser's state over the processes (FSDP2).
        checkpoint_every: seconds between checkpoints; there is one besides whenever the model is scored.
        track: where curves go besides TensorBoard.
        overfit: learn so many batches by heart, without augmentation and regularisation, to see that it can be done.

    Returns:
        The trained model, in eval mode, on its device.

    Raises:
        UserError: data, recipe or start do not fit, a video cannot be read, `out` belongs to another run, memory or
            disk do not suffice, or the loss is no longer a number.
        Stopped: Ctrl-C or SIGTERM came; there is a checkpoint of the last step.
    """
    if checkpoint_every < 0:
        raise UserError(f"checkpoint_every: {checkpoint_every:g} seconds cannot pass; 0 is after every step")
    check_workers(workers)
    if recipe.freeze_spatial and recipe.cutmix:
        raise UserError("cutmix: with --freeze-spatial no picture is seen in training that has boxes; --mixup goes")
    precision = pick_precision(recipe.precision, pick_device(device))
    accelerator = start_processes(pick_device(device), precision, track, shard)
    main, rank, world_size = accelerator.is_main_process, accelerator.process_index, accelerator.num_processes
    say = Console(soft_wrap=True, markup=False, quiet=not main).print

    train_set = open_split(data, "train", videos=videos)
    val_set = open_split(data, "val", videos=videos)
    if overfit is not None:
        recipe = without_chance(recipe)
        train_set = val_set = few_batches(train_set, overfit, recipe)
    hashes = {"train_hash": data_hash(train_set), "val_hash": data_hash(val_set)}
    heads = {head: len(names) for head, names in train_set.classes.items()}
    mirrors, flips = mirrors_of(recipe, train_set)
    augmentation = replace(recipe.build_augmentation(), flip=flips)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe, train_set, init, name_of(data))
    # All of the model, or what follows a frozen part of it, from that part's features.
    trained = freeze_spatial(model) if recipe.freeze_spatial else model

    schedule = Schedule.planned(recipe, len(train_set.videos))
    batch_size, per_epoch, num_steps = schedule.batch_size, schedule.steps_per_epoch, schedule.num_steps
    check_shares(batch_size, recipe, world_size)

    run = RunFolder(out)
    if main:
        run.claim(data, init, videos, recipe, hashes)
    accelerator.wait_for_everyone()
    say_data(say, train_set, val_set, hashes)
    for line in start_lines(model, recipe, init, len(train_set.videos)):
        say(line)
    say_mirrors(say, train_set, recipe, mirrors, flips)
    say_schedule(say, recipe, schedule, world_size)
    say(f"on {device_words(accelerator.device)} in {precision}")

    encoders = [module for module in trained.modules() if isinstance(module, Encoder)]
    for encoder in encoders:
        encoder.activation_checkpointing = activation_checkpointing
    memory_check = partial(
        check_memory,
        model,
        math.ceil(batch_size / world_size),
        accumulate=recipe.accumulate,
        precision=precision,
        optimiser=recipe.optimiser,
        ema=bool(recipe.ema),
        device=accelerator.device,
        shards=world_size if shard else 1,
    )
    if not recipe.freeze_spatial:
        say(memory_check())
    # The model that is kept and scored: where that is an average of the weights, or they are spread over processes, a
    # copy.
    kept = copy.deepcopy(model).to(accelerator.device) if recipe.ema or shard else model
    if compile:
        for block in (block for encoder in encoders for block in encoder.blocks):
            block.compile(fullgraph=True)
    model.to(accelerator.device)
    network = distribute(trained, accelerator, shard, precision)
    optimiser = build_optimiser(trained, recipe)
    average = WeightAverage(trained, recipe.ema) if recipe.ema else None
    update = Updater(
        network,
        accelerator.prepare_optimizer(optimiser),
        average,
        accelerator,
        recipe,
        heads,
        train_set.multi_label,
        colours=augmentation if accelerator.device.type == "cuda" and not recipe.freeze_spatial else None,
    )

    checkpoints = Checkpoints(run.checkpoints)
    done = 0  # steps
    losses: list[float] = []  # of the steps of this epoch
    unreadable: dict[int, str] = {}  # which videos could not be read, and why
    found = checkpoints.load_latest(lambda: training_tensors(model, optimiser, average), say)
    if found is not None:
        done, losses = found["step"], found["losses"]
        unreadable = {int(index): reason for index, reason in found["unreadable"].items()}
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(found["scaler"])
        say(f"going on after step {done} of {num_steps}, from {run.checkpoints}")
    begun = time.monotonic()
    if main:
        run.go_on(done, session_of(accelerator, done))
    times_scored = everyones([len(run.epochs)])[0]  # the first process has the records
    if done == num_steps and times_scored == schedule.times_scored(num_steps):
        say(f"{out} is trained already")
        return kept.eval()

    def save_checkpoint() -> None:
        state: dict[str, Any] = {"step": done, "losses": losses, "unreadable": unreadable}
        if accelerator.scaler is not None:
            state["scaler"] = accelerator.scaler.state_dict()
        checkpoints.save(done, training_tensors(model, optimiser, average), state)
        if main:
            run.note_session(
                last_step=done, seconds=time.monotonic() - begun, peak_memory=peak_memory(accelerator.device)
            )

    def evaluated(kept: ViViT) -> Evaluation:
        if recipe.freeze_spatial:
            return evaluation_of(val_set, *held_out.logits(TemporalPart(kept)))
        return evaluate(kept, val_set, num_clips=1, num_crops=1, gather=everyones, **reading)

    scorer = Scorer(model, kept, average, val_set, hashes["val_hash"], run, accelerator, evaluated)

    def end_epoch() -> Evaluation:
        printed = partial(progress.console.print, soft_wrap=True)
        evaluation = scorer(done, done // per_epoch, sum(losses) / len(losses), printed)
        trained.train()
        return evaluation

    def encoding(clips: int, to_do: int) -> None:
        progress.update(bar, epoch=f"{done // per_epoch}/{schedule.epochs}, features of {clips}/{to_do} clips")
        if stop.signal:
            checkpoints.wait()
            raise Stopped(
                f"stopped after step {done} of {num_steps}, with features still to compute; the same command goes on",
                stop.signal == SIGINT,
            )

    spec = clip_spec(model)
    reading: dict[str, Any] = {"workers": workers, "decoder": decoder, "timeout": timeout}
    reading |= {"rank": rank, "world_size": world_size}
    steps: dict[str, Any] = {"batch_size": recipe.batch_size, "seed": recipe.seed, "start_step": done}
    steps |= {"num_steps": num_steps, "augmentation": augmentation, "mirrors": mirrors}
    if recipe.freeze_spatial:
        cache = FeatureCache(model, out / "features", dtype=DTYPES[precision], report=encoding, **reading)
        batches = cache.training_batches(train_set, spec, cached_clips=recipe.cached_clips, **steps)
    else:
        steps |= {"colours": update.colours is None, "keep": keep_decoded}
        steps["clips_of_each"] = None if overfit is None else 1
        workers_of_training = {"workers": 0} if keep_decoded else {}
        batches = training_batches(train_set, spec, **steps, **reading | workers_of_training)

    def memory_ran_out() -> None:
        if recipe.freeze_spatial:
            raise UserError(
                "memory ran out; take a smaller --batch-size, or smaller or shorter clips (--image-size, --num-frames)"
            )
        memory_check(ran_out=True)

    with plain_words(out, memory_ran_out), StopRequest() as stop, Progress(*COLUMNS, disable=not main) as progress:
        start_trackers(accelerator, out, done, recipe, track)
        bar = progress.add_task("", total=num_steps, completed=done, epoch="", loss=0.0, rate=0.0, waiting=0.0)
        trained.train()
        if recipe.freeze_spatial:
            # Before any step, so that a stop meanwhile loses none.
            held_out = cache.validation(val_set, spec)
        # A run that was asked to stop after an epoch's last step has yet to score it.
        if schedule.is_scored(done) and times_scored < schedule.times_scored(done):
            evaluation = end_epoch()
        saved_at = step_begun = time.monotonic()
        for batch in batches:
            waited = time.monotonic() - step_begun
            epoch = done // per_epoch
            if done % per_epoch == 0:
                losses = []
            rate = schedule.rate(done)
            try:
                updated = update(batch, done, epoch, rate, batch_size)
            except NotFinite as trouble:
                checkpoints.wait()
                names = sorted({str(train_set.videos[index].source) for index in everyones(trouble.indices)})
                raise UserError(
                    f"step {done + 1}: {trouble}, by {shortened(names, 3) or 'no single clip'}; lower the learning "
                    f"rate ({rate:g}), or look at the clips; the last checkpoint is from before"
                ) from None
            losses.append(updated.loss)
            done += 1
            seconds = time.monotonic() - step_begun
            step_begun = time.monotonic()

            row = {"loss": updated.loss, "learning_rate": rate, "gradient_norm": updated.gradient_norm}
            row |= {"clips_per_second": batch_size / seconds, "waiting": waited / seconds}
            if main:
                run.note_step({"step": done, "epoch": epoch + 1, **row})
                accelerator.log({f"train/{name}": value for name, value in row.items()}, step=done)
            progress.update(
                bar,
                completed=done,
                epoch=f"{epoch + 1}/{schedule.epochs}",
                loss=sum(losses) / len(losses),
                rate=row["clips_per_second"],
                waiting=row["waiting"],
            )
            came = [stop.signal == SIGINT, stop.signal == SIGTERM, step_begun - saved_at > checkpoint_every]
            interrupted, terminated, due, failed = summed([*came, bool(batch.failures)], accelerator)
            if failed:
                unreadable = {**dict(everyones([(index, str(why)) for index, why in batch.failures])), **unreadable}
                check_unreadable(unreadable, len(train_set.videos), recipe.unreadable)
            stopping = bool(interrupted or terminated)
            if schedule.is_scored(done) and not stopping:
                evaluation = end_epoch()
            if schedule.is_scored(done) or stopping or due:
                save_checkpoint()
                saved_at = time.monotonic()
            if stopping:
                checkpoints.wait()
                raise Stopped(f"stopped after step {done} of {num_steps}; the same command goes on", bool(interrupted))
            step_begun = time.monotonic()
        checkpoints.wait()
    for reason in sorted(set(unreadable.values())):
        say(f"not read, others seen in its place: {reason}")
    for reason in evaluation.failures.values():
        say(f"not read, counted as wrong: {reason}")
    if main:
        if overfit is not None:
            say(how_it_went(run.steps))
        say(f"report: {write_report(out)}")
    accelerator.unwrap_model(network, keep_fp32_wrapper=False)
    # All leave together: who loses a neighbour in the middle of something may be brought down by it.
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return kept.eval()


def check_unreadable(unreadable: Mapping[int, str], videos: int, share: float) -> None:
    """Raises UserError when a larger share of the training videos than this cannot be read."""
    if len(unreadable) > share * videos:
        raise UserError(
            f"{len(unreadable)} of {videos} training videos cannot be read, more than {share:.0%} (--unreadable): "
            f"{min(unreadable.values())}"
        )


@contextmanager
def plain_words(out: Path, memory_ran_out: Callable[[], None]) -> Iterator[None]:
    """A full disk or memory as a UserError; the function raises that of memory."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
            raise
        raise UserError(
            f"{out}: cannot be written ({error.strerror}); the last checkpoint is whole, and the same command goes on"
        ) from None
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        memory_ran_out()
        raise
