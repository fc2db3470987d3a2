"""Reads the annotations of public data sets, in the files their authors published."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vivit.data.datasets import Labels
from vivit.data.names import SPLIT_NAMES, split_named
from vivit.data.readers.lists import csv_rows, parse_json, read_text, seconds
from vivit.errors import UserError
from vivit.video.span import Span

_SPLIT = "|".join(name for names in SPLIT_NAMES.values() for name in names)


@dataclass(frozen=True)
class Annotated:
    """A video in the annotations, before its file is found."""

    names: tuple[str, ...]
    """Possible names of its file, without the extension; the first that exists is used."""
    labels: Labels
    split: str
    span: Span | None = None
    parent: str = ""
    """The name of the folder that must contain it; "" if file names are unique."""
    frames: tuple[int, int] | None = None
    """The first and last frame of the span, counted from 1, for a folder of frames: pictures have no times."""


@dataclass(frozen=True)
class Annotations:
    """The annotations of a public data set."""

    title: str
    files: tuple[Path, ...]
    videos: Sequence[Annotated]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """head → names in their official order; the names of other heads are sorted."""
    multi_label: bool = False
    remark: str = ""
    """Added to the description."""


@dataclass(frozen=True)
class Format:
    """How to recognise and read the annotations of one public data set."""

    file: re.Pattern[str]
    """Names of its files; the group is the split, or otherwise distinguishes them."""
    opening: str
    """Matches the first lines of each file."""
    read: Callable[[Mapping[str, Path]], Annotations]
    """Reads the files, by group."""


def _table(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Each row's position (for messages), and column → cell."""
    rows = csv_rows(file, read_text(file))
    names = [name.strip() for name in next(rows, (0, []))[1]]
    lacking = next((column for column in columns if column not in names), None)
    if lacking is not None:
        raise UserError(f"{file}: no column {lacking!r}; download the file again")
    for number, row in rows:
        where = f"{file}: line {number}"
        if len(row) < len(names):
            raise UserError(f"{where} has {len(row)} of {len(names)} cells; download the file again")
        yield where, dict(zip(names, row, strict=False))


def _beside(file: Path, *names: str) -> Path | None:
    return next((path for name in names if (path := file.parent / name).is_file()), None)


