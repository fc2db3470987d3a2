"""Which pictures an evaluation writes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.evaluation.evaluate import Evaluation, evaluation_of
from vivit.evaluation.pictures import draw_confusions, draw_reliabilities
from vivit.labels import LabelSpace


def evaluation_with(rows: list[list[float]], labels: list[int], heads: tuple[str, ...] = ("classes",)) -> Evaluation:
    videos = VideoSet(
        tuple(LabelledVideo(Path("x.mp4"), dict.fromkeys(heads, ("ab"[label],))) for label in labels),
        LabelSpace(dict.fromkeys(heads, ("a", "b"))),
        "",
    )
    return evaluation_of(videos, dict.fromkeys(heads, torch.tensor(rows)), {})


def test_pictures_are_named_after_their_heads(tmp_path: Path) -> None:
    found = evaluation_with([[1.0, 0.0]], [0], heads=("verb", "noun"))
    names = [path.name for path in draw_confusions(found, tmp_path) + draw_reliabilities(found, tmp_path)]
    assert names == ["confusion_verb.png", "confusion_noun.png", "reliability_verb.png", "reliability_noun.png"]
    nan = float("nan")
    assert draw_reliabilities(evaluation_with([[nan, nan]], [0]), tmp_path / "nowhere") == []


@pytest.mark.parametrize("draw", [draw_confusions, draw_reliabilities])
def test_other_answers_give_other_pictures(draw: Callable[[Evaluation, Path], list[Path]], tmp_path: Path) -> None:
    pictures = []
    for logits in ([[2.0, 0.0], [2.0, 0.0]], [[2.0, 0.0], [0.0, 2.0]]):
        (path,) = draw(evaluation_with(logits, [0, 1]), tmp_path)
        pictures.append(np.asarray(Image.open(path)))
    assert path.name in ("confusion.png", "reliability.png")
    assert not np.array_equal(pictures[0], pictures[1])
