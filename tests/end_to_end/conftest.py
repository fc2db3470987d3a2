"""Small stand-ins for the files that README and docs speak of, under their names."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
from huggingface_hub import constants
from transformers import ViTConfig, ViTModel, VivitConfig, VivitForVideoClassification

import vivit
from tests.support import Result
from vivit import cli
from vivit.weights import flax_keys
from vivit.weights.keymap import write

REFERENCE = Path(__file__).resolve().parents[1] / "parity" / "reference"
SCENIC: dict[str, dict[str, Any]] = {
    "kinetics_400/vivit_base_16x2_unfactorized": {},
    "kinetics_400/vivit_base_16x2_fe": {"variant": "factorised_encoder"},
    "kinetics_400/vivit_large_16x2_fe": {"variant": "factorised_encoder"},
    "kinetics_600/vivit_large_16x2_fe": {"variant": "factorised_encoder", "num_classes": 600},
    "epic_kitchens/vivit_large_16x2_fe": {"variant": "factorised_encoder", "num_classes": 397},
}


InProcess = Callable[..., Result]


def write_scenic(path: Path, **fields: Any) -> None:
    """A checkpoint of the released clip, 32 frames of 224 × 224, but of almost no width."""
    small: dict[str, Any] = {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "mlp_dim": 8}
    temporal: dict[str, Any] = {"temporal_layers": 1} if fields.get("variant") == "factorised_encoder" else {}
    model = vivit.ViViT(vivit.ModelConfig(**small, **temporal, **fields))
    tree: dict[str, Any] = {}
    for name, value in write(model.state_dict(), flax_keys.key_map(model.config)).items():
        *parents, leaf = name.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        array = value.numpy()
        branch[leaf] = msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgpack.packb({"optimizer": {"target": tree}}))


def write_lists(folder: Path) -> None:
    """A list of verbs and nouns, and one of any number of labels, of the videos in `folder`."""
    videos = sorted(path.relative_to(folder) for path in folder.glob("my_videos/*/*.mp4"))
    verbs, nouns = ("open", "close"), ("door", "box", "jar")
    actions = [f"{video},{verbs[i % 2]},{nouns[i % 3]}" for i, video in enumerate(videos)]
    (folder / "actions.csv").write_text("\n".join(["path,verb,noun", *actions]))
    tags = [f"{video},{video.parent.name}{';jump' if i % 2 else ''}" for i, video in enumerate(videos)]
    (folder / "tags.csv").write_text("\n".join(["path,labels", *tags]))


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory, bright_dark: Path) -> Path:
    """A folder with all the files that the documentation speaks of."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("documentation")
    for name in ("my_videos", "unlabelled", "kinetics400", "epic"):
        shutil.copytree(bright_dark, folder / name)
    write_lists(folder)
    shutil.copy(bright_dark / "bright" / "bright0.mp4", folder / "clip.mp4")
    shutil.copy(bright_dark / "dark" / "dark0.mp4", folder / "another.webm")
    for name, fields in SCENIC.items():
        write_scenic(folder / name / "checkpoint", **fields)
    shutil.copy(folder / "kinetics_400/vivit_base_16x2_unfactorized/checkpoint", folder / "checkpoint")
    shutil.copytree(folder / "kinetics_400/vivit_base_16x2_fe", folder / "vivit_base_16x2_fe")
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    for name in ("google/vivit-b-16x2-kinetics400", "google/vivit-b-16x2"):
        config = VivitConfig(image_size=32, num_frames=8, tubelet_size=[2, 8, 8], num_labels=5, **sizes)
        VivitForVideoClassification(config).save_pretrained(folder / name)
    image = ViTConfig(image_size=32, patch_size=8, **sizes)
    ViTModel(image).save_pretrained(folder / "google/vit-base-patch16-224-in21k")
    shutil.copy(REFERENCE / "image_init" / "vit32" / "vit.npz", folder / "ViT-B_16.npz")
    (folder / "names.txt").write_text("wave\njump\n")
    return folder


@pytest.fixture(scope="session")
def typed() -> Callable[[str, Path], str]:
    """Runs a command as it is typed, in a folder and with the installed `vivit`; returns its output."""

    def run(command: str, folder: Path) -> str:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}
        result = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, env=environment)
        assert result.returncode == 0, f"{command}: {result.stderr}"
        return result.stdout

    return run


@pytest.fixture
def vivit_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> InProcess:
    """The command in this process, which saves the seconds of its imports; in a folder of its own, offline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def call(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["vivit", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            status: Any = 0
        except SystemExit as end:
            status = end.code or 0
        said = capsys.readouterr()
        return Result(status, said.out, said.err)

    return call
