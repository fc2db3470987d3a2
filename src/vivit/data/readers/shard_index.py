"""`shards.json`: where in its tar files every video of a data set lies, and what it shows."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from vivit.data.entries import SPLIT_NAMES, DataListing, Entry
from vivit.data.no_collection import no_collection
from vivit.errors import UserError
from vivit.files import as_text, write_files
from vivit.video.source import InShard, is_remote, reason

INDEX = "shards.json"
VERSION = 1
HEAD = "classes"
_SPLITS = {*SPLIT_NAMES, ""}


class Shard(NamedTuple):
    """A tar file as the index knows it."""

    name: str
    """Relative to the index, or a path or URL of its own."""
    size: int
    """Bytes."""
    stamp: str = ""
    """What changes when the file does, of one whose headers were walked."""


@dataclass(frozen=True)
class Index:
    """What `shards.json` says."""

    listing: DataListing
    shards: tuple[Shard, ...]
    left_out: tuple[str, ...]
    """`path: reason` for each video that is not among the entries."""
    plan: str = ""
    """What was packed and how, as a hash; empty for shards of others."""


def write_index(path: Path, index: Index) -> None:
    """One line for each entry, so that it can be looked through. Raises OSError."""
    listing = index.listing
    numbers = {shard.name: number for number, shard in enumerate(index.shards)}
    head = {
        "version": VERSION,
        "source": listing.source,
        "plan": index.plan,
        "multi_label": listing.multi_label,
        "classes": {name: list(classes) for name, classes in listing.classes.items()},
        "left_out": list(index.left_out),
        "shards": [shard._asdict() for shard in index.shards],
    }
    lines = [json.dumps(head, indent=1, ensure_ascii=False)[:-2] + ',\n "entries": [']
    for number, entry in enumerate(listing.entries):
        source = entry.source
        assert isinstance(source, InShard)
        place = {"shard": numbers[source.shard], "name": source.name, "offset": source.offset, "size": source.size}
        comma = "," if number + 1 < len(listing.entries) else ""
        said = says(entry, listing.multi_label)
        lines.append(f"  {json.dumps({**place, **said}, ensure_ascii=False)}{comma}")
    write_files({path: as_text("\n".join([*lines, " ]\n}\n"]))})


def read_index(content: bytes, folder: str) -> Index:
    """The index of the shards in a folder. Raises UserError where it is damaged or points out of them."""
    where = join(folder, INDEX)
    try:
        with no_collection():
            value = json.loads(content.decode("utf-8", "surrogateescape"))
            if value["version"] != VERSION:
                raise UserError(
                    f"{where}: of version {value['version']!r}, and this is for {VERSION}; pack the data again"
                )
            shards = tuple(
                Shard(str(shard["name"]), int(shard["size"]), str(shard["stamp"])) for shard in value["shards"]
            )
            classes = {str(head): tuple(map(str, names)) for head, names in value["classes"].items()}
            entries = tuple(_entries(value["entries"], shards, folder, where))
            listing = DataListing(entries, classes, bool(value["multi_label"]), str(value["source"]))
            index = Index(listing, shards, tuple(map(str, value["left_out"])), str(value["plan"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else reason(error)
        raise UserError(f"{where}: not an index of shards ({problem}); copy it again or pack the data again") from None
    if folder and (out := next((name for name, *_ in shards if leads_out(name)), None)) is not None:
        raise UserError(f"{where}: names the shard {out!r}, which is not in its folder")
    known = {head: set(names) for head, names in classes.items()}
    said: dict[int, Mapping[str, tuple[str, ...]]] = {id(entry.labels): entry.labels for entry in entries}
    for labels in said.values():
        for head, names in labels.items():
            if not known.get(head, set()).issuperset(names):
                raise UserError(f"{where}: the label {', '.join(names)!r} of {head!r} is not among its classes")
    return index


def _entries(values: Iterable[Mapping[str, Any]], shards: Sequence[Shard], folder: str, where: str) -> Iterator[Entry]:
    paths = [join(folder, shard.name) for shard in shards]
    # Of a million entries most say what another says, and share it.
    labels: dict[str, Mapping[str, tuple[str, ...]]] = {}
    for value in values:
        number, name, offset, size = value["shard"], value["name"], value["offset"], value["size"]
        if not all(type(whole) is int for whole in (number, offset, size)):
            raise ValueError(f"the place of {name!r} is not in whole numbers")
        if not (0 <= number < len(shards) and offset >= 0 and size >= 0 and offset + size <= shards[number].size):
            raise UserError(f"{where}: {name!r} lies outside its shard; copy the index again or pack the data again")
        key = value["label"] if "label" in value else json.dumps(value["labels"])
        if key not in labels:
            labels[key] = labels_of(value)[0]
        split, span = value["split"], value.get("span")
        if split not in _SPLITS:
            raise ValueError(f"the split of {name!r} is {split!r}")
        yield Entry(
            InShard(paths[number], name, offset, size), labels[key], split, span and (float(span[0]), float(span[1]))
        )


def says(entry: Entry, multi_label: bool) -> dict[str, Any]:
    """The fields of an entry: "label" or "labels", "split" and "span"."""
    labels: dict[str, Any] = {head: list(names) if multi_label else names[0] for head, names in entry.labels.items()}
    if list(labels) != [HEAD]:
        said: dict[str, Any] = {"labels": labels}
    else:
        said = {"labels" if multi_label else "label": labels[HEAD]}
    return said | {"split": entry.split} | ({} if entry.span is None else {"span": list(entry.span)})


def labels_of(fields: Mapping[str, Any]) -> tuple[Mapping[str, tuple[str, ...]], bool]:
    """The labels out of such fields, and whether there may be several for a head. Raises ValueError."""
    value = fields["label"] if "label" in fields else fields.get("labels")
    by_head = value if isinstance(value, dict) else {HEAD: value}
    labels = {}
    for head, names in by_head.items():
        listed = names if isinstance(names, list) else [names]
        if not all(isinstance(name, str | int) and not isinstance(name, bool) and str(name).strip() for name in listed):
            raise ValueError("no label beside it" if value is None else f"its label is {json.dumps(value)[:60]}")
        labels[str(head)] = tuple(str(name).strip() for name in listed)
    return labels, any(isinstance(names, list) for names in by_head.values())


def leads_out(name: str) -> bool:
    return is_remote(name) or name.startswith("/") or ".." in PurePosixPath(name).parts


def join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if folder else name
