"""Find the videos that a user means by files, folders, patterns, lists and URLs."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from vivit.data.names import shortened
from vivit.data.readers.folders import find_videos, folders_above, in_words, kind_of
from vivit.errors import UserError
from vivit.inference.fetch import ADDRESS, Url
from vivit.inference.pipeline import Video
from vivit.text import counted
from vivit.video.frame_folder import PICTURES
from vivit.video.kinds import is_named_video
from vivit.video.source import VideoError, reason

STDIN, LIST = ("-", "@-"), "@"
LIST_START = 1 << 16  # bytes

Say = Callable[[str], object]
Found = Iterator[Video | VideoError]


def find_inputs(words: Iterable[str], stdin: BinaryIO, urls: bool, say: Say) -> Found:
    """The videos that the words stand for, in order; a word that stands for none yields the reason.

    A word is a file, a folder (its videos at any depth; a folder with nothing but pictures is a video itself), a
    pattern such as `clips/**/*.mp4`, an http or https URL, `-` for a list on stdin, or `@` with the name of a list. A
    list has a file, folder or URL on each line; relative paths start from the working directory or, if nothing is
    there, from the folder of the list.

    Args:
        urls: whether URLs are allowed.
        say: called with what is skipped in folders.

    Raises:
        UserError: a list cannot be read.
    """
    for word in words:
        if word in STDIN:
            yield from _listed(_read_list(stdin, "stdin"), "stdin", Path(), urls, say)
        elif "\0" in word:
            yield from _named(word, urls, say)
        elif word.startswith(LIST) and not os.path.lexists(word):
            path = Path(word.removeprefix(LIST))
            try:
                with path.open("rb") as file:
                    text = _read_list(file, str(path))
            except (OSError, ValueError) as error:
                raise UserError(f"{path}: cannot be read as a list ({reason(error)})") from None
            yield from _listed(text, str(path), path.parent, urls, say)
        elif glob.has_magic(word) and not ADDRESS.match(word) and not os.path.lexists(word):
            yield from _matches(word, say)
        else:
            yield from _named(word, urls, say)


def _read_list(file: BinaryIO, name: str) -> bytes:
    """The whole file. Raises UserError after its first part if that is not text: a device may be endless."""
    start = file.read(LIST_START)
    if b"\0" in start:
        raise UserError(f"{name}: is not a list of names, one on each line")
    return start + file.read()


def _listed(text: bytes, name: str, folder: Path, urls: bool, say: Say) -> Found:
    # File names may have any bytes; surrogates stand for those that are not text.
    lines = os.fsdecode(text.removeprefix(b"\xef\xbb\xbf")).replace("\r\n", "\n").split("\n")
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise UserError(f"{name}: lists no videos")
    for line in lines:
        beside = str(folder / line)
        known = ADDRESS.match(line) or os.path.lexists(line) or not os.path.lexists(beside)
        yield from _named(line if known else beside, urls, say)


def _matches(pattern: str, say: Say) -> Found:
    """The videos that a pattern matches, and those in folders that it matches, each once.

    As in a folder, files that are not videos are skipped, unless the pattern asks for their kind, such as *.png, and
    links to parent folders are not followed.
    """
    kind = os.path.splitext(pattern)[1].lower()
    passed_over: Counter[str] = Counter()
    not_followed: list[str] = []
    searched: set[str] = set()
    empty = True
    for path in sorted(set(_expand(pattern))):
        if not searched.isdisjoint(folders_above(os.path.abspath(path))):
            continue  # its folder was matched, too
        if os.path.isdir(path):
            if os.path.islink(path) and os.path.realpath(path) in folders_above(_absolute(path)):
                not_followed.append(path)
                continue
            searched.add(os.path.abspath(path))
        elif not (kind and path.lower().endswith(kind)) and _is_something_else(path):
            passed_over[kind_of(path)] += 1
            continue
        empty = False
        yield from _named(path, False, say)
    if passed_over:
        say(f"{pattern}: {in_words(passed_over)}")
    if not_followed:
        say(f"{pattern}: {_not_followed(not_followed)}")
    if empty:
        yield VideoError(pattern, "matches no video" if passed_over or not_followed else "matches no file")


def _expand(pattern: str) -> Iterator[str]:
    """The paths that a pattern matches. As in shells, but not in Python's glob, `**` follows no links to folders: a
    link to a parent folder would match the same files many times.
    """
    parts = pattern.split("/")
    if "**" not in parts:
        yield from glob.iglob(pattern)
        return
    deep = parts.index("**")
    before, after = "".join(f"{part}/" for part in parts[:deep]), "/".join(parts[deep + 1 :]).lstrip("/")
    for top in glob.iglob(before) if before else [""]:
        for folder, names, _ in os.walk(top or os.curdir):
            names[:] = [name for name in names if not name.startswith(".")]
            inside = os.path.relpath(folder) if not top else folder
            inside = "" if inside == os.curdir else os.path.join(glob.escape(inside), "")
            yield from _expand(inside + (after or "*"))


def check_one(path: str | Path) -> None:
    """Raise VideoError if this is a folder of videos: one that also holds a picture would be read as frames."""
    if os.path.isdir(path) and (videos := find_videos(str(path)).videos):
        raise VideoError(path, f"is a folder with {counted(len(videos), 'video')}; give one video")


def _absolute(path: str) -> str:
    """The real path of a link itself, not of its target."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _not_followed(links: Sequence[str]) -> str:
    return f"did not follow links to a folder above: {shortened(links, 3)}"


def _is_something_else(path: str) -> bool:
    return is_named_video(os.path.basename(path)) is False or os.path.splitext(path)[1].lower() in PICTURES


def _named(name: str, urls: bool, say: Say) -> Found:
    """The file, or the videos of the folder, or the URL."""
    if ADDRESS.match(name):
        yield _address(name, urls)
    elif not name or "\0" in name:
        yield VideoError(repr(name), "is not the name of a file")
    elif os.path.isdir(name):
        yield from _in_folder(name, say)
    else:
        yield Path(name)


def _address(name: str, urls: bool) -> Url | VideoError:
    url = Url(name)
    if not name.lower().startswith(("http://", "https://")):
        return VideoError(url, "only http and https URLs can be read")
    return url if urls else VideoError(url, "is a URL, which only vivit stream and vivit predict --allow-url read")


def _in_folder(folder: str, say: Say) -> Found:
    try:
        found = find_videos(folder)
        if not (found.videos or found.broken) and any(_is_picture(name) for name in os.listdir(folder)):
            yield Path(folder)  # the frames of one video
            return
    except (UserError, OSError) as error:
        yield VideoError(error, "") if isinstance(error, UserError) else VideoError(folder, reason(error))
        return
    if found.passed_over:
        say(f"{folder}: {in_words(found.passed_over)}")
    if found.not_followed:
        say(f"{folder}: {_not_followed(found.not_followed)}")
    yield from map(Path, [*found.videos, *found.broken])
    if not (found.videos or found.broken):
        yield VideoError(folder, "holds no videos")


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURES
