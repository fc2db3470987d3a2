"""A data set as it lies there, whatever its layout: every entry of every split."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vivit.data.entries import SPLIT_NAMES, DataListing, Entry, shortened, sorted_names, split_named
from vivit.data.no_collection import no_collection
from vivit.data.readers.annotations import find_annotations, locate
from vivit.data.readers.folders import EXTENSIONS, Presence, find_videos, is_folder, read_folder
from vivit.data.readers.lists import LISTS, read_list, read_text
from vivit.errors import UserError
from vivit.video.frame_folder import PICTURES

# Hugging Face's name for the list in a folder of videos.
METADATA = ("metadata.csv", "metadata.jsonl")


@no_collection()
def read_data(data: str | Path, videos: Path | None = None) -> DataListing:
    """Every entry of a data set in any of the layouts that `open_split` names.

    Args:
        data: a folder, a file or a URL.
        videos: the folder that the videos lie in, where that is neither `data` nor beside a list.

    Raises:
        UserError: it is no data set, or what a list says cannot be meant.
    """
    if _is_shards_by_name(data):
        from vivit.data.readers.shards import open_shards

        return open_shards(data)
    data = Path(data)
    if not os.path.exists(data):
        raise UserError(f"{data}: no such file or folder")
    if videos is not None and not os.path.isdir(videos):
        raise UserError(f"{videos}: no such folder; --videos is the folder that the videos lie in")
    annotations = find_annotations(data, below=not _split_parts(data, LISTS))
    if annotations is not None:
        return locate(annotations, data, videos)
    found = _Found(videos)
    if data.is_dir():
        found.add_folder(data)
    else:
        found.add_list(data)
    if videos is not None and not found.lists:
        raise UserError(f"{data}: has neither a list nor annotations, so --videos says nothing; leave it out")
    if found.entries or found.missing:
        return found.listing(data)
    if data.is_dir():
        from vivit.data.readers.shards import is_shards, open_shards

        if is_shards(data):
            return open_shards(data)
    raise UserError(
        f"{data}: {_why_none(data)}; put them into one folder for each class, alone or under train/ and val/, "
        f"or list them in a .csv or .txt{_hint(data)}"
    )


def _is_shards_by_name(data: str | Path) -> bool:
    """Whether that much is clear without looking for tar files in a folder, which may lie beside videos too."""
    if os.path.isdir(data) and not os.path.exists(Path(data, "shards.json")):
        return False
    from vivit.data.readers.shards import is_shards

    return is_shards(data)


def _split_parts(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    """split → the list or, where "" is among the endings, the folder of that name."""
    found = {}
    for split, names in SPLIT_NAMES.items():
        paths = (folder / f"{name}{ending}" for ending in endings for name in names)
        there = next((path for path in paths if (path.is_file() if path.suffix in LISTS else path.is_dir())), None)
        if there is not None:
            found[split] = there
    return found


@dataclass
class _Found:
    """What the lists and folders of one's own hold."""

    videos: Path | None
    entries: list[Entry] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)
    classes: dict[str, set[str]] = field(default_factory=dict)
    multi_label: bool = False
    lists: list[Path] = field(default_factory=list)
    class_folders: list[Path] = field(default_factory=list)
    empty_folders: list[str] = field(default_factory=list)
    presence: Presence = field(default_factory=Presence)

    def add_folder(self, data: Path) -> None:
        """The list in it; or what there is of each split, be it a list or a folder; or the folders of classes."""
        if metadata := _metadata(data):
            self.add_list(metadata)
            self._split_by_folder(data)
            return
        for split, part in _split_parts(data, (*LISTS, "")).items():
            file = part if part.is_file() else _metadata(part)
            if file is None:
                self._add_class_folders(part, split)
            else:
                self.add_list(file, split)
        if not (self.entries or self.missing):
            self._add_class_folders(data, "")

    def add_list(self, file: Path, split: str = "") -> None:
        read = read_list(file, self.videos, split, self.presence)
        self.lists.append(file)
        self.entries += read.entries
        self.multi_label |= read.multi_label
        self._add(read.missing, read.classes)

    def _add_class_folders(self, folder: Path, split: str) -> None:
        before = len(self.entries)
        for entry in sorted(read_folder(folder), key=lambda entry: entry.name):
            if is_folder(entry) and not entry.name.startswith("."):
                found = find_videos(entry.path)
                labels = {"classes": (entry.name,)}
                self.entries += [Entry(Path(path), labels, split) for path in found.videos]
                names = {entry.name} if found.videos or found.broken else set()
                if not names:
                    self.empty_folders.append(entry.path)
                self._add({split: found.broken} if found.broken else {}, {"classes": names})
        if len(self.entries) > before:
            self.class_folders.append(folder)

    def _add(self, missing: dict[str, list[str]], classes: dict[str, set[str]]) -> None:
        for split, paths in missing.items():
            self.missing.setdefault(split, []).extend(paths)
        for head, names in classes.items():
            self.classes.setdefault(head, set()).update(names)

    def _split_by_folder(self, data: Path) -> None:
        """Where a list of no splits names its files by folders of splits, as in train/1.mp4, these are the splits."""
        above = os.path.abspath(self.videos or data)
        below = [os.path.relpath(os.path.abspath(str(entry.source)), above) for entry in self.entries]
        splits = [split_named(path.split(os.sep)[0]) for path in below]
        if all(splits) and not any(entry.split for entry in self.entries):
            self.entries = [replace(entry, split=split) for entry, split in zip(self.entries, splits, strict=True)]

    def listing(self, data: Path) -> DataListing:
        """Raises UserError where heads differ, or a video is labelled in two ways or is in two splits."""
        heads = {tuple(entry.labels) for entry in self.entries}
        if len(heads) > 1:
            words = " and others ".join(", ".join(names) for names in sorted(heads))
            raise UserError(f"{data}: some lists have the labels {words}; name the columns alike in all lists")
        entries = _without_repeats(data, self.entries, self.multi_label)
        _check_splits(data, entries)
        source = self._source(len(self.entries) - len(entries))
        classes = {head: sorted_names(names) for head, names in self.classes.items()}
        missing = {split: tuple(paths) for split, paths in self.missing.items()}
        return DataListing(tuple(entries), classes, self.multi_label, source, missing)

    def _source(self, repeats: int) -> str:
        words = []
        if self.lists:
            names = shortened([str(file) for file in self.lists])
            words.append(f"the list{'s' if len(self.lists) > 1 else ''} {names}")
        if self.videos and self.lists:
            words.append(f"videos in {self.videos}")
        if self.class_folders:
            words.append(f"class folders in {shortened([str(folder) for folder in self.class_folders])}")
            if self.empty_folders:
                words.append(f"no video in {shortened(self.empty_folders, 3)}")
        if repeats:
            words.append(f"{repeats} repeated row{'s' if repeats > 1 else ''} left out")
        return ", ".join(words)


