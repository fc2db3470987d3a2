"""`vivit experiment table2`"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from vivit.cli.command import verb
from vivit.cli.options import HARDWARE, OUTPUT

app = verb("table2", "vivit experiment table2 --no-time")


@app.default
def table2(
    *,
    time: Annotated[bool, Parameter(group=HARDWARE)] = True,
    repeats: Annotated[int, Parameter(group=HARDWARE, metavar="N", validator=validators.Number(gte=1))] = 3,
    out: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FILE")] = None,
) -> None:
    """Print sizes and costs of the five models, beside the paper's table 2.

    Args:
        time: Also time one clip in float32 on the CPU.
        repeats: Measurements of each model, which take turns; the median counts.
        out: A JSON file for the numbers, command, commit and hardware.
    """
    from vivit.experiments import costs
    from vivit.experiments.record import write_record
    from vivit.progress import console, progress_bar

    times = None
    if time:
        configs = {row: costs.base_model(row) for row in costs.MODELS}
        with progress_bar("time the models", (repeats + 1) * len(configs)) as progress:
            times = costs.seconds_of(configs, repeats, progress)
    rows = costs.table2(times)
    if out is not None:
        write_record(out, {"experiment": "table2", "rows": rows})
    say = console().print
    say("ViViT-B/16x2, 32 x 224 x 224, 400 classes. GMA: giga multiply-adds of one clip")
    head = f"{'model':28} {'parameters':>12} {'official':>12} {'GMA':>7} {'paper':>7} {'official':>8}"
    say(f"{head} {'products':>8}" + (f" {'seconds':>8} {'TPU-v3':>8}" if time else ""))
    for row in rows:
        official = row["official_giga_multiply_adds"]
        line = (
            f"{row['model']:28} {row['parameters']:12,} {row['official_parameters']:12,} "
            f"{row['giga_multiply_adds']:7.1f} {row['paper_giga_multiply_adds']:7.1f} "
            f"{'' if official is None else format(official, '.1f'):>8} {row['giga_multiply_adds_of_products']:8.1f}"
        )
        if time:
            line += f" {row['seconds']:8.2f} {row['paper_tpu_milliseconds'] / 1000:8.4f}"
        say(line)
