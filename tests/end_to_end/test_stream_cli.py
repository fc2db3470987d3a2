"""`vivit stream` on files that the tests make."""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import vivit
from tests.end_to_end.conftest import InProcess
from tests.support import VIVIT, encode, noisy, tiny_model
from vivit.config import Preprocessing
from vivit.inference import live

CLASSES: dict[str, Sequence[str]] = {"classes": ["v", "w", "x", "y", "z"]}
MODEL = ("--model", "model", "--device", "cpu")
VARIABLE = {"times": [*range(0, 800, 20), *range(800, 2000, 90), 3000, *range(3105, 3400, 40)]}


@pytest.fixture
def here(vivit_here: InProcess) -> InProcess:
    vivit.save(tiny_model(CLASSES, Preprocessing(frame_stride=2, resize=32), variant="factorised_encoder"), "model")
    return vivit_here


def frames(count: int) -> list[Any]:
    return [frame for brightness in (40, 120, 200, 80) for frame in noisy(brightness, frames=count // 4 + 1)][:count]


@pytest.mark.parametrize(
    ("count", "options", "words", "rate"),
    [
        (60, {}, (), None),
        (60, {}, ("--step", "8"), None),  # the last window ends with the video
        (len(VARIABLE["times"]), VARIABLE, (), None),
        (len(VARIABLE["times"]), VARIABLE, (), 12.0),
        (40, {}, (), 40.0),
        (5, {}, (), None),  # shorter than a window
    ],
)
def test_a_file_has_the_lines_of_its_timeline(
    count: int,
    options: dict[str, Any],
    words: tuple[str, ...],
    rate: float | None,
    here: InProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = json.loads(Path("model/config.json").read_text())
    config["preprocessing"]["frame_rate"] = rate
    Path("model/config.json").write_text(json.dumps(config))
    path = encode(tmp_path / "clip.mkv", frames(count), **options)
    lines = here("timeline", "clip.mkv", "--windows", "--json", *words, *MODEL).succeeded()
    assert here("stream", "clip.mkv", "--json", *words, *MODEL).succeeded() == lines
    # So has a pipe, whose windows are computed one by one.
    with open(path, "rb") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        piped = here("stream", "-", "--json", *words, *MODEL)
    assert piped.err.startswith("latency " if count > 11 else "no window was full")
    for one, other in zip(piped.out.splitlines(), lines.splitlines(), strict=True):
        made, expected = json.loads(one), json.loads(other)
        assert (made["start"], made["end"]) == (expected["start"], expected["end"])
        assert made["scores"] == pytest.approx(expected["scores"], abs=1e-5)


def test_people_see_labels_when_they_change(here: InProcess, tmp_path: Path) -> None:
    encode(tmp_path / "clip.mp4", frames(60))
    lines = here("stream", "clip.mp4", "--threshold", "0", "--smooth", "0", *MODEL).succeeded().splitlines()
    assert lines[0].startswith("0:00.0  ") and lines[0].split()[1].endswith("%")
    labels = [line.split()[-1] for line in lines]
    assert all(one != other for one, other in pairwise(labels))
    assert here("stream", "clip.mp4", "--threshold", "1", *MODEL).succeeded() == "0:00.0       –\n"


def test_ctrl_c_ends_a_live_stream_and_what_came_is_answered(here: InProcess, tmp_path: Path) -> None:
    data = encode(tmp_path / "clip.ts", frames(60)).read_bytes()
    process = subprocess.Popen(
        [VIVIT, "stream", "-", "--json", *MODEL],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdin and process.stdout
    process.stdin.write(data)
    process.stdin.flush()  # and it stays open: more may come
    first = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    windows = [first, *map(json.loads, out.splitlines())]
    assert (process.returncode, first["start"]) == (0, 0)
    # How much had been read when the signal came is a matter of time.
    assert [window["end"] for window in windows] == sorted(window["end"] for window in windows)
    assert err.decode().startswith("latency ")


def test_a_file_that_is_stopped_says_so(here: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(tmp_path / "clip.mp4", frames(60))
    really = live.scored_windows

    def then_terminated(*words: Any) -> Any:
        for window in really(*words):
            yield window
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(live, "scored_windows", then_terminated)
    told = here("stream", "clip.mp4", "--json", *MODEL)
    assert (told.status, told.err) == (75, "vivit: stopped before the end of clip.mp4\n")
    assert len(told.out.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("missing.mp4",), "missing.mp4: no such file"),
        (("/dev/video99",), "/dev/video99: no such device"),
        (("ftp://host/clip.mp4",), "ftp://host/clip.mp4: .*URLs start with http"),
        (("http://me:secret@127.0.0.1:1/x",), "http://127.0.0.1:1/x: cannot be opened .connection refused"),
        (("clip.mp4", "--step", "0"), "step: 0 frames"),
        (("clip.mp4", "--threshold", "2"), "threshold: 2"),
        (("clip.mp4", "--buffer", "drop-oldest"), "buffer: clip.mp4 is a file"),
        (("clip.mp4", "other.mp4"), "unexpected argument 'other.mp4'"),
    ],
)
def test_mistakes_are_one_line(here: InProcess, words: tuple[str, ...], said: str) -> None:
    here("stream", *words, *MODEL).one_line(said)


def test_the_cost_of_windows_that_share_nothing_is_said(here: InProcess, tmp_path: Path) -> None:
    encode(tmp_path / "clip.mp4", frames(30))
    vivit.save(tiny_model(CLASSES, Preprocessing(frame_stride=2, resize=32)), "model")
    for words in (("stream", "clip.mp4"), ("timeline", "clip.mp4", "--json")):
        err = here(*words, *MODEL).err
        assert err.startswith("this model computes a whole window, ") and "every 2 frames" in err
