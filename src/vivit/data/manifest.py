"""Identifies the videos of a data set: a hash to print beside every score, and a manifest that lists every file."""

import hashlib
import json
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from itertools import takewhile
from math import isfinite
from pathlib import Path
from typing import Any

from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.data.file_state import file_sizes
from vivit.errors import UserError
from vivit.files import as_text, write_files
from vivit.video.source import InShard, VideoSource

FORMAT = "vivit data manifest 1"
HASH_DIGITS = 16
"""Hexadecimal digits of a hash to print."""
# Names to compare to find how two folders correspond.
TRIED = 100


@dataclass(frozen=True)
class Scan:
    """What reading a file revealed; for an unreadable file, the problem and what was known before it occurred."""

    problem: str = ""
    """Why the file is unreadable."""
    excess: str = ""
    """What the container claims but the file lacks."""
    duration: float | None = None
    """Seconds."""
    frames: int | None = None
    frame_rate: float | None = None
    width: int | None = None
    """Pixels, as displayed."""
    height: int | None = None
    codec: str = ""
    container: str = ""
    thumbnails: str = ""
    """Base64 of (3, side, side) uint8, grey: small pictures at a quarter, half and three quarters of the video."""
    full: bool = False
    """Whether every frame was decoded."""


@dataclass(frozen=True)
class FileRecord:
    """One file of the data. It may be used several times."""

    name: str
    """Path relative to the data folder, or absolute if outside it; for a video in a shard, its name there."""
    scan: Scan
    shard: str = ""
    """Path or URL, for a video in a shard."""
    size: int | None = None
    """Bytes; for a folder of frames, the number of files; None if it does not exist."""
    modified: int | None = None
    """`State.modified`, in nanoseconds; None if unknown."""
    sha256: str = ""
    """Hash of its bytes, or of samples of a folder of frames; "" if not needed."""
    videos: tuple[LabelledVideo, ...] = ()
    """The uses of the file, each with labels, split and span."""
    remarks: tuple[str, ...] = ()
    """Oddities of a readable file."""

    @property
    def place(self) -> str:
        return f"{self.shard}/{self.name}" if self.shard else self.name

    @property
    def splits(self) -> set[str]:
        return {video.split for video in self.videos}


@dataclass(frozen=True)
class Manifest:
    """The result of checking a data set."""

    hash: Mapping[str, str]
    """split → `data_hash` of it."""
    source: str
    """Where the videos come from, for people."""
    files: tuple[FileRecord, ...]
    leaks: tuple[tuple[str, ...], ...] = ()
    """Groups of files with the same bytes in different splits."""
    duplicates: tuple[tuple[str, ...], ...] = ()
    """Groups of files with the same bytes in one split."""
    look_alikes: tuple[tuple[str, ...], ...] = ()
    """Groups of files with nearly the same pictures."""
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """split → files that are listed for it but missing."""
    contradictions: tuple[str, ...] = ()
    """Videos with the same content but different labels, in words."""


def data_hash(videos: VideoSet) -> str:
    """SHA-256, in hexadecimal, of the videos' names, sizes, labels and spans.

    Names are relative to the folder that all videos share, so the data may be moved. No file is opened. The order of
    the videos does not matter.
    """
    return hash_videos(videos.videos)


def hash_videos(videos: Sequence[LabelledVideo]) -> str:
    """`data_hash` of these videos."""
    sources = dict.fromkeys(video.source for video in videos)
    names, sizes = relative_names(sources), file_sizes(sources)
    rows = sorted(json.dumps([names[video.source], sizes[video.source], *_content(video)]) for video in videos)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def relative_names(sources: Iterable[VideoSource]) -> dict[VideoSource, str]:
    """The path of each, relative to the folder that all of them share."""
    sources = list(sources)
    return dict(zip(sources, _below_shared_folder([_parts(source) for source in sources]), strict=True))


def _parts(source: VideoSource) -> list[str]:
    name = source.name if isinstance(source, InShard) else os.path.abspath(source).replace(os.sep, "/")
    return unicodedata.normalize("NFC", name).split("/")


