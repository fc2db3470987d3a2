"""Finds videos in folders. Each folder is listed once; a file is opened only if its name does not reveal its kind."""

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from pathlib import Path

from vivit.data.names import SPLIT_NAMES
from vivit.errors import UserError
from vivit.video.frame_folder import PICTURES
from vivit.video.kinds import EXTENSIONS, holds_video, is_named_video

# Files to open at once: on a network, nearly all the time is spent waiting.
AT_ONCE = 16
# If more files than this share an unknown extension, this many decide for all of them, unless they differ.
TELLING = 1000
# Kinds of files to name in a message, and the longest extension to name.
KINDS_NAMED, LONGEST = 6, 12
# Kinds with a plural; extensions have none.
PLURALS = {"broken link": "broken links", "pipe, socket or device": "pipes, sockets or devices"}
# Files that desktops leave behind, and folders that systems do: they hold no videos of the user's.
LEFT_BEHIND = ("thumbs.db", "desktop.ini")
SYSTEM_FOLDERS = ("@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__macosx")


@dataclass(frozen=True)
class Found:
    """What is in a folder, at any depth."""

    videos: list[str]
    """Sorted paths of files, and of folders that hold only pictures, each the frames of one video."""
    broken: list[str]
    """Sorted paths of broken links to videos."""
    passed_over: Counter[str]
    """The number of files that are not videos, by kind, such as ".txt". Files that systems leave are not counted."""
    not_followed: list[str]
    """Links to a folder above, or into the folder of another class."""


def find_videos(folder: str | Path) -> Found:
    """Find the videos in a folder at any depth, except hidden ones.

    A file with an unknown extension counts if FFmpeg finds a video in it. Links to files and folders are followed,
    except to folders above. A folder that can be reached in several ways is read once.

    Raises:
        UserError: a folder cannot be read.
    """
    return find_in_each([str(folder)])[0]


def find_in_each(folders: Sequence[str]) -> list[Found]:
    """`find_videos` in the folder of each class. Links from one of these folders into another are not followed."""
    classes = {os.path.realpath(folder) for folder in folders}
    walks = [_Walk(folder, classes) for folder in folders]
    _look_into([file for walk in walks for file in walk.unknown])
    return [walk.found() for walk in walks]


def in_words(passed_over: Counter[str]) -> str:
    """ "passed over 5 files that are not videos: 3 .txt, 2 without an extension"; "" if there are none."""
    if not passed_over:
        return ""
    kinds = passed_over.most_common()
    named = ", ".join(
        f"{count:,} {PLURALS.get(kind, kind) if count > 1 else kind}" for kind, count in kinds[:KINDS_NAMED]
    )
    rest = sum(count for _, count in kinds[KINDS_NAMED:])
    total = passed_over.total()
    are = "1 file that is not a video" if total == 1 else f"{total:,} files that are not videos"
    return f"passed over {are}: {named}{f' and {rest:,} more' if rest else ''}"


@dataclass
class _Unknown:
    """A file whose name does not reveal whether it is a video."""

    path: str
    video: bool = False
    problem: str = ""
    """Why it cannot be opened."""


@dataclass
class _Listed:
    """The content of one folder."""

    path: str
    videos: list[str] = field(default_factory=list)
    unknown: list[_Unknown] = field(default_factory=list)
    pictures: Counter[str] = field(default_factory=Counter)
    folders: list[str] = field(default_factory=list)


