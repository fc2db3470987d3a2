"""`vivit index`"""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.errors import complain
from vivit.cli.options import CLIPS, INPUT, OUTPUT, Decoder, Device, IndexModel, Precision, Step, check_step
from vivit.cli.predict import CAMERA_MOTION, SEVERAL, say_model, stopping
from vivit.errors import UserError
from vivit.text import counted, printable

app = verb(
    "index",
    "vivit index my_videos --model run --out my_index",
    "vivit search my_index clip.mp4",
)


@app.default
def index(
    folder: Annotated[Path, Parameter(group=INPUT)],
    *,
    model: IndexModel = None,
    step: Annotated[Step, Parameter(group=CLIPS)] = None,
    out: Annotated[Path, Parameter(group=OUTPUT, metavar="FOLDER")],
    device: Device = "auto",
    precision: Precision = "auto",
    decoder: Decoder = "pyav",
) -> int:
    """Index a folder of videos for vivit search.

    The index holds features and scores of windows of every video, as in vivit extract. The same command updates it:
    only new or changed files are computed, and deleted files leave the index. It also resumes after an interruption.

    Args:
        folder: The folder with the videos, searched at any depth.
        out: The folder of the index.
    """
    check_step(step)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    from vivit.inference.index import Index
    from vivit.inference.predictor import Predictor
    from vivit.progress import console, progress_bar

    made = Index(out)
    held = made.files.about
    name = model or (held.model if held is not None else CAMERA_MOTION)
    predictor = Predictor(name, device, precision=precision)
    made = Index(out, predictor)
    if model is None and held is None:
        say_model(name, predictor)
    with stopping(lambda: "stopped; the same command continues from there"):
        with progress_bar("index", visible=True, screen=console(stderr=True)) as progress:
            changes = made.update(folder, step, decoder, lambda error: complain(str(error)), progress)
        count, videos = len(made.files.times), len(made.files.videos)
        done = f"{changes.computed} computed, {changes.moved} moved, {changes.dropped} dropped"
        print(f"{counted(count, 'window')} of {counted(videos, 'video')} in {printable(out)}: {done}", file=sys.stderr)
    if changes.unreadable > SEVERAL:
        complain(f"{counted(changes.unreadable, 'video')} cannot be read")
    return 2 if changes.unreadable else 0
