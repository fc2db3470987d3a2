"""The benchmark of token merging, with toys: rows for each axis and ratio, and a record of both kinds."""

import json
from pathlib import Path

import vivit
from benchmarks import tables, token_merging
from tests.support import encode, noisy, tiny_model


def test_the_tiny_form(tmp_path: Path) -> None:
    for name, brightness in (("dark", 40), ("bright", 200)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(2):
            encode(tmp_path / "data" / name / f"{number}.mp4", noisy(brightness + number, frames=20))
    model = tiny_model({"classes": ["bright", "dark"]}, num_classes=2, variant="factorised_encoder")
    vivit.save(model, tmp_path / "model")
    out = tmp_path / "performance" / "token_merging.json"
    token_merging.main("factorised_dot_product", "0.5", "f32", rounds=1, quick=True, out=out)
    data = tmp_path / "data"
    token_merging.main(ratios="0.3,0.5", data=data, model=str(tmp_path / "model"), clips=data / "dark", out=out)
    rows = json.loads(out.read_text())["values"]["rows"]
    assert [(row["what"], row["over"], row["ratio"]) for row in rows] == [
        *(("time", None, 0), ("time", "space", 0.5), ("time", "time", 0.5)),
        *(("accuracy", None, 0), ("accuracy", "space", 0.3), ("accuracy", "space", 0.5)),
    ]
    whole, *others = rows[3:]
    assert whole["agreement"] == whole["agreement of windows"] == 1.0 and whole["videos"] == 4
    assert whole["accuracy"] in (0, 0.25, 0.5, 0.75, 1)
    assert all(0 <= row["agreement"] <= 1 and row["windows"] == whole["windows"] > 0 for row in others)
    page = tables.lines_of("token_merging", out.parent)
    assert len([line for line in page if line.startswith("| factorised")]) == len(rows)
