"""`vivit train`"""

import shlex
import sys
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.errors import rank
from vivit.cli.options import (
    HARDWARE,
    INPUT,
    OUTPUT,
    TRAINING,
    CheckpointEvery,
    Data,
    Decoder,
    Device,
    KeepDecoded,
    Timeout,
    Videos,
    Workers,
)
from vivit.cli.recipe import RecipeFlags, RecipeName, RecipePage, change_recipe, named_recipe
from vivit.errors import UserError
from vivit.progress import console
from vivit.training.recipes import RECIPES, default_recipe

app = verb(
    "train",
    "vivit train my_videos",
    "vivit train my_videos --init google/vivit-b-16x2-kinetics400 --out run",
    "vivit train my_videos --init ViT-B_16.npz --freeze-spatial --epochs 20",
    "vivit train my_videos --init google/vivit-b-16x2-kinetics400 --probe attentive",
    "vivit train --recipe kinetics400-b-fe --help",
    "torchrun --nproc-per-node 8 -m vivit train my_videos --out run",
)
app.help_formatter = RecipePage()


@app.default
def train(
    data: Data,
    /,
    *,
    init: Annotated[str | None, Parameter(group=INPUT, metavar="SOURCE")] = None,
    recipe: Annotated[RecipeName | None, Parameter(group=INPUT)] = None,
    videos: Videos = None,
    flags: RecipeFlags | None = None,
    overfit: Annotated[int | None, Parameter(group=TRAINING, metavar="BATCHES")] = None,
    out: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FOLDER")] = None,
    checkpoint_every: CheckpointEvery = 600.0,
    keep: Annotated[Literal["best", "last"] | None, Parameter(group=OUTPUT, metavar="WHICH")] = None,
    track: Annotated[Literal["wandb", "trackio"] | None, Parameter(group=OUTPUT, metavar="NAME")] = None,
    device: Device = "auto",
    workers: Workers = 2,
    decoder: Decoder = "pyav",
    timeout: Timeout = None,
    keep_decoded: KeepDecoded = False,
    compile: Annotated[bool, Parameter(group=HARDWARE, negative="")] = False,
    activation_checkpointing: Annotated[bool, Parameter(group=HARDWARE, negative="")] = False,
    shard: Annotated[bool, Parameter(group=HARDWARE, negative="")] = False,
) -> None:
    """Train a model on labelled videos.

    A recipe sets every option that you leave out; this page shows the defaults of the recipe that --recipe names. Run
    the same command again to resume an interrupted run.

    Args:
        init: Initial weights: a ViViT or an image ViT, from any source that `vivit convert` accepts.
        recipe: The recipe; by default small, finetune with --init, or probe with --probe. docs/training.md lists them.
        overfit: Overfit this many batches, to check the model and the data.
        out: The run folder; by default runs/ plus the name of the data. An unfinished run in it is resumed.
        keep: Which weights to leave in the folder: those with the best validation score or the last; the others are in
            best/ or last/ within it. By default the best, or the last if the data has no validation split.
        track: Log to this service, in addition to TensorBoard.
        compile: Compile each transformer block.
        activation_checkpointing: Save memory by recomputing activations in the backward pass.
        shard: With torchrun: shard parameters, gradients and optimiser state over the processes (FSDP2).
    """
    default = default_recipe(init, (flags or {}).get("probe"))
    settings = change_recipe(named_recipe(recipe or default, RECIPES), flags or {})
    from vivit.report.run_page import write_report
    from vivit.training.run_folder import OtherSettings
    from vivit.training.train import train
    from vivit.video.source import name_of
    from vivit.weights.source import WEIGHTS_FILE

    run = out or Path("runs") / name_of(data)
    try:
        train(
            data,
            run,
            settings,
            init=init,
            videos=videos,
            device=device,
            workers=workers,
            keep_decoded=keep_decoded,
            decoder=decoder,
            timeout=timeout,
            compile=compile,
            activation_checkpointing=activation_checkpointing,
            shard=shard,
            checkpoint_every=checkpoint_every,
            track=track,
            overfit=overfit,
            keep=keep,
        )
    except OtherSettings as error:
        if not (run / WEIGHTS_FILE).exists():
            raise
        raise UserError(f"{error}: {_from_weights_of(run, recipe or default)}") from None
    if rank() == 0:
        console().print(f"report: {write_report(run)}")
        console().print(f"the model is in {run}; try: vivit predict VIDEO --model {shlex.quote(str(run))}")


def _from_weights_of(run: Path, recipe: str) -> str:
    """The given command, changed to start another run from this run's weights."""
    words, last = [], ""
    for word in sys.argv[1:]:
        if word.partition("=")[0] not in ("--init", "--out") and last not in ("--init", "--out"):
            words.append(word)
        last = word
    if not any(word.partition("=")[0] == "--recipe" for word in words):
        words += ["--recipe", recipe]  # with --init, another one is the default
    out = next(name for number in count(2) if not (name := run.with_name(f"{run.name}-{number}")).exists())
    return shlex.join(["vivit", *words, "--init", str(run), "--out", str(out)])
