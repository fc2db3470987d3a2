"""Tables, plots and conclusions, made only from the records of cells."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from vivit.errors import UserError
from vivit.experiments.paper.cells import (
    Claim,
    Results,
    Row,
    Scale,
    Table,
    best_rate,
    cell,
    scores,
    tried_rates,
    validation,
)
from vivit.experiments.paper.comparisons import FULL, SHRUNKEN
from vivit.experiments.paper.folder import read_results
from vivit.experiments.paper.statistics import FEWEST_SEEDS, RULE, Interval, Verdict, difference, verdict
from vivit.files import as_text, make_folder, write_files
from vivit.report.drawing import Measured, intervals_figure, write_png

# The text between these marks of a page is made from the records.
BEGIN, END = "<!-- made from records: {} -->", "<!-- end -->"
MEASURES = ("verb", "noun", "action")
TOO_FEW = "too few seeds"


def section_lines(table: Table, scale: Scale, results: Results) -> list[str]:
    """A table's section of the page: the question, the paper's answer, the table and its plot."""
    lines = [table.question, "", f"The paper: {table.paper}", "", *table_lines(table, scale, results)]
    if measured(table, scale, results):
        lines += ["", f"![{table.title}](experiments/{table.key}.png)"]
    return lines


def table_lines(table: Table, scale: Scale, results: Results) -> list[str]:
    """A table in Markdown: the paper's results, accuracy by measure and views, cost; then the claims."""
    rows = [row for row in table.rows if scores(table, row, scale, results)]
    if not rows:
        return ["No row of this table has a result yet."]
    columns = [*MEASURES, *(f"{table.measure}, {views} views" for views in _more_views(table))]
    head = ["", "paper", *columns, "parameters", "multiply-adds", "minutes", "rate", "seeds"]
    lines = [_cells(head), _cells(["---", *["---:"] * (len(head) - 1)])]
    for row in rows:
        lines.append(_cells(_row(table, row, scale, results)))
    missing = [row.name for row in table.rows if row not in rows]
    if missing:
        lines += ["", f"Not run yet: {', '.join(missing)}."]
    return [*lines, "", *claim_lines(table, scale, results)]


def _row(table: Table, row: Row, scale: Scale, results: Results) -> list[str]:
    rate, tried = best_rate(table, row, scale, results), validation(table, row, scale, results)
    planned = tried_rates(row, scale)
    assert rate is not None
    found = [results.get(cell(table, row, rate, seed, scale).key) for seed in range(scale.seeds)]
    runs = [one for one in found if one is not None]
    keys = [cell(table, row, each, 0, scale).key for each in planned]
    every = [*runs, *(results[key] for key in keys if key in results)]
    accuracies = [scores(table, row, scale, results, row.views[0], measure) for measure in MEASURES]
    more = [scores(table, row, scale, results, views) if views in row.views else {} for views in _more_views(table)]
    return [
        row.name,
        row.paper,
        *(in_percent(Interval.of(list(one.values()))) if one else "" for one in (*accuracies, *more)),
        f"{runs[0]['parameters'] / 1e6:.2f} M",
        f"{runs[0]['multiply_adds'] / 1e6:,.0f} M",
        f"{median(one['train_cpu_seconds'] for one in every) / 60:.1f}",
        f"{rate:g}" + (f" ({len(tried)} of {len(planned)} tried)" if len(tried) < len(planned) else ""),
        str(len(runs)),
    ]


def _more_views(table: Table) -> list[str]:
    """The views that rows are scored with besides their first."""
    return list(dict.fromkeys(views for row in table.rows for views in row.views[1:]))


def in_percent(interval: Interval) -> str:
    if interval.count < FEWEST_SEEDS:
        return f"{100 * interval.mean:.1f}"
    return f"{100 * interval.mean:.1f} ± {100 * interval.half:.1f}"


