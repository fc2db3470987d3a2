"""Means over seeds with their 95 % intervals, and what they say about a claim."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["held", "not shown", "contradicted"]

RULE = (
    "Each row is a mean over seeds with its 95 % interval (Student's t). A claim that A is better than B is judged by "
    "the differences A − B of the runs that share a seed: it **held** if the 95 % interval of their mean lies above 0, "
    "it is **contradicted** if the interval lies below 0, and otherwise it is **not shown**. With fewer than three "
    "shared seeds nothing is judged, and there is no interval."
)
FEWEST_SEEDS = 3

# Two-sided 95 % points of Student's t for 1, 2, … degrees of freedom.
_T95 = (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157)


@dataclass(frozen=True)
class Interval:
    mean: float
    half: float
    """Half of the width of the 95 % interval; NaN for a single value."""
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """The mean of 1 to 10 values and the interval by Student's t."""
        count = len(values)
        mean = math.fsum(values) / count
        if count == 1:
            return cls(mean, math.nan, 1)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
        return cls(mean, _T95[count - 2] * deviation / math.sqrt(count), count)


def difference(better: Mapping[int, float], worse: Mapping[int, float]) -> Interval | None:
    """The mean difference over shared seeds (arguments: seed → value); None if they share none."""
    shared = sorted(better.keys() & worse.keys())
    return Interval.of([better[seed] - worse[seed] for seed in shared]) if shared else None


def verdict(found: Interval | None) -> Verdict | None:
    """What a difference says about the claim that it is above 0; None if there are too few seeds."""
    if found is None or found.count < FEWEST_SEEDS:
        return None
    if found.mean - found.half > 0:
        return "held"
    return "contradicted" if found.mean + found.half < 0 else "not shown"
