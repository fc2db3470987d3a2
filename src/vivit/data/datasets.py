"""Labelled videos: a record for each, the data set that holds them all, and the videos of one split."""

import gc
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

from vivit.data.names import SPLIT_NAMES, check_classes, shortened
from vivit.errors import UserError
from vivit.labels import ONLY_HEAD, LabelSpace
from vivit.video.source import InShard, VideoSource
from vivit.video.span import Span

HELD_OUT = 5  # without a validation split, every fifth video is held out for it

Labels = Mapping[str, tuple[str, ...]]
"""head → class names; a single head without a name is "classes"."""


@dataclass(frozen=True, slots=True)
class LabelledVideo:
    """A video, or a span of one, and its labels."""

    source: VideoSource
    labels: Labels
    split: str = ""
    """ "train", "val" or "test"; "" if the data does not say."""
    span: Span | None = None
    """None: the whole video."""


@dataclass(frozen=True)
class VideoSet:
    """The videos of one split."""

    videos: tuple[LabelledVideo, ...]
    labels: LabelSpace
    """The labels of the data set, or of the model to score on it."""
    description: str
    """For people: where the videos come from and how they were chosen."""
    missing: int = 0
    """Videos of this split that a public data set lists but that are missing."""
    remarks: tuple[str, ...] = ()
    """For people: what is in the data but unused, and the like."""


@dataclass(frozen=True)
class DataSet:
    """Every available video of every split."""

    name: str
    """The folder, file or URL, as the user gave it."""
    videos: tuple[LabelledVideo, ...]
    labels: LabelSpace
    """Classes are in the data's own order if it numbers them, else sorted."""
    description: str
    """For people: the layout that was recognised, and where the videos are."""
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """split → files that are listed for it but missing."""
    remarks: tuple[str, ...] = ()
    """For people: what is in the data but unused, one line each."""
    official: bool = False
    """Whether these are the annotations of a public data set, some of whose videos are no longer available."""

    def split(self, split: str, labels: LabelSpace | None = None) -> VideoSet:
        """The videos of one split.

        Without a validation split, every fifth video of each class is held out for it; all spans of a file stay
        together. The choice depends only on the names of files and classes.

        Args:
            split: "train", "val" or "test"; "all" is every video if the data has neither val nor test, else "val", or
                "test" without a val split.
            labels: the classes to use, in the order of a trained model; other heads of the data are dropped. None: the
                data's own.

        Raises:
            UserError: no videos, missing files, or labels that do not fit `labels`.
        """
        chosen, splits, description = self.choose(split)
        self.check_files(splits)
        if not chosen:
            raise UserError(f"{self.name}: no videos for the {split} split")
        if labels is None:
            labels = self.labels
            # Use the classes of all splits: one without a validation video still has a number.
            for head, names in labels.classes.items():
                if len(names) < 2:
                    what = "videos are" if head == ONLY_HEAD else f"labels of {head!r} are"
                    raise UserError(f"{self.name}: all {what} of one class, {', '.join(names)!r}; use two or more")
        else:
            check_classes(self.name, (video.labels for video in chosen), self.labels.classes, labels.classes)
            labels = LabelSpace(labels.classes, self.labels.multi_label)
        missing = sum(len(self.missing.get(name, ())) for name in splits)
        if missing:
            named = missing + len(self._of(splits))
            description += f"; {missing} of {named} videos are not there and left out"
        return VideoSet(tuple(_with_heads(chosen, labels)), labels, description, missing, self.remarks)

    def choose(self, split: str) -> tuple[Sequence[LabelledVideo], set[str], str]:
        """The videos of a split, the data's own splits they come from, and a description of how they were chosen."""
        there = {video.split for video in self.videos} | set(self.missing)
        if "" in there and len(there) > 1:
            without = [os.path.basename(str(video.source)) for video in self._of({""})]
            without += [os.path.basename(name) for name in self.missing.get("", ())]
            raise UserError(f"{self.name}: {len(without)} videos have no split, but others do: {shortened(without)}")
        if split == "all":
            if not there & {"val", "test"}:
                return self.videos, there, f"all videos of {self.description}"
            split = "val" if "val" in there else "test"
        if split in there and (split != "train" or "val" in there):
            return self._of({split}), {split}, f"the {split} split of {self.description}"
        if split not in ("train", "val") or not there & {"", "train"}:
            named = ", ".join(name for name in SPLIT_NAMES if name in there)
            raise UserError(
                f"{self.name}: no {split} split; " + (f"there is {named}" if named else "the data is not split")
            )
        splits = there & {"", "train"}
        whole, fraction = self._of(splits), f"every {HELD_OUT}th video of each class"
        if split == "train":
            kept = [video for video in whole if video.source not in self._held_out]
            return kept, splits, f"{self.description} without {fraction}, held out"
        if whole and not self._held_out:
            raise UserError(f"{self.name}: too few videos to hold some out for validation; add a val split")
        held_out = [video for video in whole if video.source in self._held_out]
        return held_out, splits, f"{fraction} of {self.description}, held out"

    def check_files(self, splits: Collection[str]) -> None:
        """Check that the files of these splits exist.

        Raises:
            UserError: a file in the user's own list is missing, or more than half the videos of a public data set are.
        """
        missing = [name for split in splits for name in self.missing.get(split, ())]
        if not missing:
            return
        there = len(self._of(splits))
        if not self.official:
            raise UserError(
                f"{missing[0]}: named by {self.description} but not there "
                f"({len(missing)} of {there + len(missing)} files missing)"
            )
        if there < len(missing):
            raise UserError(
                f"{self.description}: only {there} of {there + len(missing)} videos are there; missing, for example: "
                f"{shortened(missing, 3)}; name their folder with --videos"
            )

    def _of(self, splits: Collection[str]) -> list[LabelledVideo]:
        return [video for video in self.videos if video.split in splits]

    @cached_property
    def _held_out(self) -> set[VideoSource]:
        return _hold_out(self._of({"", "train"}))


