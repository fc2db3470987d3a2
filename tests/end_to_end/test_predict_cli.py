"""`vivit predict` on whatever people have, interrupted and resumed."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from pyarrow import parquet

import vivit
from tests.end_to_end.conftest import InProcess
from tests.support import VIVIT, encode, noisy, tiny_model
from vivit.cli import predict
from vivit.experiments.footage import make_footage
from vivit.video.decode import open_video

ESCAPE = "\x1b[31mred\x1b]0;gone\x07"
CLASSES: dict[str, Sequence[str]] = {"classes": ["=a", "b", "c", "d", "é"]}
# Commands in a process of their own do not have the precision that these tests have, see conftest.
MODEL = ("--model", "model", "--device", "cpu", "--precision", "f32")
MANY = 200


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a folder of five videos: one damaged, one of two frames, one with an odd name."""
    folder = tmp_path_factory.mktemp("predict")
    vivit.save(tiny_model(classes=CLASSES), folder / "model")
    (folder / "clips" / "deep").mkdir(parents=True)
    for number in range(2):
        encode(folder / "clips" / f"{number}.mp4", noisy(60 + 90 * number, frames=16))
    encode(folder / "clips" / "two.mp4", noisy(200, frames=2))
    encode(folder / "clips" / "deep" / f"{ESCAPE}.mkv", noisy(30, frames=16))
    (folder / "clips" / "broken.mp4").write_bytes(b"no video")
    (folder / "many").mkdir()
    for number in range(MANY):
        os.link(folder / "clips" / f"{number % 2}.mp4", folder / "many" / f"{number:03}.mp4")
    return folder


@pytest.fixture
def here(videos: Path, vivit_here: InProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> InProcess:
    """The command in a folder with links to these."""
    for name in ("model", "clips", "many"):
        (tmp_path / name).symlink_to(videos / name)
    return vivit_here


def test_a_folder_for_people_and_for_machines(here: InProcess, tmp_path: Path) -> None:
    plain = here("predict", "clips", *MODEL, "--top", "2", "--show-frames")
    lines = plain.out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "clips/0.mp4",
        "clips/1.mp4",
        r"clips/deep/\x1b[31mred\x1b]0;gone\x07.mkv",
        "clips/two.mp4",
    ]
    assert "\x1b" not in plain.out + plain.err
    # Six frames, every second one, from the middle of sixteen at 25 a second.
    assert "  clip 1: 2 (0.080 s), 4 (0.160 s), 6 (0.240 s), 8 (0.320 s), 10 (0.400 s), 12 (0.480 s)" in lines
    assert [line for line in lines if "note: " in line] == [lines[lines.index("clips/two.mp4") + 1]]
    assert plain.status == 2
    assert plain.err.splitlines()[0].startswith("vivit: clips/broken.mp4: ")
    assert plain.err.splitlines()[1:] == ["vivit: 1 of 5 videos cannot be read"]

    rows = json.loads(here("predict", "clips", *MODEL, "--format", "json").out)
    by_line = [json.loads(line) for line in here("predict", "clips", *MODEL, "--json").out.splitlines()]
    assert rows == by_line
    assert [row["video"] for row in rows] == [
        f"clips/{name}" for name in ("0.mp4", "1.mp4", f"deep/{ESCAPE}.mkv", "two.mp4")
    ]
    assert ["note" in row for row in rows] == [False, False, False, True]
    table = list(csv.DictReader(io.StringIO(here("predict", "clips", *MODEL, "--format", "csv").out, newline="")))
    assert [row["score"] for row in table[:5]] == [str(scored["score"]) for scored in rows[0]["predictions"]]
    assert {row["label"].removeprefix("'") for row in table} == set(CLASSES["classes"])

    here("predict", "clips", *MODEL, "--out", "a.parquet")
    assert [row["score"] for row in parquet.read_table("a.parquet").to_pylist()][:5] == [
        scored["score"] for scored in rows[0]["predictions"]
    ]
    assert json.loads(here("predict", "clips/broken.mp4", *MODEL, "--format", "json").out) == []


def test_without_a_model_the_one_in_the_package_answers(here: InProcess, tmp_path: Path) -> None:
    make_footage(tmp_path / "footage", pictures=None, videos=None, count=2)
    result = here("predict", "footage/*/*.mp4", "--json", "--top", "1")
    labels = [json.loads(line)["predictions"][0]["label"] for line in result.out.splitlines()]
    assert labels == ["pan_left", "pan_right"]
    (said,) = result.err.splitlines()
    assert said.startswith("camera-motion: ")
    assert "--model" in said


def test_words_of_every_kind(here: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.txt").write_text("clips/0.mp4\r\n\r\nclips/deep\r\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"clips/1.mp4\nmissing.mp4\n")))
    address = "http://me:secret@127.0.0.1:1/x.mp4?secret"
    result = here("predict", "-", "@list.txt", "clips/t*.mp4", "*.avi", address, *MODEL, "--json")
    assert [json.loads(line)["video"] for line in result.out.splitlines()] == [
        "clips/1.mp4",
        "clips/0.mp4",
        f"clips/deep/{ESCAPE}.mkv",
        "clips/two.mp4",
    ]
    missing, pattern, url, last = result.err.splitlines()
    assert (missing, pattern) == ("vivit: missing.mp4: no such file", "vivit: *.avi: matches no file")
    assert "--allow-url" in url and "secret" not in url
    assert last == "vivit: 3 of 7 videos cannot be read"


