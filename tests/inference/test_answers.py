"""Files of answers: every format, interrupted at any byte, and resumed."""

import csv
import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from pyarrow import Table, parquet

from tests.support import refused
from vivit.inference import answers
from vivit.inference.answers import AnswerFile, Layout
from vivit.inference.predictor import Prediction, ScoredLabel
from vivit.labels import LabelSpace
from vivit.video.source import VideoError

ODD = '=1+1, "x"\r\ny 日本'
SINGLE = LabelSpace({"classes": ("a", ODD, "c")})
HEADS = LabelSpace({"verb": ("open", "close"), "noun": ("a", "b", "c")})
FORMATS = ("csv", "jsonl", "json", "parquet")
NAMES = ("a.mp4", "=b\n.mp4", b"caf\xe9.mp4".decode(errors="surrogateescape"), 'd,"e".mp4', "a.mp4", "f.mp4")


@pytest.fixture(autouse=True)
def _do_not_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def prediction(name: str, space: LabelSpace = SINGLE) -> Prediction:
    heads = {
        head: tuple(ScoredLabel(label, 0.1 + len(name) / (7 + rank)) for rank, label in enumerate(labels))
        for head, labels in space.classes.items()
    }
    return Prediction(Path(name), heads, "short" if name < "b" else "", ((0, 2), (4, 6)), ((0.0, 0.1), (0.2, 1 / 3)))


def layout(space: LabelSpace = SINGLE, top: int = 2, frames: bool = False, model: str = "abc") -> Layout:
    return Layout(space, top, frames, {"model": model, "views": "1x1"})


def write(
    path: Path, names: tuple[str, ...], of: Layout | None = None, resume: bool = False, finish: bool = True
) -> None:
    of = of or layout()
    with AnswerFile(path, path.suffix[1:], of, resume) as file:
        for video in file.left(Path(name) for name in names):
            assert isinstance(video, Path)
            file.add(prediction(str(video), of.labels))
        if finish:
            file.finish()


READ: dict[str, Callable[[Path], list[dict[str, object]]]] = {
    "csv": lambda path: list(csv.DictReader(path.open(newline="", encoding="utf-8", errors="surrogateescape"))),
    "jsonl": lambda path: [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]],
    "json": lambda path: json.loads(path.read_text("utf-8")),
    "parquet": lambda path: parquet.read_table(path).to_pylist(),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("space", [SINGLE, HEADS], ids=["one-head", "two-heads"])
def test_what_is_written_can_be_read(tmp_path: Path, format: str, space: LabelSpace) -> None:
    path = tmp_path / f"answers.{format}"
    write(path, NAMES, layout(space, frames=True))
    assert list(tmp_path.iterdir()) == [path]
    rows = READ[format](path)
    if format.startswith("json"):
        assert [row["video"] for row in rows] == [name.replace("\udce9", r"\udce9") for name in NAMES]
        shown = rows[0]["predictions"]
        lists = {"": shown} if space is SINGLE else shown
        assert isinstance(lists, dict)
        assert [[each["label"] for each in each_list] for each_list in lists.values()] == [
            list(labels[:2]) for labels in space.classes.values()
        ]
        assert (rows[0]["note"], rows[0]["model"], rows[0]["frames"]) == ("short", "abc", [[0, 2], [4, 6]])
        assert "note" not in rows[1] or NAMES[1] < "b"
    else:
        of_first = rows[: len(space.heads) * 2]
        assert {row["video"] for row in of_first} == {"a.mp4"}
        labels = [str(row["label"]).removeprefix("'") for row in of_first]
        assert labels == [label for known in space.classes.values() for label in known[:2]]
        assert [int(str(row["rank"])) for row in of_first] == [1, 2] * len(space.heads)
        assert float(str(of_first[1]["score"])) == 0.1 + 5 / 8
        assert ("head" in of_first[0]) == (space is HEADS)
        assert json.loads(str(of_first[0]["times"])) == [[0.0, 0.1], [0.2, 1 / 3]]


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_cut_at_any_byte_is_resumed_to_the_same_file(tmp_path: Path, format: str) -> None:
    whole = tmp_path / f"whole.{format}"
    write(whole, NAMES)
    path = tmp_path / f"answers.{format}"
    write(path, NAMES, finish=False)
    growing = path if format in ("csv", "jsonl") else tmp_path / f"answers.{format}.partial.jsonl"
    assert [each.name for each in tmp_path.iterdir() if "answers" in each.name] == [growing.name]
    text = growing.read_bytes()
    head = text.index(b"\n") + 1 if format == "csv" else 0
    for cut in {0, *range(head, len(text), 23), *range(len(text) - 3, len(text) + 1)}:
        growing.write_bytes(text[:cut])
        write(path, NAMES, resume=True)
        assert READ[format](path) == READ[format](whole), text[:cut]
        assert format == "parquet" or path.read_bytes() == whole.read_bytes()
        path.unlink()


