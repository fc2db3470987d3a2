"""The benchmark of inference measures each contender of a variant beside ours."""

import json
from pathlib import Path

import pytest

from benchmarks import inference
from vivit.inference import speed


def test_the_tiny_form_has_a_row_for_each_contender_and_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(speed.SIDES, "cpu", 64)
    monkeypatch.setitem(speed.COPIED, "cpu", 1 << 16)
    out = tmp_path / "inference.json"
    inference.main(only="factorised_dot_product", rounds=2, threads=1, quick=True, out=out)
    values = json.loads(out.read_text())["values"]
    assert set(values["peaks"]["factorised_dot_product"]) == {"product f32", "product bf16", "copy"}
    ours, _, plain, _ = values["rows"]
    assert [(row["model"], row["precision"]) for row in values["rows"]] == [
        *(("vivit", "f32"), ("vivit", "bf16")),
        *(("plain", "f32"), ("plain", "bf16")),
    ]
    each = [theirs / own for theirs, own in zip(plain["seconds"]["each"], ours["seconds"]["each"], strict=True)]
    assert plain["time ÷ ours"]["each"] == each and len(each) == 2
    assert "time ÷ ours" not in ours
    peak = values["peaks"]["factorised_dot_product"]["product f32"]
    assert ours["of the product peak"] == ours["flops"] / ours["seconds"]["median"] / peak
