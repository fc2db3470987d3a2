"""What a mirrored video shows: which class becomes which, by the words of their names."""

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
    """Which class each becomes when its videos are mirrored, by number; most stay what they are.

    "Pushing something from left to right" and "… from right to left" become each other, and so do "turn_clockwise"
    and "turn_counter-clockwise" (or "anticlockwise"). Words are parted by spaces, punctuation, or a capital within.

    Args:
        names: of one head's classes.
        swaps: classes that become each other, by name, each pair given in one direction or in both; a class given for
            itself stays, whatever its name says.

    Returns:
        Every class but those that speak of a side and of which no other is the mirror. Where one is left out, videos
        must not be mirrored.

    Raises:
        UserError: a swap names a class that is not there, or contradicts another.
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
            raise UserError(f"mirrored class {unknown[0]!r}: there is no such class; give names as the data has them")
        for name, other in (pair, pair[::-1]):
            if given.setdefault(numbers[name], numbers[other]) != numbers[other]:
                was = names[given[numbers[name]]]
                raise UserError(f"mirrored class {name!r}: given both {was!r} and {other!r}; give it one mirror")
    return given


def _phrase(name: str) -> str:
    """Its words in small letters, one space between them, with one word for the turn against the clock."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    phrase = " ".join(re.findall(r"[^\W\d_]+|\d+", spaced))
    return re.sub(r"\b(counter|anti) ?clockwise\b", "counterclockwise", phrase)
