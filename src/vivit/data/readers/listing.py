"""Reads a data set in any layout: every video of every split."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vivit.data.datasets import DataSet, LabelledVideo, VideoSet, no_collection
from vivit.data.names import SPLIT_NAMES, shortened, sorted_names, split_named
from vivit.data.readers.annotations import find_annotations, locate
from vivit.data.readers.folders import (
    SYSTEM_FOLDERS,
    Presence,
    find_in_each,
    find_videos,
    folders_above,
    in_words,
    is_folder,
    read_folder,
)
from vivit.data.readers.lists import LISTS, read_list, read_text
from vivit.data.readers.shards import is_shards, open_shards
from vivit.errors import UserError
from vivit.labels import LabelSpace, fault_in
from vivit.text import counted
from vivit.video.frame_folder import PICTURES
from vivit.video.kinds import is_named_video

# Hugging Face's name for the list in a folder of videos.
METADATA = ("metadata.csv", "metadata.jsonl")


def open_data(data: str | Path, videos: Path | None = None) -> DataSet:
    """Read which videos a data set has, and their labels. No video is opened.

    DATA is one of
    - a folder with a folder of videos (at any depth) for each class, or with `train/` and `val/` (and `test/`) of that
      form; a folder that holds only pictures is a video, each picture a frame;
    - a list in CSV, TSV, JSON, JSON-lines, or lines of `path label`; or a folder of the lists `train.csv` and `val.csv`
      (.tsv, .json, .jsonl, .txt). `vivit.data.readers.lists` describes the columns, with several heads, several labels
      for a video, and spans of long videos;
    - a folder with Hugging Face's `metadata.csv` or `metadata.jsonl`, or with one each in `train/`, `validation/`,
      `test/`;
    - the annotations of Kinetics-400, -600 and -700, Something-Something v2, Moments in Time, EPIC-Kitchens-100,
      UCF-101, HMDB-51 or Charades, as `docs/data.md` shows: one of their files, or the folder that has them;
    - shards, see `vivit.data.readers.shards.open_shards`.

    The names of files and columns decide which one it is; `description` of the result says what was recognised. Paths
    in a list are relative to it. All files in a list must exist; for a public data set, half the videos of a split are
    enough, since nobody has them all.

    Args:
        data: the folder, file or URL.
        videos: the folder that paths in lists are relative to, or that has the videos of a public data set, at any
            depth. None: beside the list.

    Raises:
        UserError: this is not a data set, a list has a mistake, a video is in train and in another split, or a class
            name is not one line of text.
    """
    data_set = _open(data, videos)
    for names in (data_set.labels.heads, *data_set.labels.classes.values()):
        if fault := fault_in(names):
            raise UserError(f"{data}: classes: {fault}")
    return data_set


def open_unlabelled(data: str | Path, videos: Path | None = None) -> VideoSet:
    """The videos to learn from without labels: all in a folder, at any depth; or a data set's training videos.

    Args:
        data, videos: as for `open_data`. A folder without lists, annotations, shards or split folders may have any
            layout.

    Raises:
        UserError: there are no videos, or the data set has a mistake.
    """
    folder = Path(data)
    layout = folder.is_dir() and (_metadata(folder) or _split_parts(folder, (*LISTS, "")) or find_annotations(folder))
    if folder.is_dir() and not layout and (found := find_videos(folder)).videos:
        each = [LabelledVideo(Path(path), {}) for path in found.videos]
        remarks = tuple(filter(None, [in_words(found.passed_over)]))
        description = f"all videos in {folder}"
    else:
        data_set = open_data(data, videos)
        chosen, splits, description = data_set.choose("train")
        data_set.check_files(splits)
        # A video with several rows of labels counts once.
        spans = dict.fromkeys((video.source, video.span) for video in chosen)
        each, remarks = [LabelledVideo(source, {}, span=span) for source, span in spans], data_set.remarks
    if not each:
        raise UserError(f"{data}: no videos to train on")
    return VideoSet(tuple(each), LabelSpace({}), description, remarks=remarks)


@no_collection()
def _open(data: str | Path, videos: Path | None) -> DataSet:
    # Only an index identifies a folder of shards at this point: tar files may also lie beside videos.
    if is_shards(data) and (not os.path.isdir(data) or os.path.exists(Path(data, "shards.json"))):
        return open_shards(data)
    data = Path(data)
    if not os.path.exists(data):
        raise UserError(f"{data}: no such file or folder")
    if videos is not None and not os.path.isdir(videos):
        raise UserError(f"{videos}: no such folder; --videos names the folder with the videos")
    annotations = find_annotations(data, below=not _split_parts(data, LISTS))
    if annotations is not None:
        return locate(annotations, data, videos)
    found = _Found(videos)
    if data.is_dir():
        found.add_folder(data)
    else:
        found.add_list(data)
    if videos is not None and not found.lists:
        raise UserError(f"{data}: has neither a list nor annotations, so --videos has no effect; leave it out")
    if found.entries or found.missing:
        return found.data_set(data)
    if data.is_dir() and is_shards(data):
        return open_shards(data)
    why, hint = _why_none(data) if data.is_dir() else ("no videos found", "")
    why += f" ({in_words(found.passed_over)})" if found.passed_over else ""
    raise UserError(
        f"{data}: {why}; make one folder of videos for each class, alone or under train/ and val/, "
        f"or list the videos in a .csv or .txt{hint}"
    )


def _split_parts(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    """split → the list with that name or, if "" is among the endings, the folder."""
    found = {}
    for split, names in SPLIT_NAMES.items():
        paths = (folder / f"{name}{ending}" for ending in endings for name in names)
        there = next((path for path in paths if (path.is_file() if path.suffix in LISTS else path.is_dir())), None)
        if there is not None:
            found[split] = there
    return found


@dataclass
class _Found:
    """The content of the user's own lists and folders."""

    videos: Path | None
    entries: list[LabelledVideo] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)
    classes: dict[str, set[str]] = field(default_factory=dict)
    multi_label: bool = False
    lists: list[Path] = field(default_factory=list)
    class_folders: list[Path] = field(default_factory=list)
    empty_folders: list[str] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    loose: list[str] = field(default_factory=list)
    """Videos that are in no class folder."""
    unused: list[str] = field(default_factory=list)
    """Folders beside those of the splits."""
    not_followed: list[str] = field(default_factory=list)
    presence: Presence = field(default_factory=Presence)

    def add_folder(self, data: Path) -> None:
        """Read the folder's list, else a list or folder for each split, else its class folders."""
        if metadata := _metadata(data):
            self.add_list(metadata)
            self._split_by_folder(data)
            return
        folders: dict[str, Path] = {}
        for split, part in _split_parts(data, (*LISTS, "")).items():
            file = part if part.is_file() else _metadata(part)
            if file is None:
                folders[split] = part
            else:
                self.add_list(file, split)
        self._add_class_folders(folders, data)
        if not (self.entries or self.missing):
            self._add_class_folders({"": data}, data)

    def add_list(self, file: Path, split: str = "") -> None:
        read = read_list(file, self.videos, split, self.presence)
        self.lists.append(file)
        self.entries += read.entries
        self.multi_label |= read.multi_label
        self._add(read.missing, read.classes)

    def _add_class_folders(self, folders: dict[str, Path], data: Path) -> None:
        """Add the videos of class folders.

        Args:
            folders: split → the folder with the class folders.
            data: the folder of the data.
        """
        above = {os.path.realpath(folder) for folder in (data, *folders.values())}
        above.update(*map(folders_above, list(above)))
        self.passed_over, self.empty_folders, self.loose = Counter(), [], []
        self.unused, self.not_followed = [], []
        parts = set(folders.values())
        if data not in parts and not self.lists:
            inside = _visible(data)
            self.loose += [entry.path for entry in inside if _is_loose(entry)]
            self.unused += [entry.path for entry in inside if is_folder(entry) and Path(entry.path) not in parts]
        classes: list[tuple[str, os.DirEntry[str]]] = []
        for split, folder in folders.items():
            for entry in _visible(folder):
                if not is_folder(entry):
                    self.loose += [entry.path] if _is_loose(entry) else []
                elif entry.is_symlink() and os.path.realpath(entry.path) in above:
                    self.not_followed.append(entry.path)
                else:
                    classes.append((split, entry))
        for (split, entry), found in zip(classes, find_in_each([entry.path for _, entry in classes]), strict=True):
            labels = {"classes": (entry.name,)}
            self.entries += [LabelledVideo(Path(path), labels, split) for path in found.videos]
            self.passed_over += found.passed_over
            self.not_followed += found.not_followed
            names = {entry.name} if found.videos or found.broken else set()
            if not names:
                self.empty_folders.append(entry.path)
            self._add({split: found.broken} if found.broken else {}, {"classes": names})
        with_videos = {entry.split for entry in self.entries}
        self.class_folders += [folder for split, folder in folders.items() if split in with_videos]

    def _add(self, missing: dict[str, list[str]], classes: dict[str, set[str]]) -> None:
        for split, paths in missing.items():
            self.missing.setdefault(split, []).extend(paths)
        for head, names in classes.items():
            self.classes.setdefault(head, set()).update(names)

    def _split_by_folder(self, data: Path) -> None:
        """Take splits from paths such as train/1.mp4 if a list has no split column."""
        above = os.path.abspath(self.videos or data)
        below = [os.path.relpath(os.path.abspath(str(entry.source)), above) for entry in self.entries]
        splits = [split_named(path.split(os.sep)[0]) for path in below]
        if all(splits) and not any(entry.split for entry in self.entries):
            self.entries = [replace(entry, split=split) for entry, split in zip(self.entries, splits, strict=True)]

    def data_set(self, data: Path) -> DataSet:
        """Raises UserError if heads differ, or a video has two labels or is in two splits."""
        heads = {tuple(entry.labels) for entry in self.entries}
        if len(heads) > 1:
            words = " and others ".join(", ".join(names) for names in sorted(heads))
            raise UserError(f"{data}: some lists have the labels {words}; use the same columns in all lists")
        entries = _without_repeats(data, self.entries, self.multi_label)
        _check_splits(data, entries)
        description = self._description(len(self.entries) - len(entries))
        classes = {head: sorted_names(names) for head, names in self.classes.items()}
        missing = {split: tuple(paths) for split, paths in self.missing.items()}
        space = LabelSpace(classes, self.multi_label)
        return DataSet(str(data), tuple(entries), space, description, missing, tuple(self._remarks()))

    def _remarks(self) -> Iterator[str]:
        """What is in or beside the class folders but unused."""
        if self.passed_over:
            yield in_words(self.passed_over)
        if self.loose:
            yield f"passed over {counted(len(self.loose), 'video')} in no class folder: {shortened(self.loose, 3)}"
        if self.unused:
            folders = counted(len(self.unused), "folder")
            yield f"passed over {folders} beside those of the splits: {shortened(self.unused, 3)}"
        if self.not_followed:
            yield (
                f"did not follow {counted(len(self.not_followed), 'link')} to a folder above or of another class: "
                f"{shortened(self.not_followed, 3)}"
            )

    def _description(self, repeats: int) -> str:
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


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, by name, without hidden ones and system folders."""
    entries = (e for e in read_folder(folder) if not e.name.startswith(".") and e.name.lower() not in SYSTEM_FOLDERS)
    return sorted(entries, key=lambda entry: entry.name)


def _is_loose(entry: os.DirEntry[str]) -> bool:
    """Whether an entry beside class folders is a video."""
    return bool(is_named_video(entry.name)) and not is_folder(entry)


def _metadata(folder: Path) -> Path | None:
    """Hugging Face's list, recognised by its column `file_name`."""
    for file in (folder / name for name in METADATA):
        if file.is_file() and "file_name" in read_text(file)[:4096]:
            return file
    return None


