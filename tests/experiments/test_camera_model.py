from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from vivit.experiments.camera_model import training
from vivit.experiments.camera_model.examples import Example, draw_example, turn_at_random
from vivit.experiments.camera_model.shape import FRAMES, PLACES, SIDE, TIMES, TUBELET
from vivit.experiments.camera_model.shipping import CameraScore, describe_model, score_camera_model, write_model
from vivit.experiments.camera_model.teacher import STILL_PIXEL, motion_in_places
from vivit.experiments.camera_model.training import train_camera_model
from vivit.experiments.camera_motion import CLASSES, DIRECTIONS
from vivit.experiments.footage import Scene, Scenery, make_footage
from vivit.experiments.pictures import draw_texture


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scenery() -> Scenery:
    rng = np.random.default_rng(0)
    textures = [torch.from_numpy(draw_texture(rng)).permute(2, 0, 1)[None].contiguous() for _ in range(8)]
    return Scenery([Scene.of(texture) for texture in textures])


def examples(scenery: Scenery, jumbled: float, count: int) -> list[Example]:
    rng = np.random.default_rng(1)
    return [draw_example(scenery, rng, jumbled) for _ in range(count)]


def test_the_motion_that_tokens_learn_is_what_the_clip_shows(scenery: Scenery) -> None:
    # Measured by the best match of each middle patch a frame later, within 3 pixels.
    told, seen = [], []
    for example in examples(scenery, jumbled=1, count=30):
        grey = example.clip.float().mean(dim=1)
        motion = torch.sinh(motion_in_places(example.motion[None]))[0, ..., :2] * STILL_PIXEL * SIDE
        for time in range(TIMES):
            before, after = grey[TUBELET * time + 1 : TUBELET * time + 3]
            for place in (18, 21, 42, 45):
                y, x = divmod(place, PLACES)
                patch = before[8 * y - 4 : 8 * y + 12, 8 * x - 4 : 8 * x + 12]
                around = after[8 * y - 7 : 8 * y + 15, 8 * x - 7 : 8 * x + 15]
                if patch.std() > 15 and motion[time, place].abs().max() < 2.5:
                    errors = (around.unfold(0, 16, 1).unfold(1, 16, 1) - patch).abs().mean(dim=(2, 3))
                    down, right = divmod(int(errors.argmin()), 7)
                    told.append(motion[time, place].tolist())
                    seen.append([right - 3, down - 3])
    told_of, seen_of = np.array(told).T, np.array(seen).T
    assert len(told) > 100
    for axis in (0, 1):
        assert np.corrcoef(told_of[axis], seen_of[axis])[0, 1] > 0.6


def test_turned_clips_keep_labels_that_fit_their_motion(scenery: Scenery) -> None:
    drawn = [example for example in examples(scenery, jumbled=0, count=60) if example.label.max() == 1]
    shown = torch.stack([example.clip for example in drawn])
    moved = torch.stack([example.motion for example in drawn])
    named = torch.stack([example.label for example in drawn])
    clips, motions, labels = turn_at_random(shown, moved, named, torch.Generator().manual_seed(0))
    assert not torch.equal(labels, named)
    directions = torch.tensor([DIRECTIONS[name] for name in CLASSES]).float()
    moving = labels @ directions  # (B, 4)
    moves = moving.any(dim=1)
    along = (motions.mean(dim=1) * moving).sum(dim=1)
    assert (along[moves] > 0).float().mean() > 0.97
    # The clip itself was turned in the same way: its brightness is all that is compared.
    assert torch.allclose(clips.float().mean(dim=(1, 2, 3, 4)), shown.float().mean(dim=(1, 2, 3, 4)))


def test_the_shipped_model_is_right_on_footage_it_never_saw(tmp_path: Path) -> None:
    make_footage(tmp_path, pictures=None, videos=None, count=18)
    score = score_camera_model("camera-motion", tmp_path)
    assert score.accuracy >= 0.8
    sure, right = score.sure
    assert sure >= 9
    assert right >= 0.9 * sure


def test_a_training_goes_on_and_what_it_writes_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FIRST_CLIPS": 9, "POOL": 50, "SAVE_EVERY": 2, "TEXTURES": 2}.items():
        monkeypatch.setattr(training, name, value)
    steps: list[int] = []
    monkeypatch.setattr(training, "_learning_rate", lambda step, _: 1 / 0 if step == 3 else 1e-4)
    with pytest.raises(ZeroDivisionError):
        train_camera_model(tmp_path, None, None, steps=4, progress=lambda step, _: steps.append(step))
    monkeypatch.setattr(training, "_learning_rate", lambda step, _: 1e-4)
    model = train_camera_model(tmp_path, None, None, steps=4, progress=lambda step, _: steps.append(step))
    assert steps == [2, 4]
    again = train_camera_model(tmp_path, None, None, steps=4)
    clip = torch.zeros(1, FRAMES, 3, SIDE, SIDE)
    assert torch.equal(model(clip), again(clip))

    write_model(model, tmp_path / "model")
    describe_model(tmp_path / "model", CameraScore({"static": (4, 3)}, (2, 2), (1, 0)), steps=4)
    make_footage(tmp_path / "footage", pictures=None, videos=None, count=2)
    assert score_camera_model(tmp_path / "model", tmp_path / "footage").clips == 2
