"""Scores against plain loops over ranked lists."""

from itertools import pairwise, product
from math import exp

import numpy as np
import pytest
import torch
from torch import Tensor

from vivit.evaluation.metrics import average_precision, calibration, joint_top_k_hits, label_ranks, top_k_hits


def ranked(scores: list[float]) -> list[int]:
    """Class numbers, the best first; `sorted` keeps equal ones in order."""
    return sorted(range(len(scores)), key=lambda number: -scores[number])


def softmax(logits: list[float]) -> list[float]:
    total = sum(exp(value) for value in logits)
    return [exp(value) / total for value in logits]


@pytest.mark.parametrize("k", [1, 2, 5, 9, 20])
def test_top_k_is_the_head_of_the_ranked_list(k: int) -> None:
    torch.manual_seed(0)
    # Whole numbers, so that many are equal.
    logits = torch.randint(-3, 4, (50, 9)).float()
    labels = torch.randint(9, (50,))
    expected = [label in ranked(row)[:k] for row, label in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert top_k_hits(logits, labels, k).tolist() == expected
    assert any(expected)
    assert top_k_hits(logits, logits.argmax(dim=1), 1).all()
    places = [ranked(row).index(label) + 1 for row, label in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert label_ranks(logits, labels).tolist() == places


@pytest.mark.parametrize("counts", [(6, 7), (3, 40), (2, 2), (4, 3, 5), (8,)])
@pytest.mark.parametrize("k", [1, 2, 5, 30])
def test_joint_top_k_is_the_head_of_the_list_of_all_combinations(counts: tuple[int, ...], k: int) -> None:
    torch.manual_seed(0)
    videos = 60
    logits = [3 * torch.randn(videos, count) for count in counts]
    truths, expected = [], []
    for video in range(videos):
        probabilities = [softmax(values[video].tolist()) for values in logits]
        scored = []
        for classes in product(*map(range, counts)):
            score = 1.0
            for of_head, number in zip(probabilities, classes, strict=True):
                score *= of_head[number]
            scored.append((score, classes))
        # The true combination takes every rank in turn.
        place = video % min(2 * k, len(scored))
        truths.append(sorted(scored, reverse=True)[place][1])
        expected.append(place < k)
    labels = list(torch.tensor(truths).T)
    assert joint_top_k_hits(logits, labels, k).tolist() == expected


def test_a_joint_hit_may_come_from_a_second_choice_and_miss_despite_good_ranks() -> None:
    """By hand: verbs with 0.9, 0.1 and nouns with 0.5, 0.3, 0.2 give 45, 27, 18, 5, 3 and 2 %."""
    verb, noun = Tensor([[0.9, 0.1]]).log(), Tensor([[0.5, 0.3, 0.2]]).log()
    order = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    for place, (v, n) in enumerate(order):
        for k in range(1, 7):
            hit = joint_top_k_hits([verb, noun], [torch.tensor([v]), torch.tensor([n])], k)
            assert hit.tolist() == [place < k]


def test_an_unreadable_video_is_never_right() -> None:
    unread, read = torch.full((1, 3), torch.nan), Tensor([[3.0, 2.0, 1.0]])
    logits, labels = torch.cat([unread, read]), torch.tensor([0, 0])
    assert top_k_hits(logits, labels, 5).tolist() == [False, True]
    assert joint_top_k_hits([logits, logits], [labels, labels], 5).tolist() == [False, True]


def steps_under_the_curve(scores: list[float], relevant: list[bool]) -> float:
    """Precision times the gain in recall at each distinct threshold, from the highest down."""
    area, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = [is_relevant for score, is_relevant in zip(scores, relevant, strict=True) if score >= threshold]
        precision, recall = sum(chosen) / len(chosen), sum(chosen) / sum(relevant)
        area += precision * (recall - recall_before)
        recall_before = recall
    return area


@pytest.mark.parametrize("levels", [3, 10, 1_000_000])
def test_average_precision_is_the_area_under_the_steps(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    for _ in range(20):
        scores = torch.randint(levels, (40,), generator=generator).float()
        relevant = torch.rand(40, generator=generator) < 0.3
        relevant[3] = True
        found = average_precision(scores, relevant)
        assert found == pytest.approx(steps_under_the_curve(scores.tolist(), relevant.tolist()))


def test_average_precision_down_a_ranked_list_by_hand() -> None:
    """Relevant at places 1, 3 and 6: the mean of 1/1, 2/3 and 3/6."""
    relevant = torch.tensor([True, False, True, False, False, True])
    scores = Tensor([6, 5, 4, 3, 2, 1])
    shuffled = torch.tensor([3, 5, 0, 4, 2, 1])
    expected = (1 + 2 / 3 + 3 / 6) / 3
    assert average_precision(scores[shuffled], relevant[shuffled]) == pytest.approx(expected)
    # The example in scikit-learn's documentation of `average_precision_score`.
    documented = average_precision(Tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True]))
    assert documented == pytest.approx(0.83, abs=0.005)


def test_unreadable_videos_rank_last() -> None:
    """Four videos have the class, and two of them are unreadable: they enter last, when 4 of 6 are relevant."""
    nan = float("nan")
    relevant = torch.tensor([True, True, False, True, True, False])
    found = average_precision(Tensor([nan, 2.0, 1.0, nan, -1e30, nan]), relevant)
    assert found == pytest.approx((1 / 1 + 2 / 3 + 4 / 6 + 4 / 6) / 4)


def test_a_class_without_videos_has_no_average_precision() -> None:
    assert average_precision(Tensor([1.0, 2.0]), torch.tensor([False, False])) is None


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """Bin by bin; a bin excludes its lower end."""
    error, ends = 0.0, np.linspace(0, 1, bins + 1)
    for low, high in pairwise(ends):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("seed", range(5))
def test_calibration_error_equals_a_loop_over_bins(bins: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Some values are the ends of bins.
    confidence = np.concatenate([rng.uniform(0.2, 1, 200), np.arange(1, bins + 1) / bins])
    right = rng.uniform(size=len(confidence)) < confidence**2
    found = calibration(torch.from_numpy(confidence), torch.from_numpy(right), bins)
    assert found is not None
    assert found.error == pytest.approx(expected_calibration_error(confidence, right, bins))
    counts, _ = np.histogram(-confidence, bins=-np.linspace(0, 1, bins + 1)[::-1])
    assert found.counts == tuple(counts[::-1])


def test_calibration_by_hand() -> None:
    """Four of five answers with confidence 0.9 are right, and one of two with 0.6: 0.1 · 5/7 + 0.1 · 2/7."""
    confidence = Tensor([0.9] * 5 + [0.6] * 2)
    found = calibration(confidence, torch.tensor([True] * 4 + [False, True, False]), bins=2)
    assert found is not None
    # With two bins, all seven are in the upper one: mean confidence 5.7 / 7, five right.
    assert found.error == pytest.approx(abs(5 - 5.7) / 7)
    assert (found.counts, found.confidence[0], found.accuracy[0]) == ((0, 7), None, None)
    assert (found.confidence[1], found.accuracy[1]) == (pytest.approx(5.7 / 7), pytest.approx(5 / 7))
    finer = calibration(confidence, torch.tensor([True] * 4 + [False, True, False]), bins=4)
    assert finer is not None
    assert finer.counts == (0, 0, 2, 5)
    assert finer.error == pytest.approx(0.1 * 5 / 7 + 0.1 * 2 / 7)


def test_certain_and_right_is_calibrated_and_nothing_has_no_calibration() -> None:
    sure = calibration(Tensor([1.0, 1.0]), torch.tensor([True, True]))
    assert sure is not None
    assert (sure.error, sure.counts) == (0.0, (0,) * 14 + (2,))
    assert calibration(Tensor([]), torch.tensor([], dtype=torch.bool)) is None
