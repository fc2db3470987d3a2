"""A run's folder: which run it belongs to, and the records of its steps, scores and calls.

It is a model folder (config.json and model.safetensors: the best or last model so far) that also holds
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
from pydantic import ValidationError

from vivit import __version__
from vivit.data.manifest import HASH_DIGITS
from vivit.data.names import shortened
from vivit.errors import UserError
from vivit.files import as_json, as_text, make_folder, write_files
from vivit.model.vivit import ViViT
from vivit.runtime import device_name
from vivit.training.checkpoint import checkpoints
from vivit.training.kept import KEEPS, KeptModels
from vivit.training.lock import RunLock
from vivit.training.optim import Schedule
from vivit.training.plan import Plan
from vivit.training.recipe import new_name
from vivit.training.records import Row, read_lines
from vivit.training.same_videos import compare_videos, note_videos
from vivit.video.source import place_of
from vivit.weights.files import open_folder, read_json
from vivit.weights.source import Source
from vivit.weights.store import CONFIG_FILE, WEIGHTS_FILE, config_content, new_model

VIDEOS = "videos.json"
"""Written by `note_videos` to the checkpoint folder."""
# A later call may change these, and the number of processes: the model learns the same.
MAY_CHANGE = ("accumulate", "unreadable")


class OtherSettings(UserError):
    """The folder holds a run with other settings."""


class RunFolder:
    """A run's records; they stay whole if the run is killed, and drop the steps that a resumed run repeats."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.epochs: list[Row] = []
        self._sessions: list[Row] = []
        self._lock: RunLock | None = None
        self.models: KeptModels
        """Set once the run is claimed."""

    @property
    def is_resumable(self) -> bool:
        """Whether there is a checkpoint and its model's architecture."""
        return bool(checkpoints(self.checkpoints)) and (self.checkpoints / CONFIG_FILE).exists()

    def new_model(self) -> ViViT:
        """A model of this run's architecture with random weights, to load a checkpoint into. Raises UserError."""
        # A checkpoint holds at least every weight in float32, so this bounds the number of weights.
        most = sum(file.stat().st_size for file in checkpoints(self.checkpoints)[-1].iterdir()) // 4
        try:
            return new_model(self.checkpoints, most)
        except UserError as error:
            raise UserError(
                f"{error}; the checkpoints are whole: delete this file alone, and run the command that started the run"
            ) from None

    def claim(
        self,
        plan: Plan,
        data: str | Path,
        init: str | None,
        videos: Path | None,
        settings: Row,
        say: Callable[[str], object],
    ) -> None:
        """Make the folder, record its run and lock it; the arguments are those of `train`.

        Args:
            settings: what determines the run besides the recipe; "keep" may be None, for the value the run started
                with.
            say: called about a stale lock, and about videos that were rewritten.

        Raises:
            UserError: the folder cannot be made, belongs to another run, or is in use.
        """
        if self.path.resolve() == Path(data).resolve():
            raise UserError(f"{self.path}: this is the data's folder; give another --out")
        make_folder(self.path)
        self._lock = RunLock(self.path, say)
        note, weights = self.path / "recipe.json", self.path / WEIGHTS_FILE
        this = {"data": place_of(data), "init": init, **settings, **plan.recipe.model_dump(mode="json")}
        this["keep"] = settings["keep"] or ("best" if plan.own_val else "last")
        self.models = KeptModels(self.path, this["keep"], plan.labels)
        where = {"videos": None if videos is None else place_of(videos), **plan.hashes}
        resumable = checkpoints(self.checkpoints)
        # A run without a checkpoint or model may start again with other settings.
        if not note.exists() or not (resumable or weights.exists()):
            if resumable:
                say(f"{note} is missing: the checkpoints are assumed to have this call's settings")
            make_folder(self.checkpoints)
            # Not in the run folder itself, which may hold the very model that training starts from.
            architecture = {self.checkpoints / CONFIG_FILE: config_content(plan.model)}
            write_files({note: as_json({**this, **where}), **architecture})
            note_videos(self.checkpoints / VIDEOS, (plan.train_set, plan.val_set))
            return
        try:
            # Default values for settings that did not exist when the run was started.
            unsaid = {**type(plan.recipe)().model_dump(mode="json"), "keep_decoded": False, "overfit": None}
            found = {**unsaid, "keep": "last", **read_json(note)}
            found["precision"] = new_name(found["precision"])
        except UserError as error:
            how = f"delete this file alone, then run the same command to resume from {self.checkpoints}"
            raise UserError(f"{error}; {how if resumable else 'give another --out'}") from None
        if not resumable and self._is_finished(found, plan):
            raise UserError(
                f"{self.path}: this run is finished, and its checkpoints are gone; give another --out, and --init "
                f"{self.path} to train its model further"
            )
        if settings["keep"] is None and found["keep"] in KEEPS:
            this["keep"] = found["keep"]
            self.models = KeptModels(self.path, this["keep"], plan.labels)
        other = [name for name in this if name not in MAY_CHANGE and found.get(name) != this[name]]
        if other == ["keep"] and found["keep"] in KEEPS:
            there = self.path / this["keep"]
            raise UserError(f"{self.path}: this run keeps the {found['keep']} weights here, and the others in {there}")
        if other:
            changes = shortened([f"{name} {_shown(found.get(name))} (now {_shown(this[name])})" for name in other])
            further = f"--init {self.path} and another --out" if weights.exists() else "another --out"
            if self._is_finished(found, plan):
                raise OtherSettings(
                    f"{self.path}: this run is finished, with {changes}; to train its model further, give {further}"
                )
            raise OtherSettings(
                f"{self.path}: this run was started with {changes}; give its own settings to resume it, or {further}"
            )
        for name, which in (("train_hash", "training"), ("val_hash", "validation")):
            was, now = str(found.get(name, "unknown")), plan.hashes[name]
            if was != now:
                raise UserError(
                    f"{self.path}: this run was started with other {which} videos (data {was[:HASH_DIGITS]}, now "
                    f"{now[:HASH_DIGITS]}); put {data} back as it was, or give another --out"
                )
        if not (self.checkpoints / CONFIG_FILE).exists():
            write_files({self.checkpoints / CONFIG_FILE: config_content(plan.model)})
        compare_videos(self.checkpoints / VIDEOS, (plan.train_set, plan.val_set), self.path, say)

    def _is_finished(self, found: Row, plan: Plan) -> bool:
        """Whether the run has a score for its recipe's last step."""
        try:
            kind = type(plan.recipe)
            recipe = kind.model_validate({name: found[name] for name in kind.model_fields})
        except (ValidationError, KeyError):
            return False
        last = read_lines(self.path / "metrics.jsonl", ("step",))[-1:]
        return bool(last) and last[0]["step"] == Schedule.planned(recipe, len(plan.train_set.videos)).num_steps

    def release(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def go_on(self, step: int, accelerator: Accelerator) -> None:
        """Keep the records up to a step, and add a session for this call of `vivit train`."""
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
        self.epochs = [row for row in read_lines(self.path / "metrics.jsonl", ("step",)) if row["step"] <= step]
        self._sessions = [*read_lines(self.path / "sessions.jsonl"), session]
        if self.has_model:
            self.models.resume(step)
        self._write("metrics.jsonl", self.epochs)
        self._write("steps.jsonl", [row for row in self.steps if row["step"] <= step])

    @property
    def has_model(self) -> bool:
        """Whether the folder has a model's files, with readable headers."""
        try:
            return Source.find(self.path).kind == "model folder" and bool(open_folder(self.path).shapes)
        except UserError:
            return False

    @property
    def scored(self) -> int:
        """The step of the last score; 0 if there is none."""
        return self.epochs[-1]["step"] if self.epochs else 0

    @property
    def steps(self) -> list[Row]:
        return read_lines(self.path / "steps.jsonl", ("step", "loss"))

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


def _shown(value: Any) -> str:
    """A setting as shown to people."""
    return "none" if value is None else str(value)
