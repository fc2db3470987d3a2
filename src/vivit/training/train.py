"""A training run: its plan, folder, model and processes, and then the loop over its steps.

A run is a folder; `vivit.training.run_folder` describes it. Repeating the same call resumes the run where it stopped,
with exactly the remaining steps.
"""

import copy
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from vivit.data.order import split_batch
from vivit.errors import UserError
from vivit.inference.features import LinearProbe, TrainedPart
from vivit.model.encoder import encoders_of
from vivit.model.vivit import ViViT
from vivit.progress import console
from vivit.runtime import Precision, Ranks, device_name, free_memory, out_of_memory, pick_device, pick_precision
from vivit.training.distributed import (
    Tracker,
    distribute,
    everyones,
    leaves_process_groups,
    lost_another,
    start_processes,
    start_trackers,
    together,
)
from vivit.training.initialise import freeze, part_of
from vivit.training.kept import Keep
from vivit.training.loop import Display, StopRequest, Training
from vivit.training.memory import StepCost, check_memory
from vivit.training.optim import WeightAverage, build_optimiser
from vivit.training.plan import Plan, how_it_went, plan_run, say_faults, say_plan
from vivit.training.recipe import Recipe
from vivit.training.run_folder import RunFolder
from vivit.training.sources import FromFeatures, FromVideos, Reading
from vivit.training.update import Learner, Updater
from vivit.video.decode import Decoder, ReadOptions
from vivit.weights.store import load


@leaves_process_groups
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
    keep: Keep | None = None,
) -> ViViT:
    """Train a model on labelled videos and leave it in the folder `out`.

    The parameters are the options of `vivit train`. Under torchrun, all processes share the work.

    Args:
        data: a data set, see `open_data`.
        out: the run folder; a run started there with the same recipe and data is resumed.
        init: the initial weights, as for `vivit.training.initialise.build_model`; None trains from scratch.
        videos: the folder of the videos, if it is not beside their list.
        workers: processes that decode videos, for each training process.
        keep_decoded: hold the training videos in memory once decoded, resized.
        decoder, timeout: see `ReadOptions`.
        compile: compile each transformer block.
        activation_checkpointing: save memory by recomputing activations in the backward pass instead of keeping them.
        shard: shard weights, gradients and optimiser state over the processes (FSDP2).
        checkpoint_every: seconds between checkpoints; there is also one whenever the model is scored.
        track: where to log curves besides TensorBoard.
        overfit: overfit on this many batches, without augmentation and regularisation, as a check.
        keep: which weights to leave in `out`: the best by validation score, or the last; the others go beside them.
            None: the best if the data has its own validation split, else the last.

    Returns:
        The model in `out`, in eval mode, on its device.

    Raises:
        UserError: data, recipe or initial weights do not fit, a video is unreadable, `out` belongs to another run,
            memory or disk space is too small, or the loss is not finite.
        Stopped: Ctrl-C, SIGTERM or SIGHUP came; the last step is in a checkpoint.
    """
    if not checkpoint_every >= 0:
        raise UserError(f"checkpoint_every: {checkpoint_every:g} seconds; give 0 (after every step) or more")
    if shard and recipe.probe:
        raise UserError("shard: a probe is too small to spread over processes; leave it out")
    if shard and recipe.precision == "fp16":  # gradients would underflow: the loss is not scaled
        raise UserError("precision: fp16 does not work with --shard; use bf16 or f32")
    options = ReadOptions(decoder, timeout, workers)
    options.check()
    choice = pick_precision(recipe.precision, pick_device(device))
    precision = choice.precision
    accelerator = start_processes(pick_device(device), precision, track, shard)
    main, ranks = accelerator.is_main_process, Ranks(accelerator.process_index, accelerator.num_processes, everyones)
    say = console(visible=main).print

    run = RunFolder(out)
    resumed = everyones([run.is_resumable])[0]  # on shared storage, other processes may see an older state
    plan = together(
        lambda: plan_run(data, recipe, init, videos, overfit, ranks.world_size, run.new_model() if resumed else None)
    )
    part = part_of(plan.recipe)
    trained = plan.model if part is None else freeze(plan.model, part)
    try:
        settings = {"keep_decoded": keep_decoded, "overfit": overfit, "keep": keep}
        together(lambda: run.claim(plan, data, init, videos, settings, say) if main else None)
        say_plan(say, plan, init, ranks.world_size)
        together(lambda: say_faults(say, plan, data, videos) if main else None)
        say(f"on {device_name(accelerator.device)} in {choice}")

        recipe = plan.recipe
        for encoder in encoders_of(plan.model):
            encoder.activation_checkpointing = activation_checkpointing
        cost = StepCost(
            max(map(len, split_batch(plan.schedule.batch_size, ranks.world_size, recipe.mixes))),
            accelerator.device,
            accumulate=recipe.accumulate,
            paired=recipe.mixes,
            precision=precision,
            optimiser=recipe.optimiser,
            ema=bool(recipe.ema),
            part=part,
            shards=ranks.world_size if shard else 1,
            activation_checkpointing=activation_checkpointing,
        )
        say(together(lambda: check_memory(plan.model, cost, free_memory(accelerator.device))))
        learner = _learner(plan, trained, accelerator, precision, compile, shard)
        colours_on_device = accelerator.device.type == "cuda" and part is None
        update = Updater(learner, accelerator, recipe, plan.labels, plan.augmentation if colours_on_device else None)

        stop, display = StopRequest(), Display(plan.schedule, visible=main)
        reading = Reading(options, ranks, lambda: stop.signal != 0, display.status)
        source: FromFeatures | FromVideos
        if isinstance(trained, TrainedPart):
            source = FromFeatures(plan, reading, out / "features", precision, trained)
            say(together(source.room))
        else:
            source = FromVideos(plan, reading, colours=not colours_on_device, keep_decoded=keep_decoded)
        training = Training(plan, run, update, source, stop, display, checkpoint_every)
        carry_out(training, say, track, cost)
        if main and overfit is not None:
            say(how_it_went(run.steps))
        if everyones([main and run.models.is_last(training.done)])[0]:
            return learner.kept.eval()
        return load(out).to(accelerator.device)
    finally:
        run.release()


