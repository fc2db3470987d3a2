"""One training at a time in a run's folder; a lock that was left behind holds nobody up for long."""

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import refused
from vivit.training import lock
from vivit.training.lock import LOCK_FILE, RunLock


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.3)
    monkeypatch.setattr(lock, "POLL", 0.02)
    monkeypatch.setattr(lock, "BEAT", 0.1)


@pytest.fixture
def another() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until the test is over."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    yield process
    process.communicate()


def held_by(folder: Path, process: subprocess.Popen[bytes], **fields: Any) -> Path:
    """A lock as that process would have written it, except for these fields."""
    own = RunLock(folder, print)
    content = json.loads((folder / LOCK_FILE).read_text())
    own.release()
    started = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    content |= {"pid": process.pid, "started": started, "token": "theirs", "user": content["user"], **fields}
    (folder / LOCK_FILE).write_text(json.dumps(content))
    return folder / LOCK_FILE


def take(folder: Path) -> tuple[RunLock, list[str]]:
    said: list[str] = []
    return RunLock(folder, said.append), said


def test_a_lock_shows_who_works_in_the_folder_and_that_it_lives(tmp_path: Path) -> None:
    held, said = take(tmp_path)
    first = json.loads((tmp_path / LOCK_FILE).read_text())
    assert first["pid"] == os.getpid()
    while json.loads((tmp_path / LOCK_FILE).read_text())["beats"] < first["beats"] + 2:
        time.sleep(0.01)
    held.check()
    held.release()
    assert list(tmp_path.iterdir()) == [] and said == []


def test_a_process_at_work_on_this_machine_is_named(tmp_path: Path, another: subprocess.Popen[bytes]) -> None:
    file = held_by(tmp_path, another, host=os.uname().nodename)
    before = file.read_bytes()
    since = re.escape(json.loads(before)["since"])
    refused(lambda: RunLock(tmp_path, print), f"in use by .*process {another.pid} of .*, since {since}", "--out")
    assert file.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


@pytest.mark.parametrize("gone", ["ended", "zombie", "another process has its number"])
def test_the_lock_of_a_process_that_is_gone_is_taken_over_at_once(
    tmp_path: Path, another: subprocess.Popen[bytes], gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 1e9)
    held_by(tmp_path, another, **{"another process has its number": {"started": "1"}}.get(gone, {}))
    if gone in ("ended", "zombie"):
        another.kill()
    if gone == "ended":
        another.wait()
    while gone == "zombie" and lock._started(another.pid) is not None:
        time.sleep(0.01)
    held, (said,) = take(tmp_path)
    assert f"process {another.pid}" in said and "taken over" in said
    held.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lives", [True, False])
@pytest.mark.parametrize("fields", [{"host": "node7"}, {"system": "another boot"}, {"user": "anna"}])
def test_a_process_elsewhere_is_believed_as_long_as_its_lock_changes(
    tmp_path: Path, another: subprocess.Popen[bytes], fields: dict[str, str], lives: bool
) -> None:
    file, stop = held_by(tmp_path, another, **fields), threading.Event()

    def beat() -> None:
        beats = 0
        while not stop.wait(0.03):
            beats += 1
            file.write_text(json.dumps({**json.loads(file.read_text()), "beats": beats}))

    beating = threading.Thread(target=beat)
    if lives:
        beating.start()
        refused(lambda: RunLock(tmp_path, print), f"in use by .*{another.pid}")
        stop.set()
        beating.join()
        assert json.loads(file.read_text())["token"] == "theirs"
    else:
        held, said = take(tmp_path)
        assert ["to respond" in said[0], "taken over" in said[1]] == [True, True]
        held.release()


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"null", b"[]", b"{", b"\xff\xfe", b"[" * 4000, b"\0" * 5000),
        *(b'{"pid": 1e400}', b'{"pid": -1}', b'{"pid": "1"}', b'{"pid": 100000000000000000000000}'),
    ],
)
def test_a_damaged_lock_is_taken_over_when_nothing_changes_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK_FILE).write_bytes(content)
    held, _ = take(tmp_path)
    assert json.loads((tmp_path / LOCK_FILE).read_bytes())["pid"] == os.getpid()
    held.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_lock_of_a_user_without_a_name_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text("{")
    os.chown(tmp_path / LOCK_FILE, 54321, -1)
    held, said = take(tmp_path)
    assert "user 54321" in said[0]
    held.release()


def test_what_is_no_lock_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / LOCK_FILE
    path.mkdir()
    refused(lambda: RunLock(tmp_path, print), "lock.json: .*not a file; delete it")
    path.rmdir()
    os.mkfifo(path)
    refused(lambda: RunLock(tmp_path, print), "lock.json: .*not a file; delete it")
    path.unlink()
    path.symlink_to("nowhere")
    refused(lambda: RunLock(tmp_path, print), "lock.json: .*not a file; delete it")
    path.unlink()
    # In a folder with the sticky bit, nobody may replace the files of others.
    path.write_text("{}")

    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refuse)
        refused(lambda: RunLock(tmp_path, print), "lock.json: left by .*you may not replace it", "--out")
    assert [file.name for file in tmp_path.iterdir()] == [LOCK_FILE] and path.read_text() == "{}"
    refused(lambda: RunLock(tmp_path / "gone", print), "lock.json: cannot be written")


def test_a_process_that_was_asleep_too_long_learns_that_it_has_lost_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep, _ = take(tmp_path)
    monkeypatch.setattr(lock, "_may_be_here", lambda content: False)
    monkeypatch.setattr(RunLock, "_watch", lambda *_: None)  # it seemed dead
    new, _ = take(tmp_path)
    refused(asleep.check, "in use by another vivit train")
    time.sleep(0.3)  # it goes on writing signs of life
    new.check()
    asleep.release()
    new.check()
    new.release()
    assert list(tmp_path.iterdir()) == []
