"""The files that features are written to, from parts that hold one video each; see `vivit.inference.extract`.

Only a few windows are in memory at a time.

Shapes: W windows of all videos.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from vivit.errors import UserError
from vivit.files import Content, write_files
from vivit.tables import check_parquet, write_csv

ENDINGS = (".safetensors", ".parquet", ".npy")
CHUNK = 1 << 22
"""Bytes that are read at once."""
TYPES = {np.dtype(np.float32): "F32", np.dtype(np.float64): "F64", np.dtype(np.int64): "I64"}
"""Their names in safetensors."""
TIMES: dict[str, type] = {"start": float, "end": float}


@dataclass(frozen=True)
class Stored:
    """A tensor on its way to a file."""

    dtype: Any
    shape: tuple[int, ...]
    data: Iterable[bytes]
    """Its bytes, in order."""


@dataclass(frozen=True)
class Block:
    """Some windows of one video."""

    number: int
    """Of the video."""
    video: str
    start: np.ndarray
    """(n,) seconds."""
    end: np.ndarray
    features: np.ndarray
    """(n, …) float32."""


def check_feature_file(path: Path) -> None:
    """Raise UserError if a file of features could never be written to this path, or would replace another."""
    if path.suffix not in ENDINGS:
        endings = f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
        raise UserError(f"{path}: its name must end in {endings}, or have no ending for a folder")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; create it first")
    for file in (path, *([_rows_of(path)] if path.suffix == ".npy" else [])):
        if file.exists():
            raise UserError(f"{file}: exists; delete it, or choose another --out")
    if path.suffix == ".parquet":
        check_parquet(path, ".npy")


def write_feature_file(path: Path, parts: Sequence[Path], about: Mapping[str, str]) -> int:
    """Write the windows of all parts, in their order, to a file in the format of its ending.

    Args:
        about: what the features depend on, which safetensors and Parquet store.

    Returns:
        the number of windows.

    Raises:
        UserError: the file cannot be written.
    """
    table = _Table(parts)
    contents: dict[Path, Content] = {path: partial(WRITERS[path.suffix], table=table, about=about)}
    if path.suffix == ".npy":
        contents[_rows_of(path)] = partial(write_csv, rows=table.rows(), types={"video": str, **TIMES})
    write_files(contents)
    return table.count


class _Table:
    """The windows of several parts."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self.parts, self.count = parts, 0
        self.videos: list[str] = []
        self.shape: tuple[int, ...] = ()
        for part in parts:
            with safe_open(part, framework="np") as file:
                count, *shape = file.get_slice("features").get_shape()
                self.videos.append(file.metadata()["video"])
            self.shape = tuple(shape)
            self.count += count

    def blocks(self) -> Iterator[Block]:
        rows = max(1, CHUNK // (4 * prod(self.shape)))
        for number, part in enumerate(self.parts):
            with safe_open(part, framework="np") as file:
                start, end, features = file.get_tensor("start"), file.get_tensor("end"), file.get_slice("features")
                for at in range(0, len(start), rows):
                    some = slice(at, min(at + rows, len(start)))  # safetensors rejects an end beyond the last row
                    yield Block(number, self.videos[number], start[some], end[some], features[some])

    def rows(self) -> Iterator[dict[str, Any]]:
        for block in self.blocks():
            for start, end in zip(block.start.tolist(), block.end.tolist(), strict=True):
                yield {"video": block.video, "start": start, "end": end}


def write_tensors(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file piece by piece; the library needs all of it in memory."""
    head: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, tensor in tensors.items():
        size = np.dtype(tensor.dtype).itemsize * prod(tensor.shape)
        place = {"shape": list(tensor.shape), "data_offsets": [at, at + size]}
        head[name] = {"dtype": TYPES[np.dtype(tensor.dtype)], **place}
        at += size
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)  # the tensors start at a multiple of 8 bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(chain.from_iterable(tensor.data for tensor in tensors.values()))


def _write_safetensors(path: Path, table: _Table, about: Mapping[str, str]) -> None:
    def times(of: str) -> Stored:
        return Stored(np.float64, (table.count,), (getattr(block, of).tobytes() for block in table.blocks()))

    numbers = (np.full(len(block.start), block.number, np.int64).tobytes() for block in table.blocks())
    tensors = {
        "features": Stored(
            np.float32, (table.count, *table.shape), (block.features.tobytes() for block in table.blocks())
        ),
        "start": times("start"),
        "end": times("end"),
        "video": Stored(np.int64, (table.count,), numbers),
    }
    write_tensors(path, tensors, {**about, "videos": json.dumps(table.videos)})


def _write_npy(path: Path, table: _Table, about: Mapping[str, str]) -> None:
    write_array(path, (table.count, *table.shape), (block.features for block in table.blocks()))


def write_array(path: Path, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
    """Write an .npy file of float32 from blocks of its rows."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        file.writelines(block.tobytes() for block in blocks)


def _write_parquet(path: Path, table: _Table, about: Mapping[str, str]) -> None:
    import pyarrow
    from pyarrow import parquet

    kind = pyarrow.float32()
    for size in reversed(table.shape):
        kind = pyarrow.list_(kind, size)
    columns = [("video", pyarrow.string()), ("start", pyarrow.float64()), ("end", pyarrow.float64())]
    schema = pyarrow.schema([*columns, ("features", kind)], metadata=dict(about))
    with parquet.ParquetWriter(path, schema) as file:
        for block in table.blocks():
            features = pyarrow.array(block.features.reshape(-1))
            for size in reversed(table.shape):
                features = pyarrow.FixedSizeListArray.from_arrays(features, size)
            names = pyarrow.array([block.video] * len(block.start))
            arrays = [names, pyarrow.array(block.start), pyarrow.array(block.end), features]
            file.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


WRITERS = {".safetensors": _write_safetensors, ".parquet": _write_parquet, ".npy": _write_npy}


def _rows_of(path: Path) -> Path:
    """The table beside an .npy file."""
    return path.with_suffix(".csv")
