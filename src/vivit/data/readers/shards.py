"""Reads a data set in shards (tar files): an index has the byte range of each video.

The tar files are in WebDataset's format: beside `{key}.mp4`, `{key}.json`, `{key}.cls` or `{key}.txt` has its labels.
`vivit.data.pack` also writes the index, `shards.json`; for other shards, it is built by reading their headers.
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

from vivit.data.datasets import DataSet, LabelledVideo
from vivit.data.names import shortened, sorted_names, split_named
from vivit.data.readers.shard_index import INDEX, Index, Shard, join, labels_of, leads_out, read_index, write_index
from vivit.errors import UserError
from vivit.files import user_cache
from vivit.labels import LabelSpace
from vivit.text import counted
from vivit.video.kinds import EXTENSIONS
from vivit.video.source import InShard, is_remote, reason

UNFINISHED = ".packing"
"""A folder inside the folder of shards, deleted once all of them are written."""
# Shards whose headers are read at once; with most stores, nearly all the time is spent waiting.
AT_ONCE = 16
# Bytes to fetch from a store with each header: the labels mostly follow it directly.
WITH_HEADER = 1 << 14
# The largest file of labels, in bytes.
MOST_LABELS = 1 << 20
LABELS = (".json", ".cls", ".txt")


def is_shards(data: str | Path) -> bool:
    """Whether `open_shards` can read this: tar files, a URL, or a folder with tar files or their index."""
    if is_remote(str(data)) or _is_tar(str(data)) or Path(data).name == INDEX:
        return True
    folder = Path(data)
    inside = (folder / INDEX, folder / UNFINISHED)
    return any(path.exists() for path in inside) or any(any(folder.glob(shape)) for shape in ("*.tar", "*/*.tar"))


def open_shards(data: str | Path) -> DataSet:
    """List the videos in shards, with their labels.

    Shards without an index are indexed by reading their headers, which takes a while. The index is saved beside them
    or, if that is not allowed, in the user's cache folder.

    Args:
        data: a folder of shards, its `shards.json`, or names of tar files, with braces as in
            `clips-{000000..000099}.tar` or `{train,val}.tar`. Each may be a URL that fsspec opens: s3://, gs://, https://.

    Raises:
        UserError: there are no shards, or they do not match their index.
    """
    return replace(_open(str(data)), name=str(data))


def _open(data: str) -> DataSet:
    if _is_tar(data):
        return _from_headers(data, "", expand_braces(data), None)
    folder = data.removesuffix(INDEX).rstrip("/") or "/"
    known = None
    with _one_line(data):
        store, path = url_to_fs(folder)
        if store.exists(f"{path}/{INDEX}"):
            known = read_index(store.cat_file(f"{path}/{INDEX}"), folder)
            if known.plan:
                _check_sizes(known, folder)
                origin = known.data_set.description
                description = f"{counted(len(known.shards), 'shard')} in {folder}, packed from {origin}"
                return replace(known.data_set, description=description, remarks=_remarks(known))
        elif data.endswith(INDEX):
            raise UserError(f"{data}: no such file")
        if store.exists(f"{path}/{UNFINISHED}"):
            raise UserError(f"{folder}: packing is not finished; run the same `vivit data pack` again to continue")
        inside = len(path.rstrip("/")) + 1
        names = sorted(found[inside:] for found in store.find(path) if _is_tar(found))
    if not names:
        raise UserError(
            f"{data}: no tar files and no {INDEX}; if the server lists no files, name them, as in x-{{0..9}}.tar"
        )
    return _from_headers(data, folder, names, known)


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
    """Check that shards on disk are complete. Shards in a store are not checked: each would cost a request."""
    if is_remote(folder):
        return
    missing = [shard.name for shard in index.shards if not Path(folder, shard.name).is_file()]
    if missing:
        raise UserError(
            f"{join(folder, missing[0])}: no such file ({len(missing)} of {len(index.shards)} shards missing)"
        )
    for shard in index.shards:
        size = Path(folder, shard.name).stat().st_size
        if size != shard.size:
            name = join(folder, shard.name)
            raise UserError(f"{name}: has {size:,} bytes and should have {shard.size:,}; copy it again")


@dataclass
class _Walked:
    """The videos of a shard, found by reading its headers."""

    videos: list[LabelledVideo] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    multi_label: bool = False

    def add(self, source: InShard, uses: Sequence[Mapping[str, Any]], split: str) -> None:
        """Add a video once for each set of fields (labels, split, span). Raises ValueError if one cannot be read."""
        for fields in uses:
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
            self.videos.append(LabelledVideo(source, labels, split_named(own_split), span))
            self.multi_label |= several


def _from_headers(data: str, folder: str, names: Sequence[str], known: Index | None) -> DataSet:
    """Index shards that came without an index: reuse an earlier index if they are unchanged, or build a new one."""
    description = f"{counted(len(names), 'shard')} of {data}"
    with ThreadPoolExecutor(AT_ONCE) as pool:
        shards = tuple(pool.map(lambda name: _stat(folder, name), names))
        cached = _cached(data)
        if known is None and cached.is_file():
            known = read_index(cached.read_bytes(), folder)
        if known is not None and known.shards == shards:
            return replace(known.data_set, description=description, remarks=_remarks(known))
        walked = list(pool.map(lambda name: _walk(join(folder, name), name), names))
    videos = tuple(video for shard in walked for video in shard.videos)
    left_out = tuple(line for shard in walked for line in shard.left_out)
    if not videos:
        raise UserError(
            f"{data}: no labelled video in {len(names)} tar files; each .mp4 needs a .json, .cls or .txt beside it"
            + (f" ({left_out[0]})" if left_out else "")
        )
    heads = dict.fromkeys(head for video in videos for head in video.labels)
    classes = {head: sorted_names({name for video in videos for name in video.labels.get(head, ())}) for head in heads}
    space = LabelSpace(classes, any(shard.multi_label for shard in walked))
    index = Index(DataSet(data, videos, space, description), shards, left_out)
    for path in (Path(folder, INDEX), cached) if folder and not is_remote(folder) else (cached,):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_index(path, index, folder)
            break
        except (OSError, UserError):
            continue  # the index is rebuilt next time
    return replace(index.data_set, remarks=_remarks(index))


def _remarks(index: Index) -> tuple[str, ...]:
    """How many videos the index leaves out, and why it leaves out the first."""
    if not (left_out := index.left_out):
        return ()
    return (f"passed over {counted(len(left_out), 'video')} in the shards: {shortened(left_out, 2)}",)


def _cached(data: str) -> Path:
    """Where to save the index of shards in a read-only folder."""
    named = data if is_remote(data) else os.path.abspath(data)
    return user_cache("shards") / f"{hashlib.sha256(os.fsencode(named)).hexdigest()[:32]}.json"


def _stat(folder: str, name: str) -> Shard:
    with _one_line(join(folder, name)):
        store, path = url_to_fs(join(folder, name))
        info = store.info(path)
    stamps = (str(info[key]) for key in ("ETag", "etag", "LastModified", "Last-Modified", "mtime") if info.get(key))
    if info.get("size") is None:
        raise UserError(f"{join(folder, name)}: the server does not tell its size")
    return Shard(name, int(info["size"]), next(stamps, ""))


def _walk(shard: str, name: str) -> _Walked:
    """Find the videos in a tar file, with their labels. Only headers and labels are read."""
    found = _Walked()
    split = _split_in(name)
    key, videos, labels = "", list[tarfile.TarInfo](), dict[str, bytes]()

    def end_of_sample() -> None:
        for video in videos:
            # The labels of "a.side.mp4" may be in "a.side.json" or "a.json".
            stems = (os.path.splitext(video.name)[0], key)
            beside = {kind: labels[stem + kind] for stem in stems[::-1] for kind in LABELS if stem + kind in labels}
            try:
                path, uses = _read_labels(beside)
                source = InShard(shard, path or video.name, video.offset_data, video.size)
                found.add(source, uses, split)
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
                        found.left_out.append(f"{name}/{member.name}: its name points outside the shard")
                    else:
                        videos.append(member)
                elif kind in LABELS and member.isreg() and member.size <= MOST_LABELS:
                    content = tar.extractfile(member)
                    assert content is not None
                    labels[member.name] = content.read()
            end_of_sample()
            # tarfile takes a damaged header for the end of the archive.
            assert tar.fileobj is not None
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"no header at byte {tar.offset:,}")
    except tarfile.TarError as error:
        raise UserError(
            f"{shard}: not a complete tar file ({reason(error)}); decompress it first if it is compressed"
        ) from None
    return found


def _sample(name: str) -> str:
    """WebDataset's key of a sample: the name up to the first full stop after the last slash."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


