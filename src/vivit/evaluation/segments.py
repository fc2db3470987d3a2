"""Scores of segments: detection (mAP at temporal IoU), and segmentation (frame accuracy, edit score, F1).

A segment is (start, end, label) in seconds. Time that no segment covers is background. All scores are from 0 to 1.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

IOUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
OVERLAPS = (0.1, 0.25, 0.5)


class Stretch(NamedTuple):
    start: float
    end: float
    label: str
    score: float = 1.0
    """The model's confidence."""


Stretches = Mapping[str, Sequence[Stretch]]
"""Video → its segments. A video without an entry could not be read, and nothing of it is correct."""


def iou(one: Stretch, other: Stretch) -> float:
    """Intersection over union of their times."""
    both = min(one.end, other.end) - max(one.start, other.start)
    return max(0.0, both) / (max(one.end, other.end) - min(one.start, other.start))


def average_precision(truth: Stretches, found: Stretches, label: str, least: float) -> float:
    """The average precision of one class, as ActivityNet's evaluation computes it.

    In order of falling score, the answers of all videos each take the free true segment of their video with the highest
    IoU; they are correct if this IoU is at least `least`. The precision at a recall is the highest at this recall or a
    higher one.

    Args:
        truth: must have a segment of this class.
    """
    true = {video: [s for s in segments if s.label == label] for video, segments in truth.items()}
    answers = [(video, s) for video, segments in found.items() for s in segments if s.label == label]
    answers.sort(key=lambda answer: -answer[1].score)
    taken: dict[str, set[int]] = {}
    right = np.zeros(len(answers))
    for number, (video, answer) in enumerate(answers):
        overlaps = [(iou(answer, one), place) for place, one in enumerate(true.get(video, ()))]
        free = [pair for pair in overlaps if pair[0] >= least and pair[1] not in taken.get(video, ())]
        if free:
            taken.setdefault(video, set()).add(max(free, key=lambda pair: pair[0])[1])
            right[number] = 1
    hits = right.cumsum()
    precision = np.maximum.accumulate((hits / np.arange(1, len(answers) + 1))[::-1])[::-1]
    # Recall grows by the same amount at each hit.
    return float((precision * right).sum() / sum(map(len, true.values())))


def mean_average_precision(truth: Stretches, found: Stretches, least: float) -> float:
    """The mean over the classes that have a true segment."""
    labels = sorted({s.label for segments in truth.values() for s in segments})
    return float(np.mean([average_precision(truth, found, label, least) for label in labels]))


def time_accuracy(truth: Stretches, found: Stretches, durations: Mapping[str, float]) -> float:
    """The fraction of time with the correct label, including background: frame accuracy in continuous time.

    Segments of one video must not overlap.
    """
    right = 0.0
    for video, duration in durations.items():
        if video not in found:
            continue
        edges = {0.0, duration}
        for s in (*truth[video], *found[video]):
            edges |= {min(max(s.start, 0.0), duration), min(max(s.end, 0.0), duration)}
        ordered = sorted(edges)
        for start, end in pairwise(ordered):
            middle = (start + end) / 2
            if _label_at(truth[video], middle) == _label_at(found[video], middle):
                right += end - start
    return right / sum(durations.values())


def _label_at(segments: Sequence[Stretch], time: float) -> str | None:
    return next((s.label for s in segments if s.start <= time < s.end), None)


def edit_score(truth: Stretches, found: Stretches) -> float:
    """Whether the labels come in the right order, regardless of times (Lea et al. 2017, arXiv 1611.05267).

    1 − the edit distance of the two sequences of labels ÷ the length of the longer one; the mean over videos.
    """
    scores = []
    for video, segments in truth.items():
        if video not in found:
            scores.append(0.0)
            continue
        one, other = ([s.label for s in sorted(of_video)] for of_video in (segments, found[video]))
        longest = max(len(one), len(other))
        scores.append(1 - _edit_distance(one, other) / longest if longest else 1.0)
    return float(np.mean(scores))


def _edit_distance(one: Sequence[str], other: Sequence[str]) -> int:
    """The fewest insertions, deletions and substitutions that turn one sequence into the other."""
    row = list(range(len(other) + 1))
    for number, label in enumerate(one, start=1):
        before, row[0] = row[0], number
        for place, other_label in enumerate(other, start=1):
            changed = before + (label != other_label)
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, changed)
    return row[-1]


def f1(truth: Stretches, found: Stretches, least: float) -> float:
    """F1 of segments (Lea et al. 2017): one is correct if its IoU with a true one of its label is at least `least`.

    A true segment counts once; a second match to it is wrong.
    """
    right, answers = 0, 0
    for video, segments in truth.items():
        taken = set()
        for answer in sorted(found.get(video, ())):
            answers += 1
            overlaps = [(iou(answer, one), place) for place, one in enumerate(segments) if one.label == answer.label]
            best, place = max(overlaps, default=(0.0, -1), key=lambda pair: pair[0])
            if best >= least and place not in taken:
                taken.add(place)
                right += 1
    return 2 * right / max(1, answers + sum(map(len, truth.values())))


def segment_scores(
    truth: Stretches, found: Stretches, durations: Mapping[str, float], overlapping: bool
) -> dict[str, float]:
    """All scores by name.

    Args:
        truth, found, durations: for the same videos; durations in seconds.
        overlapping: whether several labels may apply at once; then only detection is scored.
    """
    scores = {f"mAP@{least:g}": mean_average_precision(truth, found, least) for least in IOUS}
    scores["mAP"] = float(np.mean(list(scores.values())))
    if not overlapping:
        scores["frame_accuracy"] = time_accuracy(truth, found, durations)
        scores["edit"] = edit_score(truth, found)
        scores |= {f"F1@{round(100 * least)}": f1(truth, found, least) for least in OVERLAPS}
    return scores
