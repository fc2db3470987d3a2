"""Intervals against scipy's, and verdicts on made-up results."""

import math

import numpy as np
import pytest
from scipy import stats

from vivit.experiments.paper.statistics import Interval, difference, verdict


@pytest.mark.parametrize("count", range(2, 11))
def test_the_interval_is_scipys(count: int) -> None:
    values = np.random.default_rng(count).normal(50, 3, count)
    found = Interval.of(values.tolist())
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high), abs=1e-5)


def test_a_single_value_has_no_interval() -> None:
    found = Interval.of([0.25])
    assert found.mean == 0.25 and math.isnan(found.half)


def test_the_difference_takes_the_shared_seeds_only() -> None:
    found = difference({0: 0.9, 1: 0.8, 7: 0.0}, {0: 0.7, 1: 0.7, 9: 1.0})
    assert found is not None and found.count == 2 and found.mean == pytest.approx(0.15)
    assert difference({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    ("better", "expected"),
    [
        ([0.62, 0.61, 0.63], "held"),  # always about 10 points ahead
        ([0.42, 0.41, 0.43], "contradicted"),
        ([0.62, 0.41, 0.53], "not shown"),  # as often ahead as behind
        ([0.80, 0.53, 0.53], "not shown"),  # ahead, but by one seed only
        ([0.52, 0.51, 0.53], "not shown"),  # equal
        ([0.62, 0.61], None),  # too few
    ],
)
def test_a_verdict_follows_from_the_interval(better: list[float], expected: str | None) -> None:
    worse = {0: 0.52, 1: 0.51, 2: 0.53}
    assert verdict(difference(dict(enumerate(better)), worse)) == expected


def test_pairs_by_seed_say_more_than_means() -> None:
    """Seeds that are hard for both models do not hide that one is always ahead."""
    worse = {0: 0.30, 1: 0.50, 2: 0.70}
    better = {seed: value + 0.02 + 0.001 * seed for seed, value in worse.items()}
    assert verdict(difference(better, worse)) == "held"
