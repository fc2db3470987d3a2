"""What `vivit data check` prints."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vivit.data.entries import SPLIT_NAMES, shortened
from vivit.data.manifest import HASH_DIGITS, FileRecord, Manifest, Use
from vivit.data.remarks import KINDS, remarks_on

BAD, DOUBTFUL = "bold red", "bold yellow"
# Files named under a heading, of what is wrong and of what may be meant; the manifest has all of them.
NAMED = {BAD: 10, DOUBTFUL: 3}
# Of a group of files.
IN_GROUP = 4
# Different sizes, codecs and the like that are named.
KINDS_NAMED = 4
BARS = "▁▂▃▄▅▆▇█"
BINS = 24


def print_report(console: Console, manifest: Manifest, classes: Mapping[str, Sequence[str]]) -> None:
    """Plain text in lines where the console is no terminal."""
    console.print(Text(_printable(manifest.source), style="bold"), soft_wrap=True)
    console.print(_splits_table(manifest, plain=not console.is_terminal))
    facts = Table(box=None, show_header=False, pad_edge=True)
    facts.add_column(style="cyan", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(manifest, classes):
        facts.add_row(name, Text(_printable(value)))
    console.print(facts)
    for heading, style, lines in _findings(manifest):
        console.print()
        console.print(Text(heading, style=style), soft_wrap=True)
        shown = lines[: NAMED.get(style, 0)]
        for line in shown:
            console.print(Text(f"  {_printable(line)}"), soft_wrap=True)
        if len(lines) > len(shown):
            console.print(Text(f"  and {len(lines) - len(shown):,} more, in the manifest", style="dim"), soft_wrap=True)
    console.print()


# --- what there is


def _splits_table(manifest: Manifest, plain: bool) -> Table:
    table = Table(box=None if plain else box.SIMPLE_HEAD, header_style="cyan")
    table.add_column("split")
    for name in ("videos", "files", "hours", "unreadable", "missing"):
        table.add_column(name, justify="right")
    table.add_column("hash", no_wrap=True)
    for split in SPLIT_NAMES:
        files = [record for record in manifest.files if split in record.splits]
        missing = len(manifest.missing.get(split, ()))
        if not files and not missing:
            continue
        uses = [(use, record) for record in files for use in record.uses if use.split == split]
        seconds = sum(_seconds(use, record) for use, record in uses)
        unreadable = sum(bool(record.scan.problem) for record in files)
        table.add_row(
            split,
            f"{len(uses):,}",
            f"{len(files):,}",
            f"{seconds / 3600:,.2f}",
            Text(f"{unreadable:,}", style="red" if unreadable else ""),
            Text(f"{missing:,}", style="yellow" if missing else ""),
            manifest.hash.get(split, "")[:HASH_DIGITS],
        )
    return table


def _seconds(use: Use, record: FileRecord) -> float:
    duration = record.scan.duration or 0.0
    if use.span is None:
        return duration
    return max(0.0, min(use.span[1], duration) - use.span[0])


def _facts(manifest: Manifest, classes: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    uses = [(use, record) for record in manifest.files for use in record.uses]
    facts: list[tuple[str, str]] = []
    for head, names in classes.items():
        facts += _class_facts(head, names, [use for use, _ in uses])
    readable = [record.scan for record in manifest.files if not record.scan.problem]
    if not readable:
        return facts
    seconds = [_seconds(use, record) for use, record in uses if not record.scan.problem]
    facts.append(("seconds", f"{_spread(seconds)}  {histogram(seconds)}"))
    facts.append(("pixels", _most_common(f"{scan.width} x {scan.height}" for scan in readable)))
    facts.append(("frames a second", _most_common(f"{scan.frame_rate:.4g}" for scan in readable)))
    facts.append(("codecs", _most_common(scan.codec for scan in readable)))
    facts.append(("containers", _most_common(scan.container for scan in readable)))
    return facts


def _class_facts(head: str, names: Sequence[str], uses: Sequence[Use]) -> list[tuple[str, str]]:
    counts = {
        split: Counter(name for use in uses if use.split == split for name in use.labels.get(head, ()))
        for split in SPLIT_NAMES
    }
    there = [split for split in SPLIT_NAMES if any(use.split == split for use in uses)]
    if not there:
        return []
    main = there[0]
    sizes = {name: counts[main][name] for name in names}
    ordered = sorted(sizes, key=lambda name: -sizes[name])
    balance = f"{len(names):,}; in {main} {_spread(list(sizes.values()))} videos each  "
    facts = [
        (head, balance + bars([sizes[name] for name in ordered])),
        ("  largest", ", ".join(f"{name} ({sizes[name]:,})" for name in ordered[:3])),
        ("  smallest", ", ".join(f"{name} ({sizes[name]:,})" for name in ordered[:-4:-1])),
    ]
    for split in there:
        if absent := [name for name in names if not counts[split][name]]:
            facts.append((f"  not in {split}", f"{len(absent):,}: {shortened(absent)}"))
    return facts


def _spread(values: Sequence[float]) -> str:
    """ "1 to 9, median 4"."""
    low, middle, high = (f"{value:,.4g}" for value in (min(values), median(values), max(values)))
    return low if low == high else f"{low} to {high}, median {middle}"


def _most_common(values: Iterable[str]) -> str:
    counts = Counter(values).most_common()
    named = ", ".join(f"{value} ({count:,})" for value, count in counts[:KINDS_NAMED])
    return named + (f" and {len(counts) - KINDS_NAMED} more" if len(counts) > KINDS_NAMED else "")


def histogram(values: Sequence[float]) -> str:
    """How many values lie in each of equal steps from the least to the greatest, as bars; "" if all are one."""
    low, high = min(values), max(values)
    if low == high:
        return ""
    counts = Counter(min(int((value - low) / (high - low) * BINS), BINS - 1) for value in values)
    return bars([counts[step] for step in range(BINS)])


def bars(values: Sequence[float]) -> str:
    """A bar for each value, or where there are more than `BINS` for the mean of some neighbours; nothing is a space."""
    if len(values) > BINS:
        edges = [len(values) * step // BINS for step in range(BINS + 1)]
        values = [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
    top = max(values) or 1
    return "".join(" " if not value else BARS[min(int(value / top * len(BARS)), len(BARS) - 1)] for value in values)


# --- what is wrong


def _findings(manifest: Manifest) -> list[tuple[str, str, list[str]]]:
    """Heading, its style, and the lines below it; the worst first."""
    records = {record.place: record for record in manifest.files}

    def splits(group: Sequence[str]) -> list[str]:
        of_group = {split for place in group for split in records[place].splits}
        return [split for split in SPLIT_NAMES if split in of_group]

    across = [_equation(group) for group in manifest.look_alikes if len(splits(group)) > 1]
    within = [_equation(group) for group in manifest.look_alikes if len(splits(group)) == 1]
    leaks = [f"{' and '.join(splits(group))}: {_equation(group)}" for group in manifest.leaks]
    same = [_equation(group) for group in manifest.duplicates]
    problems = [f"{record.place}: {record.scan.problem}" for record in manifest.files if record.scan.problem]
    missing = [name for names in manifest.missing.values() for name in names]
    found = [
        (f"{_count(leaks, 'leak')}: the same bytes in different splits", BAD, leaks),
        (f"{len(problems):,} of {_count(manifest.files, 'file')} cannot be read", BAD, problems),
        (f"{_count(missing, 'listed file')} not there", DOUBTFUL, missing),
        (f"{_count(across, 'possible leak')}: about the same pictures in different splits", DOUBTFUL, across),
        (f"{_count(same, 'group')} of files with the same bytes within a split", DOUBTFUL, same),
        (f"{_count(within, 'group')} of files with about the same pictures within a split", DOUBTFUL, within),
    ]
    odd = [(record.place, remark) for record in manifest.files for remark in remarks_on(record)]
    for kind, words in KINDS.items():
        of_kind = [(f"{place}: {remark.text}", remark.count) for place, remark in odd if remark.kind == kind]
        count = sum(count for _, count in of_kind)
        found.append((f"{count:,} {words.one if count == 1 else words.many}", DOUBTFUL, [text for text, _ in of_kind]))
    if not any(lines for _, _, lines in found):
        return [("nothing is wrong with it", "bold green", [])]
    return [(heading, style, lines) for heading, style, lines in found if lines]


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things):,} {name}{'' if len(things) == 1 else 's'}"


def _equation(places: Sequence[str]) -> str:
    rest = len(places) - IN_GROUP
    return " = ".join(places[:IN_GROUP]) + (f" and {rest:,} more" if rest > 0 else "")


def _printable(text: str) -> str:
    """What a name could do to a line or a terminal is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
