"""`vivit experiment figure9`"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.options import OUTPUT

app = verb("figure9", "vivit experiment figure9")


@app.default
def figure9(*, out: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FILE")] = None) -> None:
    """Print how the costs of the five models grow with the frames of a clip.

    Args:
        out: A JSON file for the numbers, command, commit and hardware.
    """
    from vivit.experiments import costs
    from vivit.experiments.record import write_record
    from vivit.progress import console

    rows = costs.figure9()
    if out is not None:
        write_record(out, {"experiment": "figure9", "rows": rows})
    say = console().print
    say("ViViT-B/16x2, 224 x 224, giga multiply-adds of one clip")
    frames = sorted({row["frames"] for row in rows})
    say(f"{'model':28}" + "".join(f" {f'{count} frames':>11}" for count in frames))
    for model in costs.MODELS:
        found = {row["frames"]: row["giga_multiply_adds"] for row in rows if row["model"] == model}
        say(f"{model:28}" + "".join(f" {found[count]:11,.0f}" for count in frames))
