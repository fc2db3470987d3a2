"""Whether the labels of a data set are the classes of a model, and if not, how they differ."""

import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vivit.data.entries import Entry, shortened, sorted_names
from vivit.errors import UserError

# Differences that are spelled out in a message.
SHOWN = 4


def check_classes(
    data: str | Path,
    entries: Iterable[Entry],
    in_data: Mapping[str, Sequence[str]],
    in_model: Mapping[str, Sequence[str]],
) -> None:
    """See that a model knows the label of every entry.

    Args:
        data: what a message is about.
        in_data: head → the names of the classes of all the data, those without an entry too.
        in_model: head → names.

    Raises:
        UserError: it lacks a head or a class; the message counts the classes on both sides, and shows those that are
            written in nearly the same way.
    """
    absent = [head for head in in_model if head not in in_data]
    if absent:
        raise UserError(
            f"{data}: has labels for {_heads(in_data)}, and the model is for {_heads(in_model)}; "
            "name the columns of labels as the model's heads"
        )
    distinct = {id(entry.labels): entry.labels for entry in entries}.values()
    for head, names in in_model.items():
        unknown = sorted_names({name for labels in distinct for name in labels.get(head, ())} - set(names))
        if unknown:
            raise UserError(f"{data}: {_difference(head, unknown, in_data[head], names)}")


def _heads(classes: Mapping[str, Sequence[str]]) -> str:
    return "one head without a name" if list(classes) == ["classes"] else f"the heads {', '.join(classes)}"


def _difference(head: str, unknown: Sequence[str], in_data: Sequence[str], in_model: Sequence[str]) -> str:
    others = set(in_model) - set(in_data)
    of_head = "" if head == "classes" else f"{head}: "
    plain = {_plain(name): name for name in in_model}
    if all(_plain(name) in plain for name in unknown):
        pairs = [f"{name!r} is {plain[_plain(name)]!r}" for name in unknown]
        return (
            f"{of_head}{len(unknown)} classes differ from the model's only in case, spaces or underscores: "
            f"{shortened(pairs, SHOWN)}; write them as the model does"
        )
    counts = (
        f"{of_head}{len(unknown)} of its {len(in_data)} classes the model does not have, and {len(others)} "
        f"of the model's {len(in_model)} are not in the data"
    )
    if all(name.isdecimal() for name in unknown) and not all(name.isdecimal() for name in in_model):
        return f"{counts}: its labels are numbers ({shortened(unknown, SHOWN)}); write the names of the classes"
    shown = [_with_close(name, plain) for name in unknown[:SHOWN]]
    more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
    return f"{counts}: it lacks {', '.join(shown)}{more}; it has {shortened(sorted_names(others) or in_model, SHOWN)}"


def _with_close(name: str, plain: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.7)
    return f"{name!r} (it has {plain[close[0]]!r})" if close else repr(name)


def _plain(name: str) -> str:
    """Without what people write now in one way and now in another."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return " ".join("".join(" " if c in "_-+" else c for c in folded).split())
