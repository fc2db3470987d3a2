"""`vivit experiment camera-videos`"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.options import INPUT, OUTPUT

app = verb("camera-videos", "vivit experiment camera-videos --out videos")


@app.default
def camera_videos(
    *,
    train_videos: Annotated[int, Parameter(group=INPUT, metavar="N")] = 3000,
    val_videos: Annotated[int, Parameter(group=INPUT, metavar="N")] = 450,
    seed: Annotated[int, Parameter(group=INPUT, metavar="N")] = 0,
    out: Annotated[Path, Parameter(group=OUTPUT, metavar="FOLDER")],
) -> None:
    """Make the camera-motion videos that vivit demo learns from.

    Args:
        train_videos: Videos to train on.
        val_videos: Videos to hold out.
        seed: Seed of the videos.
        out: Folder for train/ and val/.
    """
    from vivit.experiments.camera_motion import generate
    from vivit.progress import progress_bar

    with progress_bar("make videos") as progress:
        generate(out, train_videos=train_videos, val_videos=val_videos, seed=seed, progress=progress)