def _below_shared_folder(paths: Sequence[list[str]]) -> list[str]:
    folders = [path[:-1] for path in paths] or [[]]
    # A prefix that the first and the last in sorted order share is shared by all between them.
    ends = zip(min(folders), max(folders), strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    return ["/".join(path[shared:]) for path in paths]


def _content(video: LabelledVideo) -> tuple[Any, Any]:
    """Labels and span in a comparable form."""
    names = [[head, sorted(video.labels[head])] for head in sorted(video.labels)]
    return names, None if video.span is None else [float(seconds) for seconds in video.span]


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write JSON with one line for each file. Raises UserError."""
    head = {"format": FORMAT} | {key: value for key, value in vars(manifest).items() if key != "files"}
    lines = ",\n".join(to_line(record) for record in manifest.files)
    write_files({path: as_text(json.dumps(head, indent=1)[:-2] + f',\n "files": [\n{lines}\n]}}\n')})


def read_manifest(path: Path) -> Manifest:
    """Read a manifest. Raises UserError if there is none, or the file is not a manifest."""
    try:
        value = json.loads(path.read_bytes())
        if value.pop("format") != FORMAT:
            raise ValueError
        for key in ("leaks", "duplicates", "look_alikes"):
            value[key] = tuple(map(tuple, value[key]))
        value["contradictions"] = tuple(value.get("contradictions", ()))
        value["files"] = tuple(map(_record, value["files"]))
        value["missing"] = {split: tuple(names) for split, names in value["missing"].items()}
        return Manifest(**value)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{path}: not a manifest of this version of `vivit data check`; choose another file "
            "with --out, or delete this one if an earlier version wrote it"
        ) from None


def to_line(record: FileRecord) -> str:
    """The record as one line of JSON, without unknown fields."""
    row = {key: value for key, value in vars(record).items() if key not in ("scan", "videos")} | vars(record.scan)
    row["uses"] = [{"split": video.split, "labels": video.labels, "span": video.span} for video in record.videos]
    known = {k: v for k, v in row.items() if v is not None and v is not False and v not in ("", (), [])}
    return json.dumps(known)


def from_line(line: str) -> FileRecord:
    """The reverse of `to_line`. Raises ValueError."""
    try:
        return _record(json.loads(line))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a record ({error})") from None


def _record(row: dict[str, Any]) -> FileRecord:
    scan = Scan(**{each.name: row.pop(each.name) for each in fields(Scan) if each.name in row})
    uses, remarks = row.pop("uses", ()), tuple(row.pop("remarks", ()))
    record = FileRecord(scan=scan, remarks=remarks, **row)
    _check_kinds(scan, record)
    return replace(record, videos=tuple(_video(record.place, use) for use in uses))


def _check_kinds(*values: Scan | FileRecord) -> None:
    """Raise ValueError if a field is not of its default's kind: text, a number or None, or a boolean."""
    for value in values:
        for each in fields(value):
            found = getattr(value, each.name)
            if each.default is None:
                fits = found is None or (type(found) in (int, float) and isfinite(found))
            else:
                fits = isinstance(found, (str, Scan) if each.default is MISSING else type(each.default))
            if not fits:
                raise ValueError(f"{each.name} cannot be {found!r}")


def _video(place: str, use: dict[str, Any]) -> LabelledVideo:
    """A use of a file; its source is only a name, since a manifest does not say where in a shard the video is."""
    span = use["span"]
    labels = {head: tuple(names) for head, names in use["labels"].items()}
    return LabelledVideo(Path(place), labels, use["split"], None if span is None else (span[0], span[1]))


def compare(manifest: Manifest, split: str, videos: VideoSet) -> str:
    """How a split differs from the manifest, in words; "" if it does not.

    >>> compare(manifest, "val", open_data("kinetics").split("val"))
    '3 videos added, 1 gone, 2 of another size'
    """
    before: defaultdict[str, list[Any]] = defaultdict(list)
    records = [record for record in manifest.files if split in record.splits]
    names = _below_shared_folder([unicodedata.normalize("NFC", record.name).split("/") for record in records])
    for name, record in zip(names, records, strict=True):
        before[name] += [[record.size, *_content(video)] for video in record.videos if video.split == split]

    sizes = file_sizes(video.source for video in videos.videos)
    names = _below_shared_folder([_parts(video.source) for video in videos.videos])
    put_before, taken_off = _folder_above(names, before), _folder_above(before, names)
    now: defaultdict[str, list[Any]] = defaultdict(list)
    for name, video in zip(names, videos.videos, strict=True):
        now[put_before + name.removeprefix(taken_off)].append([sizes[video.source], *_content(video)])
    return _differences(before, now)


def _folder_above(names: Iterable[str], others: Iterable[str]) -> str:
    """The folder, with a trailing slash, to put before `names` so that most of them are among the others.

    Names are relative to the folder that all videos share, which moves up when a video is added outside it.
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
    words = [f"{count} {what}" for what, count in counts.items() if count]
    if words:
        number, what = words[0].split(" ", 1)
        words[0] = f"{number} video{'s' if number != '1' else ''} {what}"
    return ", ".join(words)
