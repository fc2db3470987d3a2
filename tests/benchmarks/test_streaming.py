"""The benchmark of streaming, with a toy model: each window is that of its own frames, and the record has every row."""

import json
from pathlib import Path

import pytest

from benchmarks import streaming


def test_the_tiny_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    streaming.main(rounds=1, batch=3, quick=True, out=tmp_path / "streaming.json")
    rows = json.loads((tmp_path / "streaming.json").read_text())["values"]["rows"]
    assert [(row["precision"], row["way"]) for row in rows] == [
        (precision, way) for precision in ("f32", "bf16") for way in ("alone", "live", "recorded")
    ]
    for row in rows:
        assert row["difference"] <= (1e-5 if row["precision"] == "f32" else row["difference_of_precision"])
        assert row["seconds"]["median"] > 0
    assert len(capsys.readouterr().out.splitlines()) == 5 + 2 + len(rows)
