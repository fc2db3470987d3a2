"""`vivit export`, and what it writes as --model of other verbs."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import vivit
from tests.end_to_end.conftest import InProcess
from tests.support import run_vivit, tiny_model
from vivit.inference.export import export

NAMES: dict[str, Sequence[str]] = {"classes": ["bright", "dark", "c", "d", "e"]}


@pytest.fixture
def folder(tmp_path: Path, bright_dark: Path) -> Path:
    """A model, and videos of the classes bright and dark."""
    vivit.save(tiny_model(NAMES, num_layers=1, variant="factorised_encoder", temporal_layers=1), tmp_path / "model")
    (tmp_path / "videos").symlink_to(bright_dark)
    return tmp_path


def test_int8_predicts_and_its_makers_hear_nothing(folder: Path, vivit_here: InProcess) -> None:
    home = folder / "home"
    home.mkdir()

    def run(*words: str) -> str:
        # There is no telemetry where CI is true.
        return run_vivit(*words, folder=folder, HOME=str(home), CI="false").succeeded()

    said = run("export", "model", "small", "--int8", "--clips", "videos")
    assert "12 of 12 videos, a clip of each" in said
    assert "parity: max |Δ logits| " in said and "(your clips), int8 (run by openvino " in said
    assert "written to small: model.xml, " in said
    rows = [json.loads(line) for line in run("predict", "videos/dark", "--model", "small", "--json").splitlines()]
    assert len(rows) == 6 and {row["predictions"][0]["label"] for row in rows} <= set(NAMES["classes"])
    # Where the telemetry of OpenVINO and NNCF keeps the number of its sender.
    assert not (home / "intel").exists()

    described = vivit_here("info", "small").succeeded()
    assert "exported: openvino int8, takes uint8" in described and "factorised encoder" in described
    vivit_here("export", "model", "small").one_line("small: exists; --overwrite")
    vivit_here("export", "small", "other").one_line("small: an exported model")
    vivit_here("predict", "videos", "--model", "small", "--precision", "f32").one_line("computes in int8, not in f32")
    vivit_here("predict", "videos", "--model", "model", "--precision", "int8").one_line("int8 needs an exported model")
    vivit_here("train", "videos", "--init", "small", "--out", "run").one_line("small: an exported model")


def test_evaluate_takes_an_exported_folder(folder: Path, vivit_here: InProcess) -> None:
    export(folder / "model", folder / "exported", "torch-export")
    options = ("--split", "all", "--views", "1x1", "--workers", "0", "--precision", "f32", "--device", "cpu", "--out")
    scores = []
    for model in ("model", "exported"):
        vivit_here("evaluate", "videos", "--model", model, *options, f"scores-{model}").succeeded()
        scores.append(json.loads((folder / f"scores-{model}" / "scores.json").read_text()))
    assert scores[0]["top1"] == scores[1]["top1"]
    assert scores[0]["model"]["hash"] != scores[1]["model"]["hash"]
