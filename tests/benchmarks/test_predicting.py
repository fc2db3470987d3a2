"""The benchmark of predicting counts answers and the work of both ways."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import predicting
from benchmarks.predicting import Speed
from tests.support import tiny_model
from vivit.inference.predictor import Predictor
from vivit.weights.store import save


def test_answers_that_come_together_are_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(predicting, "_work", iter([1.0, 3.0]).__next__)
    monkeypatch.setattr(predicting, "time", SimpleNamespace(perf_counter=lambda: clock))

    def answers() -> Iterator[int]:
        nonlocal clock
        for number in range(8):
            clock += 0.2 * (number % 4 == 0)
            yield number

    # The rate is that of the four of the second batch.
    assert predicting.measured(answers(), 8) == Speed(0.2, 4 / 0.2, 2.0 / 4)


def test_the_tiny_form(video: Path, tmp_path: Path) -> None:
    save(tiny_model(classes={"classes": list("abcde")}), tmp_path / "model")
    videos = [Path(shutil.copy(video, tmp_path / f"{number}.mp4")) for number in range(8)]
    predictor = Predictor(tmp_path / "model", "cpu")
    for way in (predicting.one_by_one, predicting.ahead):
        speed = way(predictor, videos, "1x1")
        assert speed.rate > 0 and speed.work > 0
    assert 0 < predicting.model_shares(predictor, videos[0], "1x1") < 1
