"""A model's mistakes, from val_predictions.csv: classes, confusions, single videos."""

import csv
import io
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vivit.errors import UserError
from vivit.labels import LabelSpace
from vivit.tables import unescaped

# Columns of one head: with one label for each video, and with many.
ONE = ("label", "predicted", "probability", "label_probability", "label_rank")
MANY = ("labels", "predicted")


@dataclass(frozen=True)
class Answer:
    """A model's answer to one video, for one head."""

    labels: tuple[str, ...]
    predicted: tuple[str, ...]
    probability: float | None = None
    """Probability of the predicted class. None, like the two below, if multi_label or unreadable."""
    label_probability: float | None = None
    label_rank: int | None = None
    """1 for the most probable class."""

    @property
    def right(self) -> bool:
        return set(self.labels) == set(self.predicted)


@dataclass(frozen=True)
class ScoredVideo:
    video: str
    span: tuple[float, float] | None
    error: str
    """Why it could not be read; "" if it could."""
    answers: dict[str, Answer]
    """head → answer."""


@dataclass(frozen=True)
class ClassScore:
    """How many videos of a class are found; unreadable ones count as not found."""

    name: str
    videos: int
    found: int
    """Videos of this class that are predicted correctly."""
    predicted: int
    """Videos of any class that are predicted as this one."""
    taken_for: tuple[str, int] | None = None
    """The class that its videos are most often mistaken for, and how many of them."""

    @property
    def score(self) -> float:
        """The fraction that is found; NaN without videos."""
        return self.found / self.videos if self.videos else math.nan

    @property
    def precision(self) -> float:
        return self.found / self.predicted if self.predicted else math.nan


@dataclass(frozen=True)
class Predictions:
    """val_predictions.csv."""

    space: LabelSpace
    videos: tuple[ScoredVideo, ...]

    @property
    def unreadable(self) -> list[ScoredVideo]:
        return [video for video in self.videos if video.error]

    def worst(self, most: int) -> list[ScoredVideo]:
        """The most confident wrong answers; if multi_label, those with the most wrong labels."""

        def badness(video: ScoredVideo) -> float:
            answers = video.answers.values()
            if self.space.multi_label:
                return sum(len(set(answer.labels) ^ set(answer.predicted)) for answer in answers)
            return math.prod(answer.probability or 0.0 for answer in answers)

        wrong = (video for video in self.videos if not all(answer.right for answer in video.answers.values()))
        return sorted((video for video in wrong if not video.error), key=badness, reverse=True)[:most]

    def confusion(self, head: str) -> np.ndarray:
        """(K, K) counts of readable videos: rows are the true classes. Not for multi_label."""
        numbers = self.space.numbers[head]
        counts = np.zeros((len(numbers), len(numbers)), dtype=np.int64)
        for video in self.videos:
            if not video.error:
                answer = video.answers[head]
                counts[numbers[answer.labels[0]], numbers[answer.predicted[0]]] += 1
        return counts

    def class_scores(self, head: str) -> list[ClassScore]:
        """The worst classes first, frequent before rare ones; those without videos last."""
        videos: Counter[str] = Counter()
        found: Counter[str] = Counter()
        predicted: Counter[str] = Counter()
        taken_for: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for video in self.videos:
            answer = video.answers[head]
            videos.update(answer.labels)
            predicted.update(answer.predicted)
            found.update(set(answer.labels) & set(answer.predicted))
            if not (self.space.multi_label or video.error or answer.right):
                taken_for[answer.labels[0]][answer.predicted[0]] += 1
        scores = [
            ClassScore(name, videos[name], found[name], predicted[name], *taken_for[name].most_common(1))
            for name in self.space.classes[head]
        ]
        return sorted(scores, key=lambda each: (each.videos == 0, each.score if each.videos else 0.0, -each.videos))


def read_predictions(file: Path, space: LabelSpace) -> Predictions:
    """Read what `write_per_video` wrote; no videos if there is no file. Raises UserError if it is damaged."""
    try:
        rows = list(csv.DictReader(io.StringIO(file.read_bytes().decode("utf-8", "surrogateescape"), newline="")))
    except FileNotFoundError:
        return Predictions(space, ())
    except (OSError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read ({error}); delete it to get a report without it") from None
    columns = MANY if space.multi_label else ONE
    try:
        videos = tuple(
            ScoredVideo(
                unescaped(row["video"]),
                (float(row["start"]), float(row["end"])) if row["start"] and row["end"] else None,
                unescaped(row["error"]).removeprefix(f"{unescaped(row['video'])}: "),
                {head: _answer({name: row[space.column(head, name)] for name in columns}) for head in space.heads},
            )
            for row in rows
        )
        predictions = Predictions(space, videos)
        known = {head: set(names) for head, names in space.classes.items()}
        for video in videos:
            for head, answer in video.answers.items():
                said = answer.predicted if not video.error or space.multi_label else ()
                if unknown := {*answer.labels, *said} - known[head]:
                    raise ValueError(f"{unknown.pop()!r} is not a class of the model")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: damaged ({error!r}); delete it to get a report without it") from None
    return predictions


def _answer(cells: dict[str, str]) -> Answer:
    if "labels" in cells:
        labels, predicted = (tuple(unescaped(cell).split(";")) if cell else () for cell in cells.values())
        return Answer(labels, predicted)
    label, predicted = (unescaped(cells["label"]),), (unescaped(cells["predicted"]),)
    if not cells["label_rank"]:
        return Answer(label, predicted)
    return Answer(
        label, predicted, float(cells["probability"]), float(cells["label_probability"]), int(cells["label_rank"])
    )
