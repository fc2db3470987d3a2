"""Keeps a second training out of a run's folder, also one on another machine that shares the folder."""

import json
import os
import platform
import secrets
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from vivit.errors import UserError

LOCK_FILE = "lock.json"
BEAT = 10.0
"""Seconds between two signs of life of the process that holds a lock."""
PATIENCE = 90.0
"""Seconds without a sign of life after which a lock counts as left behind. A network file system may show a file as it
was a minute ago."""
POLL = 1.0
"""Seconds between two looks at a lock that may be left behind."""
MOST_BYTES = 4096
# Fields of a lock that must be ours if its process number is to mean anything here.
HERE = ("host", "system", "user")


class InUse(UserError):
    """Another process is at work in the folder."""


class RunLock:
    """RUN/lock.json: names the process at work in a run, and changes every few seconds while that process lives.

    The locks of operating systems are missing on some network file systems, and on others outlive a machine that died.
    This one needs neither them nor clocks that agree. A lock whose process is gone from this machine is taken over at
    once, any other lock when it has not changed for PATIENCE seconds.
    """

    def __init__(self, folder: Path, say: Callable[[str], object]) -> None:
        """Take the lock.

        Args:
            say: told what is waited for, and what was taken over.

        Raises:
            InUse: another process is at work in the folder.
            UserError: the lock cannot be written.
        """
        self._folder, self._path = folder, folder / LOCK_FILE
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._about = {**_this_process(), "since": now, "token": secrets.token_hex(8)}
        try:
            self._file = self._take(say)
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written ({error.strerror}); give another --out") from None
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()

    def check(self) -> None:
        """Raise UserError if another process has taken the lock over, as it may when this machine was asleep."""
        if _content(self._path).get("token") not in (None, self._about["token"]):
            raise self._in_use()

    def release(self) -> None:
        """Delete the lock, unless it is another process's by now."""
        self._over.set()
        self._beats.join()
        os.close(self._file)
        with suppress(OSError):
            if _content(self._path).get("token") == self._about["token"]:
                self._path.unlink()

    def _take(self, say: Callable[[str], object]) -> int:
        """The open lock file. Raises UserError or OSError."""
        with suppress(FileExistsError):
            return self._create(self._path)
        if not self._path.is_file():
            raise UserError(f"{self._path}: this is not a file; delete it")
        found, before = _content(self._path), _state(self._path)
        if not _may_be_here(found):
            say(f"{self._path}: held by {_holder(self._path)}; waiting {PATIENCE:.0f} s for a sign of life")
            self._watch(before)
        elif found["pid"] != os.getpid() and (found.get("started") or 0) == _started(found["pid"]):
            raise self._in_use()
        # A file of its own, because a process that has only been asleep may still write into the old one.
        own = self._path.with_name(f"{LOCK_FILE}.{self._about['token']}")
        said, file = _holder(self._path), self._create(own)
        try:
            if _content(self._path).get("token") not in (None, found.get("token")):
                raise self._in_use()
            os.replace(own, self._path)
            # Two processes may take over the same lock; the later one has it.
            time.sleep(POLL / 4)
            self.check()
        except BaseException as error:
            os.close(file)
            own.unlink(missing_ok=True)
            if isinstance(error, PermissionError):
                raise UserError(
                    f"{self._path}: left by {said}; you may not replace it: have it deleted, or give another --out"
                ) from None
            raise
        say(f"{self._path}: taken over from {said}, which has ended")
        return file

    def _create(self, path: Path) -> int:
        """A new lock file, open. Raises OSError."""
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        try:
            self._write(file, 0)
        except OSError:
            os.close(file)
            path.unlink()
            raise
        return file

    def _write(self, file: int, beats: int) -> None:
        # A content is never shorter than the one before it.
        os.pwrite(file, json.dumps({**self._about, "beats": beats}).encode(), 0)
        os.fsync(file)

    def _watch(self, before: Any) -> None:
        """Return when the lock has been the same for PATIENCE seconds, or is gone. Raises UserError if it changes."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and (now := _state(self._path)) is not None:
            if now != before:
                raise self._in_use()
            time.sleep(POLL)

    def _beat(self) -> None:
        beats = 0
        while not self._over.wait(BEAT):
            beats += 1
            with suppress(OSError):  # the next step says what is wrong with the disk
                self._write(self._file, beats)

    def _in_use(self) -> InUse:
        return InUse(
            f"{self._folder}: in use by another vivit train ({_holder(self._path)}); wait for it or end it, or give "
            "another --out"
        )


def _this_process() -> dict[str, Any]:
    """What identifies this process, also to other machines."""
    parts = []
    for part in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            # Machines may have the same name, and containers number their processes alike.
            parts.append(os.readlink(part) if os.path.islink(part) else Path(part).read_text("utf-8").strip())
    pid = os.getpid()
    user = psutil.Process().username()
    return {"pid": pid, "started": _started(pid), "host": platform.node(), "system": " ".join(parts), "user": user}


def _may_be_here(content: dict[str, Any]) -> bool:
    """Whether the lock is of a process that we would see if it still ran."""
    ours = _this_process()
    return type(content.get("pid")) is int and all(content.get(name) == ours[name] for name in HERE)


def _started(pid: int) -> str | None:
    """When a process of this machine started, in some unit; None if there is no such process, or it is a zombie."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        ticks = Path(f"/proc/{pid}/stat")
        # Ticks since the machine started: the time of day changes when its clock is set.
        return ticks.read_text().rpartition(")")[2].split()[19] if ticks.exists() else str(process.create_time())
    except (psutil.Error, OSError, ValueError, OverflowError):
        return None


def _content(path: Path) -> dict[str, Any]:
    """What a lock says; empty if it is not there or cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe may never end
            return {}
        with path.open("rb") as file:
            value = json.loads(file.read(MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _state(path: Path) -> Any:
    """Something that differs once the lock has changed; None if it is not there."""
    content = _content(path)  # opening a file makes a network file system look again
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, content


def _holder(path: Path) -> str:
    """Whose lock it is, in words."""
    content = _content(path)
    if content.get("pid") is None:
        try:
            status = path.stat()
        except OSError:
            return "an unknown process"
        changed = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds")
        try:
            owner = path.owner()
        except (KeyError, OSError):  # a user of another machine, or of another container
            owner = f"user {status.st_uid}"
        return f"an unknown process of {owner}, last heard of at {changed}"
    pid, user, host, since = (content.get(name) for name in ("pid", "user", "host", "since"))
    return f"process {pid} of {user} on {host}, since {since}"
