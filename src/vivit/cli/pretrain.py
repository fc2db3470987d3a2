"""`vivit pretrain`"""

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.errors import rank
from vivit.cli.options import (
    INPUT,
    OUTPUT,
    CheckpointEvery,
    Decoder,
    Device,
    KeepDecoded,
    Timeout,
    Videos,
    Workers,
)
from vivit.cli.recipe import PretrainFlags, PretrainPage, change_recipe, named_recipe
from vivit.progress import console
from vivit.training.recipes import PRETRAIN_RECIPES

app = verb(
    "pretrain",
    "vivit pretrain my_videos --out pretrained",
    "vivit train labelled --init pretrained",
    "vivit pretrain my_videos --image-size 64 --mask-ratio 0.8 --epochs 200",
    "torchrun --nproc-per-node 8 -m vivit pretrain my_videos --recipe videomae",
)
app.help_formatter = PretrainPage()


@app.default
def pretrain(
    data: Annotated[str, Parameter(group=INPUT)],
    /,
    *,
    recipe: Annotated[
        str, Parameter(group=INPUT, metavar="NAME", completer=lambda context: list(PRETRAIN_RECIPES))
    ] = "pretrain",
    videos: Videos = None,
    flags: PretrainFlags | None = None,
    out: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FOLDER")] = None,
    checkpoint_every: CheckpointEvery = 600.0,
    device: Device = "auto",
    workers: Workers = 2,
    decoder: Decoder = "pyav",
    timeout: Timeout = None,
    keep_decoded: KeepDecoded = False,
) -> None:
    """Pretrain a model on videos without labels, to train it on a few labelled ones.

    Most of each clip is hidden, at the same places in all its frames, and the model learns to predict it (VideoMAE,
    arXiv 2203.12602). A recipe sets every option that you leave out; this page shows the defaults of the recipe that
    --recipe names. Run the same command again to resume an interrupted run.

    Args:
        data: A folder, searched for videos at any depth, or a data set, whose training videos are used.
        recipe: The recipe; docs/training.md lists them.
        out: The run folder; by default runs/ plus the name of the data, then -pretrained. An unfinished run in it is
            resumed.
    """
    settings = change_recipe(named_recipe(recipe, PRETRAIN_RECIPES), flags or {})
    from vivit.report.run_page import write_report
    from vivit.training.pretrain import pretrain
    from vivit.video.source import name_of

    run = out or Path("runs") / f"{name_of(data)}-pretrained"
    pretrain(
        data,
        run,
        settings,
        videos=videos,
        device=device,
        workers=workers,
        keep_decoded=keep_decoded,
        decoder=decoder,
        timeout=timeout,
        checkpoint_every=checkpoint_every,
    )
    if rank() == 0:
        console().print(f"report: {write_report(run)}")
        console().print(f"the model is in {run}; try: vivit train DATA --init {shlex.quote(str(run))}")