@pytest.mark.parametrize("format", FORMATS)
def test_a_finished_file_takes_more_videos_and_nothing_twice(tmp_path: Path, format: str) -> None:
    path, whole = tmp_path / f"answers.{format}", tmp_path / f"whole.{format}"
    write(path, NAMES[:3], resume=True)
    before = READ[format](path)
    write(path, NAMES[:3], resume=True)
    assert READ[format](path) == before
    write(path, NAMES, resume=True)
    write(whole, NAMES)
    assert READ[format](path) == READ[format](whole)
    error = VideoError("x", "is damaged")
    with AnswerFile(path, format, layout(), resume=True) as file:
        assert list(file.left([Path("a.mp4"), error, Path("a.mp4"), Path("a.mp4")])) == [error, Path("a.mp4")]


@pytest.mark.parametrize("format", FORMATS)
def test_what_does_not_fit_is_refused_and_left_alone(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"answers.{format}"
    write(path, NAMES)
    before = path.read_bytes()
    for of, *patterns in (
        (layout(model="other"), "model abc, not other"),
        (layout(top=1), "--top"),
        (layout(top=3), "--top"),
        (layout(frames=True), "--show-frames"),
        (layout(HEADS), "does not hold answers of this kind"),
        (Layout(SINGLE, 2, False, {"model": "abc", "views": "4x3"}), "views 1x1, not 4x3"),
    ):
        refused(lambda: write(path, NAMES, of, resume=True), f"answers.{format}: ", *patterns)  # noqa: B023
    refused(lambda: write(path, NAMES), "exists; --resume")
    with AnswerFile(path, format, layout(), resume=True):
        refused(lambda: write(path, NAMES, resume=True), "another process is writing")
    assert path.read_bytes() == before or format == "parquet"
    other = BytesIO()
    parquet.write_table(Table.from_pylist([{"x": 1}]), other)
    nested = b"[" * 100_000 + b"\n"
    for content in (
        *(b"\xff\xfe\x00", b"null\n", b"[1]\n", b"{}\n", b'{"video": 1}\n', b"a,b\n1,2\n"),
        *(nested, b"PAR1" + bytes(40) + b"PAR1", other.getvalue()),
    ):
        path.write_bytes(content)
        for leftover in tmp_path.glob("*.partial.jsonl"):
            leftover.unlink()
        refused(lambda: write(path, NAMES, resume=True), "does not hold answers of this kind")
        assert path.read_bytes() == content
    refused(lambda: write(tmp_path / "no" / path.name, NAMES), "no such folder")
    refused(lambda: write(tmp_path / f"{'x' * 300}.{format}", NAMES), "File name too long")
    (tmp_path / f"folder.{format}").mkdir()
    refused(lambda: write(tmp_path / f"folder.{format}", NAMES), "is not a regular file")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    for format in FORMATS:
        path, link = tmp_path / f"answers.{format}", tmp_path / f"link.{format}"
        write(path, NAMES[:2])
        link.symlink_to(path.name)
        write(link, NAMES, resume=True)
        assert link.is_symlink() and len(READ[format](path)) >= len(NAMES)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full disk here")
def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answers.csv"
    write(path, NAMES)
    refused(lambda: write(Path("/dev/full"), NAMES), "not a regular file")
    monkeypatch.setattr(answers, "_open", lambda file, mode: Path("/dev/full").open("w"))  # noqa: SIM115
    refused(lambda: write(tmp_path / "new.csv", NAMES), "new.csv: not written .No space left on device.; --resume")
