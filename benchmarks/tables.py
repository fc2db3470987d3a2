"""Fills docs/performance.md with tables and plots, made only from the records beside it.

.venv/bin/python -m benchmarks.tables

Each part of the page between `<!-- made from records: NAME -->` and `<!-- end -->` is replaced. A missing record gives
a line that says so. Nothing is measured.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import cyclopts
from matplotlib.figure import Figure

from benchmarks import harness
from benchmarks.contenders import CONTENDERS, OURS
from vivit.experiments.paper.tables import fill_page
from vivit.files import as_text, write_files
from vivit.report.drawing import Measured, intervals_figure, write_png

PAGE = harness.RESULTS.with_suffix(".md")
BUSY = 0.5  # a machine with a higher load counts as shared, with less reliable times
Record = Mapping[str, Any]
Row = Mapping[str, Any]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def setting(record: Record) -> str:
    """Where the numbers of a record come from, in one line."""
    hardware, versions, values = record["hardware"], dict(record["versions"]), record["values"]
    commits = {row["commit"] for row in values["rows"] if "commit" in row} or {record["commit"]}
    where = hardware["device"] if hardware["device"] != "cpu" else hardware["cpu"]
    fast = [name for name in hardware.get("instructions", ()) if name in ("avx512_bf16", "amx")]
    parts = [
        f"{where} ({', '.join(fast)})" if fast and hardware["device"] == "cpu" else where,
        f"{hardware['threads']} thread{'' if hardware['threads'] == 1 else 's'}",
        *(f"{name} {version}" for name, version in versions.items() if name not in ("python", "vivit")),
        f"commit {', '.join(sorted(commits))}",
        record["date"],
    ]
    load = values.get("load", 0.0)
    shared = f" **Shared machine**, with a load of {load:.1f} before." if load > BUSY else ""
    return f"{', '.join(parts)}.{shared}"


def of_spread(spread: Mapping[str, float], digits: str = ".3g") -> str:
    """The median, with the quartiles in brackets."""
    return f"{spread['median']:{digits}} ({spread['low']:{digits}}–{spread['high']:{digits}})"


def called(row: Row) -> str:
    return CONTENDERS[row["model"]].words if row["model"] in CONTENDERS else row["model"]


def in_words(variant: str) -> str:
    return variant.replace("_", " ")


# --- one function for each record


def inference_lines(record: Record) -> list[str]:
    own = {
        (row["variant"], row["precision"]): row["processor seconds"]["each"]
        for row in record["values"]["rows"]
        if row["model"] == OURS
    }

    def processor_ratio(row: Row) -> str:
        pairs = zip(row["processor seconds"]["each"], own.get((row["variant"], row["precision"]), ()), strict=False)
        found = [theirs / ours for theirs, ours in pairs]
        return f"{median(found):.2f}" if found and row["model"] != OURS else ""

    rows = [
        [
            in_words(row["variant"]),
            called(row),
            row["precision"],
            of_spread(row["seconds"]),
            f"{row['flops'] / row['seconds']['median'] / 1e9:.0f}",
            f"{row['of the product peak']:.0%}",
            of_spread(row["time ÷ ours"], ".2f") if "time ÷ ours" in row else "",
            processor_ratio(row),
            row["attention"],
        ]
        for row in record["values"]["rows"]
    ]
    peaks = [
        f"{in_words(variant)} {each['product f32'] / 1e9:.0f} and {each['product bf16'] / 1e9:.0f} GFLOP/s, "
        f"{each['copy'] / 1e9:.1f} GB/s"
        for variant, each in record["values"]["peaks"].items()
    ]
    head = (
        *("variant", "model", "precision", "s a clip", "GFLOP/s", "of the product", "time ÷ ours"),
        *("processor time ÷ ours", "attention"),
    )
    return [
        setting(record),
        "",
        *table(head, rows),
        "",
        f"Products in f32 and bf16, and copies, among them: {'; '.join(peaks)}.",
    ]


def inference_figure(record: Record) -> Figure:
    return intervals_figure(
        [
            Measured(
                f"{in_words(row['variant'])}, {called(row).strip('`')}, {row['precision']}",
                row["seconds"]["each"],
                row["seconds"]["median"],
                float("nan"),
            )
            for row in record["values"]["rows"]
        ],
        "seconds a clip",
    )


def memory_lines(record: Record) -> list[str]:
    rows = record["values"]["rows"]
    shapes = sorted({(row["size"], row["frames"]) for row in rows})
    found = {(kind_of(row), row["size"], row["frames"]): row for row in rows}
    kinds = sorted({kind_of(row) for row in rows}, key=lambda kind: (kind[2:], kind[0] == OURS, kind))

    def cell(kind: tuple[str, ...], shape: tuple[int, int]) -> str:
        row = found.get((kind, *shape))
        if row is None:
            return "not measured"
        return f"{row['peak'] / 1e9:.2f}" if "peak" in row else row["error"]

    head = ["", *(f"{frames} × {size}²" for size, frames in shapes)]
    cells = [
        [
            f"{called({'model': model})}, {in_words(variant)}, {work}, {precision}",
            *(cell((model, variant, work, precision), shape) for shape in shapes),
        ]
        for model, variant, work, precision in kinds
    ]
    return [setting(record), "", *table(head, cells)]


def kind_of(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in ("model", "variant", "work", "precision"))


def memory_figure(record: Record) -> Figure:
    """Peak memory against frames in f32 at the smallest size: forward passes on the left, training on the right."""
    rows = [row for row in record["values"]["rows"] if row["precision"] == "f32" and "peak" in row]
    size = min(row["size"] for row in rows)
    lengths = sorted({row["frames"] for row in rows})
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, work in zip(figure.subplots(1, 2), ("forward", "training step"), strict=True):
        chosen = [row for row in rows if row["work"] == work and row["size"] == size]
        for model, variant in dict.fromkeys((row["model"], row["variant"]) for row in chosen):
            line = sorted(
                (row["frames"], row["peak"] / 1e9)
                for row in chosen
                if (row["model"], row["variant"]) == (model, variant)
            )
            label = f"{model}, {in_words(variant)}"
            axes.plot(*zip(*line, strict=True), "o-" if model == OURS else "s--", label=label, markersize=4)
        axes.set(
            xlabel=f"frames of {size} × {size}", ylabel="GB", title=work, xlim=(0, 1.1 * lengths[-1]), ylim=(0, None)
        )
        axes.set_xticks(lengths)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7)
    return figure


def training_lines(record: Record) -> list[str]:
    rows = [
        [
            "transformers" if row["model"] != OURS else f"`vivit`, {in_words(row['variant'])}",
            row["how"],
            "yes" if row["checkpointing"] else "no",
            of_spread(row["seconds"]),
            of_spread(row["transformers' time ÷"], ".2f") if "transformers' time ÷" in row else "",
            f"{row['peak'] / 1e9:.2f}",
            f"{row['after imports'] / 1e9:.2f}",
            f"{row['flops'] / row['seconds']['median'] / 1e9:.0f}",
            f"{row['of the product peak']:.0%}",
        ]
        for row in record["values"]["rows"]
    ]
    task = record["values"]["task"]
    head = (
        *("model", "blocks", "checkpointing", "s a step", "transformers' time ÷", "peak memory, GB"),
        *("after imports, GB", "GFLOP/s", "of the product"),
    )
    about = f"{task['clips']} clip(s) a step, {task['precision']}, {task['optimiser']}."
    return [f"{setting(record)} {about}", "", *table(head, rows)]


def predicting_lines(record: Record) -> list[str]:
    ways = ("one by one", "ahead", "reading alone")
    rows = [
        [
            row["what"],
            f"{row['part of the model']:.0%}",
            *(of_spread(row[way]) for way in ways),
            of_spread(row["ahead ÷ one by one"], ".2f"),
            of_spread(row["ahead ÷ reading alone"], ".2f"),
            *(f"{1e3 * row['work'][way]['median']:.0f}" for way in ways),
        ]
        for row in record["values"]["rows"]
    ]
    head = (
        *("clips", "model's part", *(f"{way}, videos/s" for way in ways)),
        *("ahead ÷ one by one", "ahead ÷ reading alone", *(f"work {way}, ms" for way in ways)),
    )
    return [setting(record), "", *table(head, rows)]


def streaming_lines(record: Record) -> list[str]:
    rows = [
        [
            row["precision"],
            row["way"],
            f"{row['multiply_adds'] / 1e9:.1f}",
            of_spread(row["seconds"]),
            f"{row['ratio']:.1f}",
            f"{row['processor_ratio']:.1f}",
            f"{row['difference']:.1e}",
            f"{row['difference_of_precision']:.1e}",
        ]
        for row in record["values"]["rows"]
    ]
    head = (
        *("precision", "window", "GMAC", "s", "× faster than alone", "× less processor time"),
        *("max Δ of the logits", "of that precision"),
    )
    return [setting(record), "", *table(head, rows)]


def long_videos_lines(record: Record) -> list[str]:
    rows = [
        [
            f"`vivit {row['way']}`",
            f"{row['seconds'] / 3600:g}",
            f"{row['processor']:.0f}",
            f"{row['seconds'] / row['processor']:.0f}",
            *(f"{row[name] / 1e6:.0f}" for name in ("early", "late", "peak")),
        ]
        for row in record["values"]["rows"]
    ]
    head = ("command", "hours", "CPU s", "seconds of video a CPU s", "MB early", "MB late", "MB at most")
    return [setting(record), "", *table(head, rows)]


def merging_lines(record: Record) -> list[str]:
    """Two tables: time and accuracy for each fraction of merged tokens."""
    heads = {
        "time": ("precision", "s a clip", "× faster", "× less processor time"),
        "accuracy": ("model", "accuracy", "same label as without merging", "the same of windows of other videos"),
    }
    lines = [setting(record)]
    for what, head in heads.items():
        rows = [row for row in record["values"]["rows"] if row["what"] == what]
        cells = [
            [in_words(row["variant"]), row["over"] or "", f"{row['ratio']:g}", *_merging_cells(row)] for row in rows
        ]
        lines += (
            ["", *table(("variant", "over", "merged", *head), cells)] if rows else ["", f"Not measured yet: {what}."]
        )
    return lines


def _merging_cells(row: Row) -> list[str]:
    if row["what"] == "time":
        ratios = [f"{row[name]:.2f}" for name in ("faster", "less processor time")]
        return [row["precision"], of_spread(row["seconds"]), *ratios]
    windows = f"{row['agreement of windows']:.1%} of {row['windows']}" if row["windows"] else ""
    accuracy = f"{row['accuracy']:.1%} of {row['videos']}"
    return [row["model"], accuracy, f"{row['agreement']:.1%}", windows]


def merged(record: Record, what: str) -> dict[str, dict[float, Row]]:
    """The rows of "time" or "accuracy": variant, axis and precision in words → fraction of tokens → row."""
    found: dict[str, dict[float, Row]] = {}
    rows = [row for row in record["values"]["rows"] if row["what"] == what]
    for row in rows:
        if row["ratio"]:
            kind = row["variant"], row.get("precision", "")
            name = ", ".join(filter(None, (in_words(kind[0]), f"over {row['over']}", kind[1])))
            # Without merging there is no axis.
            whole = next(one for one in rows if not one["ratio"] and (one["variant"], one.get("precision", "")) == kind)
            found.setdefault(name, {0.0: whole})[row["ratio"]] = row
    return found


def token_merging_figure(record: Record) -> Figure:
    """Against the fraction of merged tokens: how much faster, and how often the label stays the same."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.set_title("× less processor time")
    right.set_title("same label as without")
    for axes, what, key in ((left, "time", "less processor time"), (right, "accuracy", "agreement")):
        found = merged(record, what)
        for name, each in found.items():
            parts = sorted(each)
            axes.plot(parts, [each[part][key] for part in parts], "o-", label=name, markersize=4)
        axes.set_xlabel("part of the tokens that is merged")
        axes.spines[["top", "right"]].set_visible(False)
        if found:
            axes.legend(fontsize=6)
    return figure