def _with_heads(videos: Sequence[LabelledVideo], space: LabelSpace) -> Iterator[LabelledVideo]:
    """The videos with only the labels of these heads. Raises UserError if one should have one label but does not."""
    kept: dict[int, Labels] = {}  # by identity: most videos share their labels with others
    for video in videos:
        key = id(video.labels)
        if key not in kept:
            kept[key] = {head: video.labels.get(head, ()) for head in space.heads}
            for head, names in kept[key].items():
                if not space.multi_label and len(names) != 1:
                    raise UserError(f"{video.source}: has {len(names) or 'no'} labels for {head}; others have one")
        yield replace(video, labels=kept[key])


def _hold_out(videos: Sequence[LabelledVideo]) -> set[VideoSource]:
    """A fifth of the files of each class of the first head, at least one if the class has two or more videos.

    All spans of a file stay together, and every class keeps a video to train on.
    """
    of_class: defaultdict[str, list[VideoSource]] = defaultdict(list)
    of_source: defaultdict[VideoSource, list[str]] = defaultdict(list)
    for video in videos:
        for name in next(iter(video.labels.values())):
            of_class[name].append(video.source)
            of_source[video.source].append(name)
    left = {name: len(sources) for name, sources in of_class.items()}
    held_out: set[VideoSource] = set()
    # The rarest class first: a file held out for it counts for its other classes too.
    for name in sorted(of_class, key=lambda name: (left[name], name)):
        count = len(of_class[name])
        least = count - max(count // HELD_OUT, min(1, count - 1))
        for source in sorted(set(of_class[name]), key=lambda source: _order(name, source)):
            if left[name] <= least:
                break
            uses = Counter(of_source[source])
            if source not in held_out and all(left[other] > number for other, number in uses.items()):
                held_out.add(source)
                for other, number in uses.items():
                    left[other] -= number
    return held_out


def _order(name: str, source: VideoSource) -> tuple[bytes, str]:
    """Sort key: a hash of the class and file names, independent of content and location."""
    path = source.name if isinstance(source, InShard) else str(source)
    file = os.path.basename(path)
    return hashlib.sha256(f"{name}/{file}".encode(errors="surrogateescape")).digest(), path


@contextmanager
def no_collection() -> Iterator[None]:
    """Switch off Python's garbage collector: scanning a million new records can take as long as creating them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
