"""Finds videos that have two labels where each should have one."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from vivit.data.datasets import LabelledVideo
from vivit.data.file_state import file_samples, file_states, sample_size
from vivit.text import counted
from vivit.video.source import VideoSource

Pair = tuple[LabelledVideo, LabelledVideo]
# With more than this many files of equal size and different labels, content is not compared before a run.
MOST_COMPARED = 10_000


def contradictions(videos: Iterable[LabelledVideo], identity: Mapping[VideoSource, object]) -> list[Pair]:
    """Pairs with the same content and span but different labels: the first such video, and one that contradicts it.

    Args:
        identity: file → a value that is equal for files with the same content.
    """
    seen: dict[object, LabelledVideo] = {}
    found = []
    for video in videos:
        first = seen.setdefault((identity[video.source], video.span), video)
        if first.labels != video.labels:
            found.append((first, video))
    return found


def likely_contradictions(videos: Sequence[LabelledVideo]) -> list[Pair]:
    """`contradictions` among names of one file, and among files of equal size and with equal samples."""
    states = file_states(dict.fromkeys(video.source for video in videos), pictures=False)
    of_size: defaultdict[int | None, list[LabelledVideo]] = defaultdict(list)
    for video in videos:
        of_size[states[video.source].size].append(video)
    doubtful = {
        video.source
        for size, alike in of_size.items()
        if size and any(video.labels != alike[0].labels for video in alike)
        for video in alike
    }
    samples = file_samples(doubtful, sample_size(len(doubtful))) if len(doubtful) <= MOST_COMPARED else {}
    return contradictions(
        videos, {source: samples.get(source) or state.node or source for source, state in states.items()}
    )


def in_words(pair: Pair, names: Mapping[VideoSource, str] | None = None) -> str:
    """ "run/1.mp4 is 'run', but walk/2.mp4 has the same content and is 'walk'"."""
    first, second = pair
    name, other = (str(video.source) if names is None else names[video.source] for video in pair)
    other = "is also" if first.source == second.source else f"but {other} has the same content and is"
    return f"{name} is {_labels(first)}, {other} {_labels(second)}"


def say_contradictions(say: Callable[[str], object], videos: Sequence[LabelledVideo], command: str) -> None:
    """Say in one line if videos have two labels where each should have one, as far as can be told quickly.

    Args:
        command: the command that lists them all.
    """
    pairs = likely_contradictions(videos)
    if pairs:
        say(f"{counted(len(pairs), 'video')} with two labels: {in_words(pairs[0])}; {command} names all of them")


def _labels(video: LabelledVideo) -> str:
    return repr(", ".join(name for names in video.labels.values() for name in names))
