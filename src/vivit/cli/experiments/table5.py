"""`vivit experiment table5`"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.options import OUTPUT

app = verb("table5", "vivit experiment table5")


@app.default
def table5(*, out: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FILE")] = None) -> None:
    """Print the costs of ViViT-L/16x2 at three crops, beside the paper's table 5.

    Args:
        out: A JSON file for the numbers, command, commit and hardware.
    """
    from vivit.experiments import costs
    from vivit.experiments.record import write_record
    from vivit.progress import console

    rows = costs.table5()
    if out is not None:
        write_record(out, {"experiment": "table5", "rows": rows})
    say = console().print
    say("ViViT-L/16x2, 32 frames, giga multiply-adds of one clip")
    say(f"{'crop':>4} {'paper':>7} {'model 1':>8} {'model 2':>8}")
    for row in rows:
        one, two = (row[variant]["giga_multiply_adds"] for variant in ("spatiotemporal", "factorised_encoder"))
        say(f"{row['crop']:4} {row['paper_giga_multiply_adds']:7,} {one:8,.0f} {two:8,.0f}")
