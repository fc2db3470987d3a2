"""`vivit experiment tables`"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.options import INPUT, OUTPUT
from vivit.progress import console

app = verb(
    "tables",
    "vivit experiment tables paper/results",
    "vivit experiment tables docs/experiments/results --page docs/experiments.md",
)


@app.default
def tables(
    results: Annotated[Path, Parameter(group=INPUT)],
    /,
    *,
    page: Annotated[Path | None, Parameter(group=OUTPUT, metavar="MARKDOWN")] = None,
) -> None:
    """Make tables, plots and conclusions from the records of paper.

    Args:
        results: The folder of the records.
        page: Fill in the marked parts of this page, and draw the plots into a folder of its name beside it; by default
            print the tables.
    """
    from vivit.experiments.paper.comparisons import all_tables
    from vivit.experiments.paper.tables import parts, write_page

    tables = all_tables()
    if page is not None:
        write_page(page, tables, results)
        console().print(f"written to {page} and {page.with_suffix('')}")
        return
    for name, lines in parts(tables, results).items():
        console().print("\n".join([f"## {name}", "", *lines, ""]))
