"""Features of the windows of videos: one after the other, or in a file.

A file is made from one part for each video, so a stopped run resumes after its last complete video. A part is a
safetensors file, and so are the files of a folder of features: `features` (W, …) and `start` and `end` (W,) in seconds,
with `made_by`, the video and the state of its file in the metadata.

Shapes: W windows, K classes of all heads together.
"""

import hashlib
import os
import shutil
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from safetensors import SafetensorError, safe_open

from vivit.data.file_state import file_states
from vivit.errors import UserError
from vivit.files import make_folder, write_files
from vivit.inference.feature_files import CHUNK, Stored, check_feature_file, write_feature_file, write_tensors
from vivit.inference.predictor import Predictor
from vivit.inference.timeline import ScoredWindow, scored_windows
from vivit.inference.tokens import What
from vivit.tables import in_unicode
from vivit.video.decode import Decoder
from vivit.video.source import VideoError

PARTIAL, PART = ".partial", ".safetensors"


def extract(
    predictor: Predictor,
    video: str | Path,
    what: What = "head",
    step: int | None = None,
    decoder: Decoder = "pyav",
) -> Iterator[ScoredWindow]:
    """The windows of a video with their features, in order, as they are computed; memory does not grow with the video.

    Args:
        what: the kind of features: head, token, pooled, temporal or tokens; see docs/features.md.
        step: frames from the start of a window to the start of the next; None: that of `vivit timeline`.

    Yields:
        windows with `start` and `end` in seconds after the first frame, `features` (D,), (T, D) or (N, D) float32, and
        `scores`, head → (K,) probabilities.

    Raises:
        VideoError: the video cannot be read, or the model gives no finite features for it.
        UserError: the model does not have these features.
    """
    return scored_windows(predictor, video, step, decoder, what)


class FeatureStore:
    """A file or folder that features are written to, video by video.

    Until `finish`, those for FILE are in a folder FILE.partial beside it.
    """

    def __init__(self, out: Path, made_by: Mapping[str, str]) -> None:
        """
        Args:
            out: a file whose ending is one of `feature_files.ENDINGS`, or a folder, which has no ending.
            made_by: what the features depend on besides the video; parts made by something else are recomputed.

        Raises:
            UserError: the file exists, has another ending, or can never be written.
        """
        self.out, self.made_by = out, dict(made_by)
        self.is_folder = out.is_dir() or not out.suffix
        if not self.is_folder:
            check_feature_file(out)
        self.parts = out if self.is_folder else out.with_name(out.name + PARTIAL)
        self._videos: dict[Path, str] = {}

    def path(self, video: Path) -> Path:
        """The path of a video's part. Raises UserError if another video of the same name has it."""
        if not self.is_folder:
            return self.parts / f"{hashlib.sha256(os.fsencode(video.absolute())).hexdigest()[:32]}{PART}"
        path = self.out / f"{video.name}{PART}"
        if self._videos.setdefault(path, str(video)) != str(video):
            raise UserError(f"{path}: would be of {self._videos[path]} and of {video}; give --out a file for all")
        return path

    def has(self, video: Path) -> bool:
        """Whether the part of a video exists, was made in the same way and matches the current file."""
        return is_part(self.path(video), self._about(video))

    def add(self, video: Path, windows: Iterable[ScoredWindow]) -> None:
        """Write the part of a video, whole or not at all. Raises UserError."""
        make_folder(self.parts)
        try:
            write_part(self.path(video), windows, self._about(video))
        except VideoError:
            if not self.is_folder:
                with suppress(OSError):  # there are parts of other videos
                    self.parts.rmdir()
            raise

    def finish(self, videos: Iterable[Path]) -> int:
        """Write the file, if it is one, from the parts of these videos in their order.

        Returns:
            the number of windows.

        Raises:
            UserError: the file cannot be written.
        """
        parts = [self.path(video) for video in videos]
        if self.is_folder:
            return sum(count_of(part) for part in parts)
        count = write_feature_file(self.out, parts, self.made_by)
        shutil.rmtree(self.parts, ignore_errors=True)
        return count

    def _about(self, video: Path) -> dict[str, str]:
        state = file_states([video])[video]
        return {**self.made_by, "video": in_unicode(str(video)), "state": f"{state.size} {state.modified}"}


def is_part(path: Path, about: Mapping[str, str]) -> bool:
    """Whether a complete part with this metadata exists."""
    try:
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {}) == dict(about)
    except (OSError, SafetensorError):
        return False


def count_of(part: Path) -> int:
    """The number of windows in a part."""
    with safe_open(part, framework="np") as file:
        return file.get_slice("start").get_shape()[0]


def write_part(path: Path, windows: Iterable[ScoredWindow], about: Mapping[str, str], scores: bool = False) -> None:
    """Write the windows of a video as they come, without holding all in memory.

    Args:
        about: the metadata.
        scores: also write `scores` (W, K).

    Raises:
        UserError: the file cannot be written.
    """
    starts, ends = array("d"), array("d")
    names = ("features", "scores") if scores else ("features",)
    shapes: dict[str, tuple[int, ...]] = {}
    with ExitStack() as stack:
        try:
            spools = {name: stack.enter_context(TemporaryFile(dir=path.parent)) for name in names}
            for window in windows:
                rows = {"features": window.features, "scores": np.concatenate(list(window.scores.values()))}
                for name, spool in spools.items():
                    shapes[name] = rows[name].shape
                    spool.write(rows[name].astype(np.float32, copy=False).tobytes())
                starts.append(window.start)
                ends.append(window.end)
        except OSError as error:
            raise UserError(f"{path}: not written ({error.strerror})") from None
        tensors = {}
        for name, spool in spools.items():
            spool.seek(0)
            data = iter(partial(spool.read, CHUNK), b"")
            tensors[name] = Stored(np.float32, (len(starts), *shapes[name]), data)
        for name, times in (("start", starts), ("end", ends)):
            tensors[name] = Stored(np.float64, (len(times),), [times.tobytes()])
        write_files({path: lambda unfinished: write_tensors(unfinished, tensors, about)})
