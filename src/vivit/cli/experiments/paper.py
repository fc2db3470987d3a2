"""`vivit experiment paper`"""

import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.options import HARDWARE, INPUT, OUTPUT, Device
from vivit.errors import UserError, did_you_mean
from vivit.progress import console

app = verb(
    "paper",
    "vivit experiment paper --out paper --image-vit vit_s_focus.onnx",
    "vivit experiment paper --out quick --budget 10m",
    "vivit experiment paper --out paper --only table2,table3 --list-cells",
)
SECONDS = {"s": 1, "m": 60, "h": 3600}


@app.default
def paper(
    *,
    image_vit: Annotated[str | None, Parameter(group=INPUT, metavar="SOURCE")] = None,
    pictures: Annotated[Path | None, Parameter(group=INPUT, metavar="FOLDER")] = None,
    objects: Annotated[Path | None, Parameter(group=INPUT, metavar="FOLDER")] = None,
    only: Annotated[str | None, Parameter(group=INPUT, metavar="TABLES")] = None,
    list_cells: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False,
    out: Annotated[Path, Parameter(group=OUTPUT, metavar="FOLDER")],
    budget: Annotated[str, Parameter(group=HARDWARE, metavar="TIME")] = "6h",
    device: Device = "cpu",
) -> None:
    """Run the paper's comparisons on the motion benchmark.

    Every table consists of cells: one training run each, with one learning rate and one seed. The most informative
    cells run first. The same command resumes, and several machines that share the folder divide the cells among them.

    Args:
        image_vit: An image ViT to start from; without one, the tables that need it are skipped.
        pictures: Photographs for the benchmark's backgrounds; by default scikit-image's, and drawn textures.
        objects: Cut-outs for the benchmark, a folder for each noun; by default drawn objects.
        only: Run only these tables, such as table2,figure8.
        list_cells: List the cells that would run now and how long they take, without running them.
        out: Folder for videos and results.
        budget: Start no cell that would end later than this, such as 6h or 90m. Below an hour, every table runs in a
            reduced form.
    """
    seconds = _seconds(budget)
    from vivit.experiments.motion_benchmark import BenchmarkSettings
    from vivit.experiments.paper.comparisons import FULL, SHRUNKEN, all_tables, image_patch
    from vivit.experiments.paper.folder import PaperFolder
    from vivit.experiments.paper.schedule import Job, plan_lines, run

    tables = all_tables(image_patch(image_vit) if image_vit else None)
    if only is not None:
        known = {table.key: table for table in tables}
        for name in only.split(","):
            if name not in known:
                meant = did_you_mean(name, known) or f"there are {', '.join(known)}"
                raise UserError(f"only: no table {name!r}; {meant}")
        tables = [known[name] for name in only.split(",")]
    scale = FULL if seconds >= SECONDS["h"] else SHRUNKEN
    benchmark = BenchmarkSettings(**scale.benchmark, pictures=pictures, objects=objects)
    job = Job(PaperFolder(out), tables, scale, benchmark, image_vit, device)
    if list_cells:
        for line in plan_lines(job):
            console().print(line)
    else:
        run(job, seconds)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if found is None:
        raise UserError(f"budget: {text!r} is not a time such as 6h, 90m or 30s")
    return float(found[1]) * SECONDS[found[2]]
