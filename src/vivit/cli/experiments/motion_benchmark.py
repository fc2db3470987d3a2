"""`vivit experiment motion-benchmark`"""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.options import INPUT, OUTPUT

app = verb("motion-benchmark", "vivit experiment motion-benchmark --out set --objects stamps")


@app.default
def motion_benchmark(
    *,
    pictures: Annotated[Path | None, Parameter(group=INPUT, metavar="FOLDER")] = None,
    objects: Annotated[Path | None, Parameter(group=INPUT, metavar="FOLDER")] = None,
    difficulty: Annotated[Literal["easy", "medium", "hard"], Parameter(group=INPUT, metavar="NAME")] = "medium",
    train_videos: Annotated[int, Parameter(group=INPUT, metavar="N")] = 2000,
    val_videos: Annotated[int, Parameter(group=INPUT, metavar="N")] = 400,
    test_videos: Annotated[int, Parameter(group=INPUT, metavar="N")] = 400,
    size: Annotated[str, Parameter(group=INPUT, metavar="WxH")] = "112x112",
    seed: Annotated[int, Parameter(group=INPUT, metavar="N")] = 0,
    out: Annotated[Path, Parameter(group=OUTPUT, metavar="FOLDER")],
) -> None:
    """Make the videos of the motion benchmark: verbs and nouns.

    Args:
        pictures: Photographs for the backgrounds; by default scikit-image's, and drawn textures.
        objects: A folder of cut-outs (PNG with transparency) for each noun; by default drawn objects.
        difficulty: easy, medium or hard: how far the camera moves, and how large the object is.
        train_videos: Videos to train on.
        val_videos: Videos for choosing settings.
        test_videos: Videos for reported scores.
        size: Width and height of the videos, in pixels.
        seed: Seed of the videos.
        out: Folder for the lists train.csv, val.csv and test.csv, and the videos.
    """
    from vivit.errors import UserError
    from vivit.experiments.motion_benchmark import BenchmarkSettings, generate
    from vivit.progress import progress_bar

    sides = size.split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise UserError(f"--size {size}: write width and height, such as 112x112")
    settings = BenchmarkSettings(
        difficulty,
        train_videos,
        val_videos,
        test_videos,
        seed,
        (int(sides[0]), int(sides[1])),
        pictures,
        objects,
    )
    with progress_bar("make videos") as progress:
        generate(out, settings=settings, progress=progress)
