"""The benchmark of cold starts, with a toy model: a row for each way, from processes of their own."""

import json
from pathlib import Path

from benchmarks import cold_start
from tests.support import encode, noisy


def test_the_tiny_form(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip.mp4", noisy(120, frames=40))
    cold_start.main(rounds=1, precisions="f32", clip=clip, quick=True, out=tmp_path / "cold_start.json")
    rows = json.loads((tmp_path / "cold_start.json").read_text())["values"]["rows"]
    assert [row["model"] for row in rows] == ["vivit", "transformers pipeline"]
    assert rows[1]["of the pipeline's"]["median"] == 1
    assert all(row["processor seconds"]["median"] > 0.5 and row["peak memory"] > 1e8 for row in rows)