def exported_lines(record: Record) -> list[str]:
    rows = [
        [
            in_words(row["variant"]),
            f"{row['model']}, {row['precision']}",
            of_spread(row["seconds"]),
            of_spread(row["ours f32 ÷ time"], ".2f"),
            of_spread(row["ours f32 ÷ processor time"], ".2f"),
            f"{row['difference']:.1e}",
        ]
        for row in record["values"]["rows"]
    ]
    head = ("variant", "run by", "s a clip", "our f32 ÷ it", "our f32 ÷ it, processor time", "max Δ of the logits")
    return [setting(record), "", *table(head, rows)]


def gpu_lines(record: Record) -> list[str]:
    rows = record["values"]["rows"]
    lines = [setting(record), ""]
    names = ("what", "model", "variant", "how", "kernel", "precision", "batch", "tokens")
    for section in dict.fromkeys(row["section"] for row in rows):
        chosen = [row for row in rows if row["section"] == section]
        labels = [name for name in names if any(name in row for row in chosen)]
        errors = [name for name in ("difference", "error of the product") if any(name in row for row in chosen)]
        cells = [
            [
                *(str(row.get(name, "")) for name in labels),
                *_gpu_cells(row),
                *(f"{row[name]:.1e}" if name in row else "" for name in errors),
            ]
            for row in chosen
        ]
        head = [*labels, "ms", "TFLOP/s", "of the product", "MFU", "attention", *errors]
        lines += [f"**{section}**", "", *table(head, cells), ""]
    return lines[:-1]


