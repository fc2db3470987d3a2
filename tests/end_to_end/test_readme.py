"""The README's commands work on a small data set, its Python with small weights, and its links lead somewhere."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SMALL = "--epochs 1 --min-steps 1 --batch-size 4 --num-frames 4 --frame-stride 1 --image-size 32 --workers 0"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def folder(stand_ins: Path, tmp_path_factory: pytest.TempPathFactory, typed: Callable[[str, Path], str]) -> Path:
    """The stand-ins, and the run that the README's commands make."""
    folder = tmp_path_factory.mktemp("readme") / "folder"
    shutil.copytree(stand_ins, folder)
    install, *commands = next(block for block in blocks("sh") if "vivit train" in block).splitlines()
    assert install == "pip install '.[train]'"
    for command in commands:
        assert command.startswith("vivit ")
        typed(command + (f" {SMALL}" if command.startswith("vivit train") else ""), folder)
    return folder


def test_commands(folder: Path) -> None:
    assert {path.name for path in (folder / "run").iterdir()} >= {"config.json", "model.safetensors", "evaluation"}


def test_python(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    first, second = blocks("python")
    names: dict[str, object] = {}
    exec(first, names)
    assert tuple(names["logits"].shape) == (1, 10)  # type: ignore[attr-defined]
    assert tuple(names["features"].shape) == (1, 192)  # type: ignore[attr-defined]
    exec(second, names)
    assert "temporal positions resized from 16 to 8\nfresh head of 10 classes" in capsys.readouterr().out
    assert (folder / "for_transformers" / "preprocessor_config.json").is_file()
    assert names["prediction"].labels[0].label in ("bright", "dark")  # type: ignore[attr-defined]


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z]+)", "\n".join(blocks("sh")), re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(links) >= 8
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_claims_are_those_of_the_records() -> None:
    """A list by hand of what docs/experiments.md counts from its records."""
    page = (ROOT / "docs" / "experiments.md").read_text()
    total, counts = re.findall(r"^Of (\d+) claims: (.*)\.$", page, re.MULTILINE)[0]
    numbers = {verdict: number for number, verdict in re.findall(r"(\d+) ([a-z ]+)", counts)}
    listed = {
        verdict.lower(): number for verdict, number in re.findall(r"^- \*\*(.+?)\*\* \((\d+)\)", README, re.MULTILINE)
    }
    assert listed == numbers
    assert f"{numbers['held']} of {total} claims held" in README