def _numbered(file: Path, pairs: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    """number → name, in numerical order."""
    try:
        return {number: name for number, name in sorted(pairs, key=lambda pair: int(pair[0]))}
    except ValueError:
        raise UserError(f"{file}: a class has no number; download the file again") from None


def _read_kinetics(files: Mapping[str, Path]) -> Annotations:
    """Read Kinetics-400, -600 or -700."""
    videos, used = [], []
    labels: dict[str, Labels] = {}
    for group, file in files.items():
        labelled = False
        for where, row in _table(file, ("youtube_id", "time_start", "time_end")):
            label = row.get("label", "").strip()
            if not label:
                continue  # the later test sets were published without labels
            labelled = True
            try:
                times = [int(float(row[column])) for column in ("time_start", "time_end")]
            except (ValueError, OverflowError):
                raise UserError(f"{where}: time_start or time_end is not a number; download the file again") from None
            cut = f"{row['youtube_id']}_{times[0]:06d}_{times[1]:06d}"
            split = split_named(row.get("split", "")) or group
            has = labels.setdefault(label, {"classes": (label,)})
            videos.append(Annotated((cut, row["youtube_id"]), has, split))
        used += [file] if labelled else []
    return Annotations("Kinetics", tuple(used), videos)


def _read_something(files: Mapping[str, Path]) -> Annotations:
    first = next(iter(files.values()))
    labels_file = _beside(first, "something-something-v2-labels.json", "labels.json")
    if labels_file is None:
        raise UserError(f"{first}: something-something-v2-labels.json or labels.json must be beside it")
    labels = parse_json(labels_file, read_text(labels_file))
    if not isinstance(labels, dict):
        raise UserError(f'{labels_file}: not like {{"Approaching something with your camera": "0", …}}')
    names = tuple(_numbered(labels_file, [(str(number), name) for name, number in labels.items()]).values())
    known = {_plain(name): name for name in names}

    def named(where: str, template: str) -> Labels:
        # A few templates differ in case from the list of labels.
        name = known.get(_plain(template))
        if name is None:
            raise UserError(f"{where}: the template {template!r} is not in {labels_file}")
        return {"classes": (name,)}

    videos = []
    for split, file in files.items():
        for number, item in enumerate(_objects(file), start=1):
            where = f"{file}: entry {number}"
            if "id" not in item or not isinstance(item.get("template"), str):
                raise UserError(f"{where} has no id or template; download the file again")
            videos.append(Annotated((str(item["id"]),), named(where, item["template"]), split))
    used = list(files.values())
    answers = _beside(first, "something-something-v2-test-answers.csv", "test-answers.csv")
    if answers is not None and len(files) > 1:
        used.append(answers)
        for number, row in csv_rows(answers, read_text(answers), ";"):
            if len(row) != 2:
                raise UserError(f"{answers}: line {number} is not `id;label`; download the file again")
            videos.append(Annotated((row[0].strip(),), named(f"{answers}: line {number}", row[1]), "test"))
    return Annotations("Something-Something v2", tuple(used), videos, {"classes": names})


def _plain(template: str) -> str:
    return " ".join(template.replace("[", "").replace("]", "").lower().split())


def _objects(file: Path) -> list[Mapping[str, Any]]:
    items = parse_json(file, read_text(file))
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UserError(f"{file}: not a list of objects; download the file again")
    return items


def _read_moments(files: Mapping[str, Path]) -> Annotations:
    first = next(iter(files.values()))
    categories = _beside(first, "moments_categories.txt")
    pairs = []
    if categories is not None:
        for number, row in csv_rows(categories, read_text(categories)):
            if len(row) != 2:
                raise UserError(f"{categories}: line {number} is not `class,number`; download the file again")
            pairs.append((row[1].strip(), row[0].strip()))
    names = _numbered(categories or first, pairs)
    videos = []
    for split, file in files.items():
        for number, row in csv_rows(file, read_text(file)):
            folder, _, name = row[0].strip().rpartition("/")
            label = row[1].strip() if len(row) > 1 else ""
            if not folder or not label:
                raise UserError(f"{file}: line {number} is not `class/file.mp4,class,…`; download the file again")
            videos.append(Annotated((_stem(name),), {"classes": (label,)}, split, parent=folder.rpartition("/")[2]))
    return Annotations("Moments in Time", tuple(files.values()), videos, {"classes": tuple(names.values())})


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _read_epic(files: Mapping[str, Path]) -> Annotations:
    first = next(iter(files.values()))
    names = {}
    for head in ("verb", "noun"):
        file = _beside(first, f"EPIC_100_{head}_classes.csv", f"EPIC_100_{head}_classes_v2.csv")
        if file is None:
            raise UserError(f"{first}: EPIC_100_{head}_classes.csv must be beside it")
        names[head] = _numbered(file, [(row["id"], row["key"]) for _, row in _table(file, ("id", "key"))])
    videos = []
    times = ("start_timestamp", "stop_timestamp", "start_frame", "stop_frame")
    columns = ("video_id", *times, "verb_class", "noun_class")
    for split, file in files.items():
        for where, row in _table(file, columns):
            labels = {}
            for head, numbered in names.items():
                number = row[f"{head}_class"].strip()
                if number not in numbered:
                    raise UserError(f"{where}: {head}_class {number!r} is not in EPIC_100_{head}_classes.csv")
                labels[head] = (numbered[number],)
            try:
                span = seconds(row["start_timestamp"]), seconds(row["stop_timestamp"])
                frames = int(row["start_frame"]), int(row["stop_frame"])
            except ValueError:
                raise UserError(f"{where}: a timestamp or frame is not a number; download the file again") from None
            videos.append(Annotated((row["video_id"],), labels, split, span, frames=frames))
    classes = {head: tuple(numbered.values()) for head, numbered in names.items()}
    return Annotations("EPIC-Kitchens-100", tuple(files.values()), videos, classes)


def _read_ucf(files: Mapping[str, Path]) -> Annotations:
    """Read UCF-101. As usual, the test list serves as the validation split, which the data set lacks."""
    number = _one_split(files, r"list0?(\d)")
    folder = next(iter(files.values())).parent
    lists = {split: folder / f"{word}list0{number}.txt" for split, word in (("train", "train"), ("val", "test"))}
    videos = []
    for split, file in lists.items():
        if not file.is_file():
            raise UserError(f"{file}: no such file; UCF-101 needs a train and a test list")
        for line_number, line in _lines(file):
            path = re.sub(r"\s+\d+$", "", line)
            label, _, name = path.rpartition("/")
            if not label:
                raise UserError(f"{file}: line {line_number} is not `Class/video.avi`; download the file again")
            videos.append(Annotated((_stem(name),), {"classes": (label,)}, split, parent=label))
    index = _beside(next(iter(lists.values())), "classInd.txt")
    pairs = []
    if index is not None:
        for line_number, line in _lines(index):
            class_number, _, name = line.partition(" ")
            if not name:
                raise UserError(f"{index}: line {line_number} is not `number Class`; download the file again")
            pairs.append((class_number, name.strip()))
    classes = {"classes": tuple(_numbered(index or folder, pairs).values())}
    remark = f" (split {number}; validated on its test list)"
    return Annotations("UCF-101", tuple(lists.values()), videos, classes, remark=remark)


def _read_hmdb(files: Mapping[str, Path]) -> Annotations:
    """Read HMDB-51, with its test videos as the validation split, as for UCF-101."""
    number = _one_split(files, r"split(\d)")
    folder = next(iter(files.values())).parent
    videos = []
    for file in sorted(folder.glob(f"*_test_split{number}.txt")):
        label = file.name.removesuffix(f"_test_split{number}.txt")
        for line_number, line in _lines(file):
            name, _, use = line.rpartition(" ")
            if use not in ("0", "1", "2") or not name:
                raise UserError(f"{file}: line {line_number} is not `video.avi 0|1|2`; download the file again")
            if use != "0":
                split = "train" if use == "1" else "val"
                videos.append(Annotated((_stem(name.strip()),), {"classes": (label,)}, split, parent=label))
    remark = f" (split {number}; validated on its test videos)"
    return Annotations("HMDB-51", (folder,), videos, remark=remark)


def _one_split(files: Mapping[str, Path], pattern: str) -> str:
    """The lowest number among the files' train and test splits."""
    return min(match[1] for file in files.values() if (match := re.search(pattern, file.name)))


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def _read_charades(files: Mapping[str, Path]) -> Annotations:
    first = next(iter(files.values()))
    classes_file = _beside(first, "Charades_v1_classes.txt")
    names: dict[str, str] = {}
    if classes_file is not None:
        names = dict((line.partition(" ")[0], line.partition(" ")[2]) for _, line in _lines(classes_file))
    videos = []
    for split, file in files.items():
        for where, row in _table(file, ("id", "actions")):
            # Each action is a class, a start and an end; a class may occur several times.
            numbers = dict.fromkeys(action.split()[0] for action in row["actions"].split(";") if action.strip())
            unknown = next((number for number in numbers if names and number not in names), None)
            if unknown is not None:
                raise UserError(f"{where}: the class {unknown!r} is not in {classes_file}")
            labels = tuple(names.get(number, number) for number in numbers)
            videos.append(Annotated((row["id"],), {"classes": labels}, "val" if split == "test" else split))
    remark = " (validated on the test videos)" if "test" in files else ""
    classes = {"classes": tuple(names.values())}
    return Annotations("Charades", tuple(files.values()), videos, classes, multi_label=True, remark=remark)


ENDINGS = (".csv", ".json", ".txt")
FORMATS = (
    Format(re.compile(rf"(?:.*[-_])?({_SPLIT})\.csv"), r"\byoutube_id\b.*\btime_start\b", _read_kinetics),
    Format(re.compile(rf"(?:something-?something-?v2[-_])?({_SPLIT})\.json"), r'"template"\s*:', _read_something),
    Format(re.compile(r"(training|validation)Set\.csv"), "/", _read_moments),
    Format(re.compile(r"EPIC_100_(train|validation)\.csv"), "narration_id", _read_epic),
    Format(re.compile(r"((?:train|test)list0\d)\.txt"), "/", _read_ucf),
    Format(re.compile(r"(.+_test_split\d)\.txt"), r" [012]\s", _read_hmdb),
    Format(re.compile(r"Charades_v1_(train|test)\.csv"), r"\bactions\b", _read_charades),
)