def _gpu_cells(row: Row) -> list[str]:
    if "error" in row:
        return [f"not measured: {row['error']}".replace("|", "/"), "", "", "", ""]
    if "seconds" not in row:
        return [""] * 5
    return [
        of_spread({name: 1e3 * row["seconds"][name] for name in ("median", "low", "high")}),
        f"{row['flops a second'] / 1e12:.3g}" if "flops a second" in row else "",
        f"{row['of the product peak']:.0%}" if "of the product peak" in row else "",
        f"{row['mfu']:.0%}" if "mfu" in row else "",
        row.get("attention", ""),
    ]


LINES: dict[str, Callable[[Record], list[str]]] = {
    "inference": inference_lines,
    "memory": memory_lines,
    "training": training_lines,
    "predicting": predicting_lines,
    "streaming": streaming_lines,
    "long_videos": long_videos_lines,
    "token_merging": merging_lines,
    "exported": exported_lines,
    "gpu": gpu_lines,
}
"""Name of a record's file and of a part of the page → the function that makes its lines."""
FIGURES: dict[str, Callable[[Record], Figure]] = {
    "inference": inference_figure,
    "memory": memory_figure,
    "token_merging": token_merging_figure,
}


def lines_of(name: str, folder: Path) -> list[str]:
    record = harness.read(folder / f"{name}.json")
    if not record["values"]["rows"]:
        return [f"Not measured yet: `python -m benchmarks.{name}` does it."]
    picture = [f"![{name}]({folder.name}/{name}.png)", ""] if name in FIGURES else []
    return [*picture, *LINES[name](record)]


def main(page: Path = PAGE, folder: Path = harness.RESULTS) -> None:
    """Fill in the page, and draw the plots beside the records.

    Args:
        page: with marked parts.
        folder: of the records.
    """
    text = page.read_text("utf-8")
    write_files({page: as_text(fill_page(text, {name: lines_of(name, folder) for name in LINES}))})
    for name, draw in FIGURES.items():
        record = harness.read(folder / f"{name}.json")
        if record["values"]["rows"]:
            write_png(folder / f"{name}.png", draw(record))


if __name__ == "__main__":
    cyclopts.run(main)
