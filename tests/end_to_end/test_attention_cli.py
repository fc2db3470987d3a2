"""`vivit attention` on files that the tests make."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

import vivit
from tests.end_to_end.conftest import InProcess
from tests.support import encode, noisy, run_vivit, tiny_model
from vivit.config import Preprocessing

VARIANTS = ("spatiotemporal", "factorised_encoder", "factorised_self_attention", "factorised_dot_product")
CLASSES: dict[str, Sequence[str]] = {"classes": ["v", "w", "x", "y", "z"]}
CPU = ("--device", "cpu", "--precision", "f32")
BOX = [0.2, 0.25, 0.8, 0.75]  # 16 × 24 pixels in the middle of 32 × 40


def save(folder: Path, **fields: Any) -> None:
    vivit.save(tiny_model(CLASSES, Preprocessing(frame_stride=2, resize=32), **fields), folder)


@pytest.fixture
def here(vivit_here: InProcess, tmp_path: Path) -> InProcess:
    save(tmp_path / "model")
    frames = [frame for level in (40, 120, 200) for frame in noisy(level, 10, 144, 180)]
    encode(tmp_path / "clip.mp4", frames, sound=1.2)
    return vivit_here


@pytest.mark.parametrize("variant", VARIANTS)
def test_json_and_arrays_have_the_same_maps(here: InProcess, tmp_path: Path, variant: str) -> None:
    save(tmp_path / variant, variant=variant)
    for method in ("raw", "rollout", "gradient"):
        words = ("--model", variant, "--method", method, "--json", "--out", f"{method}.npz", *CPU)
        told = here("attention", "clip.mp4", *words)
        assert (told.status, told.err) == (0, f"the attention of 3 clips is in {method}.npz\n")
        arrays = np.load(tmp_path / f"{method}.npz")
        assert json.loads(str(arrays["about"]))["method"] == method
        assert arrays["map"].shape == (3, 3, 2, 3)
        np.testing.assert_allclose(arrays["map"].sum(axis=(1, 2, 3)), 1, atol=1e-5)
        np.testing.assert_allclose(arrays["box"], [BOX] * 3)
        # A clip takes every second of 12 frames, a temporal index two of these; the last clip ends with the video.
        np.testing.assert_allclose(arrays["start"], [0, 0.48, 0.76], atol=1e-3)
        np.testing.assert_allclose(arrays["times"][0], [0.04, 0.2, 0.36], atol=1e-3)
        for clip, weights in zip(json.loads(told.out)["clips"], arrays["map"], strict=True):
            np.testing.assert_allclose(clip["curve"], weights.sum(axis=(1, 2)), atol=1e-5)
            time, row, column = np.unravel_index(weights.argmax(), weights.shape)
            assert clip["peak"]["time"] == pytest.approx(clip["times"][time], abs=1e-3)
            assert clip["peak"]["x"] == pytest.approx(0.2 + 0.6 * (column + 0.5) / 3, abs=1e-3)
            assert clip["peak"]["y"] == pytest.approx(0.25 + 0.5 * (row + 0.5) / 2, abs=1e-3)
            assert ("about" in clip) == (method == "gradient")


def test_people_see_when_and_where(here: InProcess) -> None:
    out = here("attention", "clip.mp4", "--model", "model", "--span", "0", "0.4", *CPU).succeeded()
    name, clip, when, where = out.splitlines()
    assert name == "clip.mp4"
    assert clip.startswith("  0:00.0 – 0:00.4")
    assert "█" in when and "most at 0:00." in when
    assert "of the clip, around " in where


def test_a_drawn_video_keeps_its_length_and_sound(here: InProcess, tmp_path: Path) -> None:
    told = here("attention", "clip.mp4", "--model", "model", "--class", "w", "--out", "drawn.mp4", *CPU)
    assert (told.status, told.out) == (0, "")
    with av.open(str(tmp_path / "drawn.mp4")) as drawn:
        assert [stream.type for stream in drawn.streams] == ["video", "audio"]
        frames = [frame.to_ndarray(format="rgb24") for frame in drawn.decode(video=0)]
    assert len(frames) == 30
    assert frames[0].shape[1] == 180 and frames[0].shape[0] > 144  # the scale is below the picture
    assert frames[0][:30, :30].mean() < 30 < frames[0][40:100, 40:140].mean()  # dark where the model does not look
    assert not list(tmp_path.glob("*unfinished*"))


def test_a_strip_of_frames(here: InProcess, tmp_path: Path) -> None:
    assert here("attention", "clip.mp4", "--model", "model", "--out", "strip.png", *CPU).status == 0
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.width > 900


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--out", "out.gif"), "out.gif: its name must end in .mp4"),
        (("--out", "no/out.png"), "no: no such folder"),
        (("--out", "clip.mp4"), "clip.mp4: is the video itself"),
        (("--out", "model/maps.npz"), "model/maps.npz: exists already"),
        (("--class", "vv"), "class: the model has no class 'vv'"),
        (("--class", "v", "--method", "raw"), "class: the method raw ignores classes"),
        (("--span", "5", "6"), "clip.mp4: .*the span 5 to 6 s"),
        (("--span", "1", "0"), "clip.mp4: .*the span 1 to 0 s has no length"),
    ],
)
def test_mistakes_are_one_line(here: InProcess, words: tuple[str, ...], said: str) -> None:
    Path("model/maps.npz").touch()
    here("attention", "clip.mp4", "--model", "model", *words, *CPU).one_line(said)


def test_the_installed_command_with_two_variants(here: InProcess, tmp_path: Path) -> None:
    for variant in ("factorised_encoder", "factorised_dot_product"):
        save(tmp_path / variant, variant=variant)
        maps = f"{variant}.safetensors"
        ran = run_vivit("attention", "clip.mp4", "--model", variant, "--out", maps, "--json", folder=tmp_path)
        assert ran.status == 0, ran
        clips = json.loads(ran.out)["clips"]
        with safe_open(tmp_path / maps, "pt") as file:
            assert json.loads(file.metadata()["about"])["clips"][0] == {key: clips[0][key] for key in ("best", "about")}
            assert file.get_tensor("map").sum(dim=(2, 3))[0].tolist() == pytest.approx(clips[0]["curve"], abs=1e-5)
