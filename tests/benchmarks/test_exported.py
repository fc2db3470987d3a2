"""The benchmark of exported models, with toy models: the record has every row, and each answers as ours."""

import json
from pathlib import Path

import pytest

from benchmarks import exported
from tests.support import encode, noisy


def test_the_tiny_form(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clip = encode(tmp_path / "clip.mp4", noisy(120, frames=40))
    monkeypatch.setattr(exported, "generated", lambda *_: clip)
    exported.main("factorised_encoder", "onnx", rounds=1, quick=True, out=tmp_path / "exported.json")
    rows = json.loads((tmp_path / "exported.json").read_text())["values"]["rows"]
    assert [(row["model"], row["precision"]) for row in rows] == [
        ("vivit", "f32"),
        ("vivit", "bf16"),
        ("onnx", "f32"),
    ]
    for row in rows:
        assert row["difference"] <= (1e-4 if row["precision"] == "f32" else 0.2)
        assert row["seconds"]["median"] > 0
    printed = capsys.readouterr().out
    assert all(f"{row['model']} {row['precision']}" in printed for row in rows)
