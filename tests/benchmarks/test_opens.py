"""The benchmark of opening files finds what is not given back."""

import mmap
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import opens
from benchmarks.opens import Use

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return opens.make_files(tmp_path_factory.mktemp("containers"))


def test_the_tiny_form_finds_nothing_kept(paths: list[Path]) -> None:
    uses = opens.open_often(paths, "pyav", 20)
    assert [use.opened for use in uses] == [0, 2, 20]
    assert opens.problems(uses) == []


def test_files_left_open_are_found(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    left, really_open = [], opens.open_video

    def forgetful(path: Path, decoder: Any) -> Any:
        left.append(path.open("rb"))
        return really_open(path, decoder)

    monkeypatch.setattr(opens, "open_video", forgetful)
    uses = opens.open_often(paths, "pyav", 20)
    for file in left:
        file.close()
    (problem,) = opens.problems(uses)
    assert problem == f"{uses[0].files + 20} open files after 20, {uses[0].files} at the start"


def test_memory_that_is_kept_is_found(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    kept, really_open = [], opens.open_video

    def greedy(path: Path, decoder: Any) -> Any:
        # Pages of its own: what the heap has left over would not show.
        pages = mmap.mmap(-1, 3_000_000)
        pages.write(b"1" * 3_000_000)
        kept.append(pages)
        return really_open(path, decoder)

    monkeypatch.setattr(opens, "open_video", greedy)
    (problem,) = opens.problems(opens.open_often(paths, "pyav", 20))
    assert "MB after 20" in problem


def test_memory_of_the_first_files_is_not_counted() -> None:
    assert opens.problems([Use(0, 100.0, 12), Use(1000, 150.0, 12), Use(10000, 170.0, 12)]) == []
