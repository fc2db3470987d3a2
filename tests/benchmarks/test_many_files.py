"""The tiny form of the benchmark of many files."""

import pytest

from benchmarks import many_files


def test_the_tiny_form_finds_the_videos(capsys: pytest.CaptureFixture[str]) -> None:
    many_files.main(count=200, states=3)
    printed = capsys.readouterr().out
    assert printed.count(" 200 videos") == 2
    assert printed.count("no videos") == 2
    assert "100 videos" in printed
