from pathlib import Path

import numpy as np
import torch

from vivit.experiments.camera_motion import CLASSES
from vivit.experiments.footage import make_footage, still_spans
from vivit.experiments.pictures import draw_texture


def test_stretches_with_a_still_camera_are_found_though_something_moves() -> None:
    rng = np.random.default_rng(2)
    scene = torch.from_numpy(draw_texture(rng)).permute(2, 0, 1)
    still = scene[None, :, :240, :320].repeat(60, 1, 1, 1)
    for number in range(60):
        still[number, :, 100:150, 3 * number : 3 * number + 40] = 200
    panning = torch.stack([scene[:, number % 40 : number % 40 + 240, :320] for number in range(60)])
    ((first, last),) = still_spans(torch.cat([still, panning]), 20)
    assert first == 0
    assert 40 <= last <= 60


def test_footage_is_deterministic_and_balanced(tmp_path: Path) -> None:
    for name, count in {"one": 2, "two": 9}.items():
        make_footage(tmp_path / name, pictures=None, videos=None, count=count, seed=3)
    clips = sorted((tmp_path / "two").glob("*/*.mp4"))
    assert [clip.parent.name for clip in clips] == sorted(CLASSES)
    for clip in (tmp_path / "one").glob("*/*.mp4"):
        assert clip.read_bytes() == (tmp_path / "two" / clip.relative_to(tmp_path / "one")).read_bytes()
