"""A data set in tar files: an index says where in them every video lies, so that each is one range of bytes.

The tar files are WebDataset's: beside `{key}.mp4` lies `{key}.json`, `{key}.cls` or `{key}.txt` with its labels. Those
that `vivit.data.pack` writes come with an index, `shards.json`; for those of others it is made by walking the headers.
"""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fsspec.core import url_to_fs

from vivit.data.entries import DataListing, Entry, sorted_names, split_named
from vivit.data.readers.folders import EXTENSIONS
from vivit.data.readers.shard_index import INDEX, Index, Shard, join, labels_of, leads_out, read_index, write_index
from vivit.errors import UserError
from vivit.video.source import InShard, is_remote, reason

UNFINISHED = ".packing"
"""The folder within a folder of shards that is there until all of them are written."""
# Shards whose headers are walked at once; with most stores it is the waiting that takes the time.
AT_ONCE = 16
# Bytes fetched with a header from a store: the labels mostly lie right behind it.
WITH_HEADER = 1 << 14
# A file of labels is smaller.
MOST_LABELS = 1 << 20
LABELS = (".json", ".cls", ".txt")


def is_shards(data: str | Path) -> bool:
    """Whether `data` is for `open_shards`: tar files, a URL, or a folder that holds tar files or their index."""
    if is_remote(str(data)) or _is_tar(str(data)) or Path(data).name == INDEX:
        return True
    folder = Path(data)
    inside = (folder / INDEX, folder / UNFINISHED)
    return any(path.exists() for path in inside) or any(any(folder.glob(shape)) for shape in ("*.tar", "*/*.tar"))


def open_shards(data: str | Path) -> DataListing:
    """Every entry of a data set in shards.

    Args:
        data: a folder of shards, its `shards.json`, or tar files by name, with braces as in
            `clips-{000000..000099}.tar` or `{train,val}.tar`. All may be URLs that fsspec opens: s3://, gs://, https://.

    The index of shards that have none is made by reading their headers, which takes a while for many, and is kept
    beside them, or where that cannot be written in the cache folder of the user.

    Raises:
        UserError: there are no shards, or they are not as their index says.
    """
    return _open(str(data)).listing


def _open(data: str) -> Index:
    if _is_tar(data):
        return _walked(data, "", expand_braces(data), None)
    folder = data.removesuffix(INDEX).rstrip("/") or "/"
    known = None
    with _one_line(data):
        store, path = url_to_fs(folder)
        if store.exists(f"{path}/{INDEX}"):
            known = read_index(store.cat_file(f"{path}/{INDEX}"), folder)
            if known.plan:
                _check_sizes(known, folder)
                source = f"{len(known.shards)} shards in {folder}, packed from {known.listing.source}"
                return replace(known, listing=replace(known.listing, source=source))
        elif data.endswith(INDEX):
            raise UserError(f"{data}: no such file")
        if store.exists(f"{path}/{UNFINISHED}"):
            raise UserError(f"{folder}: not all of it is packed; run the same `vivit data pack` again to go on")
        inside = len(path.rstrip("/")) + 1
        names = sorted(found[inside:] for found in store.find(path) if _is_tar(found))
    if not names:
        raise UserError(
            f"{data}: no tar files there, and no {INDEX}; where they cannot be listed, name them: x-{{0..9}}.tar"
        )
    return _walked(data, folder, names, known)


def expand_braces(pattern: str) -> list[str]:
    """ "x-{08..10}{a,b}.tar" → x-08a.tar, x-08b.tar, x-09a.tar, …"""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if numbers is None:
        choices = match[1].split(",")
    else:
        first, last = numbers.groups()
        choices = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return [
        start + end
        for start in (pattern[: match.start()] + choice for choice in choices)
        for end in expand_braces(pattern[match.end() :])
    ]


