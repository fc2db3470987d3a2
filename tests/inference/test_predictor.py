"""From videos to labels."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
import torch

import vivit
from tests.inference.conftest import Handler
from tests.support import encode, noisy, tiny_model
from vivit.inference.fetch import Fetching, Url
from vivit.inference.predictor import Prediction, Predictor
from vivit.video.decode import ReadOptions
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
    assert isinstance(predictor.model, vivit.ViViT)
    predictor.predict(folder / "0.mp4")
    with torch.no_grad():
        for parameter in predictor.model.heads.parameters():
            parameter.fill_(3e38)
    with pytest.raises(VideoError, match=r"0\.mp4: .*not finite"):
        predictor.predict(folder / "0.mp4")


def scores(answer: Prediction | VideoError) -> dict[str, float]:
    assert isinstance(answer, Prediction), answer
    return {scored.label: scored.score for scored in answer.labels}


def test_many_videos_get_the_answers_that_each_gets_alone(folder: Path) -> None:
    """Several views of several videos go through the model together; errors keep their places."""
    predictor = Predictor(folder / "model", "cpu", ReadOptions(workers=1))
    alone = Predictor(folder / "model", "cpu")
    error = VideoError("elsewhere", "is not here")
    names = ["0.mp4", "1.mp4", "2.mp4", "missing.mp4", *(["2.mp4", "0.mp4"] * 10)]
    videos: list[Path | VideoError] = [error, *(folder / name for name in names)]
    answers = list(predictor.predict_all(videos, "2x3"))
    assert len(answers) == len(videos)
    assert answers[0] is error
    for video, answer in zip(videos[1:], answers[1:], strict=True):
        if isinstance(answer, VideoError):
            assert str(answer).startswith(f"{video}: ")
        else:
            assert answer.video == video
            assert scores(answer) == pytest.approx(scores(alone.predict(str(video), "2x3")), abs=1e-5)
    assert [number for number, answer in enumerate(answers) if isinstance(answer, VideoError)] == [0, 2, 4]


def test_videos_are_read_only_a_little_ahead(folder: Path) -> None:
    taken: list[int] = []

    def endless() -> Iterator[Path]:
        while True:
            taken.append(0)
            yield folder / f"{len(taken) % 3}.mp4"

    for options in (ReadOptions(), ReadOptions(workers=2)):
        answers = Predictor(folder / "model", "cpu", options).predict_all(endless(), "4x3")
        taken.clear()
        for _ in range(6):
            next(answers)
        answers.close()
        assert len(taken) <= 6 + 4 + 2 * options.workers


def test_a_process_that_is_killed_costs_its_video_only(folder: Path, server: str, handler: type[Handler]) -> None:
    """The second of four is being fetched when its process is killed; the third takes too long."""

    def kill() -> None:
        while not any(path == "/drips" for path, _ in handler.seen):
            time.sleep(0.01)
        for child in psutil.Process().children():
            if any("vivit.video.isolated" in word for word in child.cmdline()):
                child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    videos = [Url(f"{server}/good"), Url(f"{server}/drips"), Url(f"{server}/drips?2"), Url(f"{server}/zipped")]
    fetching = Fetching(private_hosts=True, timeout=3.0)
    good, killed, late, last = Predictor(folder / "model", "cpu").predict_all(videos, fetching=fetching)
    killer.join()
    assert str(killed).startswith(f"{server}/drips: ") and "signal 9" in str(killed)
    assert f"{server}/drips?…" in str(late) and str(late).endswith("took longer than 3 s to read")
    encoded = folder / "sent.mp4"
    encoded.write_bytes(handler.video)
    assert scores(good) == scores(last) == scores(Predictor(folder / "model", "cpu").predict(encoded))
