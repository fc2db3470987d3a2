"""Which videos someone means by files, folders, patterns, lists of these, and addresses."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from vivit.data.readers.folders import find_videos
from vivit.errors import UserError
from vivit.inference.fetch import ADDRESS, Url
from vivit.inference.pipeline import Video
from vivit.video.source import VideoError

STDIN, LIST = ("-", "@-"), "@"


def find_inputs(words: Sequence[str], stdin: BinaryIO, urls: bool) -> Iterator[Video | VideoError]:
    """The videos that the words stand for, in their order; a word that stands for none gives the reason.

    A word is a file, a folder (its videos at any depth; a folder with nothing but pictures is a video itself), a
    pattern such as `clips/**/*.mp4`, an http or https address, `-` for a list on stdin, or `@` with the name of a list.
    A list has a file, folder or address on each line; relative paths count from the working directory or, if nothing is
    there, from the folder of the list.

    Args:
        urls: whether addresses are allowed.

    Raises:
        UserError: a list cannot be read.
    """
    for word in words:
        if word in STDIN:
            yield from _listed(stdin.read(), "stdin", Path(), urls)
        elif word.startswith(LIST) and not os.path.lexists(word):
            path = Path(word.removeprefix(LIST))
            try:
                text = path.read_bytes()
            except OSError as error:
                raise UserError(f"{path}: cannot be read as a list ({error.strerror})") from None
            yield from _listed(text, str(path), path.parent, urls)
        elif glob.has_magic(word) and not os.path.lexists(word) and not ADDRESS.match(word):
            yield from _matches(word)
        else:
            yield from _named(word, urls)


def _listed(text: bytes, name: str, folder: Path, urls: bool) -> Iterator[Video | VideoError]:
    # Names are bytes of any kind; surrogates stand for those that are not text.
    lines = os.fsdecode(text.removeprefix(b"\xef\xbb\xbf")).replace("\r\n", "\n").split("\n")
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise UserError(f"{name}: lists no videos")
    for line in lines:
        beside = folder / line
        yield from _named(str(beside) if not os.path.lexists(line) and os.path.lexists(beside) else line, urls)


def _matches(pattern: str) -> Iterator[Video | VideoError]:
    found = sorted(set(glob.iglob(pattern, recursive=True)))
    if not found:
        yield VideoError(pattern, "no file matches")
    seen: set[Path] = set()
    for path in found:
        for video in _named(path, urls=False):
            if isinstance(video, VideoError):
                yield video
            elif isinstance(video, Path) and video not in seen:
                seen.add(video)
                yield video


def _named(name: str, urls: bool) -> Iterator[Video | VideoError]:
    """The file, or the videos of the folder, or the address."""
    if ADDRESS.match(name):
        yield _address(name, urls)
    elif not name or "\0" in name:
        yield VideoError(repr(name), "is not the name of a file")
    elif os.path.isdir(name):
        yield from _in_folder(name)
    else:
        yield Path(name)


def _address(name: str, urls: bool) -> Url | VideoError:
    url = Url(name)
    if not name.lower().startswith(("http://", "https://")):
        return VideoError(url, "only http and https addresses can be read")
    return url if urls else VideoError(url, "is an address; --allow-url reads videos from addresses")


def _in_folder(folder: str) -> Iterator[Video | VideoError]:
    try:
        found = find_videos(folder)
    except UserError as error:
        yield VideoError(error, "")
        return
    if found.videos or found.broken:
        yield from map(Path, [*found.videos, *found.broken])
    else:
        # Its pictures are a video; without any, reading it says so.
        yield Path(folder)
