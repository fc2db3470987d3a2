"""A training run put together: plan, folder, model, processes, and the loop over its steps.

A run is a folder (`vivit.training.run_folder` says what it holds). The same call again goes on where the last one was
stopped, with the very steps that were left.
"""

import copy
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console

from vivit.data.order import split_batch
from vivit.errors import UserError
from vivit.model.encoder import Encoder
from vivit.model.vivit import ViViT
from vivit.runtime import Ranks, device_name, free_memory, out_of_memory, pick_device, pick_precision
from vivit.training.checkpoint import training_tensors
from vivit.training.distributed import (
    Tracker,
    distribute,
    everyones,
    lost_another,
    start_processes,
    start_trackers,
    together,
)
from vivit.training.initialise import freeze_spatial
from vivit.training.loop import Display, Scorer, StopRequest, Training
from vivit.training.memory import StepCost, check_memory
from vivit.training.optim import WeightAverage, build_optimiser
from vivit.training.plan import Plan, how_it_went, plan_run, say_plan
from vivit.training.recipe import Recipe
from vivit.training.run_folder import RunFolder
from vivit.training.sources import FromFeatures, FromVideos, Reading
from vivit.training.update import Updater
from vivit.video.decode import Decoder
from vivit.video.options import ReadOptions
from vivit.video.source import name_of


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
        init: what to start from, as `vivit.training.initialise.build_model` takes it; None is from scratch.
        videos: the folder with the videos, where it is not beside their list.
        workers: processes that decode, for each process that trains.
        keep_decoded: keep the training videos in memory once decoded, resized; for sets that fit.
        decoder, timeout: see `ReadOptions`.
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
    if not checkpoint_every >= 0:
        raise UserError(f"checkpoint_every: {checkpoint_every:g} seconds cannot pass; 0 is after every step")
    options = ReadOptions(decoder, timeout, workers)
    options.check()
    precision = pick_precision(recipe.precision, pick_device(device), shard)
    accelerator = start_processes(pick_device(device), precision, track, shard)
    main, world_size = accelerator.is_main_process, accelerator.num_processes
    say = Console(soft_wrap=True, markup=False, quiet=not main).print

    plan = together(lambda: plan_run(data, recipe, init, videos, overfit, world_size))
    recipe, model, schedule = plan.recipe, plan.model, plan.schedule
    # All of the model, or what follows a frozen part of it, from that part's features.
    trained = freeze_spatial(model) if recipe.freeze_spatial else model
    run = RunFolder(out)
    settings = {"keep_decoded": keep_decoded, "overfit": overfit}
    together(lambda: run.claim(data, init, videos, recipe, plan.hashes, settings) if main else None)
    say_plan(say, plan, init, world_size)
    say(f"on {device_name(accelerator.device)} in {precision}")

    encoders = [module for module in trained.modules() if isinstance(module, Encoder)]
    for encoder in encoders:
        encoder.activation_checkpointing = activation_checkpointing
    cost = StepCost(
        max(map(len, split_batch(schedule.batch_size, world_size, recipe.mixes))),
        accelerator.device,
        accumulate=recipe.accumulate,
        paired=recipe.mixes,
        precision=precision,
        optimiser=recipe.optimiser,
        ema=bool(recipe.ema),
        shards=world_size if shard else 1,
        activation_checkpointing=activation_checkpointing,
    )
    if not recipe.freeze_spatial:
        say(together(lambda: check_memory(model, cost, free_memory(accelerator.device))))
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
    colours_on_device = accelerator.device.type == "cuda" and not recipe.freeze_spatial
    update = Updater(
        network,
        accelerator.prepare_optimizer(optimiser),
        average,
        accelerator,
        recipe,
        plan.heads,
        plan.train_set.multi_label,
        colours=plan.augmentation if colours_on_device else None,
    )

    stop, display = StopRequest(), Display(schedule, visible=main)
    ranks = Ranks(accelerator.process_index, world_size, everyones)
    reading = Reading(options, ranks, lambda: stop.signal != 0, display.beside)
    source = (
        FromFeatures(plan, reading, out / "features", precision)
        if recipe.freeze_spatial
        else FromVideos(
            plan,
            reading,
            colours=not colours_on_device,
            keep_decoded=keep_decoded,
        )
    )
    scorer = Scorer(
        model, kept, average, plan.val_set, plan.hashes["val_hash"], name_of(data), run, accelerator, source.evaluate
    )
    training = Training(
        plan,
        run,
        accelerator,
        update,
        source,
        scorer,
        tensors=lambda: training_tensors(model, optimiser, average),
        checkpoint_every=checkpoint_every,
        stop=stop,
        display=display,
    )
    training.resume(say)
    if training.is_over:
        say(f"{out} is trained already")
        scorer.take_weights()
    else:
        with plain_words(out, partial(memory_ran_out, plan, cost)):
            start_trackers(accelerator, out, training.done, recipe, track)
            training.go()
        training.say_unreadable(say)

    if main and overfit is not None:
        say(how_it_went(run.steps))
    accelerator.unwrap_model(network, keep_fp32_wrapper=False)
    # All leave together: who loses a neighbour in the middle of something may be brought down by it.
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return kept.eval()


def memory_ran_out(plan: Plan, cost: StepCost) -> None:
    """Raise UserError, which says what would help."""
    if plan.recipe.freeze_spatial:
        raise UserError(
            "memory ran out: use a smaller --batch-size, or smaller or shorter clips (--image-size, --num-frames)"
        )
    check_memory(plan.model, cost, free=None)


@contextmanager
def plain_words(out: Path, memory_ran_out: Callable[[], None]) -> Iterator[None]:
    """A full disk or memory, or the end of another process, as a UserError; the function raises that of memory."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
            raise
        raise UserError(
            f"{out}: cannot be written ({error.strerror}); the last checkpoint is whole, and the same command goes on"
        ) from None
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and lost_another(error):
            raise UserError("another process of this run has ended; what it says is why") from None
        if not out_of_memory(error):
            raise
        memory_ran_out()
        raise
