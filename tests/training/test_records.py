"""Damaged and forged records of a run: one line says what is wrong and how to go on, and no checkpoint is lost.

Every case damages one file of a run, by its seed and number, and then resumes, reports, evaluates or predicts. By hand,
with more cases or one that failed:

    python -m tests.training.test_records --count 2000 --seed 1
    python -m tests.training.test_records --seed 1 --first 4711 --count 1
"""

import argparse
import contextlib
import hashlib
import io
import json
import random
import shutil
import struct
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from tests.support import assert_one_line, encode, noisy
from vivit import cli
from vivit.training.checkpoint import checkpoints
from vivit.training.update import Updater
from vivit.weights.store import load

COUNT, SEED = 24, 0
TINY = ("--recipe", "debug", "--epochs", "3", "--min-steps", "0", "--batch-size", "4", "--ema", "0.5")
HERE = ("--device", "cpu", "--workers", "0")
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 10**9, 10**30, 0.5, float("nan"), float("inf"), "", "x", "\ud800", "\x1b[2J\n", [], {}),
    *([None], {"x": 1}, "9" * 5000, [[]] * 3),
)


class Enough(Exception):
    """The run has done as many steps as it is to do."""


def vivit(*words: str | Path) -> tuple[int, str]:
    """The exit status of a command in this process, and its last words on stderr."""
    said = io.StringIO()
    argv = mock.patch.object(sys, "argv", ["vivit", *map(str, words)])
    silent = contextlib.redirect_stdout(io.StringIO())
    with contextlib.redirect_stderr(said), silent, argv, pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0), said.getvalue()


