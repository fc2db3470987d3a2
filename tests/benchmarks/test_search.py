"""The benchmark of search in its smallest form."""

import re
from pathlib import Path

import pytest

from benchmarks import long_videos, search


def test_clips_written_again_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search.recall(clips=1, sheet=tmp_path / "sheet.png")
    rows = re.findall(r"^\| made \| ([^|]+) \| 1 \| ([\d.]+)% \| ([\d.]+)% \|$", capsys.readouterr().out, re.MULTILINE)
    assert [way for way, *_ in rows] == [*search.WAYS, "all"]
    assert all(float(share) == 100 for _, *shares in rows for share in shares)  # there are no other files
    assert (tmp_path / "sheet.png").is_file()


def test_a_search_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    search.time_of(windows=3000, width=8)
    assert capsys.readouterr().out.count("\n| 3,000 | 8 |") == 3


def test_commands_name_the_files_of_a_measurement(tmp_path: Path) -> None:
    places = {"FILE": tmp_path / "2h.mp4", "ALONE": tmp_path / "alone", "OUT": tmp_path}
    words = long_videos._words("search", places)
    assert words == ["search", str(tmp_path / "index"), str(tmp_path / "2h.mp4")]
    assert long_videos._words("stream", places) == ["stream", "-", "--json"]
