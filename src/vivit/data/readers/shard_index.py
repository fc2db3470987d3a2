"""Reads and writes `shards.json`, which has each video's place in the tar files, and its labels."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from vivit.data.datasets import DataSet, LabelledVideo, Labels, no_collection
from vivit.data.names import SPLIT_NAMES
from vivit.errors import UserError
from vivit.files import as_text, write_files
from vivit.labels import ONLY_HEAD, LabelSpace
from vivit.video.source import InShard, is_remote, reason

INDEX = "shards.json"
VERSION = 1
_SPLITS = {*SPLIT_NAMES, ""}


class Shard(NamedTuple):
    """A tar file in the index."""

    name: str
    """Relative to the index, or a full path or URL."""
    size: int
    """Bytes."""
    stamp: str = ""
    """Changes when the file does; "" for shards from `vivit data pack`."""


@dataclass(frozen=True)
class Index:
    """The content of `shards.json`."""

    data_set: DataSet
    shards: tuple[Shard, ...]
    left_out: tuple[str, ...]
    """`path: reason` for each video that was left out."""
    plan: str = ""
    """A hash of what was packed and how; "" for shards from elsewhere."""


def write_index(path: Path, index: Index, folder: str = "") -> None:
    """Write one line for each video. Raises UserError.

    Args:
        folder: the prefix of the shard names in the videos' sources.
    """
    data_set = index.data_set
    numbers = {join(folder, shard.name): number for number, shard in enumerate(index.shards)}
    head = {
        "version": VERSION,
        "source": data_set.description,
        "plan": index.plan,
        "multi_label": data_set.labels.multi_label,
        "classes": {name: list(classes) for name, classes in data_set.labels.classes.items()},
        "left_out": list(index.left_out),
        "shards": [shard._asdict() for shard in index.shards],
    }
    lines = [json.dumps(head, indent=1, ensure_ascii=False)[:-2] + ',\n "entries": [']
    for number, video in enumerate(data_set.videos):
        source = video.source
        assert isinstance(source, InShard)
        place = {"shard": numbers[source.shard], "name": source.name, "offset": source.offset, "size": source.size}
        comma = "," if number + 1 < len(data_set.videos) else ""
        labels = label_fields(video, data_set.labels.multi_label)
        lines.append(f"  {json.dumps({**place, **labels}, ensure_ascii=False)}{comma}")
    write_files({path: as_text("\n".join([*lines, " ]\n}\n"]))})


def read_index(content: bytes, folder: str) -> Index:
    """Parse the index of a folder's shards. Raises UserError if it is damaged or points outside the shards."""
    where = join(folder, INDEX)
    try:
        with no_collection():
            value = json.loads(content.decode("utf-8", "surrogateescape"))
            if value["version"] != VERSION:
                raise UserError(
                    f"{where}: has version {value['version']!r}, but this program reads {VERSION}; pack the data again"
                )
            shards = tuple(
                Shard(str(shard["name"]), int(shard["size"]), str(shard["stamp"])) for shard in value["shards"]
            )
            classes = {str(head): tuple(map(str, names)) for head, names in value["classes"].items()}
            videos = tuple(_videos(value["entries"], shards, folder, where))
            space = LabelSpace(classes, bool(value["multi_label"]))
            data_set = DataSet(folder, videos, space, str(value["source"]))
            index = Index(data_set, shards, tuple(map(str, value["left_out"])), str(value["plan"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else reason(error)
        raise UserError(f"{where}: not an index of shards ({problem}); copy it again or pack the data again") from None
    if folder and (out := next((name for name, *_ in shards if leads_out(name)), None)) is not None:
        raise UserError(f"{where}: names the shard {out!r}, which is not in its folder")
    known = {head: set(names) for head, names in classes.items()}
    distinct: dict[int, Labels] = {id(video.labels): video.labels for video in videos}
    for labels in distinct.values():
        for head, names in labels.items():
            if not known.get(head, set()).issuperset(names):
                raise UserError(f"{where}: the label {', '.join(names)!r} of {head!r} is not among its classes")
    return index


def _videos(
    values: Iterable[Mapping[str, Any]], shards: Sequence[Shard], folder: str, where: str
) -> Iterator[LabelledVideo]:
    paths = [join(folder, shard.name) for shard in shards]
    labels: dict[str, Labels] = {}  # most videos share their labels with others
    for value in values:
        number, name, offset, size = value["shard"], value["name"], value["offset"], value["size"]
        if not all(type(whole) is int for whole in (number, offset, size)):
            raise ValueError(f"the offset and size of {name!r} are not whole numbers")
        if not (0 <= number < len(shards) and offset >= 0 and size >= 0 and offset + size <= shards[number].size):
            raise UserError(f"{where}: {name!r} is outside its shard; copy the index again or pack the data again")
        key = value["label"] if "label" in value else json.dumps(value["labels"])
        if key not in labels:
            labels[key] = labels_of(value)[0]
        split, span = value["split"], value.get("span")
        if split not in _SPLITS:
            raise ValueError(f"the split of {name!r} is {split!r}")
        if span is not None:
            span = float(span[0]), float(span[1])
            if not all(map(isfinite, span)):
                raise ValueError(f"the span of {name!r} is not two numbers")
        yield LabelledVideo(InShard(paths[number], name, offset, size), labels[key], split, span)


def label_fields(video: LabelledVideo, multi_label: bool) -> dict[str, Any]:
    """The fields for JSON: "label" or "labels", "split", and "span" if it has one."""
    labels: dict[str, Any] = {head: list(names) if multi_label else names[0] for head, names in video.labels.items()}
    if list(labels) != [ONLY_HEAD]:
        fields: dict[str, Any] = {"labels": labels}
    else:
        fields = {"labels" if multi_label else "label": labels[ONLY_HEAD]}
    return fields | {"split": video.split} | ({} if video.span is None else {"span": list(video.span)})


def labels_of(fields: Mapping[str, Any]) -> tuple[Labels, bool]:
    """The labels in the fields from `label_fields`, and whether a head may have several. Raises ValueError."""
    value = fields["label"] if "label" in fields else fields.get("labels")
    by_head = value if isinstance(value, dict) else {ONLY_HEAD: value}
    labels = {}
    for head, names in by_head.items():
        listed = names if isinstance(names, list) else [names]
        if not all(isinstance(name, str | int) and not isinstance(name, bool) and str(name).strip() for name in listed):
            raise ValueError("no label beside it" if value is None else f"its label is {json.dumps(value)[:60]}")
        labels[str(head)] = tuple(str(name).strip() for name in listed)
    return labels, any(isinstance(names, list) for names in by_head.values())


def leads_out(name: str) -> bool:
    """Whether a relative name points outside its folder."""
    return is_remote(name) or name.startswith("/") or ".." in PurePosixPath(name).parts


def join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if folder else name
