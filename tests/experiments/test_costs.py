"""The costs of the paper's models, counted on the models that run, are those of the paper's tables."""

import json
from pathlib import Path

import pytest

from vivit.cli.experiments.table2 import table2
from vivit.experiments import costs


def test_table_2_is_the_papers_to_its_last_digit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table2(time=False, out=tmp_path / "costs.json")
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "costs.json").read_text())["values"]["rows"]
    assert [row["model"] for row in rows] == list(costs.TABLE_2)
    for row in rows:
        assert row["parameters"] == costs.TABLE_2[row["model"]].official_parameters
        assert round(row["giga_multiply_adds"], 1) == costs.TABLE_2[row["model"]].giga_multiply_adds
        assert f"{row['parameters']:,}" in printed
        assert "seconds" not in row


def test_table_5_counts_the_spatio_temporal_model() -> None:
    (row,) = costs.table5([224])
    assert row["spatiotemporal"]["giga_multiply_adds"] == pytest.approx(costs.TABLE_5[224], rel=5e-4)
    assert row["factorised_encoder"]["giga_multiply_adds"] == pytest.approx(991, rel=5e-4)


def test_the_factorised_encoder_grows_linearly_with_frames_and_joint_attention_faster() -> None:
    rows = {(row["model"][0], row["frames"]): row["giga_multiply_adds"] for row in costs.figure9([16, 32])}
    growth = {model: rows[model, 32] / rows[model, 16] for model in "1234"}
    assert growth["2"] == pytest.approx(2, rel=0.002)
    assert growth["1"] > 2.2 > max(growth[model] for model in "234")


def test_each_model_is_timed_as_often_as_asked() -> None:
    tiny = {"num_frames": 2, "image_size": 16, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "mlp_dim": 16}
    done: list[int] = []
    times = costs.seconds_of({row: costs.base_model(row, **tiny) for row in list(costs.MODELS)[:2]}, 2, done.append)
    assert [len(seconds) for seconds in times.values()] == [2, 2]
    assert all(second > 0 for seconds in times.values() for second in seconds)
    assert done == list(range(1, 7))
