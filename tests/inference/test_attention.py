"""Attention over a video: which clips it takes, and that they are those of `predict`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import vivit
from tests.support import encode, noisy, refused, tiny_model
from vivit.config import Preprocessing
from vivit.inference.attention import attention, box_of_crop, clip_starts, find_class
from vivit.inference.exported import ExportedModel
from vivit.inference.predictor import Predictor
from vivit.labels import LabelSpace
from vivit.video.clips import ClipSpec, view_crops

SPEC = ClipSpec(num_frames=6, stride=2, size=(16, 24), resize=32)  # 12 frames of a video


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    classes: dict[str, Sequence[str]] = {"verb": ["a", "b", "c"], "noun": ["a", "d"]}
    preprocessing = Preprocessing(frame_stride=2, resize=32)
    model = tiny_model(classes, preprocessing, heads={"verb": 3, "noun": 2})
    vivit.save(model, tmp_path / "model")
    return Predictor(tmp_path / "model", "cpu", precision="f32")


@pytest.mark.parametrize(("shown", "starts"), [(1, [0]), (11, [0]), (12, [0, 1]), (24, [0, 12, 13]), (35, [0, 12, 24])])
def test_clips_leave_no_gap_and_end_with_the_video(shown: int, starts: list[int]) -> None:
    assert clip_starts(shown, SPEC) == starts


def test_the_box_is_what_the_crop_has() -> None:
    for height, width in ((32, 40), (32, 32), (60, 32), (8, 30)):
        left, upper, right, lower = box_of_crop(height, width, SPEC.size)
        rows = torch.linspace(0, 255, height).round()[None, None, :, None].expand(1, 3, height, width).byte()
        columns = torch.linspace(0, 255, width).round()[None, None, None].expand(1, 3, height, width).byte()
        of_rows, of_columns = (view_crops(frames, SPEC.size, 1)[0].float() / 255 for frames in (rows, columns))
        seen = [float(bound) for part in (of_rows, of_columns) for bound in (part.min(), part.max())]
        assert [upper, lower, left, right] == pytest.approx(seen, abs=1.5 / min(height, width))


def test_a_clip_is_that_of_predict_however_short(predictor: Predictor, tmp_path: Path) -> None:
    for frames in (11, 4):  # a whole clip, and one that starts again
        video = encode(tmp_path / f"{frames}.mp4", noisy(90, frames, 64, 80))
        (clip,) = attention(predictor, video)
        labels = {head: ranked[0] for head, ranked in predictor.predict(video).heads.items()}
        assert {head: scored.label for head, scored in clip.labels.items()} == {
            head: scored.label for head, scored in labels.items()
        }
        for head, scored in clip.labels.items():
            assert scored.score == pytest.approx(labels[head].score, abs=1e-4)
        assert clip.about == clip.labels
        assert 0 < clip.half <= 0.5
        assert clip.map.sum() == pytest.approx(1, abs=1e-5)


def test_a_named_class_has_another_map(predictor: Predictor, tmp_path: Path) -> None:
    video = encode(tmp_path / "clip.mp4", noisy(90, 11, 64, 80))
    (d,), (b,) = (list(attention(predictor, video, label=label)) for label in "db")
    assert set(d.about) == {"noun"} and set(b.about) == {"verb"}
    assert not np.allclose(d.map, b.map)


def test_a_class_is_found_by_its_name() -> None:
    labels = LabelSpace({"verb": ("open", "close"), "noun": ("door", "open")})
    assert find_class(labels, "door") == ("noun", 0)
    refused(lambda: find_class(labels, "open"), "several heads: verb, noun")
    refused(lambda: find_class(labels, "dor"), "no class 'dor'; did you mean door")


def test_exported_models_are_refused(predictor: Predictor) -> None:
    predictor.model = object.__new__(ExportedModel)
    predictor.model.folder = Path("exported")
    refused(lambda: next(attention(predictor, "clip.mp4")), "exported: .*give the model that it was exported from")