class _Walk:
    """A walk through all folders below one; it opens no file yet."""

    def __init__(self, folder: str, classes: Collection[str]) -> None:
        """
        Args:
            classes: the real paths of all class folders, including this one.

        Raises:
            UserError: a folder cannot be read.
        """
        self.folder, self.own = folder, os.path.realpath(folder)
        self.classes = set(classes)
        self.above = self.classes.union(*map(folders_above, classes))
        self.listed: list[_Listed] = []
        self.unknown: list[_Unknown] = []
        self.broken: list[str] = []
        self.passed_over: Counter[str] = Counter()
        self.not_followed: list[str] = []
        seen: set[tuple[int, int]] = set()
        waiting = [folder]
        while waiting:
            path = waiting.pop()
            try:
                status = os.stat(path)
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror})") from None
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            here = _Listed(path)
            for entry in read_folder(path):
                self._sort(entry, here)
            self.listed.append(here)
            self.unknown += here.unknown
            # Sorted, so that every file system gives the same path if links lead to one folder in several ways.
            waiting += sorted(here.folders, reverse=True)

    def _sort(self, entry: os.DirEntry[str], here: _Listed) -> None:
        name = entry.name
        named = is_named_video(name)
        if name.startswith("."):
            if named and not name.startswith("._"):  # macOS creates these beside each file
                self.passed_over[f"hidden {kind_of(name)}"] += 1
        elif is_folder(entry):
            if name.lower() in SYSTEM_FOLDERS:
                return
            if entry.is_symlink() and self._leads_out(entry.path):
                self.not_followed.append(entry.path)
            else:
                here.folders.append(entry.path)
        elif not is_file(entry):
            if not entry.is_symlink() or os.path.exists(entry.path):
                self.passed_over["pipe, socket or device"] += 1
            elif named:
                self.broken.append(entry.path)
            else:
                self.passed_over["broken link"] += 1
        elif named:
            here.videos.append(entry.path)
        elif os.path.splitext(name)[1].lower() in PICTURES:
            here.pictures[kind_of(name)] += 1
        elif named is None:
            here.unknown.append(_Unknown(entry.path))
        elif name.lower() not in LEFT_BEHIND:
            self.passed_over[kind_of(name)] += 1

    def _leads_out(self, link: str) -> bool:
        """Whether a link leads to a folder above, or to or into the folder of another class."""
        target = os.path.realpath(link)
        return target in self.above or not self.classes.isdisjoint(set(folders_above(target)) - {self.own})

    def found(self) -> Found:
        """The result, after opening the unknown files."""
        videos: list[str] = []
        passed_over = self.passed_over.copy()
        for here in self.listed:
            files = here.videos + [file.path for file in here.unknown if file.video]
            if here.pictures and not here.folders and not files and here.path != self.folder:
                files.append(here.path)
            else:
                passed_over += here.pictures
            videos += files
            passed_over.update(
                kind_of(file.path) + (f" that cannot be opened ({file.problem})" if file.problem else "")
                for file in here.unknown
                if not file.video
            )
        return Found(sorted(videos), sorted(self.broken), passed_over, sorted(self.not_followed))


def folders_above(path: str) -> list[str]:
    """The folders above an absolute path, up to the root."""
    folders = []
    while (folder := os.path.dirname(path)) != path:
        folders.append(folder)
        path = folder
    return folders


def kind_of(path: str) -> str:
    """The extension for messages, such as ".txt" or ".mp4.part"; "take.0001" has none."""
    stem, ending = os.path.splitext(os.path.basename(path).lower())
    before = os.path.splitext(stem)[1]
    before = before if before in EXTENSIONS else ""
    if not 1 < len(ending) <= LONGEST or (ending[1:].isdecimal() and not before):
        return "without an extension"
    return before + ending


def _look_into(files: Sequence[_Unknown]) -> None:
    """Open files to find out whether they are videos."""

    def look(file: _Unknown) -> None:
        try:
            file.video = holds_video(file.path)
        except OSError as error:
            file.problem = error.strerror or str(error)

    of_kind: defaultdict[str, list[_Unknown]] = defaultdict(list)
    for file in files:
        of_kind[kind_of(file.path)].append(file)
    telling = {kind: alike[:: len(alike) // TELLING + 1] for kind, alike in of_kind.items()}
    with ThreadPool(AT_ONCE) as pool:
        pool.map(look, [file for some in telling.values() for file in some])
        for kind, some in telling.items():
            looked_into = set(map(id, some))
            rest = [file for file in of_kind[kind] if id(file) not in looked_into]
            if len({file.video for file in some}) > 1:
                pool.map(look, rest)
            else:
                for file in rest:
                    file.video = some[0].video


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


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether this is a regular file or a link to one; not a pipe, a socket or a device."""
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


class Presence:
    """Tells whether files exist; for many files, because it lists each folder once."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def __contains__(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder or "."))
            except (OSError, ValueError):
                self._names[folder] = frozenset()
        # The file system may ignore case or the encoding of accents.
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
            parent: the name of the folder that must contain the video; "" for any.

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
