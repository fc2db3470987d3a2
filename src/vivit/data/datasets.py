"""The videos of one split and their labels as numbers."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vivit.data.class_names import check_classes
from vivit.data.entries import SPLIT_NAMES, DataListing, Entry, shortened
from vivit.data.no_collection import no_collection
from vivit.data.readers.listing import read_data
from vivit.errors import UserError
from vivit.video.source import InShard, VideoSource

HELD_OUT = 5  # one in so many videos, where the data has no validation split of its own


@dataclass(frozen=True)
class LabelledVideo:
    """A video, or a stretch of one, and what it shows."""

    source: VideoSource
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
    """Where they come from and what was left out, in words for people."""
    multi_label: bool = False
    """Whether a video has any number of labels."""
    missing: int = 0
    """Videos of this split that a public data set names and that are not there."""


def count_classes(videos: VideoSet) -> str:
    """ "12 classes", or "97 verb and 300 noun classes"."""
    if list(videos.classes) == ["classes"]:
        return f"{len(videos.classes['classes'])} classes"
    return " and ".join(f"{len(names)} {head}" for head, names in videos.classes.items()) + " classes"


@no_collection()
def open_split(
    data: str | Path,
    split: str,
    classes: Mapping[str, Sequence[str]] | None = None,
    videos: Path | None = None,
) -> VideoSet:
    """One split of a data set.

    DATA is one of
    - a folder of class folders, with videos at any depth, or of `train/` and `val/` (and `test/`) that are such; a
      folder that holds nothing but pictures is a video, each picture a frame;
    - a list in CSV, TSV, JSON, JSON-lines, or lines of `path label`; or a folder of the lists `train.csv` and `val.csv`
      (.tsv, .json, .jsonl, .txt); `vivit.data.readers.lists` describes the columns: for several heads, several labels
      of a video, stretches of long videos;
    - a folder with Hugging Face's `metadata.csv` or `metadata.jsonl`, in it or in its `train/`, `validation/`, `test/`;
    - the annotations of Kinetics-400, -600 and -700, Something-Something v2, Moments in Time, EPIC-Kitchens-100,
      UCF-101, HMDB-51 or Charades, as `docs/data.md` shows: one of their files, or the folder that has them;
    - shards, as `vivit.data.readers.shards.open_shards` reads them.

    Which one it is follows from the names of files and columns; `source` of the result tells. Paths in a list are
    relative to it. Where there is no validation split, every fifth video of a class is held out for it, all stretches
    of a file together: which ones depends on their names alone.

    All listed files must be there; but of a public set half of those of the split are enough, as no one has them all.
    The others are counted in `missing` of the result.

    Args:
        data: the folder, file or URL.
        split: "train", "val" or "test"; "all" takes everything where nothing is split, else "val".
        classes: head → the class names to use, in order, as a trained model has them; by default those of the data, in
            the order of their official numbers or sorted. Further heads of the data are left out.
        videos: the folder that paths in lists are relative to, or that the videos of a public set lie in, at any depth.

    Raises:
        UserError: nothing is there, files are missing, a list says what cannot be meant, a video is both trained on and
            scored, or the labels do not fit `classes`.
    """
    listing = read_data(data, videos)
    chosen, splits, source = choose_split(listing, split, data)
    listing.check_files(splits)
    if not chosen:
        raise UserError(f"{data}: no videos for the {split} split")
    if classes is None:
        # Of all splits: a class without a validation video has a number all the same.
        classes = listing.classes
        for head, names in classes.items():
            if len(names) < 2:
                what = "videos are" if head == "classes" else f"labels of {head!r} are"
                raise UserError(f"{data}: all {what} of one class, {', '.join(names)!r}; there must be two or more")
    else:
        check_classes(data, chosen, listing.classes, classes)
    missing = sum(len(listing.missing.get(name, ())) for name in splits)
    if missing:
        named = missing + len(_of(listing.entries, splits))
        source += f"; {missing} of {named} videos are not there and left out"
    numbers = {head: {name: i for i, name in enumerate(names)} for head, names in classes.items()}
    # Most entries share their labels with others.
    distinct = {id(e.labels): e for e in chosen}
    numbered = {key: _numbered(e, numbers, listing.multi_label) for key, e in distinct.items()}
    return VideoSet(
        tuple(LabelledVideo(e.source, numbered[id(e.labels)], e.span) for e in chosen),
        {head: tuple(names) for head, names in classes.items()},
        source,
        listing.multi_label,
        missing,
    )


def _numbered(
    entry: Entry, numbers: Mapping[str, Mapping[str, int]], multi_label: bool
) -> Mapping[str, int | tuple[int, ...]]:
    labels: dict[str, int | tuple[int, ...]] = {}
    for head, number in numbers.items():
        names = entry.labels.get(head, ())
        if not multi_label and len(names) != 1:
            raise UserError(f"{entry.source}: has {len(names) or 'no'} labels for {head}, where others have one")
        labels[head] = tuple(number[name] for name in names) if multi_label else number[names[0]]
    return labels


def choose_split(listing: DataListing, split: str, data: str | Path) -> tuple[Sequence[Entry], set[str], str]:
    """The videos of one split, the splits of the data that they are of, and in words how they were chosen."""
    entries = listing.entries
    there = {entry.split for entry in entries} | set(listing.missing)
    if "" in there and len(there) > 1:
        without = [os.path.basename(str(entry.source)) for entry in entries if not entry.split]
        without += [os.path.basename(name) for name in listing.missing.get("", ())]
        raise UserError(f"{data}: {len(without)} videos have no split, and the others do: {shortened(without)}")
    if split == "all":
        if not there & {"val", "test"}:
            return entries, there, f"all videos of {listing.source}"
        split = "val" if "val" in there else "test"
    if split in there and (split != "train" or "val" in there):
        return _of(entries, {split}), {split}, f"the {split} split of {listing.source}"
    if split not in ("train", "val") or not there & {"", "train"}:
        named = ", ".join(name for name in SPLIT_NAMES if name in there)
        raise UserError(f"{data}: no {split} split; " + (f"there is {named}" if named else "the data is not split"))
    splits = there & {"", "train"}
    whole = _of(entries, splits)
    held_out = _hold_out(whole)
    share = f"every {HELD_OUT}th video of each class"
    if split == "val":
        if whole and not held_out:
            raise UserError(f"{data}: too few videos to hold some out for validation; give it a val split")
        return [e for e in whole if e.source in held_out], splits, f"{share} of {listing.source}, held out"
    return [e for e in whole if e.source not in held_out], splits, f"{listing.source} without {share}, held out"


def _of(entries: Iterable[Entry], splits: set[str]) -> list[Entry]:
    return [entry for entry in entries if entry.split in splits]


def _hold_out(entries: Sequence[Entry]) -> set[VideoSource]:
    """The files of a fifth of each class of the first head, of at least one entry where the class has two or more.

    All entries of a file go together. None goes that would leave a class with nothing to train on.
    """
    of_class: defaultdict[str, list[VideoSource]] = defaultdict(list)
    of_source: defaultdict[VideoSource, list[str]] = defaultdict(list)
    for entry in entries:
        for name in next(iter(entry.labels.values())):
            of_class[name].append(entry.source)
            of_source[entry.source].append(name)
    left = {name: len(sources) for name, sources in of_class.items()}
    held_out: set[VideoSource] = set()
    # The rarest first: what is taken for them counts for the others too.
    for name in sorted(of_class, key=lambda name: (left[name], name)):
        count = len(of_class[name])
        least = count - max(count // HELD_OUT, min(1, count - 1))
        for source in sorted(set(of_class[name]), key=lambda source: _order(name, source)):
            if left[name] <= least:
                break
            of_it = Counter(of_source[source])
            if source not in held_out and all(left[other] > number for other, number in of_it.items()):
                held_out.add(source)
                for other, number in of_it.items():
                    left[other] -= number
    return held_out


def _order(name: str, source: VideoSource) -> tuple[bytes, str]:
    """That of a hash of their names: it has nothing to do with what they show, or where the data lies."""
    path = source.name if isinstance(source, InShard) else str(source)
    file = os.path.basename(path)
    return hashlib.sha256(f"{name}/{file}".encode(errors="surrogateescape")).digest(), path
