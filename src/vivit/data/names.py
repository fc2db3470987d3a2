"""The names of splits and classes, and how a data set's differ from a model's."""

import difflib
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence

from vivit.errors import UserError
from vivit.labels import ONLY_HEAD

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "validate"),
    "test": ("test", "testing"),
}
_SPLITS = {name: split for split, names in SPLIT_NAMES.items() for name in names}
# How many differences a message lists.
SHOWN = 4


def split_named(word: str) -> str:
    """ "train", "val" or "test" for "Training", "validate" and the like; "" for any other word."""
    return _SPLITS.get(word.strip().lower(), "")


def sorted_names(names: Collection[str]) -> tuple[str, ...]:
    """Sort alphabetically, or by value if all names are numbers."""
    if all(name.isdecimal() and len(name) < 20 for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def shortened(names: Collection[str], most: int = 6) -> str:
    """ "a, b, c and 7 more"."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(list(names)[:most]) + rest


def check_classes(
    data: str,
    labels: Iterable[Mapping[str, Sequence[str]]],
    in_data: Mapping[str, Sequence[str]],
    in_model: Mapping[str, Sequence[str]],
) -> None:
    """Check that a model knows every label.

    Args:
        data: the data's name in messages.
        labels: for each video, head → names.
        in_data: head → all class names of the data, including those without a video.
        in_model: head → the model's class names.

    Raises:
        UserError: the model lacks a head or a class. The message counts the classes on both sides, and shows similar
            spellings.
    """
    absent = [head for head in in_model if head not in in_data]
    if absent:
        raise UserError(
            f"{data}: has labels for {_heads(in_data)}, but the model predicts {_heads(in_model)}; "
            "name the columns of labels like the model's heads"
        )
    distinct = {id(of_video): of_video for of_video in labels}.values()
    for head, names in in_model.items():
        unknown = sorted_names({name for of_video in distinct for name in of_video.get(head, ())} - set(names))
        if unknown:
            raise UserError(f"{data}: {_difference(head, unknown, in_data[head], names)}")


def _heads(classes: Mapping[str, Sequence[str]]) -> str:
    return "one head without a name" if list(classes) == [ONLY_HEAD] else f"the heads {', '.join(classes)}"


def _difference(head: str, unknown: Sequence[str], in_data: Sequence[str], in_model: Sequence[str]) -> str:
    others = set(in_model) - set(in_data)
    of_head = "" if head == ONLY_HEAD else f"{head}: "
    plain = {_plain(name): name for name in in_model}
    if all(_plain(name) in plain for name in unknown):
        pairs = [f"{name!r} is {plain[_plain(name)]!r}" for name in unknown]
        return (
            f"{of_head}{len(unknown)} classes differ from the model's only in case, spaces or underscores: "
            f"{shortened(pairs, SHOWN)}; spell them as the model does"
        )
    counts = (
        f"{of_head}the model lacks {len(unknown)} of the data's {len(in_data)} classes, and the data lacks "
        f"{len(others)} of the model's {len(in_model)}"
    )
    if all(name.isdecimal() for name in unknown) and not all(name.isdecimal() for name in in_model):
        return f"{counts}: the data's labels are numbers ({shortened(unknown, SHOWN)}); write the names of the classes"
    shown = [_with_close(name, plain) for name in unknown[:SHOWN]]
    more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
    only = shortened(sorted_names(others) or in_model, SHOWN)
    return f"{counts}: the model does not know {', '.join(shown)}{more}; it knows {only}"


def _with_close(name: str, plain: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.7)
    return f"{name!r} (it knows {plain[close[0]]!r})" if close else repr(name)


def _plain(name: str) -> str:
    """The name without differences in case, character width, spaces, hyphens and the like."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return " ".join("".join(" " if c in "_-+" else c for c in folded).split())
