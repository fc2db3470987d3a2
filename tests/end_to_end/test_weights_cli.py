"""Commands on weights with numbers that are none, of several precisions, or with a config that nobody can use."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import vivit
from tests.end_to_end.conftest import InProcess
from tests.support import encode, noisy, tiny_model

NAMES = ["walk", "run", "jump", "sit", "wave"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder, beside clip.mp4."""
    vivit.save(tiny_model({"classes": NAMES}), tmp_path / "model")
    encode(tmp_path / "clip.mp4", noisy(90))
    return tmp_path / "model"


def test_weights_that_are_not_finite_are_refused_and_nothing_is_written(
    model: Path, bright_dark: Path, vivit_here: InProcess
) -> None:
    state = load_file(model / "model.safetensors")
    state["encoder.blocks.1.norm2.bias"][0] = float("nan")
    save_file(state, model / "model.safetensors")
    for command in (
        "info model",
        "convert model out",
        "convert model out --num-frames 12",
        "predict clip.mp4 --model model",
        f"evaluate {bright_dark} --model model --out out",
        f"train {bright_dark} --init model --out out",
    ):
        vivit_here(*command.split()).one_line(
            r"model/model\.safetensors: encoder\.blocks\.1\.norm2\.bias: 1 of 16 numbers is NaN"
        )
    assert not (model.parent / "out").exists()


def test_mixed_precision_is_told_and_predicts(model: Path, vivit_here: InProcess) -> None:
    state = load_file(model / "model.safetensors")
    for number, name in enumerate(state):
        state[name] = state[name].to((torch.float16, torch.bfloat16, torch.float32)[number % 3])
    save_file(state, model / "model.safetensors")
    told = "weights converted from bfloat16 and float16 and float32 to float32"
    for command in ("info model", "convert model out"):
        assert told in vivit_here(*command.split()).succeeded()
    for folder in ("model", "out"):
        out = vivit_here("predict", "clip.mp4", "--model", folder).succeeded()
        assert all(name in out for name in NAMES)
    assert vivit.load(model.parent / "out").origin == (told,)


def named(*names: str) -> Callable[[dict[str, Any]], object]:
    return lambda config: config.update(classes={"classes": names})


CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "resize": (lambda config: config["preprocessing"].update(resize=2**24), r"preprocessing\.resize: .*8192"),
    "stride": (lambda config: config["preprocessing"].update(frame_stride=10**6), r"preprocessing\.frame_stride: "),
    "frames": (lambda config: config["architecture"].update(num_frames=10**9), r"architecture\.num_frames: "),
    "clip": (
        lambda config: config["architecture"].update(num_frames=60_000, image_size=[200, 96]),
        "num_frames: 60000 frames of 200 × 96 take 3.2 GiB",
    ),
    "picture": (lambda config: config["architecture"].update(image_size=[8, 2**23]), r"image_size\.1: .*4096"),
    "no text": (named("walk", "r\ud83d", "jump", "sit", "wave"), r"classes: .*r\\ud83d.* no text"),
    "escape": (named("walk", "run", "\x1b]0;hi\x07", "sit", "wave"), r"classes: .*x1b.* control character"),
    "line": (named("walk", "run", "jump", "sit", "wa\u2028ve"), "classes: .*line break"),
    "empty": (named("walk", "run", "jump", " ", "wave"), "classes: the name of class 3 is empty"),
    "twice": (named("walk", "run", "jump", "run", "wave"), "classes: 'run' names two classes"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_that_nobody_can_use_is_one_line(kind: str, model: Path, vivit_here: InProcess) -> None:
    change, words = CONFIGS[kind]
    config = json.loads((model / "config.json").read_text())
    change(config)
    (model / "config.json").write_text(json.dumps(config))
    for command in ("info model", "predict clip.mp4 --model model"):
        vivit_here(*command.split()).one_line(r"model/config\.json: ", words)


NO_CONFIGS: dict[str, bytes | None] = {
    "not UTF-8": b'{"format": 2, "origin": ["caf\xe9"]}',
    "null": b"null",
    "a list": b"[{}]",
    "a text": b'"config"',
    "a number": b"3",
    "nothing": b"",
    "a folder": None,
}


@pytest.mark.parametrize("kind", NO_CONFIGS)
def test_a_config_that_is_none_is_one_line(kind: str, model: Path, vivit_here: InProcess) -> None:
    content = NO_CONFIGS[kind]
    (model / "config.json").unlink()
    if content is None:
        (model / "config.json").mkdir()
    else:
        (model / "config.json").write_bytes(content)
    for command in ("info model", "predict clip.mp4 --model model"):
        vivit_here(*command.split()).one_line("model.*config.json")


def test_a_path_that_is_no_text_of_one_line_does_not_spoil_the_model_made_from_it(
    model: Path, vivit_here: InProcess
) -> None:
    """The origin names the source."""
    strange = model.parent / "w\udce9\nights.npz"
    reference = Path(__file__).parents[1] / "parity" / "reference" / "image_init" / "vit32" / "vit.npz"
    shutil.copy(reference, strange)
    vivit_here("convert", strange, "out").succeeded()
    assert r"w\udce9\nights.npz" in vivit_here("info", "out").succeeded()
