"""The benchmark of memory sees what a step keeps, gives up rows above the limit, and goes on where it was ended."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import memory
from benchmarks.memory import Case

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
KEPT = 16 * 2 * 32 * 4  # bytes of a token of the toy: at least 16 numbers of 32 channels in each of two layers


def test_a_training_step_keeps_what_its_gradient_needs_and_no_row_exceeds_the_limit() -> None:
    tokens = 512 // 2 * (32 // 16) ** 2
    case = Case("vivit", "factorised_encoder", "training step", "f32", 512, 32)
    row = memory.measure(case, 4.0, 1, quick=True)
    assert tokens * KEPT < row["after imports"] < row["peak"] < 4e9
    row = memory.measure(case, 0.05, 1, quick=True)
    assert row["error"] == "more than 0.05 GB" and "peak" not in row


def test_rows_go_from_small_to_large_and_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Case] = []

    def measure(case: Case, *_: Any) -> dict[str, Any]:
        asked.append(case)
        return {**memory.asdict(case), "peak": 1}

    monkeypatch.setattr(memory, "measure", measure)
    out = tmp_path / "memory.json"
    memory.main(frames="32,16", sizes="32", out=out)
    assert [case.frames for case in asked] == sorted(case.frames for case in asked)
    assert len(asked) == len(set(asked)) == 2 * 5 * 3  # lengths, models, kinds of work and precisions
    memory.main(frames="16,64", sizes="32", out=out)
    assert len(asked) == len(set(asked)) == 3 * 5 * 3
    assert len(json.loads(out.read_text())["values"]["rows"]) == len(asked)
