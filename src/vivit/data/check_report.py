"""Print what `vivit data check` found."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vivit.data.check_memory import span_problems
from vivit.data.datasets import DataSet, LabelledVideo
from vivit.data.manifest import HASH_DIGITS, FileRecord, Manifest
from vivit.data.names import SPLIT_NAMES, shortened
from vivit.text import counted, printable
from vivit.video.clips import ClipSpec
from vivit.video.span import Span

BAD, DOUBTFUL = "bold red", "bold yellow"
# Files named under each heading, for errors and for doubtful findings; the manifest names them all.
NAMED = {BAD: 10, DOUBTFUL: 3}
# Files named in each group.
IN_GROUP = 4
# Sizes, codecs and the like named in one line.
KINDS_NAMED = 4
BARS = "▁▂▃▄▅▆▇█"
BINS = 24
# A span may end this many seconds after the last frame: annotations are rounded.
TOLERANCE = 0.1


@dataclass(frozen=True)
class Remark:
    """An oddity of a readable file."""

    kind: str
    """A key of `KINDS`."""
    text: str
    count: int = 1
    """How many videos or spans it concerns."""


# kind of remark → its style, and how to report one and several; {clip} describes the clips in use
KINDS = {
    "span": (
        BAD,
        "span is not in its file: it counts as a video that cannot be read",
        "spans are not in their files: they count as videos that cannot be read",
    ),
    "excess": (DOUBTFUL, "file has less than its container claims", "files have less than their containers claim"),
    "outside": (
        DOUBTFUL,
        "span ends after its file: the rest of it is left out",
        "spans end after their files: the rest of them is left out",
    ),
    "short": (DOUBTFUL, "video is shorter than {clip}", "videos are shorter than {clip}"),
}
# What a clip does after the end of a video that is too short for it.
AT_THE_END = {"loop": "clips start again from the beginning", "pad": "clips repeat the last frame"}


def print_report(console: Console, manifest: Manifest, data_set: DataSet, clip: ClipSpec | None) -> None:
    """Print tables and findings; outside a terminal, plain lines of text.

    Args:
        clip: the clips that will be used; None: unknown.
    """
    console.print(Text(printable(manifest.source), style="bold"), soft_wrap=True)
    for remark in data_set.remarks:
        console.print(Text(printable(remark), style="dim"), soft_wrap=True)
    console.print(_splits_table(manifest, plain=not console.is_terminal))
    facts = Table(box=None, show_header=False, pad_edge=True)
    facts.add_column(style="cyan", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(manifest, data_set.labels.classes):
        facts.add_row(name, Text(printable(value)))
    console.print(facts)
    for heading, style, lines in _findings(manifest, clip):
        console.print()
        console.print(Text(heading, style=style), soft_wrap=True)
        shown = lines[: NAMED.get(style, 0)]
        for line in shown:
            console.print(Text(f"  {printable(line)}"), soft_wrap=True)
        if len(lines) > len(shown):
            console.print(Text(f"  and {len(lines) - len(shown):,} more, in the manifest", style="dim"), soft_wrap=True)
    console.print()


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
        videos = [(video, record) for record in files for video in record.videos if video.split == split]
        seconds = sum(_seconds(video, record) for video, record in videos)
        unreadable = sum(bool(record.scan.problem) for record in files)
        table.add_row(
            split,
            f"{len(videos):,}",
            f"{len(files):,}",
            f"{seconds / 3600:,.2f}",
            Text(f"{unreadable:,}", style="red" if unreadable else ""),
            Text(f"{missing:,}", style="yellow" if missing else ""),
            manifest.hash.get(split, "")[:HASH_DIGITS],
        )
    return table


def _seconds(video: LabelledVideo, record: FileRecord) -> float:
    duration = record.scan.duration or 0.0
    if video.span is None:
        return duration
    return max(0.0, min(video.span[1], duration) - video.span[0])


def _facts(manifest: Manifest, classes: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    videos = [(video, record) for record in manifest.files for video in record.videos]
    facts: list[tuple[str, str]] = []
    for head, names in classes.items():
        facts += _class_facts(head, names, [video for video, _ in videos])
    readable = [record.scan for record in manifest.files if not record.scan.problem]
    if not readable:
        return facts
    seconds = [_seconds(video, record) for video, record in videos if not record.scan.problem]
    facts.append(("seconds", f"{_spread(seconds)}  {histogram(seconds)}"))
    facts.append(("pixels", _most_common(f"{scan.width} x {scan.height}" for scan in readable)))
    facts.append(("frames a second", _most_common(f"{scan.frame_rate:.4g}" for scan in readable)))
    facts.append(("codecs", _most_common(scan.codec for scan in readable)))
    facts.append(("containers", _most_common(scan.container for scan in readable)))
    return facts


def _class_facts(head: str, names: Sequence[str], videos: Sequence[LabelledVideo]) -> list[tuple[str, str]]:
    counts = {
        split: Counter(name for video in videos if video.split == split for name in video.labels.get(head, ()))
        for split in SPLIT_NAMES
    }
    there = [split for split in SPLIT_NAMES if any(video.split == split for video in videos)]
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
    """Bars for the counts of values in equal bins from the smallest to the largest; "" if all are equal."""
    low, high = min(values), max(values)
    if low == high:
        return ""
    counts = Counter(min(int((value - low) / (high - low) * BINS), BINS - 1) for value in values)
    return bars([counts[step] for step in range(BINS)])


def bars(values: Sequence[float]) -> str:
    """A bar for each value, or, if there are more than `BINS`, for the mean of neighbours; 0 is a space."""
    if len(values) > BINS:
        edges = [len(values) * step // BINS for step in range(BINS + 1)]
        values = [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
    top = max(values) or 1
    return "".join(" " if not value else BARS[min(int(value / top * len(BARS)), len(BARS) - 1)] for value in values)


def _findings(manifest: Manifest, clip: ClipSpec | None) -> list[tuple[str, str, list[str]]]:
    """Each finding's heading, style and lines, the worst first."""
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
    two_labels = list(manifest.contradictions)
    found = [
        (f"{counted(len(two_labels), 'video')} with two labels: each should have one", BAD, two_labels),
        (f"{counted(len(leaks), 'leak')}: the same bytes in different splits", BAD, leaks),
        (f"{len(problems):,} of {counted(len(manifest.files), 'file')} cannot be read", BAD, problems),
        (f"{counted(len(missing), 'listed file')} not there", DOUBTFUL, missing),
        (f"{counted(len(across), 'possible leak')}: nearly the same pictures in different splits", DOUBTFUL, across),
        (f"{counted(len(same), 'group')} of files with the same bytes within a split", DOUBTFUL, same),
        (f"{counted(len(within), 'group')} of files with nearly the same pictures within a split", DOUBTFUL, within),
    ]
    odd = [(record.place, remark) for record in manifest.files for remark in remarks_on(record, clip)]
    for kind, (style, one, many) in KINDS.items():
        of_kind = [(f"{place}: {remark.text}", remark.count) for place, remark in odd if remark.kind == kind]
        count = sum(count for _, count in of_kind)
        heading = (one if count == 1 else many).format(clip=clip and _clip_in_words(clip))
        found.append((f"{count:,} {heading}", style, [text for text, _ in of_kind]))
    found.sort(key=lambda finding: finding[1] != BAD)
    if not any(lines for _, _, lines in found):
        return [("no problems found", "bold green", [])]
    return [(heading, style, lines) for heading, style, lines in found if lines]


