"""`vivit report`"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.options import INPUT, Videos
from vivit.progress import console

app = verb("report", "vivit report run", "vivit report run --data /mnt/elsewhere/my_videos")


@app.default
def report(
    run: Annotated[Path, Parameter(group=INPUT)],
    /,
    *,
    data: Annotated[str | None, Parameter(group=INPUT, metavar="DATA")] = None,
    videos: Videos = None,
) -> None:
    """Write a run's page: curves, scores, mistakes, settings and cost.

    The page is RUN/report.html. `vivit train` writes it at the end; use this verb during a run, or after its data has
    moved.

    Args:
        run: The run folder.
        data: The run's data, if it has moved.
    """
    from vivit.report.run_page import write_report

    console().print(f"report: {write_report(run, data, videos)}")
