"""A run's folder: whose it is, and the records of its steps, epochs and calls.

It is a model folder (config.json, model.safetensors: the weights so far), and has besides
- recipe.json: what the run is;
- steps.jsonl, metrics.jsonl, sessions.jsonl: a line for each step, each score and each call of `vivit train`;
- checkpoints/, tensorboard/, val_predictions.csv, confusion matrices and report.html.
"""

import errno
import fcntl
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import torch
from accelerate import Accelerator

from vivit import __version__
from vivit.data.manifest import HASH_DIGITS
from vivit.errors import UserError
from vivit.files import as_json, as_text, write_files
from vivit.runtime import device_name
from vivit.training.checkpoint import checkpoints
from vivit.training.recipe import Recipe
from vivit.video.source import place_of

Row = dict[str, Any]

# How a batch is computed may change on the way, as the number of processes may; and how many losses are borne with.
MAY_CHANGE = ("accumulate", "unreadable")
# What a run was begun with whose note does not say it.
UNSAID = {**Recipe().model_dump(mode="json"), "keep_decoded": False, "overfit": None}


class RunFolder:
    """Records that stay whole when a run is killed, and lose what a resumed run does again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.epochs: list[Row] = []
        self._sessions: list[Row] = []
        self._lock: IO[str] | None = None

    def claim(
        self,
        data: str | Path,
        init: str | None,
        videos: Path | None,
        recipe: Recipe,
        hashes: Mapping[str, str],
        settings: Row,
    ) -> None:
        """Make the folder and note what it is, or raise UserError where it cannot be, is another run's or in use.

        Args:
            settings: what decides on a run besides the recipe.
        """
        if isinstance(data, Path | str) and self.path.resolve() == Path(data).resolve():
            raise UserError(f"{self.path}: is the data's folder, and no place for a run; give another --out")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.path}: no folder can be made there ({error.strerror}); give another --out"
            ) from None
        self._lock = _lock(self.path)
        note = self.path / "recipe.json"
        this = {"data": place_of(data), "init": init, **settings, **recipe.model_dump(mode="json")}
        # Where nothing has been learned yet, another try with other settings is as good as the first.
        if not note.exists() or not (checkpoints(self.checkpoints) or (self.path / "model.safetensors").exists()):
            write_files({note: as_json({**this, "videos": None if videos is None else place_of(videos), **hashes})})
            return
        found = {**UNSAID, **self._parse(note.read_text("utf-8"), note)}
        other = [name for name in this if name not in MAY_CHANGE and found.get(name) != this[name]]
        if other:
            was = ", ".join(f"{name} {found.get(name)}" for name in other)
            raise UserError(f"{self.path}: begun with another {was}; delete it or give another --out")
        for name, which in (("train_hash", "training"), ("val_hash", "validation")):
            was = found.get(name, "unknown")
            if was != hashes[name]:
                raise UserError(
                    f"{self.path}: begun with other {which} videos (data {was[:HASH_DIGITS]}, "
                    f"and now {hashes[name][:HASH_DIGITS]}); put {data} back as it was, or give another --out"
                )

    def go_on(self, step: int, session: Row) -> None:
        """Keep what was noted up to a step, and note a new call of `vivit train`."""
        self.epochs = [row for row in self._read("metrics.jsonl") if row["step"] <= step]
        self._sessions = [*self._read("sessions.jsonl"), session]
        self._write("metrics.jsonl", self.epochs)
        self._write("steps.jsonl", [row for row in self.steps if row["step"] <= step])

    @property
    def steps(self) -> list[Row]:
        return self._read("steps.jsonl")

    def note_step(self, row: Row) -> None:
        with (self.path / "steps.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def note_epoch(self, row: Row) -> None:
        self.epochs.append(row)
        self._write("metrics.jsonl", self.epochs)

    def note_session(self, **changes: Any) -> None:
        """How far this call has come, and what it took."""
        self._sessions[-1].update(changes)
        self._write("sessions.jsonl", self._sessions)

    def _write(self, name: str, rows: list[Row]) -> None:
        write_files({self.path / name: as_text("".join(json.dumps(row) + "\n" for row in rows))})

    def _read(self, name: str) -> list[Row]:
        file = self.path / name
        if not file.exists():
            return []
        # A line that a killed run left half-written is the last, and of a step that is done again.
        lines = file.read_text("utf-8").splitlines(keepends=True)
        return [self._parse(line, file) for line in lines if line.endswith("\n")]

    def _parse(self, content: str, file: Path) -> Row:
        try:
            return json.loads(content)
        except json.JSONDecodeError as error:
            raise UserError(f"{file}: damaged ({error}); delete {self.path} or give another --out") from None


def _lock(folder: Path) -> IO[str] | None:
    """Keep other calls on this machine out of the folder while the file is open; raises UserError where one is in it.

    Of other machines nothing is learned: on shared storage the lock of one that died may stay for long.
    """
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"vivit-{os.getuid()}-{name}.lock"
    try:
        file = path.open("a")
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            return None  # a place without locks
        raise UserError(f"{folder}: another vivit train is at work in it; wait for it, or give another --out") from None
    return file


def session_of(accelerator: Accelerator, first_step: int) -> dict[str, Any]:
    """When, where and with what a call of `train` runs."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": 0.0,
        "first_step": first_step,
        "last_step": first_step,
        "device": device_name(accelerator.device),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "vivit": __version__},
    }
