"""A searchable index of a folder of videos: features and scores of their windows, kept up to date on disk."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vivit.data.file_state import file_states, sample
from vivit.data.readers.folders import find_videos
from vivit.errors import UserError, no_class
from vivit.files import make_folder
from vivit.inference.extract import PART, PARTIAL, count_of, extract, is_part, write_part
from vivit.inference.index_files import About, IndexedVideo, IndexFiles, Origin
from vivit.inference.predictor import Predictor
from vivit.inference.search import Match, best_stretches, column_of, most_similar, query_windows
from vivit.inference.timeline import default_step
from vivit.tables import in_unicode
from vivit.video.decode import Decoder
from vivit.video.source import VideoError
from vivit.video.span import Span

WHOLE = 1 << 62  # bytes of a file that are hashed: all


@dataclass
class Changes:
    """What an update did, as numbers of files."""

    computed: int = 0
    moved: int = 0
    """Files whose content was indexed under another name or time."""
    dropped: int = 0
    """Contents that are gone."""
    unreadable: int = 0


class Index:
    """The windows of a folder's videos, for searching."""

    def __init__(self, path: str | Path, predictor: Predictor | None = None) -> None:
        """Open an index, or start one.

        Args:
            path: the folder of the index; if it does not exist, `update` makes it.
            predictor: the model; by default the one that made the index, or the package's, loaded when it is needed.

        Raises:
            UserError: the folder is something else, the index was made by another model, or pyarrow is missing.
        """
        self.files = IndexFiles(Path(path))
        self._predictor: Predictor | None = None
        if predictor is not None:
            self._predictor = self._checked(predictor)

    @property
    def predictor(self) -> Predictor:
        """The model. Raises UserError if it no longer exists, or has changed."""
        if self._predictor is None:
            about = self.files.about
            self._predictor = Predictor() if about is None else self._checked(Predictor(about.model))
        return self._predictor

    def update(
        self,
        folder: str | Path,
        step: int | None = None,
        decoder: Decoder = "pyav",
        unreadable: Callable[[VideoError], object] = lambda error: None,
        report: Callable[[int, int], object] = lambda done, total: None,
    ) -> Changes:
        """Bring the index up to date with a folder of videos.

        A file whose size and time have not changed since the last update is not opened, and one whose bytes are indexed
        under any name is not recomputed. A stopped update keeps what it has computed, and the next one resumes.

        Args:
            folder: searched at any depth.
            step: frames from one window to the next; None: that of the index or, of a new one, of `vivit timeline`.
            unreadable: called with the reason why a video is not in the index.
            report: called before each file with the number of finished files, and the total.

        Raises:
            UserError: the folder does not exist or is not the indexed one, the step is not the index's, the model has
                no features, or the index cannot be written.
        """
        folder = Path(folder).resolve()
        about = self._wanted(folder, step)
        found = find_videos(str(folder))
        paths = [Path(path) for path in (*found.videos, *found.broken)]
        states = file_states(paths)
        by_name = {video.video: video for video in self.files.videos}
        by_hash = {video.hash: video for video in self.files.videos}
        parts = self.files.path.with_name(self.files.path.name + PARTIAL)
        made_by = {"model": about.fingerprint, "step": str(about.step)}
        changes, origins = Changes(), list[Origin]()
        for number, path in enumerate(paths):
            report(number, len(paths))
            name, state = in_unicode(os.path.relpath(path, folder)), states[path]
            before = by_name.get(name)
            if before is not None and (before.size, before.modified) == (state.size, state.modified):
                origins.append(Origin(before))
                continue
            digest = sample(path, WHOLE)
            if (before := by_hash.get(digest)) is not None:
                changes.moved += 1
                origins.append(Origin(replace(before, video=name, size=state.size, modified=state.modified)))
                continue
            part = parts / f"{digest}{PART}"
            try:
                if not is_part(part, made_by):
                    make_folder(parts)
                    windows = extract(self.predictor, path, "head", about.step, decoder)
                    write_part(part, windows, made_by, scores=True)
            except VideoError as error:
                unreadable(error)
                changes.unreadable += 1
                continue
            changes.computed += 1
            origins.append(Origin(IndexedVideo(name, state.size, state.modified, digest, 0, count_of(part)), part))
        if self.files.about is None and not origins:
            shutil.rmtree(parts, ignore_errors=True)
            raise UserError(f"{folder}: holds no video that can be read")
        kept = {origin.video.hash for origin in origins}
        changes.dropped = sum(video.hash not in kept for video in self.files.videos)
        if self.files.about != about or [origin.video for origin in origins] != self.files.videos:
            self.files.write(about, origins)
        shutil.rmtree(parts, ignore_errors=True)
        return changes

    def search(
        self, query: str | Path, span: Span | None = None, top: int = 10, decoder: Decoder = "pyav"
    ) -> list[Match]:
        """The stretches of videos that look most like a video, the best first.

        Each window is compared with all windows of the query, and the most similar one counts. Windows that overlap the
        query in its own file are left out.

        Args:
            span: compare with these seconds of the query only.
            top: answers, at most.

        Raises:
            VideoError: the query cannot be read, or does not have the span.
            UserError: the index or its model does not exist.
        """
        files = self.files
        asked = query_windows(self.predictor, files.made.step, query, span, decoder)
        similarity, closest = most_similar(files.vectors, asked.vectors)
        itself = Path(query).resolve()
        for number, video in enumerate(files.videos):
            if files.source(number) == itself:
                start, end = files.times[video.rows].T
                overlaps = (start < asked.times[-1][1]) & (end > asked.times[0][0])
                similarity[video.rows][overlaps] = -np.inf
        return [
            Match(*files.window(row), "similarity", float(similarity[row]), asked.times[closest[row]])
            for row in best_stretches(files, similarity, top)
        ]

    def search_label(self, label: str, top: int = 10) -> list[Match]:
        """The stretches of videos that most likely have a label, the best first.

        Args:
            label: a class of the model; "head/label" if its heads have names.
            top: answers, at most.

        Raises:
            UserError: there is no index, or its model has no such class.
        """
        files = self.files
        if label not in files.classes:
            raise no_class("class", label, files.classes, f"the model of {files.path}")
        scores = column_of(files.scores, files.classes.index(label))
        rows = best_stretches(files, scores, top)
        return [Match(*files.window(row), "score", float(scores[row])) for row in rows]

    def _checked(self, predictor: Predictor) -> Predictor:
        about = self.files.about
        if about is not None and predictor.fingerprint() != about.fingerprint:
            name = _name_of(predictor)
            other = f"an earlier {name}" if name == about.model else f"{about.model}, not by {name}"
            raise UserError(f"{self.files.path}: was made by {other}; make a new index")
        return predictor

    def _wanted(self, folder: Path, step: int | None) -> About:
        """The content of `index.json` after an update."""
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        about = self.files.about
        if about is not None:
            before = Path(about.folder)
            if before != folder and before.is_dir():
                raise UserError(f"{self.files.path}: is an index of {before}; give that folder, or make another index")
            if step not in (None, about.step):
                has = f"has a window every {about.step} frames, not {step}"
                raise UserError(f"{self.files.path}: {has}; leave out the step, or make another index")
            return about.model_copy(update={"folder": str(folder)})
        predictor = self.predictor
        labels = predictor.labels
        return About(
            folder=str(folder),
            model=_name_of(predictor),
            fingerprint=predictor.fingerprint(),
            step=step or default_step(predictor.model),
            classes={head: list(names) for head, names in labels.classes.items()},
        )


def _name_of(predictor: Predictor) -> str:
    """What loads the model again from any folder."""
    name = predictor.source.name
    return str(Path(name).resolve()) if Path(name).exists() else name
