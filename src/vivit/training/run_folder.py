"""A run's folder: which run it belongs to, and the records of its steps, scores and calls.

It is a model folder (config.json, model.safetensors: the model so far) that also holds
- recipe.json: the settings of the run;
- steps.jsonl, metrics.jsonl, sessions.jsonl: a line for each step, each score and each call of `vivit train`;
- checkpoints/: what a resumed run needs, including the architecture of its model (config.json);
- tensorboard/, val_predictions.csv, confusion matrices and report.html.
"""

import json
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from vivit import __version__
from vivit.data.manifest import HASH_DIGITS
from vivit.errors import UserError
from vivit.files import as_json, as_text, make_folder, write_files
from vivit.model.vivit import ViViT
from vivit.runtime import device_name
from vivit.training.checkpoint import checkpoints
from vivit.training.lock import RunLock
from vivit.training.plan import Plan
from vivit.training.recipe import Recipe
from vivit.training.same_videos import compare_videos, note_videos
from vivit.video.source import place_of
from vivit.weights.store import CONFIG_FILE, WEIGHTS_FILE, config_content, new_model

Row = dict[str, Any]

VIDEOS = "videos.json"
"""What `note_videos` notes, in the folder of checkpoints."""

# A later call may change these, as it may the number of processes: what is learnt stays the same.
MAY_CHANGE = ("accumulate", "unreadable")
# The values of settings that did not exist yet when the run was started.
UNSAID = {**Recipe().model_dump(mode="json"), "keep_decoded": False, "overfit": None}


class RunFolder:
    """Records that stay whole if the run is killed, and lose the steps that a resumed run repeats."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.epochs: list[Row] = []
        self._sessions: list[Row] = []
        self._lock: RunLock | None = None

    @property
    def is_resumable(self) -> bool:
        """Whether there is a checkpoint, and the architecture of its model."""
        return bool(checkpoints(self.checkpoints)) and (self.checkpoints / CONFIG_FILE).is_file()

    def new_model(self) -> ViViT:
        """A model of this run's architecture with random weights, to load a checkpoint into."""
        return new_model(self.checkpoints)

    def claim(
        self,
        plan: Plan,
        data: str | Path,
        init: str | None,
        videos: Path | None,
        settings: Row,
        say: Callable[[str], object],
    ) -> None:
        """Make the folder, note what run it belongs to and keep others out; the arguments are those of `train`.

        Args:
            settings: what decides the run besides the recipe.
            say: told about a lock that was left behind, and about videos that were written again.

        Raises:
            UserError: the folder cannot be made, belongs to another run, or is in use.
        """
        if self.path.resolve() == Path(data).resolve():
            raise UserError(f"{self.path}: this is the data's folder; give another --out")
        make_folder(self.path)
        self._lock = RunLock(self.path, say)
        note = self.path / "recipe.json"
        this = {"data": place_of(data), "init": init, **settings, **plan.recipe.model_dump(mode="json")}
        # A run that has learned nothing yet may start again with other settings.
        if not note.exists() or not (checkpoints(self.checkpoints) or (self.path / WEIGHTS_FILE).exists()):
            where = {"videos": None if videos is None else place_of(videos), **plan.hashes}
            make_folder(self.checkpoints)
            # Not in the run's folder, which may hold the very model that training starts from.
            architecture = {self.checkpoints / CONFIG_FILE: config_content(plan.model)}
            write_files({note: as_json({**this, **where}), **architecture})
            note_videos(self.checkpoints / VIDEOS, (plan.train_set, plan.val_set))
            return
        found = {**UNSAID, **self._parse(note.read_text("utf-8"), note)}
        other = [name for name in this if name not in MAY_CHANGE and found.get(name) != this[name]]
        if other:
            was = ", ".join(f"{name}={found.get(name)}" for name in other)
            now = ", ".join(str(this[name]) if len(other) == 1 else f"{name}={this[name]}" for name in other)
            raise UserError(
                f"{self.path}: this run was started with {was}; you gave {now}: delete it, or give another --out"
            )
        for name, which in (("train_hash", "training"), ("val_hash", "validation")):
            was, now = found.get(name, "unknown"), plan.hashes[name]
            if was != now:
                raise UserError(
                    f"{self.path}: this run was started with other {which} videos (data {was[:HASH_DIGITS]}, now "
                    f"{now[:HASH_DIGITS]}); put {data} back as it was, or give another --out"
                )
        compare_videos(self.checkpoints / VIDEOS, (plan.train_set, plan.val_set), self.path, say)

    def release(self) -> None:
        """Let others claim the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def go_on(self, step: int, accelerator: Accelerator) -> None:
        """Keep the records up to a step, and add one of this call of `vivit train`."""
        session = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": 0.0,
            "first_step": step,
            "last_step": step,
            "device": device_name(accelerator.device),
            "processes": accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "vivit": __version__},
        }
        self.epochs = [row for row in self._read("metrics.jsonl") if row["step"] <= step]
        self._sessions = [*self._read("sessions.jsonl"), session]
        self._write("metrics.jsonl", self.epochs)
        self._write("steps.jsonl", [row for row in self.steps if row["step"] <= step])

    @property
    def steps(self) -> list[Row]:
        return self._read("steps.jsonl")

    def note_step(self, row: Row) -> None:
        """Add a step. Raises UserError if another process has taken over the run."""
        assert self._lock is not None
        self._lock.check()
        with (self.path / "steps.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def note_epoch(self, row: Row) -> None:
        self.epochs.append(row)
        self._write("metrics.jsonl", self.epochs)

    def note_session(self, **changes: Any) -> None:
        """Update the record of this call."""
        self._sessions[-1].update(changes)
        self._write("sessions.jsonl", self._sessions)

    def _write(self, name: str, rows: list[Row]) -> None:
        write_files({self.path / name: as_text("".join(json.dumps(row) + "\n" for row in rows))})

    def _read(self, name: str) -> list[Row]:
        file = self.path / name
        if not file.exists():
            return []
        # A killed run may leave its last line half-written; its step is repeated.
        lines = file.read_text("utf-8").splitlines(keepends=True)
        return [self._parse(line, file) for line in lines if line.endswith("\n")]

    def _parse(self, content: str, file: Path) -> Row:
        try:
            return json.loads(content)
        except json.JSONDecodeError as error:
            raise UserError(f"{file}: damaged ({error}); delete {self.path}, or give another --out") from None
