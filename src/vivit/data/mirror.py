"""The classes of mirrored videos, from the words left and right in class names."""

import re
from collections.abc import Mapping, Sequence

from vivit.errors import UserError

_PAIRS = (
    ("left", "right"),
    ("leftward", "rightward"),
    ("leftwards", "rightwards"),
    ("clockwise", "counterclockwise"),
)
_MIRRORED = {word: other for pair in _PAIRS for word, other in (pair, pair[::-1])}


def mirrored_classes(names: Sequence[str], swaps: Mapping[str, str] | None = None) -> dict[int, int]:
    """Class index → the index of its mirrored class; most classes stay the same.

    "Pushing something from left to right" and "… from right to left" swap, and so do "turn_clockwise" and
    "turn_counter-clockwise" (or "anticlockwise"). Words end at spaces, punctuation, or before a capital.

    Args:
        names: the class names of one head.
        swaps: pairs of class names that swap, each given in one direction or both. A class paired with itself stays the
            same, whatever its name says.

    Returns:
        An entry for every class except those that name a side but have no mirror among the classes. If any class is
        missing, videos must not be mirrored.

    Raises:
        UserError: a swap names an unknown class, or contradicts another.
    """
    mirrored = _given(names, swaps or {})
    phrases = [_phrase(name) for name in names]
    for number, phrase in enumerate(phrases):
        if number in mirrored:
            continue
        other = " ".join(_MIRRORED.get(word, word) for word in phrase.split(" "))
        if other == phrase:
            mirrored[number] = number
        elif phrases.count(other) == phrases.count(phrase) == 1 and phrases.index(other) not in mirrored:
            mirrored[number] = phrases.index(other)
            mirrored[phrases.index(other)] = number
    return mirrored


def _given(names: Sequence[str], swaps: Mapping[str, str]) -> dict[int, int]:
    numbers = {name: number for number, name in enumerate(names)}
    given: dict[int, int] = {}
    for pair in swaps.items():
        if unknown := [name for name in pair if name not in numbers]:
            raise UserError(f"mirrored class {unknown[0]!r}: no such class; use the names in the data")
        for name, other in (pair, pair[::-1]):
            if given.setdefault(numbers[name], numbers[other]) != numbers[other]:
                was = names[given[numbers[name]]]
                raise UserError(f"mirrored class {name!r}: given both {was!r} and {other!r}; give it one mirror")
    return given


def _phrase(name: str) -> str:
    """Lower-case words separated by single spaces, with one spelling of counterclockwise."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    phrase = " ".join(re.findall(r"[^\W\d_]+|\d+", spaced))
    return re.sub(r"\b(counter|anti) ?clockwise\b", "counterclockwise", phrase)