@contextmanager
def _open_tar(shard: str) -> Iterator[tarfile.TarFile]:
    store, path = url_to_fs(shard)
    options = {"block_size": WITH_HEADER, "cache_type": "readahead"} if is_remote(shard) else {}
    with store.open(path, "rb", **options) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        yield tar


def _read_labels(beside: Mapping[str, bytes]) -> tuple[str, list[Mapping[str, Any]]]:
    """Read the files beside a video: return its name before packing ("" if unknown), and its labels as fields.

    The fields come from the JSON file if it has labels; otherwise the label is a number or a line of text. Raises
    ValueError if there is none.
    """
    if ".json" in beside:
        try:
            value = json.loads(beside[".json"])
        except (ValueError, RecursionError):
            raise ValueError("the .json beside it is not JSON") from None
        value = value if isinstance(value, dict) else {}
        uses = value.get("entries", [value])
        if isinstance(uses, list) and all(isinstance(use, dict) for use in uses):
            labelled = [use for use in uses if "label" in use or "labels" in use]
            path = value.get("path")
            if labelled:
                return (path if isinstance(path, str) and not leads_out(path) else ""), labelled
    for kind in (".cls", ".txt"):
        if kind in beside:
            return "", [{"label": beside[kind].decode("utf-8", "replace").strip()}]
    raise ValueError("no label beside it")


def _split_in(name: str) -> str:
    """ "train" for train/000.tar and kinetics-train-000.tar; "" if no split is named, or more than one."""
    nearest = "/".join(name.split("/")[-2:])
    words = {split_named(word) for word in re.split(r"[^A-Za-z]+", nearest)} - {""}
    return words.pop() if len(words) == 1 else ""


def _is_tar(name: str) -> bool:
    return (urlsplit(name).path if is_remote(name) else name).endswith(".tar")


@contextmanager
def _one_line(data: str) -> Iterator[None]:
    """Turn any error of the store into one line; errors from a damaged tar file pass through."""
    try:
        yield
    except (UserError, tarfile.TarError):
        raise
    except Exception as error:  # each store has errors of its own
        raise UserError(f"{data}: {reason(error)}") from None
