"""Attention over pictures."""

import numpy as np
import pytest

from vivit.inference.attention import ClipAttention
from vivit.inference.predictor import ScoredLabel
from vivit.report.attention_picture import moments, overlaid, top_of, with_attention

BOX = (0.25, 0.0, 0.75, 1.0)
LABELS = {"classes": ScoredLabel("jump", 0.9)}


def one_tubelet(time: int, row: int, column: int, start: float = 0.0) -> ClipAttention:
    found = np.zeros((2, 4, 4), np.float32)
    found[time, row, column] = 1
    return ClipAttention(start, start + 2, found, np.array([start + 0.5, start + 1.5]), BOX, LABELS, {})


def test_where_the_attention_is() -> None:
    clip = one_tubelet(1, 0, 3)
    assert clip.peak == (1.5, pytest.approx(0.25 + 0.5 * 3.5 / 4), pytest.approx(0.125))
    assert clip.centre == clip.peak[1:]
    assert clip.half == 1 / 32
    assert clip.curve.tolist() == [0, 1]


def test_bright_where_the_model_looks_and_dark_elsewhere() -> None:
    picture = np.full((80, 160, 3), 100, np.uint8)
    attention = np.zeros((4, 4))
    attention[2, 1] = 5
    drawn = overlaid(picture, attention, BOX, 5.0).astype(float).mean(axis=2)
    row, column = np.unravel_index(drawn.argmax(), drawn.shape)
    assert 40 <= row < 60 and 60 <= column < 80  # the third of four rows, the second of four columns of the box
    assert drawn.max() > 150
    assert drawn[:, :40].max() < 55 and drawn[:10].max() < 55
    assert (picture == 100).all()


def test_each_picture_has_the_attention_of_its_time() -> None:
    clips = [one_tubelet(0, 0, 0), one_tubelet(1, 3, 3, start=2.0)]
    drawn = with_attention(clips, "raw")
    picture = np.full((160, 320, 3), 100, np.uint8)
    frames = {seconds: drawn(picture.copy(), seconds) for seconds in (0.1, 1.4, 2.2, 3.9, 5.0)}
    assert len({frame.shape for frame in frames.values()}) == 1
    brightest = {seconds: frame[:160].max() for seconds, frame in frames.items()}
    assert min(brightest[0.1], brightest[3.9]) > 150 > max(brightest[1.4], brightest[2.2])
    assert (frames[5.0][:160] == 100).all()  # no clip is there
    assert top_of(clips) >= 1
    assert moments(clips) == [(0, 0), (0, 1), (1, 0), (1, 1)]
