"""Scores against plain loops over ranked lists."""

from itertools import product
from math import exp

import pytest
import torch
from torch import Tensor

from vivit.evaluation.metrics import average_precision, joint_top_k_hits, top_k_hits


def ranked(scores: list[float]) -> list[int]:
    """Numbers of the classes, the best first; `sorted` leaves equal ones in their order."""
    return sorted(range(len(scores)), key=lambda number: -scores[number])


def softmax(logits: list[float]) -> list[float]:
    total = sum(exp(value) for value in logits)
    return [exp(value) / total for value in logits]


@pytest.mark.parametrize("k", [1, 2, 5, 9, 20])
def test_top_k_is_the_head_of_the_ranked_list(k: int) -> None:
    torch.manual_seed(0)
    # Whole numbers, of which many are equal.
    logits = torch.randint(-3, 4, (50, 9)).float()
    labels = torch.randint(9, (50,))
    expected = [label in ranked(row)[:k] for row, label in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert top_k_hits(logits, labels, k).tolist() == expected
    assert any(expected)
    assert top_k_hits(logits, logits.argmax(dim=1), 1).all()


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
        # What is true stands at one place of the list after the other.
        place = video % min(2 * k, len(scored))
        truths.append(sorted(scored, reverse=True)[place][1])
        expected.append(place < k)
    labels = list(torch.tensor(truths).T)
    assert joint_top_k_hits(logits, labels, k).tolist() == expected


def test_a_joint_hit_may_come_from_a_second_choice_and_miss_despite_good_ranks() -> None:
    """Worked by hand: verbs 0.9, 0.1 and nouns 0.5, 0.3, 0.2 give 45, 27, 18, 5, 3 and 2 %."""
    verb, noun = Tensor([[0.9, 0.1]]).log(), Tensor([[0.5, 0.3, 0.2]]).log()
    order = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    for place, (v, n) in enumerate(order):
        for k in range(1, 7):
            hit = joint_top_k_hits([verb, noun], [torch.tensor([v]), torch.tensor([n])], k)
            assert hit.tolist() == [place < k]


def test_video_that_could_not_be_read_is_never_right() -> None:
    unread, read = torch.full((1, 3), torch.nan), Tensor([[3.0, 2.0, 1.0]])
    logits, labels = torch.cat([unread, read]), torch.tensor([0, 0])
    assert top_k_hits(logits, labels, 5).tolist() == [False, True]
    assert joint_top_k_hits([logits, logits], [labels, labels], 5).tolist() == [False, True]


def steps_under_the_curve(scores: list[float], relevant: list[bool]) -> float:
    """Precision times the gain in recall at each distinct threshold, going down."""
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


def test_unreadable_videos_are_below_everything_in_a_ranking() -> None:
    """Of four videos that have the class two are unreadable: they enter last, when 4 of 6 are relevant."""
    nan = float("nan")
    relevant = torch.tensor([True, True, False, True, True, False])
    found = average_precision(Tensor([nan, 2.0, 1.0, nan, -1e30, nan]), relevant)
    assert found == pytest.approx((1 / 1 + 2 / 3 + 4 / 6 + 4 / 6) / 4)


def test_class_that_no_video_has_gives_no_average_precision() -> None:
    assert average_precision(Tensor([1.0, 2.0]), torch.tensor([False, False])) is None
