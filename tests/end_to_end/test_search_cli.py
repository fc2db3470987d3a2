"""`vivit index` and `vivit search` on files that the tests make."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

import vivit
from tests.end_to_end.conftest import InProcess
from tests.support import encode, noisy, run_vivit, tiny_model
from vivit.config import Preprocessing

CLASSES: dict[str, Sequence[str]] = {"classes": ["v", "w", "x", "y", "z"]}


@pytest.fixture
def here(vivit_here: InProcess, tmp_path: Path) -> InProcess:
    vivit.save(tiny_model(CLASSES, Preprocessing(frame_stride=2, resize=32), variant="factorised_encoder"), "model")
    (tmp_path / "clips").mkdir()
    for name, brightness in (("a", 40), ("b", 200), ("c", 120)):
        encode(tmp_path / "clips" / f"{name}.mp4", noisy(brightness, frames=30))
    return vivit_here


def test_from_a_folder_to_answers(here: InProcess, tmp_path: Path) -> None:
    made = here("index", "clips", "--model", "model", "--device", "cpu", "--step", "5", "--out", "index")
    assert (made.out, made.err) == ("", "15 windows of 3 videos in index: 3 computed, 0 moved, 0 dropped\n")
    (tmp_path / "clips" / "c.mp4").unlink()
    made = here("index", "clips", "--out", "index")  # with the model that made it
    assert made.err == "10 windows of 2 videos in index: 0 computed, 0 moved, 1 dropped\n"

    lines = here("search", "index", "clips/a.mp4", "--sheet", "sheet.png").out.splitlines()
    assert len(lines) == 1 and re.fullmatch(r"  1 +-?[01]\.\d{3}  0:00\.\d – 0:0\d\.\d  .*/clips/b\.mp4", lines[0])
    with Image.open("sheet.png") as picture:
        assert picture.width > 800
    (row,) = map(json.loads, here("search", "index", "clips/a.mp4", "--json").succeeded().splitlines())
    assert row.keys() == {"video", "start", "end", "similarity", "query"}
    rows = [json.loads(line) for line in here("search", "index", "--class", "w", "--json").succeeded().splitlines()]
    assert [row.keys() for row in rows] == [{"video", "start", "end", "score"}] * 2
    assert rows[0]["score"] >= rows[1]["score"]
    shown = here("search", "index", "--class", "w", "--top", "1", "--sheet", "label.png").out.splitlines()
    assert len(shown) == 1 and "%" in shown[0]
    own = here("search", "index", "clips/a.mp4", "--span", "0", "0.4", "--json").succeeded().splitlines()
    assert {Path(json.loads(line)["video"]).name for line in own} == {"a.mp4", "b.mp4"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("index", "none", "--out", "new"), "none: no such folder"),
        (("index", "clips", "--out", "index", "--step", "0"), "step: 0 frames"),
        (
            ("index", "clips", "--out", "index", "--model", "camera-motion"),
            "made by .*model, not by camera-motion",
        ),
        (("search", "none", "clips/a.mp4"), "none: no such index"),
        (("search", "index"), "query: give a video, or a --class"),
        (("search", "index", "clips/a.mp4", "--class", "w"), "query: .*not both"),
        (("search", "index", "--class", "dancing"), "class: .*'dancing'"),
        (("search", "index", "--class", "w", "--span", "0", "1"), "span: .*query"),
        (("search", "index", "clips/a.mp4", "--span", "5", "9"), "a.mp4: the span 5 to 9 s starts after the end"),
        (("search", "index", "clips/a.mp4", "--top", "0"), "top: 0"),
        (("search", "index", "clips/a.mp4", "--sheet", "sheet.jpg"), "sheet.jpg: .*png"),
        (("search", "index", "clips/a.mp4", "--sheet", "old.png"), "old.png: exists already"),
        (("search", "clips", "clips/a.mp4"), "clips: is not an index"),
        (("search", "index", "clips/no.mp4"), "no.mp4: no such file"),
    ],
)
def test_mistakes_are_one_line(here: InProcess, words: tuple[str, ...], said: str) -> None:
    here("index", "clips", "--model", "model", "--out", "index")
    Path("old.png").touch()
    here(*words).one_line(said)


def test_the_installed_command_with_the_model_of_the_package(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for name, brightness in (("a", 40), ("b", 200)):
        encode(tmp_path / "clips" / f"{name}.mp4", noisy(brightness, frames=60))
    assert run_vivit("index", "clips", "--out", "index", folder=tmp_path).status == 0
    ran = run_vivit("search", "index", "clips/a.mp4", folder=tmp_path)
    assert ran.status == 0 and ran.out.strip().endswith("clips/b.mp4")