def _check_sizes(index: Index, folder: str) -> None:
    """Of shards on disk, which cost nothing to ask: were all of them copied, and wholly?"""
    if is_remote(folder):
        return
    missing = [shard.name for shard in index.shards if not Path(folder, shard.name).is_file()]
    if missing:
        raise UserError(f"{join(folder, missing[0])}: not there ({len(missing)} of {len(index.shards)} shards missing)")
    for shard in index.shards:
        size = Path(folder, shard.name).stat().st_size
        if size != shard.size:
            name = join(folder, shard.name)
            raise UserError(f"{name}: has {size:,} bytes and should have {shard.size:,}; copy it again")


# --- shards of others


@dataclass
class _Walked:
    """What one shard holds."""

    entries: list[Entry] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    multi_label: bool = False

    def add(self, source: InShard, entries: Sequence[Mapping[str, Any]], split: str) -> None:
        """The entries of a video, by their fields. Raises ValueError where these cannot be read."""
        for fields in entries:
            labels, several = labels_of(fields)
            own_split = str(fields.get("split") or split)
            if own_split and not split_named(own_split):
                raise ValueError(f"its split is {own_split!r}")
            span = fields.get("span")
            if span is not None:
                if not (
                    isinstance(span, list) and len(span) == 2 and all(isinstance(end, int | float) for end in span)
                ):
                    raise ValueError(f"its span is {json.dumps(span)[:60]}")
                span = (float(span[0]), float(span[1]))
            self.entries.append(Entry(source, labels, split_named(own_split), span))
            self.multi_label |= several


def _walked(data: str, folder: str, names: Sequence[str], known: Index | None) -> Index:
    """The index of shards that came without: the one made before, where they are still the same, or a new one."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        shards = tuple(pool.map(lambda name: _stat(folder, name), names))
        kept = _kept(data)
        if known is None and kept.is_file():
            known = read_index(kept.read_bytes(), folder)
        if known is not None and known.shards == shards:
            return replace(known, listing=replace(known.listing, source=f"{len(names)} shards of {data}"))
        walked = list(pool.map(lambda name: _walk(join(folder, name), name), names))
    entries = tuple(entry for shard in walked for entry in shard.entries)
    left_out = tuple(line for shard in walked for line in shard.left_out)
    if not entries:
        raise UserError(
            f"{data}: no labelled video in {len(names)} tar files; beside each .mp4 must lie a .json, .cls or .txt"
            + (f" ({left_out[0]})" if left_out else "")
        )
    heads = dict.fromkeys(head for entry in entries for head in entry.labels)
    classes = {head: sorted_names({name for entry in entries for name in entry.labels.get(head, ())}) for head in heads}
    listing = DataListing(
        entries, classes, any(shard.multi_label for shard in walked), f"{len(names)} shards of {data}"
    )
    index = Index(listing, shards, left_out)
    for path in (Path(folder, INDEX), kept) if folder and not is_remote(folder) else (kept,):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_index(path, _relative(index, folder))
            break
        except OSError:
            continue  # it is made anew the next time
    return index


def _kept(data: str) -> Path:
    """Where the index of shards is kept that lie where nothing can be written."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vivit" / "shards"
    named = data if is_remote(data) else os.path.abspath(data)
    return cache / f"{hashlib.sha256(os.fsencode(named)).hexdigest()[:32]}.json"


def _stat(folder: str, name: str) -> Shard:
    with _one_line(join(folder, name)):
        store, path = url_to_fs(join(folder, name))
        info = store.info(path)
    stamps = (str(info[key]) for key in ("ETag", "etag", "LastModified", "Last-Modified", "mtime") if info.get(key))
    if info.get("size") is None:
        raise UserError(f"{join(folder, name)}: the server does not say how long it is")
    return Shard(name, int(info["size"]), next(stamps, ""))


