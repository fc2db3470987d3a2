"""`vivit demo`"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.options import INPUT, OUTPUT, Device, Workers

app = verb("demo", "vivit demo", "vivit demo --videos 500 --out quick")


@app.default
def demo(
    *,
    videos: Annotated[int, Parameter(group=INPUT, metavar="N")] = 3000,
    out: Annotated[Path, Parameter(group=OUTPUT, metavar="FOLDER")] = Path("demo"),
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Make camera-motion videos, learn to name the motion, and write a report.

    Takes a few minutes on a laptop without a GPU and needs no data.

    Args:
        videos: Videos to make and train on.
        out: Folder for videos, models and report.html. An earlier demo in it is resumed.
    """
    from vivit.experiments.demo import run

    run(out, videos, device, workers)
