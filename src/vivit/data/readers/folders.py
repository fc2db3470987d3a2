"""Which videos lie in a folder. Every folder is read once, and no file of it is asked for by itself."""

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from vivit.data.entries import SPLIT_NAMES
from vivit.errors import UserError
from vivit.video.frame_folder import PICTURES

EXTENSIONS = {
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".gif", ".3gp", ".ts", ".wmv", ".flv"),
}


@dataclass(frozen=True)
class Found:
    """Paths, in order."""

    videos: list[str]
    """Files, and folders that hold nothing but pictures: the frames of a video each."""
    broken: list[str]
    """Links to videos that are not there."""


def find_videos(folder: str | Path) -> Found:
    """The videos in a folder at any depth; hidden ones are left out.

    Links are followed, and a folder that can be reached in several ways is read once.

    Raises:
        UserError: a folder cannot be read.
    """
    videos: list[str] = []
    broken: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting = [str(folder)]
    while waiting:
        path = waiting.pop()
        known = len(seen)
        seen.add(_identity(path))
        if len(seen) == known:
            continue
        folders: list[str] = []
        files: list[str] = []
        pictures = 0
        for entry in read_folder(path):
            if entry.name.startswith("."):
                continue
            ending = os.path.splitext(entry.name)[1].lower()
            if is_folder(entry):
                folders.append(entry.path)
            elif ending in EXTENSIONS:
                gone = entry.is_symlink() and not os.path.exists(entry.path)
                (broken if gone else files).append(entry.path)
            else:
                pictures += ending in PICTURES
        if pictures and not folders and not files and path != str(folder):
            files.append(path)
        videos += files
        # The first by name is read next, whatever the order in the file system: it counts where another links to it.
        waiting += sorted(folders, reverse=True)
    return Found(sorted(videos), sorted(broken))


def read_folder(folder: str | Path) -> list[os.DirEntry[str]]:
    """What lies in it. Raises UserError."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None
    return status.st_dev, status.st_ino


class Presence:
    """Whether files are there, for many of them: it remembers what each folder holds."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def __contains__(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder or "."))
            except (OSError, ValueError):
                self._names[folder] = frozenset()
        # Names may be told apart by less than their letters: by no case, or not by how an accent is encoded.
        return name in self._names[folder] or os.path.exists(path)


class VideoIndex:
    """The videos of a folder, by name."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError."""
        self.folder = folder
        self._by_name: defaultdict[str, list[str]] = defaultdict(list)
        for path in find_videos(folder).videos:
            name = os.path.basename(path)
            stem, ending = os.path.splitext(name)
            self._by_name[stem if ending.lower() in EXTENSIONS else name].append(path)

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def find(self, name: str, parent: str = "", split: str = "", label: str = "") -> str | None:
        """The video of this name, which is without its ending; None where there is none.

        Of several, files go before folders of frames, those in a folder named "replacement…" before others, as
        Kinetics has better copies there, and then those below a folder that is named after the split or the label.

        Args:
            parent: the name of the folder that it must lie in.

        Raises:
            UserError: several are equally likely.
        """
        paths = self._by_name.get(name, [])
        if parent:
            paths = [path for path in paths if os.path.basename(os.path.dirname(path)) == parent]
        if len(paths) < 2:
            return paths[0] if paths else None
        ranks = {path: self._rank(path, split, label) for path in paths}
        best = [path for path in paths if ranks[path] == max(ranks.values())]
        if len({os.path.realpath(path) for path in best}) > 1:
            raise UserError(
                f"{best[0]}: there is another video of this name, {best[1]}; say with --videos in which folder to look"
            )
        return best[0]

    def _rank(self, path: str, split: str, label: str) -> tuple[bool, bool, bool, bool]:
        folders = Path(os.path.relpath(os.path.dirname(path), self.folder)).parts
        return (
            os.path.splitext(path)[1].lower() in EXTENSIONS,
            any(folder.startswith("replacement") for folder in folders),
            any(_words(folder) & set(SPLIT_NAMES.get(split, ())) for folder in folders),
            any(_words(folder) == _words(label) for folder in folders),
        )


def _words(name: str) -> set[str]:
    return set("".join(c if c.isalnum() else " " for c in name.lower()).split())