def _without_repeats(data: Path, entries: Sequence[LabelledVideo], multi_label: bool) -> list[LabelledVideo]:
    """Each entry once. Raises UserError if two give the same span different labels."""
    seen: dict[object, LabelledVideo] = {}
    for entry in entries:
        other = seen.setdefault((entry.source, entry.span, entry.split), entry)
        if other.labels != entry.labels:
            first, second = (", ".join(name for names in e.labels.values() for name in names) for e in (other, entry))
            advice = "put all its labels into one cell" if multi_label else "keep one, or put both into one cell, a;b"
            raise UserError(f"{data}: lists {entry.source} twice, as {first!r} and as {second!r}; {advice}")
    return list(seen.values())


def _check_splits(data: Path, entries: Sequence[LabelledVideo]) -> None:
    """Raise UserError if a video that is trained on is also in another split."""
    splits: dict[object, set[str]] = {}
    for entry in entries:
        splits.setdefault(entry.source, set()).add(entry.split)
    shared = {source for source, names in splits.items() if "train" in names and len(names - {""}) > 1}
    # The latest end so far of the spans in train, and of those in other splits.
    ends = {(source, trained): 0.0 for source in shared for trained in (True, False)}
    spans = [(entry.span or (0.0, float("inf")), entry) for entry in entries if entry.source in shared]
    for (start, end), entry in sorted(spans, key=lambda pair: pair[0]):
        trained = entry.split == "train"
        if start < ends[entry.source, not trained]:
            raise UserError(
                f"{data}: {entry.source} is in train and in {max(splits[entry.source] - {'train'})}, "
                f"{'with overlapping spans' if entry.span else 'as a whole'}; keep it in one of them"
            )
        ends[entry.source, trained] = max(ends[entry.source, trained], end)


def _why_none(folder: Path) -> tuple[str, str]:
    """Why a folder has no videos in a known layout, and a hint at what was meant."""
    inside = sorted(read_folder(folder), key=lambda entry: entry.name)
    loose = [entry.name for entry in inside if _is_loose(entry)]
    why = f"its videos are not in class folders ({shortened(loose, 3)})" if loose else "no videos found"
    if lists := [entry.path for entry in inside if not is_folder(entry) and entry.name.lower().endswith(LISTS)]:
        return why, f"; or name the list itself: {shortened(lists, 3)}"
    for entry in inside:
        if is_folder(entry) and any(Path(file.name).suffix.lower() in PICTURES for file in read_folder(entry.path)):
            return why, (
                f"; {entry.path} holds pictures: put the frames of each video into its own folder in the class folder"
            )
    return why, ""
