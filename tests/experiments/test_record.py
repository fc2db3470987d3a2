"""The records that experiments leave."""

import json
import sys
from pathlib import Path

import pytest

from vivit.experiments import record
from vivit.experiments.record import commit, write_record


def test_a_record_says_where_its_values_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/bin/vivit", "experiment", "x", "--out", "/home/me/runs/a b", "--n=/z/y"])
    write_record(tmp_path / "one.json", {"accuracy": 0.5}, seed=3)
    found = json.loads((tmp_path / "one.json").read_text())
    assert found["values"] == {"accuracy": 0.5} and found["seed"] == 3
    assert found["command"] == "vivit experiment x --out 'a b' --n=y"
    assert found["hardware"]["cores"] >= 1 and set(found["versions"]) == {"python", "torch", "vivit"}


def test_outside_a_checkout_the_version_stands_for_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "__file__", str(tmp_path / "record.py"))
    assert commit().startswith("vivit ")
