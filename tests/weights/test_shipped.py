import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import vivit
from tests.support import encode
from vivit.errors import UserError
from vivit.weights.shipped import ANSWERS_FILE, CAMERA_MOTION, Answers, shipped_model

ROOT = Path(__file__).parents[2]


def test_the_model_is_in_the_wheel_and_takes_less_than_8_mb(tmp_path: Path) -> None:
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    source = tmp_path / "source"
    source.mkdir()
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        sizes = {file.filename: file.compress_size for file in opened.infolist() if "/shipped/" in file.filename}
    files = {Path(name).name for name in sizes}
    assert files == {"config.json", "model.safetensors", "README.md", ANSWERS_FILE}
    assert sum(sizes.values()) < 8e6


def test_it_is_a_plain_model_of_float32() -> None:
    model = vivit.load(CAMERA_MOTION)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.classes is not None
    assert len(model.classes["classes"]) == 9


def test_an_answer_below_the_limit_of_a_model_says_that_it_is_not_sure(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    encode(clip, [torch.full((32, 32, 3), 99, dtype=torch.uint8).numpy()] * 60)
    model, folder = vivit.load(CAMERA_MOTION), tmp_path / "model"
    vivit.save(model, folder)
    assert vivit.Predictor(folder).predict(clip).note == ""
    (folder / ANSWERS_FILE).write_text('{"about": "motions", "unsure_below": 1}')
    assert vivit.Predictor(folder).predict(clip).note == "not sure: the best label has less than 100%"
    (folder / ANSWERS_FILE).write_text('{"about": "motions", "unsure_below": 7}')
    with pytest.raises(UserError, match=ANSWERS_FILE):
        vivit.Predictor(folder)


def test_only_its_name_leads_to_it() -> None:
    folder = shipped_model(CAMERA_MOTION)
    assert folder is not None
    assert Answers.of(folder) is not None
    assert shipped_model("camera") is None