def _cells(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def judged(table: Table, scale: Scale, results: Results) -> list[tuple[Claim, Interval | None, Verdict | None]]:
    """Each claim with the difference over shared seeds, and the verdict."""
    judgements = []
    for claim in table.claims:
        better, worse = (
            scores(table, table.row(name), scale, results, views)
            for name, views in zip((claim.better, claim.worse), claim.views, strict=True)
        )
        found = difference(better, worse)
        judgements.append((claim, found, verdict(found)))
    return judgements


def claim_lines(table: Table, scale: Scale, results: Results) -> list[str]:
    """Whether the paper's claims hold, in Markdown."""
    lines = [_cells(["the paper's ordering", "difference here", "claim"]), _cells(["---", "---:", "---"])]
    reasons = []
    for claim, found, said in judged(table, scale, results):
        shown = "" if found is None else f"{in_percent(found)} points"
        lines.append(_cells([str(claim), shown, said or TOO_FEW]))
        if said in ("not shown", "contradicted"):
            reasons.append(f"- *{claim}* ({said}): {claim.why}")
    return [*lines, *(["", "Why that may be:", "", *reasons] if reasons else [])]


def summary_lines(tables: Sequence[Table], scale: Scale, results: Results) -> list[str]:
    """How claims are judged, how many held, and all of them with their verdicts, by table."""
    counts: Counter[str] = Counter()
    lines = [_cells(["", "the paper's ordering", "difference here", "claim"]), _cells(["---", "---", "---:", "---"])]
    for table in tables:
        for claim, found, said in judged(table, scale, results):
            shown = "" if found is None else f"{in_percent(found)} points"
            lines.append(_cells([table.title, str(claim), shown, said or TOO_FEW]))
            counts[said or TOO_FEW] += 1
    outcomes = [name for name in ("held", "not shown", "contradicted", TOO_FEW) if counts[name]]
    counted = ", ".join(f"{counts[name]} {name}" for name in outcomes)
    return [RULE, "", f"Of {counts.total()} claims: {counted}.", "", *lines]


def setting_lines(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Where the records come from: hardware, versions, commits and days, each once."""
    if not records:
        return ["No records yet."]
    every = list(records.values())

    def each(values: Sequence[str]) -> str:
        return ", ".join(sorted(set(values)))

    machines = [f"{one['hardware']['cpu']}, {one['hardware']['threads']} thread(s)" for one in every]
    versions = [f"torch {one['versions']['torch']}" for one in every]
    minutes = [one["values"]["train_cpu_seconds"] / 60 for one in every]
    return [
        f"{len(every)} trainings of {median(minutes):.1f} core-minutes (median), {sum(minutes) / 60:.1f} core-hours in "
        f"all, on {each(machines)}, with {each(versions)}; commits {each([one['commit'] for one in every])}; "
        f"{each([one['date'] for one in every])}.",
    ]


def scale_of(records: Mapping[str, Mapping[str, Any]]) -> Scale:
    """The scale that records were made at: full if any were."""
    names = {record["values"]["scale"] for record in records.values()}
    return SHRUNKEN if names == {SHRUNKEN.name} else FULL


def parts(tables: Sequence[Table], folder: Path, scale: Scale | None = None) -> dict[str, list[str]]:
    """Name → Markdown lines of every part of the page that is made from the records in a folder."""
    records = read_results(folder)
    scale = scale or scale_of(records)
    results = {key: record["values"] for key, record in records.items()}
    made = {table.key: section_lines(table, scale, results) for table in tables}
    return {**made, "claims": summary_lines(tables, scale, results), "setting": setting_lines(records)}


def fill_page(text: str, made: Mapping[str, Sequence[str]]) -> str:
    """The page with each marked part replaced. Raises UserError if it marks an unknown part."""

    def replace(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in made:
            raise UserError(f"the page marks {name!r}, and the parts are {', '.join(made)}")
        return "\n".join([BEGIN.format(name), "", *made[name], "", END])

    pattern = re.escape(BEGIN).replace(re.escape("{}"), r"(?P<name>[\w-]+)") + r"\n.*?" + re.escape(END)
    return re.sub(pattern, replace, text, flags=re.DOTALL)


def write_page(page: Path, tables: Sequence[Table], folder: Path) -> None:
    """Fill in a page from the records in a folder, and draw a plot for each table beside the page, in PAGE/.

    Raises:
        UserError: the page or a record cannot be read, or a file cannot be written.
    """
    try:
        text = page.read_text("utf-8")
    except OSError as error:
        raise UserError(f"{page}: {error.strerror}") from None
    write_files({page: as_text(fill_page(text, parts(tables, folder)))})
    records = read_results(folder)
    scale, results = scale_of(records), {key: record["values"] for key, record in records.items()}
    pictures = page.with_suffix("")
    make_folder(pictures)
    for table in tables:
        if rows := measured(table, scale, results):
            write_png(
                pictures / f"{table.key}.png", intervals_figure(rows, f"{table.measure} accuracy, % of test videos")
            )


def measured(table: Table, scale: Scale, results: Results) -> list[Measured]:
    """The rows of a table's plot, one for each row and views with a score."""
    rows = []
    for row in table.rows:
        for views in row.views:
            values = [100 * value for value in scores(table, row, scale, results, views).values()]
            if values:
                found = Interval.of(values)
                name = row.name if len(row.views) == 1 else f"{row.name}, {views} views"
                half = found.half if found.count >= FEWEST_SEEDS else math.nan
                rows.append(Measured(name, values, found.mean, half))
    return rows
