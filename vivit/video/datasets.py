"""The videos on disk and their labels: folders of classes, or lists."""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vivit.errors import UserError
from vivit.video.source import Source

EXTENSIONS = {
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".gif", ".3gp", ".ts", ".wmv", ".flv"),
}
SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "validation", "valid"), "test": ("test", "testing")}
HELD_OUT = 5  # one in so many videos, where the data has no validation split of its own


@dataclass(frozen=True)
class LabelledVideo:
    """A video, or a stretch of one, and what it shows."""

    source: Source
    labels: Mapping[str, int | tuple[int, ...]]
    """head → the number of its class; in a set of many labels for each video, the numbers of all that apply."""
    span: tuple[float, float] | None = None
    """From and to, in seconds after its first frame; None is the whole video."""


@dataclass(frozen=True)
class VideoSet:
    """Videos and what their labels mean."""

    videos: tuple[LabelledVideo, ...]
    classes: Mapping[str, tuple[str, ...]]
    """head → the names of its classes; the one head of a set without named heads is "classes"."""
    source: str
    """Where they come from, in words for people."""
    multi_label: bool = False
    """Whether a video has any number of labels."""


def count_classes(videos: VideoSet) -> str:
    """ "12 classes", or "97 verb and 300 noun classes"."""
    if list(videos.classes) == ["classes"]:
        return f"{len(videos.classes['classes'])} classes"
    return " and ".join(f"{len(names)} {head}" for head, names in videos.classes.items()) + " classes"


@dataclass(frozen=True)
class _Entry:
    path: Path
    name: str
    split: str
    """"train", "val", "test", or "" where the data does not say."""


def open_split(data: str | Path, split: str, classes: Sequence[str] | None = None) -> VideoSet:
    """One split of a data set.

    DATA is one of
    - a folder with `train/` and `val/`, each a folder of class folders;
    - a folder with `train.csv` and `val.csv` (columns path,label) or `train.txt` and `val.txt` (`path label` lines);
    - a folder of class folders;
    - a .csv with the columns path,label and perhaps split, or a .txt.

    Paths in a list are relative to it. Where there is no validation split, every fifth video of a class is held out
    for it: which ones depends on their names alone.

    Args:
        data: the folder or file.
        split: "train", "val" or "test"; "all" takes everything where nothing is split, else "val".
        classes: the class names to use, in order, as a trained model has them; by default those of the data, sorted.

    Raises:
        UserError: nothing is there, a listed file is missing, or the names do not fit `classes`.
    """
    data = Path(data)
    entries = _read(data)
    if not entries:
        raise UserError(
            f"{data}: no videos found; put them into one folder for each class, alone or under train/ and val/, "
            "or list them in a .csv or .txt"
        )
    chosen, source = _choose(entries, split, data)
    if not chosen:
        raise UserError(f"{data}: no videos for the {split} split")
    absent = [entry.path for entry in chosen if not entry.path.is_file()]
    if absent:
        raise UserError(f"{absent[0]}: listed in {data} but not there ({len(absent)} of {len(chosen)} files missing)")
    if classes is None:
        # Of all splits: a class without a validation video has a number all the same.
        classes = _sorted_names({entry.name for entry in entries})
        if len(classes) < 2:
            raise UserError(f"{data}: all videos are of one class, {classes[0]!r}; make one folder for each class")
    elif unknown := _sorted_names({entry.name for entry in chosen} - set(classes)):
        raise UserError(
            f"{data}: classes that the model does not have: {_shortened(unknown)}; it has {_shortened(classes)}"
        )
    number = {name: i for i, name in enumerate(classes)}
    videos = tuple(LabelledVideo(entry.path, {"classes": number[entry.name]}) for entry in chosen)
    return VideoSet(videos, {"classes": tuple(classes)}, source)


