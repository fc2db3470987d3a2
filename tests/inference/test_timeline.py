from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vivit
from tests.support import encode, noisy, refused, tiny_model
from vivit.config import Preprocessing
from vivit.experiments.film import Window
from vivit.experiments.footage import FINE_STEP, camera_path
from vivit.experiments.pictures import draw_texture
from vivit.inference.predictor import Predictor
from vivit.inference.timeline import Rule, Segment, Timeline, scored_windows, timeline
from vivit.labels import ONLY_HEAD, LabelSpace
from vivit.video.source import VideoError

NAMES = ("a", "b", "c")
AS_IT_IS = Rule(smooth=0, threshold=0.5, shortest=0)


def a_timeline(scores: Sequence[Sequence[float]], multi_label: bool = False) -> Timeline:
    """Windows of two seconds at every second. Each speaks for a second, the first and the last for one and a half."""
    starts = np.arange(len(scores), dtype=float)
    labels = LabelSpace({ONLY_HEAD: NAMES}, multi_label)
    return Timeline("v.mp4", len(scores) + 1.0, 25.0, labels, starts, starts + 2, {ONLY_HEAD: np.array(scores)})


def spelled(letters: str, score: float = 0.9) -> Timeline:
    """The label of each window by its letter; a dot is no label."""
    rest = (1 - score) / 2
    rows = [[score if name == letter else rest for name in NAMES] for letter in letters]
    return a_timeline([row if letter != "." else [1 / 3] * 3 for row, letter in zip(rows, letters, strict=True)])


def found(segments: Sequence[Segment]) -> list[tuple[float, float, str]]:
    return [(segment.start, segment.end, segment.label) for segment in segments]


@pytest.mark.parametrize(
    ("letters", "rule", "segments"),
    [
        ("aabb", {}, [(0, 2.5, "a"), (2.5, 5, "b")]),
        ("aa..bb", {}, [(0, 2.5, "a"), (4.5, 7, "b")]),
        ("aaa.aa", {"shortest": 1.5}, [(0, 7, "a")]),
        ("aa..aa", {"shortest": 1.5}, [(0, 2.5, "a"), (4.5, 7, "a")]),
        # A gap between two labels is no gap of either.
        ("aaa.bb", {"shortest": 1.5}, [(0, 3.5, "a"), (4.5, 7, "b")]),
        # A short stretch of another label leaves a gap, which is closed.
        ("aacaaa", {"shortest": 1.5}, [(0, 7, "a")]),
        ("aac.bb", {"shortest": 1.5}, [(0, 2.5, "a"), (4.5, 7, "b")]),
        # Three short stretches with short gaps are one long one.
        (".a.a.", {"shortest": 1.5}, [(1.5, 4.5, "a")]),
        ("aabbcc", {"background": frozenset("b")}, [(0, 2.5, "a"), (4.5, 7, "c")]),
        ("aabb", {"threshold": 0.95}, []),
    ],
)
def test_scores_become_segments(letters: str, rule: dict[str, Any], segments: list[tuple[float, float, str]]) -> None:
    made = spelled(letters).segments(Rule(**{"smooth": 0, "shortest": 0, **rule}))
    assert found(made) == segments


def test_a_score_is_the_mean_over_the_time_of_its_segment() -> None:
    (only,) = spelled("aacaaa").segments(Rule(smooth=0, shortest=1.5))
    assert only.score == pytest.approx((6 * 0.9 + 1 * 0.05) / 7)


def test_several_labels_at_once_overlap() -> None:
    scores = [[0.9, 0.1, 0.8], [0.7, 0.6, 0.1], [0.1, 0.9, 0.2]]
    made = a_timeline(scores, multi_label=True).segments(AS_IT_IS)
    assert found(made) == [(0, 1.5, "c"), (0, 2.5, "a"), (1.5, 4, "b")]
    # Weighted by the seconds that each window speaks for.
    assert made[1].score == pytest.approx((1.5 * 0.9 + 0.7) / 2.5)


