"""What is in a data set, in writing: a hash to stand beside every score, and a manifest that lists every video."""

import hashlib
import json
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import takewhile
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from vivit.data.datasets import VideoSet
from vivit.data.entries import Entry
from vivit.errors import UserError
from vivit.files import as_text, write_files
from vivit.video.source import InShard, VideoSource, is_remote

FORMAT = "vivit data manifest 1"
HASH_DIGITS = 16
"""Hexadecimal digits of a hash that people are shown."""
# Files asked about at once: on a network it is the waiting that takes the time.
AT_ONCE = 16
# Names by which two folders are laid over each other.
TRIED = 100


@dataclass(frozen=True)
class Use:
    """What a data set takes a file for."""

    split: str
    labels: Mapping[str, tuple[str, ...]]
    """head → the names of the classes that apply."""
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Scan:
    """What reading a file told of it. Of an unreadable one only `problem` and what was told before it is known."""

    problem: str = ""
    """Why it is unreadable."""
    excess: str = ""
    """What its container claims more than it has."""
    duration: float | None = None
    """Seconds."""
    frames: int | None = None
    frame_rate: float | None = None
    width: int | None = None
    """Pixels, as it is shown."""
    height: int | None = None
    codec: str = ""
    container: str = ""
    thumbnails: str = ""
    """Base64 of (3, side, side) uint8 in grey: small pictures at a quarter, the half and three quarters of it."""
    full: bool = False
    """Whether every frame was decoded."""


@dataclass(frozen=True)
class FileRecord:
    """One file of the data, which may be used several times."""

    name: str
    """Below the folder of the data or, outside of it, from the root; in a shard, the name there."""
    scan: Scan
    shard: str = ""
    """Path or URL, for a video in a shard."""
    size: int | None = None
    """Bytes; of a folder of frames, how many they are; None where it is not there."""
    modified: int | None = None
    """When, in nanoseconds; None where nobody knows."""
    sha256: str = ""
    """Of its bytes, where they were asked for."""
    uses: tuple[Use, ...] = ()
    remarks: tuple[str, ...] = ()
    """What is odd about it, though it can be read."""

    @property
    def place(self) -> str:
        return f"{self.shard}/{self.name}" if self.shard else self.name

    @property
    def splits(self) -> set[str]:
        return {use.split for use in self.uses}


@dataclass(frozen=True)
class Manifest:
    """What a data set was found to hold."""

    hash: Mapping[str, str]
    """split → `data_hash` of it."""
    source: str
    """Where the videos come from, in words for people."""
    files: tuple[FileRecord, ...]
    leaks: tuple[tuple[str, ...], ...] = ()
    """Files of the same bytes in different splits."""
    duplicates: tuple[tuple[str, ...], ...] = ()
    """Files of the same bytes in one split."""
    look_alikes: tuple[tuple[str, ...], ...] = ()
    """Files that show about the same."""
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """split → files that are listed for it but not there."""


# --- the hash


def data_hash(videos: VideoSet) -> str:
    """SHA-256, in hexadecimal, of which videos are in a split: their names, sizes, labels and spans.

    Names count from the folder that all of them share, so that the data may be moved, and labels by the names of
    their classes. No file is opened, and the order of the videos does not matter.
    """
    return hash_entries(named_entries(videos))


def named_entries(videos: VideoSet, split: str = "") -> list[Entry]:
    """The videos with the names of their classes in place of numbers."""
    entries = []
    for video in videos.videos:
        labels = {}
        for head, label in video.labels.items():
            numbers = (label,) if isinstance(label, int) else label
            labels[head] = tuple(videos.classes[head][number] for number in numbers)
        entries.append(Entry(video.source, labels, split, video.span))
    return entries


def hash_entries(entries: Sequence[Entry]) -> str:
    """`data_hash` of entries, whichever splits they say."""
    sources = list({entry.source: None for entry in entries})
    names = dict(zip(sources, _below_shared_folder([_parts(source) for source in sources]), strict=True))
    sizes = {source: size for source, (size, _) in stat_all(sources).items()}
    rows = sorted(
        json.dumps([names[entry.source], sizes[entry.source], *_content(entry.labels, entry.span)]) for entry in entries
    )
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def stat_all(sources: Sequence[VideoSource]) -> dict[VideoSource, tuple[int | None, int | None]]:
    """The size of each, in bytes, and when it was modified, in nanoseconds; None where that cannot be told."""
    with ThreadPool(AT_ONCE) as pool:
        return dict(zip(sources, pool.map(_stat, sources, chunksize=256), strict=True))


def _stat(source: VideoSource) -> tuple[int | None, int | None]:
    try:
        if isinstance(source, InShard):
            return source.size, None if is_remote(source.shard) else os.stat(source.shard).st_mtime_ns
        status = os.stat(source)
        if os.path.isdir(source):
            # What a file system takes for a folder says nothing of what is in it.
            return len(os.listdir(source)), status.st_mtime_ns
        return status.st_size, status.st_mtime_ns
    except OSError:
        return source.size if isinstance(source, InShard) else None, None


def _parts(source: VideoSource) -> list[str]:
    name = source.name if isinstance(source, InShard) else os.path.abspath(source).replace(os.sep, "/")
    return unicodedata.normalize("NFC", name).split("/")


