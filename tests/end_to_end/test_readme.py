"""What the README says to type works: its commands on a small set, its Python with small weights."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "tests" / "parity" / "reference"
README = (ROOT / "README.md").read_text()
SMALL = "--recipe demo --epochs 1 --batch-size 4 --num-frames 4 --frame-stride 1 --workers 0"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bright_dark: Path) -> Path:
    """A folder with all the files that the README speaks of."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(bright_dark, folder / "my_videos")
    shutil.copy(bright_dark / "bright" / "bright0.mp4", folder / "clip.mp4")
    shutil.copy(bright_dark / "dark" / "dark0.mp4", folder / "another.webm")
    shutil.copy(REFERENCE / "scenic" / "joint" / "checkpoint", folder / "vivit_base_k400")
    shutil.copy(REFERENCE / "image_init" / "vit32" / "vit.npz", folder / "ViT-B_16.npz")
    commands = next(block for block in blocks("sh") if "vivit train" in block)
    for line in commands.splitlines():
        command = line.split("#")[0].strip()
        if not command.startswith("vivit "):
            assert command == "pip install .", command
            continue
        command += f" {SMALL}" if command.startswith("vivit train") else ""
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        result = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, env=environment)
        assert result.returncode == 0, f"{command}: {result.stderr}"
    return folder


def test_commands(folder: Path) -> None:
    assert {path.name for path in (folder / "run").iterdir()} >= {"config.json", "model.safetensors", "evaluation"}


def test_python(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    first, second = blocks("python")
    names: dict[str, object] = {}
    exec(first, names)
    assert tuple(names["logits"].shape) == (1, 10)  # type: ignore[attr-defined]
    assert tuple(names["features"].shape) == (1, 192)  # type: ignore[attr-defined]
    # The weights at hand are for pictures of 32 × 32.
    exec(second.replace("image_size=224", "image_size=32"), names)
    assert names["prediction"].labels[0].label in ("bright", "dark")  # type: ignore[attr-defined]


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z]+)", "\n".join(blocks("sh")), re.MULTILINE):
        assert f"\n{target}:" in makefile