def _read(data: Path) -> list[_Entry]:
    """Every video of the data, in an order that does not depend on the file system."""
    if data.is_file():
        return _read_list(data)
    if not data.is_dir():
        raise UserError(f"{data}: no such file or folder")
    entries = []
    for split, names in SPLIT_NAMES.items():
        for part in (data / f"{name}{ending}" for name in names for ending in ("", ".csv", ".txt")):
            if part.exists():
                found = _read_list(part) if part.is_file() else _read_folder(part)
                entries += [replace(entry, split=split) for entry in found]
                break
    return entries or _read_folder(data)


def _read_folder(folder: Path) -> list[_Entry]:
    """One folder for each class, with videos at any depth."""
    return [
        _Entry(path, class_folder.name, "")
        for class_folder in sorted(folder.iterdir())
        if class_folder.is_dir() and not class_folder.name.startswith(".")
        for path in sorted(class_folder.rglob("*"))
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")
    ]


def _read_list(file: Path) -> list[_Entry]:
    """A .csv with the columns path,label(,split), or lines of a path and, last, a label."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a list of videos; give a folder, a .csv or a .txt") from None
    if file.suffix.lower() != ".csv":
        lines = [line.rsplit(maxsplit=1) for line in text.splitlines() if line.strip()]
        short = next((line for line in lines if len(line) < 2), None)
        if short is not None:
            raise UserError(f"{file}: the line {short[0]!r} has no label; write `path label` in each line")
        return [_Entry(file.parent / path, label, "") for path, label in lines]
    rows = list(csv.DictReader(text.splitlines()))
    for column in ("path", "label"):
        if not rows or rows[0].get(column) is None:
            raise UserError(f"{file}: no column {column!r}; the first line must name the columns: path,label")
    canonical = {name: split for split, names in SPLIT_NAMES.items() for name in names}
    entries = []
    for number, row in enumerate(rows, start=2):
        split = (row.get("split") or "").strip().lower()
        if not row["path"] or not row["label"] or (split and split not in canonical):
            raise UserError(f"{file}: line {number} needs a path, a label and, if it has a split, train, val or test")
        entries.append(_Entry(file.parent / row["path"].strip(), row["label"].strip(), canonical.get(split, "")))
    return entries


def _choose(entries: list[_Entry], split: str, data: Path) -> tuple[list[_Entry], str]:
    """The videos of one split, and in words how they were chosen."""
    there = {entry.split for entry in entries}
    if "" in there and len(there) > 1:
        without = [entry.path.name for entry in entries if not entry.split]
        raise UserError(f"{data}: {len(without)} videos have no split, and the others do: {_shortened(without)}")
    if split == "all":
        if not there & {"val", "test"}:
            return entries, f"all videos of {data}"
        split = "val" if "val" in there else "test"
    if split in there and (split != "train" or "val" in there):
        return [entry for entry in entries if entry.split == split], f"the {split} split of {data}"
    if split == "test" or not there & {"", "train"}:
        named = ", ".join(sorted(there - {""}))
        raise UserError(f"{data}: no {split} split; " + (f"there is {named}" if named else "the data is not split"))
    whole = [entry for entry in entries if entry.split in ("", "train")]
    held_out = _hold_out(whole)
    share = f"every {HELD_OUT}th video of each class"
    if split == "val":
        return [entry for entry in whole if entry.path in held_out], f"{share} of {data}, held out"
    return [entry for entry in whole if entry.path not in held_out], f"{data} without {share}, held out"


def _hold_out(entries: list[_Entry]) -> set[Path]:
    """A fifth of each class, at least one where the class has two or more."""
    held_out: set[Path] = set()
    for name in {entry.name for entry in entries}:
        # In the order of a hash of their names: it has nothing to do with what they show, or where the data lies.
        paths = sorted(
            (entry.path for entry in entries if entry.name == name),
            key=lambda path: hashlib.sha256(f"{name}/{path.name}".encode()).digest(),
        )
        held_out.update(paths[: max(len(paths) // HELD_OUT, min(1, len(paths) - 1))])
    return held_out


def _sorted_names(names: set[str]) -> list[str]:
    """By the alphabet, or by value where all are numbers."""
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def _shortened(names: Sequence[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