def test_smoothing_is_the_mean_of_the_windows_around() -> None:
    rng = np.random.default_rng(0)
    line = a_timeline(rng.random((40, 3)).tolist())
    for seconds in (0, 1.9, 2, 7.5, 1000):
        near = np.abs(line.middles[:, None] - line.middles) <= seconds / 2
        means = np.stack([line.scores[ONLY_HEAD][row].mean(axis=0) for row in near])
        np.testing.assert_allclose(line.smoothed(ONLY_HEAD, seconds), means, rtol=1e-12)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Rule(smooth=-1), "smooth: -1"),
        (Rule(smooth=float("nan")), "smooth: nan"),
        (Rule(shortest=-0.5), "shortest: -0.5"),
        (Rule(threshold=1.5), "threshold: 1.5"),
        (Rule(background=frozenset({"walking"})), "background: .*'walking'"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(rule: Rule, said: str) -> None:
    refused(lambda: spelled("ab").segments(rule), said)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("model")
    classes: Mapping[str, Sequence[str]] = {ONLY_HEAD: ["v", "w", "x", "y", "z"]}
    model = tiny_model(dict(classes), Preprocessing(frame_stride=2, resize=32), variant="factorised_encoder")
    vivit.save(model, folder)
    return Predictor(folder, "cpu")


def test_each_window_is_what_predict_says_of_its_frames(predictor: Predictor, tmp_path: Path) -> None:
    # Of a video cut to a window's length, `predict` takes that window.
    frames = [frame for brightness in (40, 120, 200) for frame in noisy(brightness, frames=9)]
    lossless: dict[str, Any] = {"codec": "ffv1", "pixel_format": "bgr0"}
    path = encode(tmp_path / "all.mkv", frames, **lossless)
    made = list(scored_windows(predictor, path, step=5))
    span = 2 * (predictor.model.config.num_frames - 1) + 1
    starts = [*range(0, len(frames) - span, 5), len(frames) - span]
    assert [window.start for window in made] == pytest.approx([start / 25 for start in starts])
    assert [window.end for window in made] == pytest.approx([(start + span) / 25 for start in starts])
    for start, window in zip(starts, made, strict=True):
        alone = encode(tmp_path / f"{start}.mkv", frames[start : start + span], **lossless)
        expected = {scored.label: scored.score for scored in predictor.predict(alone).labels}
        scores = dict(zip(predictor.labels.classes[ONLY_HEAD], window.scores[ONLY_HEAD].tolist(), strict=True))
        assert scores == pytest.approx(expected, abs=1e-5)

    line = timeline(predictor, path, step=5)
    assert np.array_equal(line.scores[ONLY_HEAD], np.stack([window.scores[ONLY_HEAD] for window in made]))
    assert line.duration == pytest.approx(len(frames) / 25)
    assert (line.bounds[0], line.bounds[-1]) == (0, line.duration)


def test_a_video_shorter_than_a_window_has_one(predictor: Predictor, tmp_path: Path) -> None:
    line = timeline(predictor, encode(tmp_path / "two.mp4", noisy(90, frames=2)))
    assert line.bounds.tolist() == pytest.approx([0, 2 / 25])
    assert line.ends.tolist() == pytest.approx([2 / 25])


def test_a_video_that_cannot_be_read_is_an_error(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"no\.mp4"):
        timeline(predictor, tmp_path / "no.mp4")


@pytest.mark.parametrize("rate", ["constant", "variable"])
def test_the_camera_pans_then_stands_then_zooms(tmp_path: Path, rate: str) -> None:
    """Made with the truth known: 3 s each; at a variable rate, the first 3 s have twice as many frames a second."""
    milliseconds = [*range(0, 3000, 40), *range(3000, 9000, 40 if rate == "constant" else 80)]
    times = np.array(milliseconds) / 1000
    fine = np.arange(0, 9 + 2 * FINE_STEP, FINE_STEP)
    rates = np.zeros((len(fine), 4))
    rates[fine < 3, 0] = 0.4
    rates[fine >= 6, 2] = -0.4  # the window becomes smaller
    window = Window.along(camera_path(rates, np.zeros_like(rates), times), 128, 96)
    width, height = window.canvas_size
    texture = torch.from_numpy(draw_texture(np.random.default_rng(3))).permute(2, 0, 1)[None].float()
    clip = window.show(F.interpolate(texture, (height, width), mode="bilinear", antialias=True))
    frames = list(clip.clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())
    line = timeline(Predictor(device="cpu"), encode(tmp_path / "made.mp4", frames, times=milliseconds))

    made = line.segments()
    assert [segment.label for segment in made] == ["pan_right", "static", "zoom_in"]
    # A window that moves in part is not still.
    near = 0.35 * (line.ends[0] - line.starts[0])
    assert [segment.start for segment in made[1:]] == pytest.approx([3, 6], abs=near)
    assert [segment.end for segment in made[:2]] == pytest.approx([3, 6], abs=near)
    assert (made[0].start, made[-1].end) == (0, pytest.approx(9, abs=0.15))
