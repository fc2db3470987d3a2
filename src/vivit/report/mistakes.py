"""What a model got wrong, out of val_predictions.csv: classes, pairs that are taken for each other, single videos."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vivit.errors import UserError
from vivit.tables import unescaped


@dataclass(frozen=True)
class Answer:
    """What was said of one video, for one head."""

    labels: tuple[str, ...]
    predicted: tuple[str, ...]
    probability: float | None = None
    """Of the predicted class; None where a video has many labels, or could not be read."""
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
    """Why it could not be read, or ""."""
    answers: dict[str, Answer]
    """By head; the one head of a set without named heads is "classes"."""

    @property
    def confidence(self) -> float:
        """How probable the answer was, of all heads together."""
        product = 1.0
        for answer in self.answers.values():
            product *= answer.probability or 0.0
        return product


@dataclass(frozen=True)
class Predictions:
    """val_predictions.csv."""

    videos: tuple[ScoredVideo, ...] = ()
    heads: tuple[str, ...] = ()
    multi_label: bool = False

    @property
    def unreadable(self) -> list[ScoredVideo]:
        return [video for video in self.videos if video.error]

    def worst(self, most: int) -> list[ScoredVideo]:
        """The wrong answers that were given with the greatest confidence; of many labels, those most often wrong."""
        wrong = [
            video
            for video in self.videos
            if not (video.error or all(answer.right for answer in video.answers.values()))
        ]
        return sorted(wrong, key=self._badness, reverse=True)[:most]

    def _badness(self, video: ScoredVideo) -> float:
        if self.multi_label:
            return sum(len(set(answer.labels) ^ set(answer.predicted)) for answer in video.answers.values())
        return video.confidence


@dataclass(frozen=True)
class ClassScore:
    """How well the videos of a class are found. Unreadable ones count as not found."""

    name: str
    videos: int
    found: int
    """How many of them are named rightly."""
    named: int
    """How many videos, of this class or another, the model gives this name."""
    taken_for: tuple[str, int] | None = None
    """What its videos are wrongly named most often, and how many of them."""

    @property
    def score(self) -> float:
        """The share that is found; NaN without videos."""
        return self.found / self.videos if self.videos else float("nan")

    @property
    def precision(self) -> float:
        return self.found / self.named if self.named else float("nan")


def read_predictions(file: Path) -> Predictions:
    """What `vivit.evaluation.per_video` wrote; nothing where there is no file. Raises UserError where it is damaged."""
    try:
        rows = list(csv.DictReader(io.StringIO(file.read_bytes().decode("utf-8", "surrogateescape"), newline="")))
    except FileNotFoundError:
        return Predictions()
    except (OSError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read ({error}); delete it, and the report is written without it") from None
    if not rows:
        return Predictions()
    prefixes = [column.removesuffix("predicted") for column in rows[0] if (column or "").endswith("predicted")]
    multi_label = any(f"{prefix}labels" in rows[0] for prefix in prefixes)
    # "verb_" stands before the columns of the head "verb".
    heads = {prefix[:-1] or "classes": prefix for prefix in prefixes}
    try:
        videos = tuple(
            ScoredVideo(
                unescaped(row["video"]),
                (float(row["start"]), float(row["end"])) if row["start"] and row["end"] else None,
                unescaped(row["error"]).removeprefix(f"{unescaped(row['video'])}: "),
                {head: _answer(row, prefix, multi_label) for head, prefix in heads.items()},
            )
            for row in rows
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: damaged ({error!r}); delete it, and the report is written without it") from None
    return Predictions(videos, tuple(heads), multi_label)


def confusions(predictions: Predictions, head: str) -> Counter[tuple[str, str]]:
    """(true, predicted) → how many videos. Unreadable ones are not in it."""
    answers = [video.answers[head] for video in predictions.videos if not video.error]
    return Counter((answer.labels[0], answer.predicted[0]) for answer in answers)


def class_scores(predictions: Predictions, head: str, names: Sequence[str]) -> list[ClassScore]:
    """Of each class, the worst first and those without a video last; of equally bad ones, the more frequent first."""
    videos: Counter[str] = Counter()
    found: Counter[str] = Counter()
    named: Counter[str] = Counter()
    taken_for: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for video in predictions.videos:
        answer = video.answers[head]
        videos.update(answer.labels)
        named.update(answer.predicted)
        found.update(set(answer.labels) & set(answer.predicted))
        if not (predictions.multi_label or video.error or answer.right):
            taken_for[answer.labels[0]][answer.predicted[0]] += 1
    scores = [
        ClassScore(name, videos[name], found[name], named[name], next(iter(taken_for[name].most_common(1)), None))
        for name in names
    ]
    return sorted(scores, key=lambda each: (each.videos == 0, each.score if each.videos else 0.0, -each.videos))


def _answer(row: dict[str, str], prefix: str, multi_label: bool) -> Answer:
    if multi_label:
        return Answer(_several(row[f"{prefix}labels"]), _several(row[f"{prefix}predicted"]))
    rank = row[f"{prefix}label_rank"]
    return Answer(
        (unescaped(row[f"{prefix}label"]),),
        (unescaped(row[f"{prefix}predicted"]),),
        _number(row[f"{prefix}probability"]),
        _number(row[f"{prefix}label_probability"]),
        int(rank) if rank else None,
    )


def _several(cell: str) -> tuple[str, ...]:
    return tuple(unescaped(cell).split(";")) if cell else ()


def _number(cell: str) -> float | None:
    return float(cell) if cell else None
