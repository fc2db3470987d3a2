"""`vivit search`"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.options import INPUT, OUTPUT, Decoder, Device, IndexModel, check_new
from vivit.errors import UserError
from vivit.text import clock, counted, printable

if TYPE_CHECKING:
    from vivit.inference.search import Match

app = verb(
    "search",
    "vivit search my_index clip.mp4",
    "vivit search my_index match.mp4 --span 61.5 64 --sheet answers.png",
    "vivit search my_index --class pan_left --top 20 --json",
)
app.usage = "Usage: vivit search [OPTIONS] INDEX [QUERY]"


@app.default
def search(
    index: Annotated[Path, Parameter(group=INPUT)],
    query: Annotated[Path | None, Parameter(group=INPUT)] = None,
    *,
    span: Annotated[tuple[float, float] | None, Parameter(group=INPUT, metavar="START END")] = None,
    label: Annotated[str | None, Parameter(name="--class", group=INPUT, metavar="LABEL")] = None,
    model: Annotated[
        IndexModel,
        Parameter(help="A model folder, a run, or a Hub id; by default the one that made the index."),
    ] = None,
    top: Annotated[int, Parameter(group=OUTPUT, metavar="N")] = 10,
    json_lines: Annotated[bool, Parameter(name="--json", group=OUTPUT, negative="")] = False,
    sheet: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FILE.png")] = None,
    device: Device = "auto",
    decoder: Decoder = "pyav",
) -> int:
    """Find the videos of an index that look like a video, or that have a label.

    Each answer is a span of a video, shown by its best window. The query itself is not an answer: windows of its file
    that overlap it are left out.

    Args:
        index: A folder that vivit index made.
        query: The video to compare with.
        span: Compare only with these seconds of the query.
        label: Find this class instead, by the model's scores; head/LABEL if its heads have names.
        top: Answers to show, at most.
        json_lines: Print JSON, a line for each answer.
        sheet: Write a picture of the query and the answers to this new file.
    """
    if (query is None) == (label is None):
        raise UserError("query: give a video, or a --class" + ("" if query is None else ", not both"))
    if span is not None and query is None:
        raise UserError("span: selects part of a query; name the query's video")
    if top < 1:
        raise UserError(f"top: {top} answers cannot be shown; give 1 or more")
    if sheet is not None:
        _check_sheet(sheet)
    from vivit.inference.index import Index
    from vivit.inference.inputs import check_one
    from vivit.inference.predictor import Predictor
    from vivit.tables import json_text

    made = Index(index)
    about = made.files.made
    if label is not None:
        found = made.search_label(label, top)
    else:
        assert query is not None
        check_one(query)
        made = Index(index, Predictor(model or about.model, device))
        found = made.search(query, span, top, decoder)
    for number, match in enumerate(found, start=1):
        print(json_text(match.to_json()) if json_lines else _line(number, match), flush=True)
    if sheet is not None:
        from vivit.report.search_sheet import write_search_sheet

        write_search_sheet(sheet, found, query or str(label), span)
        print(f"{counted(len(found), 'answer')} in {printable(sheet)}", file=sys.stderr)
    return 0


def _check_sheet(path: Path) -> None:
    """Raise UserError if the picture cannot be written, ModuleNotFoundError if matplotlib is missing."""
    import vivit.report.search_sheet  # noqa: F401

    if path.suffix.lower() != ".png":
        raise UserError(f"{path}: a sheet's name must end in .png")
    check_new(path)


def _line(number: int, match: "Match") -> str:
    value = f"{match.value:.3f}" if match.measure == "similarity" else f"{match.value:.1%}"
    return f"{number:3d}  {value:>6}  {clock(match.start)} – {clock(match.end)}  {printable(match.video)}"
