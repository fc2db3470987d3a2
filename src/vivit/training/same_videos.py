"""Checks that a run's videos are still those it started with, even if names and sizes are the same."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from vivit.data.datasets import VideoSet
from vivit.data.file_state import State, file_samples, file_states, sample_size
from vivit.data.manifest import relative_names
from vivit.data.names import shortened
from vivit.errors import UserError
from vivit.files import as_json, write_files
from vivit.text import counted
from vivit.video.source import VideoSource

# Up to this many files are recorded one by one, with a hash of content samples; of more, only whether any changed.
MOST_NOTED = 10_000


def note_videos(note: Path, sets: Iterable[VideoSet]) -> None:
    """Record the state of the videos' files. Raises UserError if it cannot be written."""
    names, states = _files(sets)
    files = {}
    if len(names) <= MOST_NOTED:
        samples = file_samples(names, sample_size(len(names)))
        files = {name: [*states[source][:3], samples[source]] for source, name in names.items()}
    write_files({note: as_json({"times": _hash(names, states), "files": files})})


def compare_videos(note: Path, sets: Iterable[VideoSet], run: Path, say: Callable[[str], object]) -> None:
    """Compare the videos' files with the state from `note_videos`; say if some were rewritten with the same content.

    Only files whose size or times have changed are read.

    Raises:
        UserError: the content of a file has changed.
    """
    try:
        noted = json.loads(note.read_bytes())
        # name → size, two times and a hash of samples
        times, files = str(noted["times"]), {name: (list(row[:3]), row[3]) for name, row in noted["files"].items()}
    except FileNotFoundError:  # a run of an earlier version
        return
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise UserError(f"{note}: damaged; delete it to go on without comparing the videos") from None
    names, states = _files(sets)
    if times == _hash(names, states):
        return
    if not files:
        say(f"{run}: some of its videos were written again since it was started; there are too many to compare")
        return
    known = [source for source, name in names.items() if name in files]
    touched = [source for source in known if files[names[source]][0] != list(states[source][:3])]
    samples = file_samples(touched, sample_size(len(files)))
    changed = [str(source) for source in touched if samples[source] != files[names[source]][1]]
    if changed:
        raise UserError(
            f"{run}: {counted(len(changed), 'video')} changed since this run was started: {shortened(changed, 3)}; put "
            "the data back as it was, or give another --out"
        )
    if touched:
        what = shortened([str(source) for source in touched], 3)
        say(
            f"{counted(len(touched), 'video')} written again since this run was started; the compared "
            f"content is the same: {what}"
        )


def _files(sets: Iterable[VideoSet]) -> tuple[dict[VideoSource, str], dict[VideoSource, State]]:
    names = relative_names(dict.fromkeys(video.source for videos in sets for video in videos.videos))
    return names, file_states(names)


def _hash(names: Mapping[VideoSource, str], states: Mapping[VideoSource, State]) -> str:
    rows = sorted(json.dumps([name, *states[source][:3]]) for source, name in names.items())
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
