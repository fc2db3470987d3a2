"""A model's answer to each video, as a table."""

from pathlib import Path
from typing import Any

from torch import Tensor

from vivit.data.datasets import VideoSet
from vivit.evaluation.evaluate import Evaluation
from vivit.evaluation.metrics import label_ranks
from vivit.labels import LabelSpace
from vivit.tables import write_table

# With multi_label: how many labels to list with their probabilities, predicted or not.
TOP_LABELS = 5
NO_NUMBERS = "the model's answer is not a number (NaN)"


def per_video_rows(evaluation: Evaluation, videos: VideoSet) -> list[dict[str, Any]]:
    """A row for each video, in the given order.

    Every row has `video`, `start` and `end` (seconds; None for a whole video), and `error` (why there is no answer, or
    ""). Each head adds columns, prefixed by "verb_" for the head "verb" if there are several:
    - `label`, `predicted`, `probability` (of the predicted class), `label_probability` and `label_rank` (1 for the most
      probable class);
    - if multi_label: `labels`, `predicted` (those with a probability above 0.5), `top_labels` (the five most probable)
      and `top_probabilities`, each joined by ";".
    Without an answer, the model's columns are "" or None.
    """
    read = evaluation.readable.tolist()
    rows: list[dict[str, Any]] = []
    for index, video in enumerate(videos.videos):
        start, end = video.span or (None, None)
        error = evaluation.failures.get(index, "" if read[index] else NO_NUMBERS)
        rows.append({"video": str(video.source), "start": start, "end": end, "error": error})
    space = evaluation.space
    answer = _many_labels if space.multi_label else _one_label
    for head in space.heads:
        columns = answer(space, head, evaluation.logits[head].double(), evaluation.truth[head], read)
        for row, of_video in zip(rows, columns, strict=True):
            row.update({space.column(head, column): value for column, value in of_video.items()})
    return rows


def write_per_video(evaluation: Evaluation, videos: VideoSet, path: Path) -> None:
    """Write `per_video_rows` with `write_table`. Raises UserError."""
    rows = per_video_rows(evaluation, videos)
    write_table(path, rows, {column: _type(column) for column in rows[0]})


def _one_label(space: LabelSpace, head: str, logits: Tensor, truth: Tensor, read: list[bool]) -> list[dict[str, Any]]:
    names, probabilities = space.classes[head], space.probabilities(logits)
    predicted, ranks = logits.argmax(dim=1).tolist(), label_ranks(logits, truth).tolist()
    columns = []
    for row, label in enumerate(truth.tolist()):
        answer: dict[str, Any] = {"predicted": "", "probability": None, "label_probability": None, "label_rank": None}
        if read[row]:
            answer = {
                "predicted": names[predicted[row]],
                "probability": probabilities[row, predicted[row]].item(),
                "label_probability": probabilities[row, label].item(),
                "label_rank": ranks[row],
            }
        columns.append({"label": names[label], **answer})
    return columns


def _many_labels(space: LabelSpace, head: str, logits: Tensor, truth: Tensor, read: list[bool]) -> list[dict[str, Any]]:
    columns = []
    for row, applies in enumerate(truth.tolist()):
        ranked = space.ranked(head, logits[row]) if read[row] else []
        columns.append(
            {
                "labels": ";".join(name for name, it in zip(space.classes[head], applies, strict=True) if it),
                "predicted": ";".join(name for name, probability in ranked if probability > 0.5),
                "top_labels": ";".join(name for name, _ in ranked[:TOP_LABELS]),
                "top_probabilities": ";".join(f"{probability:.6g}" for _, probability in ranked[:TOP_LABELS]),
            }
        )
    return columns


def _type(column: str) -> type:
    if column.endswith("rank"):
        return int
    return float if column in ("start", "end") or column.endswith("probability") else str