def _walk(shard: str, name: str) -> _Walked:
    """Every video of a tar file and its labels; of the videos themselves only the headers are read."""
    found = _Walked()
    split = _split_in(name)
    key, videos, labels = "", list[tarfile.TarInfo](), dict[str, bytes]()

    def end_of_sample() -> None:
        for video in videos:
            # Of "a.side.mp4" they may be in "a.side.json" or "a.json".
            stems = (os.path.splitext(video.name)[0], key)
            beside = {kind: labels[stem + kind] for stem in stems[::-1] for kind in LABELS if stem + kind in labels}
            try:
                path, fields = _said(beside)
                source = InShard(shard, path or video.name, video.offset_data, video.size)
                found.add(source, fields, split)
            except ValueError as error:
                found.left_out.append(f"{name}/{video.name}: {error}")

    try:
        with _one_line(shard), _open_tar(shard) as tar:
            for member in tar:
                sample = _sample(member.name)
                if sample != key:
                    end_of_sample()
                    key, videos, labels = sample, [], {}
                kind = os.path.splitext(member.name)[1].lower()
                if kind in EXTENSIONS:
                    if not member.isreg() or member.issparse():
                        found.left_out.append(f"{name}/{member.name}: not a plain file")
                    elif leads_out(member.name):
                        found.left_out.append(f"{name}/{member.name}: its name leads out of the shard")
                    else:
                        videos.append(member)
                elif kind in LABELS and member.isreg() and member.size <= MOST_LABELS:
                    content = tar.extractfile(member)
                    assert content is not None
                    labels[member.name] = content.read()
            end_of_sample()
            # tarfile takes a damaged header for the end.
            _check_end(tar)
    except tarfile.TarError as error:
        raise UserError(f"{shard}: not a whole tar file ({reason(error)}); compressed ones must be unpacked") from None
    return found


def _sample(name: str) -> str:
    """What the files of a sample share, in WebDataset: the name up to the first full stop behind the last slash."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


@contextmanager
def _open_tar(shard: str) -> Iterator[tarfile.TarFile]:
    store, path = url_to_fs(shard)
    options = {"block_size": WITH_HEADER, "cache_type": "readahead"} if is_remote(shard) else {}
    with store.open(path, "rb", **options) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        yield tar


def _check_end(tar: tarfile.TarFile) -> None:
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"no header at byte {tar.offset:,}")


def _said(beside: Mapping[str, bytes]) -> tuple[str, list[Mapping[str, Any]]]:
    """What lies beside a video: its name in the data it was packed from, and the fields of its entries.

    They are in the JSON where that has labels, or else a number or a line. Raises ValueError where there is nothing.
    """
    if ".json" in beside:
        try:
            value = json.loads(beside[".json"])
        except (ValueError, RecursionError):
            raise ValueError("what lies beside it is not JSON") from None
        value = value if isinstance(value, dict) else {}
        entries = value.get("entries", [value])
        if isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries):
            labelled = [entry for entry in entries if "label" in entry or "labels" in entry]
            path = value.get("path")
            if labelled:
                return (path if isinstance(path, str) and not leads_out(path) else ""), labelled
    for kind in (".cls", ".txt"):
        if kind in beside:
            return "", [{"label": beside[kind].decode("utf-8", "replace").strip()}]
    raise ValueError("no label beside it")


def _split_in(name: str) -> str:
    """ "train" of train/000.tar and of kinetics-train-000.tar; "" where no split or more than one is named."""
    nearest = "/".join(name.split("/")[-2:])
    words = {split_named(word) for word in re.split(r"[^A-Za-z]+", nearest)} - {""}
    return words.pop() if len(words) == 1 else ""


def _relative(index: Index, folder: str) -> Index:
    """Its sources by the names of the shards, as an index is written."""
    names = {join(folder, shard.name): shard.name for shard in index.shards}
    entries = []
    for entry in index.listing.entries:
        assert isinstance(entry.source, InShard)
        source = entry.source
        inside = InShard(names[source.shard], source.name, source.offset, source.size)
        entries.append(Entry(inside, entry.labels, entry.split, entry.span))
    listing = DataListing(tuple(entries), index.listing.classes, index.listing.multi_label, index.listing.source)
    return Index(listing, index.shards, index.left_out, index.plan)


def _is_tar(name: str) -> bool:
    return (urlsplit(name).path if is_remote(name) else name).endswith(".tar")


@contextmanager
def _one_line(data: str) -> Iterator[None]:
    """An error of the store, whatever it is, as one line; a damaged tar file is another matter."""
    try:
        yield
    except (UserError, tarfile.TarError):
        raise
    except Exception as error:  # each store has errors of its own
        raise UserError(f"{data}: {reason(error)}") from None