def _metadata(folder: Path) -> Path | None:
    """Hugging Face's list, which is known by its column `file_name`."""
    for file in (folder / name for name in METADATA):
        if file.is_file() and "file_name" in read_text(file)[:4096]:
            return file
    return None


def _without_repeats(data: Path, entries: Sequence[Entry], multi_label: bool) -> list[Entry]:
    """Each entry once. Raises UserError where two say different things of the same stretch."""
    seen: dict[object, Entry] = {}
    for entry in entries:
        other = seen.setdefault((entry.source, entry.span, entry.split), entry)
        if other.labels != entry.labels:
            said, says = (", ".join(name for names in e.labels.values() for name in names) for e in (other, entry))
            advice = "put all its labels into one cell" if multi_label else "leave one, or put both into one cell, a;b"
            raise UserError(f"{data}: lists {entry.source} twice, as {said!r} and as {says!r}; {advice}")
    return list(seen.values())


def _check_splits(data: Path, entries: Sequence[Entry]) -> None:
    """See that nothing of what is trained on is scored. Raises UserError."""
    splits: dict[object, set[str]] = {}
    for entry in entries:
        splits.setdefault(entry.source, set()).add(entry.split)
    shared = {source for source, names in splits.items() if "train" in names and len(names - {""}) > 1}
    # The latest end so far of what is in train, and of what is not.
    ends = {(source, trained): 0.0 for source in shared for trained in (True, False)}
    stretches = [(entry.span or (0.0, float("inf")), entry) for entry in entries if entry.source in shared]
    for (start, end), entry in sorted(stretches, key=lambda stretch: stretch[0]):
        trained = entry.split == "train"
        if start < ends[entry.source, not trained]:
            raise UserError(
                f"{data}: {entry.source} is in train and in {max(splits[entry.source] - {'train'})}, "
                f"{'with stretches that overlap' if entry.span else 'as a whole'}; leave it in one of them"
            )
        ends[entry.source, trained] = max(ends[entry.source, trained], end)


def _why_none(data: Path) -> str:
    names = sorted(entry.name for entry in read_folder(data)) if data.is_dir() else []
    loose = [name for name in names if Path(name).suffix.lower() in EXTENSIONS]
    if loose:
        return f"nothing tells the class of the videos that lie loose in it ({shortened(loose, 3)})"
    return "no videos found"


def _hint(data: Path) -> str:
    if not data.is_dir():
        return ""
    inside = sorted(read_folder(data), key=lambda entry: entry.name)
    lists = [entry.path for entry in inside if not is_folder(entry) and entry.name.lower().endswith(LISTS)]
    if lists:
        return f"; of its files {shortened(lists, 3)}, give the one that is the list"
    pictures = next((entry.path for entry in inside if is_folder(entry) and _has_pictures(entry.path)), None)
    if pictures:
        return f"; in {pictures} lie pictures: the frames of each video go into a folder of their own within the class"
    return ""


def _has_pictures(folder: str) -> bool:
    return any(Path(entry.name).suffix.lower() in PICTURES for entry in read_folder(folder))
