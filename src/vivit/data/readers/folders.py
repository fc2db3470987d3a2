"""Find the videos in a folder. Each folder is listed once; files are not looked at one by one."""

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from vivit.data.names import SPLIT_NAMES
from vivit.errors import UserError
from vivit.video.frame_folder import PICTURES

EXTENSIONS = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".gif", ".3gp", ".ts", ".wmv", ".flv"}


@dataclass(frozen=True)
class Found:
    """Sorted paths."""

    videos: list[str]
    """Files, and folders with nothing but pictures in them, each the frames of one video."""
    broken: list[str]
    """Links to videos that do not exist."""


def find_videos(folder: str | Path) -> Found:
    """Find the videos in a folder at any depth, except hidden ones.

    Links are followed. A folder that can be reached in several ways is read once.

    Raises:
        UserError: a folder cannot be read.
    """
    videos: list[str] = []
    broken: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting = [str(folder)]
    while waiting:
        path = waiting.pop()
        try:
            status = os.stat(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
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
        # Sorted, so that the same path is found on every file system if links lead to one folder in several ways.
        waiting += sorted(folders, reverse=True)
    return Found(sorted(videos), sorted(broken))


def read_folder(folder: str | Path) -> list[os.DirEntry[str]]:
    """List a folder. Raises UserError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether this is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


class Presence:
    """Tells whether files exist, for many files: it lists each folder once."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def __contains__(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder or "."))
            except (OSError, ValueError):
                self._names[folder] = frozenset()
        # The file system may ignore case, or how accents are encoded.
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
        """The path of the video with this name, without its extension; None if there is none.

        If there are several, files are preferred to folders of frames, then videos in a folder "replacement…" (where
        Kinetics puts better copies), then videos below a folder named after the split or the label.

        Args:
            parent: the name of the folder that the video must lie in; "" for any.

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
            raise UserError(f"{best[0]}: there is another video of this name, {best[1]}; choose a folder with --videos")
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