def _equation(places: Sequence[str]) -> str:
    rest = len(places) - IN_GROUP
    return " = ".join(places[:IN_GROUP]) + (f" and {rest:,} more" if rest > 0 else "")


def _clip_in_words(clip: ClipSpec) -> str:
    covers = _covered(clip)
    frames = f"a clip of {clip.num_frames} frames"
    if clip.rate is not None:
        frames += f" at {clip.rate:g} a second"
    if clip.stride > 1:
        frames += f" at a stride of {clip.stride} ({covers} frames)"
    return f"{frames}: {AT_THE_END[clip.short]}"


def _covered(clip: ClipSpec) -> int:
    """The number of video frames from a clip's first to its last."""
    return (clip.num_frames - 1) * clip.stride + 1


def remarks_on(record: FileRecord, clip: ClipSpec | None) -> Iterator[Remark]:
    """The oddities of a readable file."""
    scan = record.scan
    if scan.problem or scan.duration is None or scan.frame_rate is None or scan.frames is None:
        return
    if scan.excess:
        yield Remark("excess", scan.excess)
    problems = span_problems(record)
    if problems:
        (_, first), more = problems[0], len(problems) - 1
        yield Remark("span", first + (f" (and {more:,} more)" if more else ""), len(problems))
    bad = {span for span, _ in problems}
    good = [video.span for video in record.videos if video.span not in bad]
    spans = [span for span in good if span is not None]
    outside = [span for span in spans if span[1] > scan.duration + TOLERANCE]
    if outside:
        yield Remark("outside", f"{_some(outside, spans)}, but it ends at {scan.duration:.4g} s", len(outside))
    if clip is None:
        return
    rate, frames = scan.frame_rate, scan.frames
    if clip.rate is not None:
        rate, frames = clip.rate, max(1, round(scan.duration * clip.rate))
    lengths = [(span, _frames(span, scan.duration, rate, frames)) for span in good]
    short = [(span, frames) for span, frames in lengths if frames < _covered(clip)]
    whole = [frames for span, frames in short if span is None]
    if whole:
        yield Remark("short", f"has {counted(whole[0], 'frame')}", len(whole))
    elif short:
        shorter = [span for span, _ in short if span is not None]
        yield Remark("short", f"{_some(shorter, spans)}, with {counted(short[0][1], 'frame')}", len(short))


def _frames(span: Span | None, duration: float, rate: float, frames: int) -> int:
    if span is None:
        return frames
    return max(1, round((min(span[1], duration) - max(0.0, span[0])) * rate))


def _some(chosen: list[Span], all_spans: list[Span]) -> str:
    start, end = chosen[0]
    of = f"{len(chosen)} of {len(all_spans)} spans, such as " if len(all_spans) > 1 else ""
    return f"{of}{start:g} to {end:g} s"
