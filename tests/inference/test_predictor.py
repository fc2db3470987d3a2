"""From videos to labels."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import vivit
from tests.support import encode, noisy, tiny_model
from vivit.inference.predictor import Predictor
from vivit.video.source import VideoError

CLASSES: dict[str, Sequence[str]] = {"classes": ["a", "b", "c", "d", "e"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of five classes and three videos, the second of which is damaged."""
    vivit.save(tiny_model(classes=CLASSES), tmp_path / "model")
    for number, brightness in enumerate((40, 120, 200)):
        encode(tmp_path / f"{number}.mp4", noisy(brightness))
    (tmp_path / "1.mp4").write_bytes(b"no video")
    return tmp_path


def test_an_answer_that_is_not_finite_is_an_error_of_the_video(folder: Path) -> None:
    predictor = Predictor(folder / "model", "cpu")
    predictor.predict(folder / "0.mp4")
    with torch.no_grad():
        for parameter in predictor.model.heads.parameters():
            parameter.fill_(3e38)
    with pytest.raises(VideoError, match=r"0\.mp4: .*not finite"):
        predictor.predict(folder / "0.mp4")