def test_an_address_is_read_in_another_process(here: InProcess, tmp_path: Path) -> None:
    address = "http://localhost:1/x.mp4"
    here("predict", address, *MODEL, "--allow-url").one_line("not a host of the public internet; --allow-private")
    here("predict", address, *MODEL, "--allow-url", "--allow-private").one_line("cannot be fetched: Connection refused")


def test_mistakes_are_one_line_before_the_model_is_loaded(here: InProcess, tmp_path: Path) -> None:
    (tmp_path / "there.csv").touch()
    for words, *patterns in (
        (("--out", "a.xlsx"), r"a\.xlsx: .*\.json, \.jsonl, \.csv, \.parquet"),
        (("--out", "a.csv", "--format", "table"), "terminal"),
        (("--format", "parquet"), "--out"),
        (("--json", "--format", "csv"), "leave one out"),
        (("--resume",), "--out"),
        (("--out", "no/a.csv"), "no: no such folder"),
        (("--max-size", "0"), "max_size"),
        (("--workers", "-1"), "workers"),
        (("--nope",), "no option --nope"),
    ):
        here("predict", "clips", "--model", "nowhere", *words).one_line(*patterns)
    here("predict", "clips", *MODEL, "--out", "there.csv").one_line("there.csv: exists; --resume")
    here("predict", "@nothing", *MODEL).one_line("nothing: cannot be read as a list")


def test_a_command_without_standard_streams_and_one_under_nohup() -> None:
    assert subprocess.run(["sh", "-c", f"exec '{VIVIT}' --version <&- >&- 2>&-"]).returncode == 0
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with predict.stopping(str):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_IGN, signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("name", "number", "status"), [("a.csv", signal.SIGINT, 130), ("a.json", signal.SIGTERM, 75)])
def test_interrupted_and_resumed_is_the_same_file(
    here: InProcess, tmp_path: Path, name: str, number: signal.Signals, status: int
) -> None:
    words = ("predict", "many", "clips/broken.mp4", *MODEL, "--workers", "0")
    growing = tmp_path / (name if name.endswith("csv") else f"{name}.partial.jsonl")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # At the lowest priority, so that a busy machine does not let it end before the signal comes.
    command = ["nice", "-n", "19", str(VIVIT), *words, "--out", name]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment)
    while not growing.exists() or growing.stat().st_size < 3000:
        assert running.poll() is None, running.stderr and running.stderr.read()
        time.sleep(0.002)
    running.send_signal(number)
    _, err = running.communicate()
    assert running.returncode == status
    assert "stopped after" in err and f"in {name}" in err and len(err.splitlines()) == 1
    assert growing.read_bytes().endswith(b"\n")
    answered = growing.read_bytes()
    assert len(set(answered.split(b"\n"))) < MANY * 5  # it was in time

    # Another model would give other answers.
    vivit.save(tiny_model(classes=CLASSES, seed=1), tmp_path / "other")
    here("predict", "many", "--model", "other", "--out", name, "--resume").one_line(growing.name, "model")
    assert growing.read_bytes() == answered
    assert here(*words, "--out", name, "--resume").err.endswith(f"1 of {MANY + 1} videos cannot be read\n")
    here(*words, "--out", f"whole-{name}")
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()
    assert not list(tmp_path.glob("*.partial.jsonl"))


def test_an_overlay_is_the_video_with_its_labels_and_its_sound(here: InProcess, tmp_path: Path) -> None:
    encode(tmp_path / "loud.mp4", [np.zeros((96, 128, 3), np.uint8)] * 20, sound=0.8)
    here("predict", "loud.mp4", *MODEL, "--top", "1", "--overlay", "drawn.mp4")
    with av.open("drawn.mp4") as drawn:
        assert {stream.type for stream in drawn.streams} == {"video", "audio"}
    with open_video("loud.mp4") as before, open_video("drawn.mp4") as after:
        assert after.info.num_frames == before.info.num_frames == 20
        frames = after.frames([0, 19])
    assert (frames[..., :20, :].amax((1, 2, 3)) > 200).all()  # white letters
    assert frames[..., 30:, :].max() < 40
    here("predict", "loud.mp4", *MODEL, "--overlay", "drawn.mp4").one_line("drawn.mp4: exists already")
    here("predict", "loud.mp4", *MODEL, "--overlay", "drawn.avi").one_line("drawn.avi: .*must end in .mp4")
    here("predict", "loud.mp4", "clips/0.mp4", *MODEL, "--overlay", "new.mp4").one_line("overlay: .*not on 2")
    assert not list(tmp_path.glob("*unfinished*")) and not (tmp_path / "new.mp4").exists()
