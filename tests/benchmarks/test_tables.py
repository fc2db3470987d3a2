"""The page of performance is made from records alone, and says what has none."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness, tables

SECONDS = {"median": 2.0, "low": 1.5, "high": 3.0, "each": [1.0, 2.0, 4.0]}
KIND = {"variant": "factorised_encoder", "precision": "f32"}
INFERENCE = {
    "load": 3.2,
    "task": {},
    "peaks": {"factorised_encoder": {"product f32": 155e9, "product bf16": 900e9, "copy": 11e9}},
    "rows": [
        {
            **{**KIND, "model": name, "seconds": SECONDS, "flops": 240e9, "of the product peak": 0.774},
            **{"processor seconds": {"each": each}, "attention": "flash"},
        }
        for name, each in (("vivit", [1.0, 2.0, 4.0]), ("plain", [1.5, 4.0, 12.0]))
    ],
}
MEMORY = {
    "load": 0.1,
    "task": {},
    "rows": [
        {**KIND, "model": model, "work": work, "frames": frames, "size": 224, "commit": commit, **found}
        for model, work, frames, commit, found in (
            ("vivit", "forward", 16, "old", {"peak": 1.25e9, "after imports": 1e9}),
            ("vivit", "forward", 32, "new", {"peak": 2.25e9, "after imports": 2e9}),
            ("transformers", "forward", 16, "new", {"error": "more than 12 GB"}),
            ("vivit", "training step", 32, "new", {"peak": 4e9, "after imports": 3e9}),
        )
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    INFERENCE["rows"][1]["time ÷ ours"] = {**SECONDS, "median": 1.234}  # type: ignore[index]
    for name, values in {"inference": INFERENCE, "memory": MEMORY}.items():
        harness.write(tmp_path / "performance" / f"{name}.json", values, packages=["transformers", "no-such-package"])
    return tmp_path / "performance"


def test_the_page_is_filled_from_records_and_says_what_has_none(folder: Path) -> None:
    page = folder.parent / "page.md"
    part = "<!-- made from records: {} -->\nold\n<!-- end -->"
    page.write_text("\n".join(["before", *(part.format(name) for name in ("inference", "memory", "gpu")), "after"]))
    tables.main(page, folder)
    text = page.read_text()
    assert "old\n" not in text.replace("old, new", "") and text.startswith("before") and text.endswith("after")
    assert "| factorised encoder | plain | f32 | 2 (1.5–3) | 120 | 77% | 1.23 (1.50–3.00) | 2.00 | flash |" in text
    assert "**Shared machine**, with a load of 3.2 before." in text
    assert "155 and 900 GFLOP/s, 11.0 GB/s" in text
    assert "| `vivit`, factorised encoder, forward, f32 | 1.25 | 2.25 |" in text
    assert "| transformers, sdpa, factorised encoder, forward, f32 | more than 12 GB | not measured |" in text
    assert "commit new, old" in text
    assert "Not measured yet: `python -m benchmarks.gpu` does it." in text
    for name in ("inference", "memory"):
        assert f"![{name}](performance/{name}.png)" in text
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    tables.main(page, folder)
    assert page.read_text() == text


def test_the_page_of_the_project_is_what_its_records_make() -> None:
    text = tables.PAGE.read_text("utf-8")
    made = {name: tables.lines_of(name, harness.RESULTS) for name in tables.LINES}
    assert tables.fill_page(text, made) == text, "run python -m benchmarks.tables"


@pytest.mark.parametrize("path", sorted(harness.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_committed_records_name_their_setting(path: Path) -> None:
    record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    assert {"commit", "hardware", "versions", "date", "command"} <= record.keys()
    assert {"task", "rows", "load"} <= record["values"].keys()
    assert not record["values"]["task"].get("quick")
