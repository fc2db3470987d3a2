"""What a model said of each video, as a table in CSV or Parquet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vivit.data.datasets import VideoSet
from vivit.evaluation.evaluate import Evaluation
from vivit.evaluation.metrics import label_ranks
from vivit.tables import write_table

# Of many labels: those named, with their probabilities, whether or not they are predicted.
TOP_LABELS = 5
NO_NUMBERS = "the model's answer is not a number (NaN)"


def per_video_rows(evaluation: Evaluation, videos: VideoSet) -> list[dict[str, Any]]:
    """A row for each video, in their order.

    Of every row: `video`, `start` and `end` (seconds; None for a whole video), `error` (why there is no answer, else
    ""). Then of each head, with "verb_" before them for the head "verb" where there are several: `label`, `predicted`,
    `probability` (of what is predicted), `label_probability` and `label_rank` (1 for the most probable class). Where a
    video has many labels: `labels`, `predicted` (those more probable than not), `top_labels` (the five most probable
    ones) and their `top_probabilities`, each joined by ";". Without an answer the model's columns are "" or None.
    """
    read = evaluation.read.tolist()
    rows: list[dict[str, Any]] = []
    for index, video in enumerate(videos.videos):
        start, end = video.span or (None, None)
        error = evaluation.failures.get(index, "" if read[index] else NO_NUMBERS)
        rows.append({"video": str(video.source), "start": start, "end": end, "error": error})
    of_head = _many_labels if evaluation.multi_label else _one_label
    for head, names in evaluation.classes.items():
        prefix = "" if len(evaluation.classes) == 1 else f"{head}_"
        columns = of_head(evaluation.logits[head].double(), evaluation.labels[head], names, read)
        for row, of_video in zip(rows, columns, strict=True):
            row.update({prefix + column: value for column, value in of_video.items()})
    return rows


def write_per_video(evaluation: Evaluation, videos: VideoSet, path: Path) -> None:
    """Write `per_video_rows` to a .csv or .parquet file.

    In CSV, text that a spreadsheet would run as a formula has a ' before it: names of files and classes come from
    whoever made the data. Parquet has it as it is.

    Raises:
        UserError: another kind of file, pyarrow is missing, or the file cannot be written.
    """
    rows = per_video_rows(evaluation, videos)
    write_table(path, rows, {column: _type(column) for column in rows[0]})


def _one_label(logits: Tensor, labels: Tensor, names: Sequence[str], read: Sequence[bool]) -> list[dict[str, Any]]:
    probabilities = logits.softmax(dim=1)
    predicted, ranks = logits.argmax(dim=1).tolist(), label_ranks(logits, labels).tolist()
    columns = []
    for row, label in enumerate(labels.tolist()):
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


def _many_labels(logits: Tensor, labels: Tensor, names: Sequence[str], read: Sequence[bool]) -> list[dict[str, Any]]:
    probabilities, order = logits.sigmoid().sort(dim=1, descending=True, stable=True)
    columns = []
    for row, has in enumerate(labels.tolist()):
        ranked = [(names[k], p) for k, p in zip(order[row].tolist(), probabilities[row].tolist(), strict=True)]
        answered = ranked if read[row] else []
        columns.append(
            {
                "labels": ";".join(name for name, applies in zip(names, has, strict=True) if applies),
                "predicted": ";".join(name for name, probability in answered if probability > 0.5),
                "top_labels": ";".join(name for name, _ in answered[:TOP_LABELS]),
                "top_probabilities": ";".join(f"{probability:.6g}" for _, probability in answered[:TOP_LABELS]),
            }
        )
    return columns


def _type(column: str) -> type:
    if column.endswith("rank"):
        return int
    return float if column in ("start", "end") or column.endswith("probability") else str