class Place:
    """A folder with data, a whole run, and one that was killed after a score and two further steps."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        for split in ("train", "val"):
            for name, brightness in (("bright", 190), ("dark", 30)):
                (self.data / split / name).mkdir(parents=True)
                for number in range(4 if split == "train" else 1):
                    encode(self.data / split / name / f"{number}.mp4", noisy(brightness + 5 * number))
        self.video = self.data / "val" / "dark" / "0.mp4"
        self.whole, self.part = folder / "whole", folder / "part"
        assert self.resume(self.whole) == (0, "")
        real, taken = Updater.__call__, 0

        def update(*arguments: Any) -> Any:
            nonlocal taken
            if (taken := taken + 1) > 4:
                raise Enough
            return real(*arguments)

        with mock.patch.object(Updater, "__call__", update), contextlib.suppress(Enough):
            self.resume(self.part)
        assert [path.name for path in checkpoints(self.part / "checkpoints")] == ["step-00000003", "step-00000004"]

    def resume(self, run: Path) -> tuple[int, str]:
        return vivit("train", self.data, "--out", run, *TINY, *HERE, "--checkpoint-every", "0")

    def use(self, verb: str, run: Path) -> tuple[int, str]:
        if verb == "train":
            return self.resume(run)
        if verb == "report":
            return vivit("report", run)
        if verb == "evaluate":
            return vivit("evaluate", self.data, "--model", run, "--views", "1x1", *HERE)
        return vivit("predict", self.video, "--model", run, "--device", "cpu")


def attack(place: Place, number: int, seed: int) -> tuple[str, str]:
    """Damage a file and use the run. Returns the file and verb, and "good" or "refused"; raises AssertionError."""
    rng = random.Random(f"{seed} {number}")
    run = place.folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(rng.choice((place.part, place.part, place.whole)), run)
    files = sorted(path for path in run.rglob("*") if path.is_file() and "tensorboard" not in path.parts)
    file = rng.choice([path for path in files if path.suffix not in (".png", ".html")])
    how = damage(rng, file)
    if file.parent.name.startswith("step-") and file.name != "SHA256SUMS" and rng.random() < 0.7:
        how += ", with a checksum that fits"
        write_sums(file.parent)
    before = last_whole(run)
    verb = rng.choice(("train", "train", "report", "evaluate", "predict"))
    what = f"{file.relative_to(run)}: {how}; {verb}"
    try:
        status, said = place.use(verb, run)
        assert status in (0, 2), f"status {status}"
        lines = said.splitlines()
        assert (status == 2) == bool(lines) and len(lines) <= 1, f"status {status}: {said}"
        assert said.isprintable() or said[:-1].isprintable(), repr(said)
        assert f"delete {run}" not in said.replace(f"delete {run}/", ""), said
        assert last_whole(run) >= before, "the last checkpoint is lost"
        if verb == "train" and status == 0:
            assert_as_whole(place, run, file)
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from None
    except Exception:
        raise AssertionError(f"{what}: {traceback.format_exc()}") from None
    return what, "refused" if status else "good"


def last_whole(run: Path) -> int:
    """The step of the last checkpoint whose files have their checksums; 0 if there is none."""
    return max((int(folder.name[5:]) for folder in checkpoints(run / "checkpoints") if is_whole(folder)), default=0)


def is_whole(checkpoint: Path) -> bool:
    try:
        lines = (checkpoint / "SHA256SUMS").read_text().splitlines()
        sums = [hashlib.sha256((checkpoint / line[66:]).read_bytes()).hexdigest() == line[:64] for line in lines]
    except (OSError, ValueError):
        return False
    return all(sums) and len(sums) == 4


def assert_as_whole(place: Place, run: Path, file: Path) -> None:
    """The run has become what it would have been."""
    ours, expected = (load(folder).state_dict() for folder in (run, place.whole))
    # Nothing else has the numbers of a checkpoint whose checksums fit, and a model that is finished is not read.
    if file.suffix != ".safetensors" and file.name != "state.json":
        for name, value in expected.items():
            assert torch.equal(ours[name], value), f"{name} differs from that of a run that was left alone"
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 6


def damage(rng: random.Random, file: Path) -> str:
    content = file.read_bytes()
    changes: list[Callable[[], tuple[str, bytes | None]]] = [
        lambda: ("empty", b""),
        lambda: ("cut", content[: rng.randrange(len(content))]),
        lambda: ("binary", rng.randbytes(100)),
        lambda: ("a byte changed", flipped(rng, content)),
        lambda: ("another value", rng.choice((b"null", b"[]", b"0", b'"x"', b"[" * 99999, b"{}", b"NaN\n"))),
        lambda: ("a folder", None),
    ]
    if file.suffix == ".json":
        changes += 4 * [lambda: ("a field", json.dumps(changed(rng, json.loads(content))).encode())]
    elif file.suffix == ".jsonl":
        changes += 4 * [lambda: ("a line", changed_line(rng, content))]
    elif file.suffix == ".safetensors":
        changes += 4 * [lambda: changed_tensors(rng, content)]
    how, new = rng.choice(changes)()
    file.unlink()
    if new is None:
        file.mkdir()
    else:
        file.write_bytes(new)
    return how


def flipped(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container within a JSON value, and the key of each thing in it."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


def changed(rng: random.Random, value: Any) -> Any:
    container, key = rng.choice(list(places(value)))
    if rng.random() < 0.2 and isinstance(container, dict):
        del container[key]
    else:
        container[key] = rng.choice(VALUES)
    return value


def changed_line(rng: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    number = rng.randrange(len(lines))
    other = json.dumps(changed(rng, json.loads(lines[number]))).encode() + b"\n"
    lines[number] = rng.choice((other, other, other, b"null\n", b"[]\n", b"\xff\n", b"\n", lines[number] * 2))
    return b"".join(lines)


def changed_tensors(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    if rng.random() < 0.5:
        bad = rng.choice((float("nan"), float("inf"), float("-inf")))
        place = 8 + length + 4 * rng.randrange((len(content) - 8 - length) // 4)
        return f"{bad} in it", content[:place] + struct.pack("<f", bad) + content[place + 4 :]
    header = json.dumps(changed(rng, json.loads(content[8 : 8 + length]))).encode()
    return "its header", struct.pack("<Q", len(header)) + header + content[8 + length :]


def write_sums(checkpoint: Path) -> None:
    files = [file for file in sorted(checkpoint.iterdir()) if file.is_file() and file.name != "SHA256SUMS"]
    sums = (f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    (checkpoint / "SHA256SUMS").write_text("".join(sums))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("records"))


@pytest.fixture
def run(place: Place) -> Path:
    """The run that was killed."""
    shutil.rmtree(place.folder / "run", ignore_errors=True)
    return shutil.copytree(place.part, place.folder / "run")


def test_damaged_records_are_noticed_or_do_no_harm(place: Place) -> None:
    outcomes = Counter(attack(place, number, SEED)[1] for number in range(COUNT))
    assert min(outcomes["good"], outcomes["refused"]) > COUNT // 8


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"null", b"{", None])
@pytest.mark.parametrize("name", ["recipe.json", "checkpoints/config.json"])
def test_what_a_message_says_about_a_damaged_record_helps(
    place: Place, run: Path, name: str, content: bytes | None
) -> None:
    file = run / name
    file.unlink()
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    status, said = place.resume(run)
    assert status == 2
    assert_one_line(said, f"{file}: .*delete this file alone")
    file.rmdir() if content is None else file.unlink()
    assert place.resume(run) == (0, "")
    assert_as_whole(place, run, file)
    assert file.read_bytes() == (place.whole / name).read_bytes()
    assert place.resume(run) == (0, "")


def forge(checkpoint: Path, **fields: Any) -> None:
    state = json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.json").write_text(json.dumps(state | fields))
    write_sums(checkpoint)


@pytest.mark.parametrize(
    "fields",
    [
        *({"step": 10**9}, {"step": 6}, {"step": 4.0}, {"step": True}, {"losses": []}, {"losses": [0.5, float("nan")]}),
        *({"unreadable": {"99": "gone"}}, {"unreadable": {"0": None}}, {"unreadable": []}),
    ],
)
def test_a_forged_state_is_passed_over_for_the_checkpoint_before(place: Place, run: Path, fields: Any) -> None:
    forge(run / "checkpoints" / "step-00000004", **fields)
    assert place.resume(run) == (0, "")
    assert_as_whole(place, run, run / "checkpoints")
    assert (run / "checkpoints" / "damaged-step-00000004" / "state.json").exists()


def test_a_state_that_a_renamed_folder_agrees_with_is_not_the_end_of_the_run(place: Place, run: Path) -> None:
    """A step of the future, which no training reached."""
    folder = run / "checkpoints"
    forge((folder / "step-00000004").rename(folder / "step-1000000000"), step=10**9)
    assert place.resume(run) == (0, "")
    assert_as_whole(place, run, folder)
    for step in (5, 6):
        forge((folder / f"step-0000000{step}"), losses="x")
    status, said = place.resume(run)
    assert status == 2
    assert_one_line(said, "all checkpoints are damaged", "give another --out", f"--init {run} to start from")
    assert len(checkpoints(folder)) == 2


def test_a_checkpoint_that_may_not_be_read_is_not_taken_for_damaged(place: Place, run: Path) -> None:
    def read(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with mock.patch("vivit.training.checkpoint._sha256", read):
        status, said = place.resume(run)
    assert status == 2
    assert_one_line(said, "step-00000004: cannot be read .*Permission denied.*; make it readable")
    assert place.resume(run) == (0, "")
    assert_as_whole(place, run, run / "checkpoints")


def test_an_architecture_that_no_checkpoint_has_is_not_built(place: Place, run: Path) -> None:
    file = run / "checkpoints" / "config.json"
    for fields in ({"num_layers": 10**9}, {"hidden_size": 1 << 40}, {"mlp_dim": 1 << 20}):
        content = json.loads((place.part / "checkpoints" / "config.json").read_text())
        content["architecture"] |= fields
        file.write_text(json.dumps(content))
        status, said = place.resume(run)
        assert status == 2
        assert_one_line(said, f"{file}: .*delete this file alone")


def test_a_finished_run_without_checkpoints_is_not_started_again(place: Place, run: Path) -> None:
    shutil.rmtree(run)
    shutil.copytree(place.whole, run)
    shutil.rmtree(run / "checkpoints")
    before = (run / "model.safetensors").read_bytes()
    status, said = place.resume(run)
    assert status == 2
    assert_one_line(said, f"{run}: this run is finished, and its checkpoints are gone", f"--init {run}")
    assert (run / "model.safetensors").read_bytes() == before


def test_a_finished_run_whose_model_is_damaged_gets_it_from_its_checkpoint(place: Place, run: Path) -> None:
    shutil.rmtree(run)
    shutil.copytree(place.whole, run)
    (run / "model.safetensors").write_bytes(b"")
    assert place.resume(run) == (0, "")
    assert (run / "model.safetensors").read_bytes() == (place.whole / "model.safetensors").read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        for number in range(arguments.first, arguments.first + arguments.count):
            try:
                what, outcome = attack(place, number, arguments.seed)
                if arguments.verbose:
                    print(number, outcome, what)
            except AssertionError as error:
                print(f"case {number} of seed {arguments.seed}: {error}", flush=True)
                outcome = "failed"
            outcomes[outcome] += 1
    print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))
    return int(outcomes["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
