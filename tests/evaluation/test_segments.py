"""Against values worked out by hand, and against slow versions of the published definitions."""

import itertools

import numpy as np
import pytest

from vivit.evaluation.segments import (
    Stretch,
    Stretches,
    average_precision,
    edit_score,
    f1,
    iou,
    mean_average_precision,
    segment_scores,
    time_accuracy,
)


def drawn(seed: int) -> tuple[Stretches, Stretches]:
    """The true segments of four videos of ten seconds, and answers that are often near them; on a grid of 0.1 s."""
    rng = np.random.default_rng(seed)
    truth, found = {}, {}
    for video in "pqrs":
        edges = np.sort(rng.choice(np.arange(1, 100), 6, replace=False)) / 10
        pairs = list(zip(edges[::2], edges[1::2], strict=True))
        truth[video] = [Stretch(start, end, str(rng.choice(["a", "b"]))) for start, end in pairs]
        moved = np.sort(np.clip(edges + np.round(rng.normal(0, 0.6, 6), 1), 0, 10))
        found[video] = [
            Stretch(start, end, one.label if rng.random() < 0.8 else "b", float(rng.random()))
            for (start, end), one in zip(zip(moved[::2], moved[1::2], strict=True), truth[video], strict=True)
            if end > start
        ]
    return truth, found


def test_iou_by_hand() -> None:
    assert iou(Stretch(0, 4, "a"), Stretch(2, 8, "b")) == 2 / 8
    assert iou(Stretch(0, 1, "a"), Stretch(1, 2, "a")) == 0
    assert iou(Stretch(1, 3, "a"), Stretch(1, 3, "a")) == 1


def test_average_precision_by_hand() -> None:
    truth = {"v": [Stretch(0, 10, "a"), Stretch(20, 30, "a")], "w": [Stretch(0, 10, "a")]}
    found = {
        "v": [
            Stretch(0, 10, "a", 0.9),  # right
            Stretch(1, 10, "a", 0.8),  # taken already
            Stretch(20, 26, "a", 0.7),  # right up to an IoU of 0.6
            Stretch(20, 30, "b", 0.99),  # another class
        ],
        "w": [],
    }
    # Precisions 1, 1/2, 2/3 at recalls 1/3, 1/3, 2/3; the third true segment is never found.
    assert average_precision(truth, found, "a", 0.5) == pytest.approx((1 + 2 / 3) / 3)
    assert average_precision(truth, found, "a", 0.7) == pytest.approx(1 / 3)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("least", [0.1, 0.5, 0.7])
def test_average_precision_is_the_area_below_the_envelope(seed: int, least: float) -> None:
    truth, found = drawn(seed)
    for label in "ab":
        total = sum(s.label == label for segments in truth.values() for s in segments)
        if not total:
            continue
        points = []
        scores = sorted({s.score for segments in found.values() for s in segments if s.label == label}, reverse=True)
        for score in scores:  # count the hits of the answers so far from nothing
            hits, answers, taken = 0, 0, set()
            surest = [(s, video) for video, of_video in found.items() for s in of_video if s.label == label]
            for s, video in sorted((one for one in surest if one[0].score >= score), key=lambda one: -one[0].score):
                answers += 1
                free = [one for one in truth[video] if one.label == label and (video, one) not in taken]
                best = max(free, key=lambda one: iou(s, one), default=None)
                if best is not None and iou(s, best) >= least:
                    taken.add((video, best))
                    hits += 1
            points.append((hits / total, hits / answers))
        recalls = [0.0, *(recall for recall, _ in points)]
        area = sum(
            (after - before) * max(precision for recall, precision in points if recall >= after)
            for before, after in itertools.pairwise(recalls)
        )
        assert average_precision(truth, found, label, least) == pytest.approx(area)


@pytest.mark.parametrize("seed", range(5))
def test_time_accuracy_is_frame_accuracy_on_a_fine_grid(seed: int) -> None:
    truth, found = drawn(seed)
    right = total = 0
    for video in truth:
        for frame in range(100):  # all edges are multiples of 0.1 s
            labels = [
                [s.label for s in of_video if s.start <= frame / 10 + 0.05 < s.end]
                for of_video in (truth[video], found[video])
            ]
            right += labels[0] == labels[1]
            total += 1
    assert time_accuracy(truth, found, dict.fromkeys(truth, 10.0)) == pytest.approx(right / total)


def test_edit_score_by_hand() -> None:
    def in_order(letters: str) -> list[Stretch]:
        return [Stretch(place, place + 1, letter) for place, letter in enumerate(letters)]

    for one, other, distance in (("abc", "abc", 0), ("abc", "ac", 1), ("kitten", "sitting", 3), ("", "ab", 2)):
        longest = max(len(one), len(other))
        assert edit_score({"v": in_order(one)}, {"v": in_order(other)}) == pytest.approx(1 - distance / longest)
    both = {"v": in_order("ab"), "w": in_order("ab")}
    assert edit_score(both, {"v": in_order("ab"), "w": in_order("ba")}) == pytest.approx((1 + 0) / 2)


def test_f1_by_hand() -> None:
    truth = {"v": [Stretch(0, 10, "a"), Stretch(10, 20, "b"), Stretch(20, 30, "a")]}
    # Right; right up to 0.3; a second answer to the same one; the wrong label.
    found = {"v": [Stretch(0, 9, "a"), Stretch(10, 13, "b"), Stretch(14, 17, "b"), Stretch(20, 30, "b")]}
    assert f1(truth, found, 0.25) == pytest.approx(2 * 2 / (4 + 3))
    assert f1(truth, found, 0.5) == pytest.approx(2 * 1 / (4 + 3))
    assert f1(truth, {"v": []}, 0.5) == 0


def test_the_truth_itself_is_perfect_and_nothing_is_not() -> None:
    truth, _ = drawn(0)
    durations = dict.fromkeys(truth, 10.0)
    assert set(segment_scores(truth, truth, durations, False).values()) == {1.0}
    nothing: Stretches = {video: [] for video in truth}
    scores = segment_scores(truth, nothing, durations, False)
    assert {name: value for name, value in scores.items() if name != "frame_accuracy"} == dict.fromkeys(
        [name for name in scores if name != "frame_accuracy"], 0.0
    )
    assert 0 < scores["frame_accuracy"] < 1  # the background
    assert set(segment_scores(truth, truth, durations, True)) == {*(f"mAP@0.{n}" for n in range(1, 8)), "mAP"}


def test_nothing_of_an_unreadable_video_is_correct() -> None:
    truth = {"v": [Stretch(2, 4, "a")], "unreadable": [Stretch(2, 4, "a")], "background": []}
    found = {"v": [Stretch(2, 4, "a")]}
    scores = segment_scores(truth, found, {"v": 4.0, "unreadable": 4.0, "background": 8.0}, False)
    expected = {"frame_accuracy": 1 / 4, "edit": 1 / 3, "F1@50": 2 / 3, "mAP@0.5": 1 / 2}
    assert {name: scores[name] for name in expected} == pytest.approx(expected)


def test_a_class_without_truth_does_not_count() -> None:
    truth = {"v": [Stretch(0, 1, "a")]}
    assert mean_average_precision(truth, {"v": [Stretch(0, 1, "a"), Stretch(0, 1, "c")]}, 0.5) == 1