def carry_out(
    training: Training, say: Callable[[str], object], track: Tracker | None = None, cost: StepCost | None = None
) -> None:
    """Resume a run, take its remaining steps, and finish together with the other processes.

    Args:
        cost: of a step, for advice if memory runs out.

    Raises:
        UserError, Stopped: see `train`.
    """
    accelerator, run, learner = training.accelerator, training.run, training.learner
    training.resume(say)
    if training.is_over:
        say(f"{run.path} is trained already")
        learner.update_kept()
    else:
        with _as_user_errors(run.path, training.plan, cost):
            start_trackers(accelerator, run.path, training.done, training.plan.recipe, track)
            training.go()
        training.say_unreadable(say)
    accelerator.unwrap_model(learner.network, keep_fp32_wrapper=False)
    # All processes finish together: if one leaves during a collective operation, the others may crash.
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:
        tracker.finish()
    if accelerator.is_main_process:
        say(f"{run.path} has {run.models.described(training.done)}")


def _learner(
    plan: Plan, trained: nn.Module, accelerator: Accelerator, precision: Precision, compile: bool, shard: bool
) -> Learner:
    recipe, model = plan.recipe, plan.model
    kept, probe = model, trained if isinstance(trained, LinearProbe) else None
    if recipe.ema or shard:
        kept = copy.deepcopy(model).to(accelerator.device)
    elif probe is not None:  # the copy shares frozen parameters
        kept = copy.deepcopy(model, {id(one): one for one in model.parameters() if not one.requires_grad})
    if compile:
        for encoder in encoders_of(trained):
            for block in encoder.blocks:
                block.compile(fullgraph=True)
    model.to(accelerator.device)
    network = distribute(trained, accelerator, shard, precision)
    optimiser = build_optimiser(trained, recipe)
    return Learner(model, network, optimiser, kept, WeightAverage(trained, recipe.ema) if recipe.ema else None, probe)


@contextmanager
def _as_user_errors(out: Path, plan: Plan, cost: StepCost | None) -> Iterator[None]:
    """Turn a full disk, lack of memory or the end of another process into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
            raise
        raise UserError(
            f"{out}: cannot be written ({error.strerror}); the last checkpoint is whole: run the same command to resume"
        ) from None
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and lost_another(error):
            raise UserError("another process of this run has ended; its own message says why") from None
        if not out_of_memory(error):
            raise
        if cost is not None and plan.recipe.frozen is None:
            check_memory(plan.model, cost, free=None)
        raise UserError(
            "memory ran out: use a smaller --batch-size, or smaller or shorter clips (--image-size, --num-frames)"
        ) from None
