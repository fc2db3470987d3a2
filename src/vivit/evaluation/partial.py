"""The logits of an evaluation so far, saved on disk so that it can resume after an interruption."""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vivit.files import as_weights, make_folder, write_files

# Seconds between saves; at most this much work is lost.
SAVE_EVERY = 20.0
# Tensors in a file: the videos' indices, and each head's logits under this prefix.
INDICES, HEAD = "indices", "logits."


class PartialLogits:
    """The logits of the finished videos, in a folder of files; several ranks may write, each for its own videos."""

    def __init__(self, out: Path, key: str) -> None:
        """Read the saved logits; damaged files are ignored.

        Args:
            out: the folder of the evaluation.
            key: identifies everything the logits depend on; logits under another key are ignored.
        """
        self.folder = out / f"unfinished-{key}"
        self.done = _read(self.folder)
        """Video index → head → (K,), as found on disk."""
        self._unsaved: dict[int, dict[str, Tensor]] = {}
        self._saved_at = time.monotonic()

    def add(self, indices: Sequence[int], logits: Mapping[str, Tensor]) -> None:
        """Add logits, head → (len(indices), K); they are saved every SAVE_EVERY seconds.

        Raises:
            UserError: they cannot be written.
        """
        for row, index in enumerate(indices):
            self._unsaved[index] = {head: values[row] for head, values in logits.items()}
        if time.monotonic() - self._saved_at >= SAVE_EVERY:
            rows = {HEAD + head: torch.stack([row[head] for row in self._unsaved.values()]) for head in logits}
            make_folder(self.folder)
            # The name is unique: no other file has this video.
            file = self.folder / f"{next(iter(self._unsaved)):09d}.safetensors"
            write_files({file: as_weights({INDICES: torch.tensor(list(self._unsaved)), **rows})})
            self._unsaved.clear()
            self._saved_at = time.monotonic()

    def remove(self) -> None:
        """Delete the folder, once the evaluation is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(folder: Path) -> dict[int, dict[str, Tensor]]:
    done: dict[int, dict[str, Tensor]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            tensors = load_file(file)
        except (OSError, SafetensorError):
            continue
        indices = tensors.pop(INDICES).tolist()
        for row, index in enumerate(indices):
            done[index] = {name.removeprefix(HEAD): values[row] for name, values in tensors.items()}
    return done
