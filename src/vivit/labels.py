"""The heads of a model or data set, their class names, and the metrics that score them."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # recipes and help pages need the labels without torch
    from torch import Tensor

# Unicode's categories of control characters, lone surrogates, and line and paragraph breaks.
NO_TEXT = {"Cc", "Cs", "Zl", "Zp"}
ONLY_HEAD = "classes"  # the name of the only head of a model without named heads
TOP = (1, 5)


@dataclass(frozen=True)
class Metric:
    """A score between 0 and 1 of one head, or of several heads jointly."""

    heads: tuple[str, ...]
    """The heads that it scores; a video counts as right only if all of them are."""
    top: int | None
    """k of the top-k accuracy; None is the mean average precision."""
    head: str = ""
    """The head's name, or the name of the joint label, such as "action"; "" if the label space has only one head."""
    informative: bool = True
    """False for a top-5 among five classes or fewer, which is always right."""

    @property
    def kind(self) -> str:
        """ "top1", "top5" or "mAP"."""
        return "mAP" if self.top is None else f"top{self.top}"

    @property
    def key(self) -> str:
        """The name in files: "top1", "verb_top1", "mAP"."""
        return f"{self.head}_{self.kind}" if self.head else self.kind

    @property
    def title(self) -> str:
        """The name for people: "top-1", "verb top-1", "mAP"."""
        return f"{self.head} {self.kind.replace('top', 'top-')}".lstrip()


@dataclass(frozen=True)
class LabelSpace:
    """The labels that a model can predict or that a data set can have."""

    classes: Mapping[str, tuple[str, ...]]
    """head → its class names, in order."""
    multi_label: bool = False
    """Whether a video may have any number of a head's classes, instead of exactly one."""

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self.classes)

    @property
    def single(self) -> bool:
        """Whether there is one head only."""
        return len(self.classes) == 1

    @property
    def counts(self) -> dict[str, int]:
        """head → number of classes."""
        return {head: len(names) for head, names in self.classes.items()}

    @cached_property
    def numbers(self) -> dict[str, dict[str, int]]:
        """head → class name → its index."""
        return {head: {name: number for number, name in enumerate(names)} for head, names in self.classes.items()}

    @property
    def joint(self) -> str:
        """The name of the joint label of several heads; EPIC-Kitchens calls a verb with a noun an action."""
        # No head's name contains a "+".
        return "action" if set(self.classes) == {"verb", "noun"} else "+".join(self.classes)

    def title(self, head: str) -> str:
        """The head's name for people, "" if it has none."""
        return "" if head == ONLY_HEAD else head

    def column(self, head: str, name: str) -> str:
        """The name of a head's column in a table: "predicted", or "verb_predicted" if there are several heads."""
        return name if self.single else f"{head}_{name}"

    def metrics(self) -> Iterator[Metric]:
        """Top-1 and top-5 of each head, then of all heads jointly; or the mAP of each head if multi_label."""
        for head, names in self.classes.items():
            name = "" if self.single else head
            if self.multi_label:
                yield Metric((head,), None, name)
            else:
                yield from (Metric((head,), k, name, informative=k == 1 or len(names) > k) for k in TOP)
        if len(self.classes) > 1 and not self.multi_label:
            yield from (Metric(self.heads, k, self.joint) for k in TOP)

    def main_metrics(self) -> list[Metric]:
        """The metrics that a model is judged by: the mAP of each head, or the top-1 of all heads together."""
        metrics = list(self.metrics())
        return [metric for metric in metrics if metric.top is None] or [m for m in metrics if m.top == 1][-1:]

    def probabilities(self, logits: "Tensor") -> "Tensor":
        """The probabilities of one head's logits (…, K): their softmax, or sigmoid if multi_label."""
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)

    def ranked(self, head: str, logits: "Tensor") -> list[tuple[str, float]]:
        """Class names and probabilities of one video's logits (K,): the most probable first, ties in class order."""
        scores, order = self.probabilities(logits).sort(descending=True, stable=True)
        names = self.classes[head]
        return [(names[i], score) for i, score in zip(order.tolist(), scores.tolist(), strict=True)]

    def __str__(self) -> str:
        """ "12 classes", or "97 verb and 300 noun classes"."""
        return f"{in_words(self.counts)} classes"


def by_head(logits: "Tensor | Mapping[str, Tensor]") -> "Mapping[str, Tensor]":
    """A model's output as head → logits, whether or not its heads have names."""
    return logits if isinstance(logits, Mapping) else {ONLY_HEAD: logits}


def in_words(counts: Mapping[str, int]) -> str:
    """ "12", or "97 verb and 300 noun", before the word "classes"."""
    return " and ".join(str(count) if head == ONLY_HEAD else f"{count} {head}" for head, count in counts.items())


def head_fields(counts: Mapping[str, int]) -> dict[str, int | dict[str, int] | None]:
    """The fields of ModelConfig for these heads: `num_classes` for no head or a single unnamed one, else `heads`."""
    if list(counts) in ([], [ONLY_HEAD]):
        return {"num_classes": counts.get(ONLY_HEAD, 0), "heads": None}
    return {"num_classes": None, "heads": dict(counts)}


def fault_in(names: Sequence[str], unique: bool = True) -> str:
    """Why these names cannot be the classes of a head, in words; "" if they can.

    unique: whether names must be unique, as they must wherever labels are looked up by name.
    """
    seen: set[str] = set()
    for number, name in enumerate(names):
        if not name.strip():
            return f"the name of class {number} is empty; give it one"
        if any(unicodedata.category(c) in NO_TEXT for c in name):
            return f"{name!r} holds a control character, a line break or what is no text; rename the class"
        if unique and name in seen:
            return f"{name!r} names two classes"
        seen.add(name)
    return ""


def as_classes(classes: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """head → class names, from such a mapping or from the names of a model's only head.

    Raises:
        ValueError: a value is not a list of names or is empty, or a name is blank or not a single line of text.
    """
    heads = classes if isinstance(classes, Mapping) else {ONLY_HEAD: classes}
    for names in heads.values():
        if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(x, str) for x in names):
            raise ValueError(f"classes: give a list of names, not {names!r}")
        if not names:
            raise ValueError("classes: give at least one name")
        if fault := fault_in(names, unique=False):
            raise ValueError(f"classes: {fault}")
    return {head: tuple(names) for head, names in heads.items()}
