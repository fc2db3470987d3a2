"""`vivit benchmark` measures a model in each precision beside the peaks of the machine."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny_model
from vivit.cli.benchmark import benchmark
from vivit.errors import UserError
from vivit.inference import benchmark as module
from vivit.inference import speed
from vivit.inference.benchmark import Benchmark
from vivit.weights.describe import multiply_adds
from vivit.weights.store import save


def test_a_row_for_each_precision_with_rates_that_follow_from_its_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A process of its own takes longer than all the rest.
    monkeypatch.setattr(module, "_memory", lambda benchmark, precision: 10**9)
    monkeypatch.setitem(speed.SIDES, "cpu", 64)
    monkeypatch.setitem(speed.COPIED, "cpu", 1 << 16)
    model = tiny_model()
    save(model, tmp_path / "model")
    benchmark(model=str(tmp_path / "model"), batch=2, rounds=2, json=True, device="cpu")
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    peaks, rows = record["values"]["peaks"], record["values"]["rows"]
    assert [row["precision"] for row in rows] == ["f32", "bf16"]
    for row in rows:
        rate = 2 * multiply_adds(model.config) / row["seconds"]["median"]
        assert len(row["seconds"]["each"]) == 2
        assert row["flops a second"] == pytest.approx(rate)
        assert row["of the product peak"] == pytest.approx(rate / peaks[f"product {row['precision']}"])
        assert row["attention"] == "flash (19 tokens)"
    assert record["hardware"]["threads"] >= 1

    benchmark(model=str(tmp_path / "model"), rounds=1, device="cpu", precision=("f32",))
    lines = capsys.readouterr().out.splitlines()
    assert lines[4].split()[0] == "f32" and "1.00 GB  flash (19 tokens)" in lines[4]


def test_memory_is_that_of_a_process_with_the_model(tmp_path: Path) -> None:
    save(tiny_model(), tmp_path / "model")
    memory = module._memory(Benchmark(str(tmp_path / "model"), "cpu"), "f32")
    assert 100e6 < memory < 1e9


def test_a_size_has_random_weights_and_a_wrong_one_says_what_there_is() -> None:
    assert Benchmark("vivit-ti-16x2-fe").open().config.hidden_size == 192
    with pytest.raises(UserError, match="vivit-ti-16x2-fsa"):
        Benchmark("vivit-ti-16x2-fs").open()


def test_values_out_of_range() -> None:
    with pytest.raises(UserError, match=r"^rounds: 0 is out of range"):
        benchmark(rounds=0)
