"""The files of an index: `index.json`, which describes it; `videos.parquet` with a row for each file; `windows.parquet`
with the video and the times of each window; `vectors.npy`, the features that the model's heads read, scaled to length
1; and `scores.npy`, the probabilities. The windows of a file are consecutive rows.

Shapes: W windows, D width, K classes of all heads together.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open

from vivit.errors import UserError
from vivit.files import as_json, new_folder, write_files
from vivit.inference.feature_files import TIMES, write_array
from vivit.tables import write_parquet
from vivit.weights.files import read_record

ABOUT, VIDEOS, WINDOWS, VECTORS, SCORES = "index.json", "videos.parquet", "windows.parquet", "vectors.npy", "scores.npy"
COLUMNS: dict[str, type] = {"video": str, "size": int, "modified": int, "hash": str, "first": int, "windows": int}
ROWS = 4096  # windows that are copied at once


class About(BaseModel):
    """The content of `index.json`."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["vivit index 1"] = "vivit index 1"
    folder: str
    """Where the videos are."""
    model: str
    """The name that the user gave; an absolute path if it is a path."""
    fingerprint: str
    """See `Predictor.fingerprint`."""
    step: int
    """Frames from one window to the next."""
    classes: dict[str, list[str]]
    """head → the names of its classes."""


@dataclass(frozen=True)
class IndexedVideo:
    """A file whose windows are in an index."""

    video: str
    """Its path in the folder."""
    size: int | None
    modified: int | None
    hash: str
    """Of all its bytes."""
    first: int
    """The row of its first window."""
    windows: int
    """How many it has."""

    @property
    def rows(self) -> slice:
        return slice(self.first, self.first + self.windows)


@dataclass(frozen=True)
class Origin:
    """Where the windows of a file come from: rows of the previous index, or a whole part."""

    video: IndexedVideo
    part: Path | None = None


class IndexFiles:
    """The files of an index, as the last update left them."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if the folder holds something else, or pyarrow is missing."""
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise UserError(f"{path}: an index needs pyarrow: pip install 'vivit[search]'") from None
        self.path = path
        self.about: About | None = None
        """None before the first update."""
        if (path / ABOUT).is_file():
            self.about = read_record(path / ABOUT, About)
        elif path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise UserError(f"{path}: is not an index of vivit; choose another folder")

    @property
    def made(self) -> About:
        """The description of the index. Raises UserError if there is none yet."""
        if self.about is None:
            raise UserError(f"{self.path}: no such index; make it with vivit index")
        return self.about

    @cached_property
    def videos(self) -> list[IndexedVideo]:
        """The files, in the order of their windows' rows."""
        from pyarrow import parquet

        if self.about is None:
            return []
        return [IndexedVideo(**row) for row in parquet.read_table(self.path / VIDEOS).to_pylist()]

    @cached_property
    def times(self) -> np.ndarray:
        """(W, 2): when each window starts and ends, in seconds after the first frame of its video."""
        from pyarrow import parquet

        table = parquet.read_table(self.path / WINDOWS, columns=list(TIMES))
        return np.stack([table[name].to_numpy() for name in TIMES], axis=1)

    @cached_property
    def vectors(self) -> np.ndarray:
        """(W, D) float32 of length 1, mapped into memory."""
        return np.load(self.path / VECTORS, mmap_mode="r")

    @cached_property
    def scores(self) -> np.ndarray:
        """(W, K) float32 probabilities, mapped into memory."""
        return np.load(self.path / SCORES, mmap_mode="r")

    @property
    def classes(self) -> list[str]:
        """The class of each column of the scores: "label", or "head/label" if heads have names."""
        heads = self.made.classes
        named = {head: "" if len(heads) == 1 else f"{head}/" for head in heads}
        return [f"{named[head]}{label}" for head, labels in heads.items() for label in labels]

    def source(self, number: int) -> Path:
        """The file of a video of the index."""
        return Path(self.made.folder) / self.videos[number].video

    def window(self, row: int) -> tuple[Path, float, float]:
        """The file of a window, and when it starts and ends."""
        number = bisect_right(self.videos, row, key=lambda video: video.first) - 1
        start, end = self.times[row].tolist()
        return self.source(number), start, end

    def write(self, about: About, origins: Sequence[Origin]) -> None:
        """Replace the index with one of these files. Raises UserError."""
        videos, count = list[IndexedVideo](), 0
        for origin in origins:
            videos.append(replace(origin.video, first=count))
            count += origin.video.windows

        def rows() -> Iterator[dict[str, Any]]:
            for origin in origins:
                for start, end in zip(*(self._column(origin, name).tolist() for name in TIMES), strict=True):
                    yield {"video": origin.video.video, "start": start, "end": end}

        with new_folder(self.path) as folder:
            for file, name in ((VECTORS, "features"), (SCORES, "scores")):
                blocks = chain.from_iterable(self._blocks(origin, name) for origin in origins)
                write_array(folder / file, (count, self._width(origins, name)), blocks)
            write_parquet(folder / WINDOWS, rows(), {"video": str, **TIMES})
            write_parquet(folder / VIDEOS, map(vars, videos), COLUMNS)
            write_files({folder / ABOUT: as_json(about.model_dump())})
        for name in ("videos", "times", "vectors", "scores"):
            self.__dict__.pop(name, None)
        self.about = about

    def _width(self, origins: Sequence[Origin], name: str) -> int:
        for origin in origins:
            if origin.part is not None:
                with safe_open(origin.part, framework="np") as file:
                    return file.get_slice(name).get_shape()[1]
        return (self.vectors if name == "features" else self.scores).shape[1]

    def _column(self, origin: Origin, name: str) -> np.ndarray:
        """The starts or the ends of a file's windows."""
        if origin.part is None:
            return self.times[origin.video.rows, list(TIMES).index(name)]
        with safe_open(origin.part, framework="np") as file:
            return file.get_tensor(name)

    def _blocks(self, origin: Origin, name: str) -> Iterator[np.ndarray]:
        """The vectors or the scores of a file's windows, some at a time."""
        if origin.part is None:
            held = (self.vectors if name == "features" else self.scores)[origin.video.rows]
            yield from (held[at : at + ROWS] for at in range(0, len(held), ROWS))
            return
        with safe_open(origin.part, framework="np") as file:
            held, count = file.get_slice(name), origin.video.windows
            for at in range(0, count, ROWS):
                block = held[at : min(at + ROWS, count)]
                yield unit(block) if name == "features" else block


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (N, D) scaled to length 1; those of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
