"""What a data set says of its videos, before labels become numbers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from vivit.errors import UserError
from vivit.video.source import VideoSource

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "validate"),
    "test": ("test", "testing"),
}
_CANONICAL = {name: split for split, names in SPLIT_NAMES.items() for name in names}


@dataclass(frozen=True, slots=True)
class Entry:
    """A video, or a stretch of one, with the names of what it shows."""

    source: VideoSource
    """A file, a folder of frames, or a member of a shard."""
    labels: Mapping[str, tuple[str, ...]]
    """head → the names that apply; the one head of a set without named heads is "classes"."""
    split: str
    """ "train", "val" or "test"; "" where the data does not say."""
    span: tuple[float, float] | None = None
    """From and to, in seconds after its first frame; None is the whole video."""


@dataclass(frozen=True)
class DataListing:
    """Every entry of every split whose file is there."""

    entries: tuple[Entry, ...]
    classes: Mapping[str, tuple[str, ...]]
    """head → the names of its classes in order: as the data numbers them where it does, else sorted."""
    multi_label: bool
    """Whether an entry has any number of labels; otherwise it has one for each head."""
    source: str
    """What was recognised and where the videos lie, in words for people."""
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """split → the files that are named for it but not there."""
    official: bool = False
    """Whether these are the annotations of a public set, of whose videos some are no longer to be had."""

    def check_files(self, splits: Collection[str]) -> None:
        """See that nothing is left out of these splits that should be there.

        Raises:
            UserError: a file of one's own is missing, or more than half of those of a public set.
        """
        missing = [name for split in splits for name in self.missing.get(split, ())]
        if not missing:
            return
        there = sum(entry.split in splits for entry in self.entries)
        if not self.official:
            raise UserError(
                f"{missing[0]}: named by {self.source} but not there "
                f"({len(missing)} of {there + len(missing)} files missing)"
            )
        if there < len(missing):
            raise UserError(
                f"{self.source}: only {there} of {there + len(missing)} videos are there, and not, for example, "
                f"{shortened(missing, 3)}; say with --videos in which folder they lie"
            )


def split_named(word: str) -> str:
    """ "train", "val" or "test" for "Training", "validate" and the like; "" for any other word."""
    return _CANONICAL.get(word.strip().lower(), "")


def sorted_names(names: Collection[str]) -> tuple[str, ...]:
    """By the alphabet, or by value where all are numbers."""
    return tuple(sorted(names, key=lambda name: (int(name), name)) if all(map(_is_number, names)) else sorted(names))


def _is_number(name: str) -> bool:
    return name.isdecimal() and len(name) < 20


def shortened(names: Collection[str], most: int = 6) -> str:
    """ "a, b, c and 7 more"."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(list(names)[:most]) + rest
