"""Keeps a second training process out of a run folder, even on another machine that shares the folder."""

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
"""Seconds between heartbeats of the process that holds a lock."""
PATIENCE = 90.0
"""Seconds without a heartbeat after which a lock counts as stale. A network file system may show a file as it was a
minute ago."""
POLL = 1.0
"""Seconds between checks of a lock that may be stale."""
MOST_BYTES = 4096
# A lock's process id means something on this machine only if these fields are ours.
HERE = ("host", "system", "user")


class InUse(UserError):
    """Another process is using the folder."""


class RunLock:
    """RUN/lock.json: names the process that uses a run, and changes every few seconds while that process lives.

    Some network file systems lack operating system locks; on others, locks outlive a machine that died. This lock needs
    neither them nor synchronised clocks. A lock whose process is gone from this machine is taken over at once, any
    other lock after PATIENCE seconds without a change.
    """

    def __init__(self, folder: Path, say: Callable[[str], object]) -> None:
        """Take the lock.

        Args:
            say: called with what is being waited for, and what was taken over.

        Raises:
            InUse: another process is using the folder.
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
        """Raise UserError if another process has taken over the lock, for example while this machine was asleep."""
        if _content(self._path).get("token") not in (None, self._about["token"]):
            raise self._in_use()

    def release(self) -> None:
        """Delete the lock, unless another process has taken it over."""
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
            say(f"{self._path}: held by {_holder(self._path)}; waiting {PATIENCE:.0f} s for it to respond")
            self._watch(before)
        elif found["pid"] != os.getpid() and (found.get("started") or 0) == _started(found["pid"]):
            raise self._in_use()
        # A new file, because a process that was only asleep may still write to the old one.
        own = self._path.with_name(f"{LOCK_FILE}.{self._about['token']}")
        said, file = _holder(self._path), self._create(own)
        try:
            if _content(self._path).get("token") not in (None, found.get("token")):
                raise self._in_use()
            os.replace(own, self._path)
            # Two processes may take over the same lock; the later one wins.
            time.sleep(POLL / 4)
            self.check()
        except BaseException as error:
            os.close(file)
            own.unlink(missing_ok=True)
            if isinstance(error, PermissionError):
                raise UserError(
                    f"{self._path}: left by {said}; you may not replace it; have it deleted, or use another --out"
                ) from None
            raise
        say(f"{self._path}: taken over from {said}, which has ended")
        return file

    def _create(self, path: Path) -> int:
        """Create a lock file and return it open. Raises OSError."""
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        try:
            self._write(file, 0)
        except OSError:
            os.close(file)
            path.unlink()
            raise
        return file

    def _write(self, file: int, beats: int) -> None:
        # The content never gets shorter, so nothing old remains after it.
        os.pwrite(file, json.dumps({**self._about, "beats": beats}).encode(), 0)
        os.fsync(file)

    def _watch(self, before: Any) -> None:
        """Return once the lock is gone or unchanged for PATIENCE seconds. Raises UserError if it changes."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and (now := _state(self._path)) is not None:
            if now != before:
                raise self._in_use()
            time.sleep(POLL)

    def _beat(self) -> None:
        beats = 0
        while not self._over.wait(BEAT):
            beats += 1
            with suppress(OSError):  # the next step reports what is wrong with the disk
                self._write(self._file, beats)

    def _in_use(self) -> InUse:
        return InUse(
            f"{self._folder}: in use by another vivit train ({_holder(self._path)}); wait for it or end it, or give "
            "another --out"
        )


def _this_process() -> dict[str, Any]:
    """What identifies this process, on this and other machines."""
    parts = []
    for part in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            # Machines may share a name, and containers use the same process ids.
            parts.append(os.readlink(part) if os.path.islink(part) else Path(part).read_text("utf-8").strip())
    pid = os.getpid()
    user = psutil.Process().username()
    return {"pid": pid, "started": _started(pid), "host": platform.node(), "system": " ".join(parts), "user": user}


def _may_be_here(content: dict[str, Any]) -> bool:
    """Whether we could see the lock's process if it still ran."""
    ours = _this_process()
    return type(content.get("pid")) is int and all(content.get(name) == ours[name] for name in HERE)


def _started(pid: int) -> str | None:
    """When a process on this machine started, in an unspecified unit; None if it does not exist or is a zombie."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        ticks = Path(f"/proc/{pid}/stat")
        # Ticks since boot, because the time of day jumps when the clock is set.
        return ticks.read_text().rpartition(")")[2].split()[19] if ticks.exists() else str(process.create_time())
    except (psutil.Error, OSError, ValueError, OverflowError):
        return None


def _content(path: Path) -> dict[str, Any]:
    """The content of a lock; empty if it is missing or unreadable."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe might never end
            return {}
        with path.open("rb") as file:
            value = json.loads(file.read(MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _state(path: Path) -> Any:
    """A value that changes whenever the lock does; None if there is no lock."""
    content = _content(path)  # opening the file makes a network file system refresh its metadata
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
        except (KeyError, OSError):  # a user on another machine or in another container
            owner = f"user {status.st_uid}"
        return f"an unknown process of {owner}, last active at {changed}"
    pid, user, host, since = (content.get(name) for name in ("pid", "user", "host", "since"))
    return f"process {pid} of {user} on {host}, since {since}"