def _below_shared_folder(paths: Sequence[list[str]]) -> list[str]:
    folders = [path[:-1] for path in paths] or [[]]
    # What the first and the last of them in order begin with, all between them begin with too.
    ends = zip(min(folders), max(folders), strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    return ["/".join(path[shared:]) for path in paths]


def _content(labels: Mapping[str, tuple[str, ...]], span: tuple[float, float] | None) -> tuple[Any, Any]:
    """Labels and span in the one form that is compared."""
    names = [[head, sorted(labels[head])] for head in sorted(labels)]
    return names, None if span is None else [float(seconds) for seconds in span]


# --- the file


def write_manifest(path: Path, manifest: Manifest) -> None:
    """JSON with a line for each file. Raises UserError where it cannot be written."""
    head = {"format": FORMAT} | {key: value for key, value in vars(manifest).items() if key != "files"}
    lines = ",\n".join(to_line(record) for record in manifest.files)
    try:
        write_files({path: as_text(json.dumps(head, indent=1)[:-2] + f',\n "files": [\n{lines}\n]}}\n')})
    except OSError as error:
        raise UserError(f"{path}: not written ({error.strerror})") from None


def read_manifest(path: Path) -> Manifest:
    """Raises UserError where there is none, or another file."""
    try:
        said = json.loads(path.read_bytes())
        if said.pop("format") != FORMAT:
            raise ValueError
        for key in ("leaks", "duplicates", "look_alikes"):
            said[key] = tuple(map(tuple, said[key]))
        said["files"] = tuple(map(_record, said["files"]))
        said["missing"] = {split: tuple(names) for split, names in said["missing"].items()}
        return Manifest(**said)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not a manifest of `vivit data check`, or of another version of it") from None


def to_line(record: FileRecord) -> str:
    """Its JSON in one line; what is not known is left out."""
    row = {key: value for key, value in vars(record).items() if key != "scan"} | vars(record.scan)
    known = {
        key: value for key, value in row.items() if value is not None and value is not False and value not in ("", ())
    }
    return json.dumps(known, default=vars)


def from_line(line: str) -> FileRecord:
    """The reverse. Raises ValueError."""
    try:
        return _record(json.loads(line))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a record ({error})") from None


def _record(row: dict[str, Any]) -> FileRecord:
    scan = Scan(**{each.name: row.pop(each.name) for each in fields(Scan) if each.name in row})
    uses = tuple(_use(use) for use in row.pop("uses", ()))
    return FileRecord(scan=scan, uses=uses, remarks=tuple(row.pop("remarks", ())), **row)


def _use(row: dict[str, Any]) -> Use:
    span = row["span"]
    labels = {head: tuple(names) for head, names in row["labels"].items()}
    return Use(row["split"], labels, None if span is None else (span[0], span[1]))


# --- what has changed


def compare(manifest: Manifest, split: str, videos: VideoSet) -> str:
    """How a split differs from what the manifest has of it, in words; "" where it does not.

    >>> compare(manifest, "val", open_split("kinetics", "val"))
    '3 videos added, 1 gone, 2 of another size'
    """
    before: defaultdict[str, list[Any]] = defaultdict(list)
    records = [record for record in manifest.files if any(use.split == split for use in record.uses)]
    names = _below_shared_folder([unicodedata.normalize("NFC", record.name).split("/") for record in records])
    for name, record in zip(names, records, strict=True):
        uses = [use for use in record.uses if use.split == split]
        before[name] += [[record.size, *_content(use.labels, use.span)] for use in uses]

    sizes = stat_all([video.source for video in videos.videos])
    names = _below_shared_folder([_parts(video.source) for video in videos.videos])
    put_before, taken_off = _folder_above(names, before), _folder_above(before, names)
    now: defaultdict[str, list[Any]] = defaultdict(list)
    for name, entry in zip(names, named_entries(videos), strict=True):
        content = _content(entry.labels, entry.span)
        now[put_before + name.removeprefix(taken_off)].append([sizes[entry.source][0], *content])
    return _differences(before, now)


def _folder_above(names: Iterable[str], others: Iterable[str]) -> str:
    """The folder, with a / behind it, that must be put before `names` so that most of them are among the others.

    Where a video is added beside the folder that all shared, they share the one above it from then on.
    """
    by_file = defaultdict(list)
    for other in others:
        by_file[other.rsplit("/", 1)[-1]].append(other)
    tried = sorted(set(names))
    votes = Counter({"": 0})
    for name in tried[:: len(tried) // TRIED + 1]:
        likely = by_file[name.rsplit("/", 1)[-1]]
        votes.update(other.removesuffix(name) for other in likely if f"/{other}".endswith(f"/{name}"))
    return votes.most_common(1)[0][0]


def _differences(before: Mapping[str, list[Any]], now: Mapping[str, list[Any]]) -> str:
    both = before.keys() & now.keys()
    resized = {name for name in both if {row[0] for row in before[name]} != {row[0] for row in now[name]}}
    relabelled = {name for name in both - resized if sorted(map(repr, before[name])) != sorted(map(repr, now[name]))}
    counts = {
        "added": len(now.keys() - both),
        "gone": len(before.keys() - both),
        "of another size": len(resized),
        "with other labels or spans": len(relabelled),
    }
    told = [f"{count} {what}" for what, count in counts.items() if count]
    if told:
        number, what = told[0].split(" ", 1)
        told[0] = f"{number} video{'s' if number != '1' else ''} {what}"
    return ", ".join(told)
