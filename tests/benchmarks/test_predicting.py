"""The benchmark of predicting counts answers and the work of both ways."""

import shutil
from collections.abc import Callable, Iterator
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
    for way in predicting.WAYS.values():
        speed = way(predictor, videos, "1x1")
        assert speed.rate > 0 and speed.work > 0
    assert 0 < predicting.model_shares(predictor, videos[0], "1x1") < 1


def test_a_row_compares_the_ways_of_the_same_round(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"one by one": [2.0, 1.0], "ahead": [4.0, 3.0], "reading alone": [5.0, 3.0]}

    def way(name: str) -> Callable[..., Speed]:
        left = iter(rates[name])
        return lambda *_: Speed(0.0, next(left), 1.0)

    ways = {name: way(name) for name in rates}
    monkeypatch.setattr(predicting, "WAYS", ways)
    monkeypatch.setattr(predicting, "generated", lambda size, folder: video)
    monkeypatch.setattr(predicting, "model_shares", lambda *_: 0.5)
    row = predicting.row_of("demo", videos=1, workers=0, rounds=2)
    assert row["ahead ÷ one by one"]["each"] == [2, 3] and row["ahead ÷ reading alone"]["each"] == [0.8, 1]
    assert row["work ahead ÷ reading alone"]["median"] == 1 and row["one by one"]["median"] == 1.5
    assert row["what"] == "8 frames of 48², 4 layers, 1x1 views"
