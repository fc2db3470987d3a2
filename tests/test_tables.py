"""Tables, read back by other means."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from vivit.errors import UserError
from vivit.tables import check_table, unescaped, write_table

TYPES = {"name": str, "score": float, "rank": int}
ROWS: list[dict[str, Any]] = [
    {"name": "=1+1", "score": 0.5, "rank": 1},
    {"name": 'a "quoted", b', "score": None, "rank": None},
    {"name": "two\nlines\r", "score": 1e-9, "rank": 3},
    {"name": "'=quoted", "score": 1.0, "rank": 4},
    {"name": "日本", "score": 1.0, "rank": 4},
    {"name": "", "score": 1.0, "rank": 4},
]


def test_every_format_holds_the_same_rows(tmp_path: Path) -> None:
    for suffix in ("csv", "parquet", "jsonl"):
        write_table(tmp_path / f"t.{suffix}", ROWS, TYPES)
    assert parquet.read_table(tmp_path / "t.parquet").to_pylist() == ROWS
    assert [json.loads(line) for line in (tmp_path / "t.jsonl").read_text("utf-8").split("\n")[:-1]] == ROWS
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [list(TYPES)] * len(ROWS)
    assert [unescaped(row["name"]) for row in rows[:3]] == [row["name"] for row in ROWS[:3]]
    assert rows[0]["name"] == "'=1+1"
    assert [float(row["score"]) if row["score"] else None for row in rows] == [row["score"] for row in ROWS]


def test_a_column_without_values_has_its_type(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", [dict.fromkeys(TYPES)], TYPES)
    schema = parquet.read_table(tmp_path / "t.parquet").schema
    assert {field.name: str(field.type) for field in schema} == {"name": "string", "score": "double", "rank": "int64"}


def test_bytes_that_are_not_text_are_kept_or_shown(tmp_path: Path) -> None:
    name = b"caf\xe9.mp4".decode(errors="surrogateescape")
    for suffix in ("csv", "parquet", "jsonl"):
        write_table(tmp_path / f"t.{suffix}", [{"name": name}], {"name": str})
    assert b"\ncaf\xe9.mp4" in (tmp_path / "t.csv").read_bytes()
    assert parquet.read_table(tmp_path / "t.parquet")["name"].to_pylist() == [r"caf\udce9.mp4"]
    assert json.loads((tmp_path / "t.jsonl").read_text("utf-8")) == {"name": r"caf\udce9.mp4"}


def test_an_impossible_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"table\.xlsx: .*\.csv, \.parquet or \.jsonl"):
        check_table(tmp_path / "table.xlsx")
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        write_table(tmp_path / "nowhere" / "table.csv", ROWS, TYPES)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pip install 'vivit\[parquet\]'"):
        write_table(tmp_path / "table.parquet", ROWS, TYPES)
    assert list(tmp_path.iterdir()) == []
