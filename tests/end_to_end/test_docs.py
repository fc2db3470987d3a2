"""What docs/weights.md says to type works, on small stand-ins under the names of the real files."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import vivit
from vivit import cli

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "weights.md").read_text()
Typed = Callable[[str, Path], str]


def blocks(language: str) -> str:
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL))


@pytest.fixture
def folder(stand_ins: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    shutil.copytree(stand_ins, folder)
    return folder


def test_the_command_for_every_published_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    commands = re.findall(r"\| `vivit convert (.*?)` \|", DOCS)
    assert len(commands) == 7
    for command in commands:
        # In this process: a process for each takes seconds.
        cli.convert(command.split())
        source, out = command.split()
        model = vivit.load(folder / out)
        if source.endswith("/checkpoint"):
            assert (model.config.num_frames, model.config.image_size) == (32, (224, 224))
            assert (model.config.variant == "factorised_encoder") == ("_fe/" in source)
            # The folder that Scenic names after the model does as well as the file in it.
            assert vivit.load((folder / source).parent).config == model.config
    assert model.origin == ("transformers' ViViT google/vivit-b-16x2",)
    epic = vivit.load(folder / "l-fe-epic")
    assert epic.config.heads == {"noun": 300, "verb": 97}
    assert epic.preprocessing.frame_stride == 1


def test_commands_and_python(folder: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder / "google" / "vivit-b-16x2", folder / "run")
    for command in blocks("sh").splitlines():
        typed(command, folder)
    assert json.loads((folder / "out" / "config.json").read_text())["model_type"] == "vivit"
    start = vivit.load(folder / "start")
    assert (start.config.variant, start.config.num_frames) == ("factorised_encoder", 16)
    assert start.classes == {"classes": ("wave", "jump")}

    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(blocks("python"), names)
    model = names["model"]
    assert isinstance(model, vivit.ViViT)
    assert model.config.variant == "factorised_encoder"
    assert model.config.activation == "gelu_tanh"  # of the .npz, which came last
