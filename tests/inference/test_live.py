"""Windows of a live video against those of its stretches, and labels that change."""

from collections.abc import Generator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import vivit
from tests.support import refused, tiny_model
from vivit.config import Preprocessing
from vivit.inference import live
from vivit.inference.live import LiveWindows, changes
from vivit.inference.predictor import Predictor
from vivit.inference.streaming import windows
from vivit.inference.timeline import Rule, ScoredWindow
from vivit.labels import LabelSpace
from vivit.video.live import LiveFrame
from vivit.video.source import VideoError

RATE, SPAN = 20.0, 11
CLASSES: dict[str, Sequence[str]] = {"classes": ["v", "w", "x", "y", "z"]}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("model")
    vivit.save(tiny_model(CLASSES, Preprocessing(frame_stride=2, resize=24), variant="factorised_encoder"), folder)
    return Predictor(folder, "cpu")


def stretches(*lengths: int) -> list[tuple[float, torch.Tensor]]:
    """Frames (N, 3, H, W) that follow each other without a gap, and when they start; between them are two seconds."""
    generator, made, start = torch.Generator().manual_seed(0), [], 0.0
    for length in lengths:
        made.append((start, torch.randint(0, 256, (length, 3, 24, 30), dtype=torch.uint8, generator=generator)))
        start += length / RATE + 2
    return made


class MadeVideo:
    """Stands in for a LiveVideo."""

    rate, name = RATE, "camera"

    def __init__(self, *lengths: int, lost: bool = False) -> None:
        self.stretches, self.lost = stretches(*lengths), lost

    def frames(self) -> Generator[LiveFrame]:
        for start, pictures in self.stretches:
            for number, picture in enumerate(pictures):
                yield LiveFrame(picture, start + number / RATE, 0.0, number > 0)
        if self.lost:
            raise VideoError(self.name, "was lost")

    def stop(self) -> None:
        pass


def watching(predictor: Predictor, video: MadeVideo, monkeypatch: pytest.MonkeyPatch, **options: Any) -> LiveWindows:
    monkeypatch.setattr(live, "LiveVideo", lambda *_: video)
    return LiveWindows(predictor, "udp://0.0.0.0:1", **{"step": 4, **options})


@pytest.mark.parametrize("lengths", [(30,), (5,), (23, 40), (SPAN, 3, 50)])
def test_each_stretch_has_the_windows_of_a_video_of_its_own(
    lengths: Sequence[int], predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = watching(predictor, MadeVideo(*lengths), monkeypatch, buffer="wait")
    made = list(found)
    expected = [
        (start + window.start / RATE, start + min(window.start + SPAN, len(frames)) / RATE, window.logits["classes"])
        for start, frames in stretches(*lengths)
        for window in windows(predictor.model, [frames], 4, batch=1)
    ]
    assert [(window.start, window.end) for window in made] == [times[:2] for times in expected]
    for window, (*_, logits) in zip(made, expected, strict=True):
        np.testing.assert_allclose(window.scores["classes"], logits.softmax(0).numpy(), rtol=1e-5)
    assert (found.frames, found.dropped) == (sum(lengths), 0)


def test_what_comes_too_fast_is_dropped_and_counted(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    found = watching(predictor, MadeVideo(400), monkeypatch)
    made = list(found)
    assert found.frames + found.dropped == 400
    assert made[-1].end == pytest.approx(400 / RATE)  # the newest are kept
    assert all(one.start <= other.start for one, other in pairwise(made))


def test_windows_come_before_the_error_that_ends_the_video(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[ScoredWindow] = []
    with pytest.raises(VideoError, match="camera: was lost"):
        for window in watching(predictor, MadeVideo(30, lost=True), monkeypatch, buffer="wait"):
            made.append(window)
    assert made[-1].end == 30 / RATE


def test_a_stop_ends_with_the_frames_that_were_seen(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    found = watching(predictor, MadeVideo(1000), monkeypatch, buffer="wait")
    made = []
    for number, window in enumerate(found):
        made.append(window)
        if number == 5:
            found.stop()
    assert found.frames < 200 and made[-1].end == found.frames / RATE


def test_a_file_drops_nothing(predictor: Predictor) -> None:
    refused(lambda: LiveWindows(predictor, "clip.mp4", buffer="drop-oldest"), "buffer: clip.mp4 is a file")


def scored(*scores: Sequence[float]) -> list[ScoredWindow]:
    """Windows of a second at every half."""
    return [ScoredWindow(0.5 * n, 0.5 * n + 1, {"classes": np.array(row)}) for n, row in enumerate(scores)]


A, B, NONE = (0.8, 0.2), (0.1, 0.9), (0.45, 0.4)


@pytest.mark.parametrize(
    ("rows", "rule", "multi_label", "told"),
    [
        ((A, A, B, B), {"smooth": 0}, False, [(0, "a"), (1.25, "b")]),
        ((A, NONE, A), {"smooth": 0}, False, [(0, "a"), (0.75, ""), (1.25, "a")]),
        ((NONE, A), {"smooth": 0}, False, [(0, ""), (0.75, "a")]),
        ((A, B, A), {"smooth": 0, "background": frozenset("b")}, False, [(0, "a"), (0.75, ""), (1.25, "a")]),
        # The mean of the last three windows.
        ((A, A, B, B), {"smooth": 1}, False, [(0, "a"), (1.75, "b")]),
        (((0.9, 0.1), (0.7, 0.8), (0.2, 0.9)), {"smooth": 0}, True, [(0, "a"), (0.75, "ba"), (1.25, "b")]),
    ],
)
def test_labels_are_told_when_they_change(
    rows: Sequence[Sequence[float]], rule: dict[str, Any], multi_label: bool, told: list[tuple[float, str]]
) -> None:
    found = changes(scored(*rows), LabelSpace({"classes": ("a", "b")}, multi_label), Rule(**rule))
    assert [(one.time, "".join(label.label for label in one.labels)) for one in found] == told
