"""What an evaluation has found so far, on disk, so that one that was stopped goes on where it was."""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vivit.files import as_weights, make_folder, write_files

# Seconds of work that may be lost.
SAVE_EVERY = 20.0
# Which videos a file is of; what else it has begins with HEAD.
INDICES, HEAD = "indices", "logits."


class PartialLogits:
    """The logits of the videos that are done, in a folder of files each of which is there whole or not at all.

    Several processes may write to it at once, each for videos of its own.
    """

    def __init__(self, out: Path, key: str) -> None:
        """Read what there is; a file that is damaged counts as not there.

        Args:
            out: the folder of the evaluation.
            key: a name that tells all that the logits depend on; under another key there are other logits.
        """
        self.folder = out / f"unfinished-{key}"
        self.done = _read(self.folder)
        """The number of a video → head → (K,), as it was when this was made."""
        self._unsaved: dict[int, dict[str, Tensor]] = {}
        self._saved_at = time.monotonic()

    def add(self, indices: Sequence[int], logits: Mapping[str, Tensor]) -> None:
        """Take logits (len(indices), K) of each head; from time to time what was taken is written.

        Raises:
            UserError: it cannot be written.
        """
        for row, index in enumerate(indices):
            self._unsaved[index] = {head: values[row] for head, values in logits.items()}
        if time.monotonic() - self._saved_at >= SAVE_EVERY:
            rows = {HEAD + head: torch.stack([row[head] for row in self._unsaved.values()]) for head in logits}
            make_folder(self.folder)
            # The first video is in no other file.
            file = self.folder / f"{next(iter(self._unsaved)):09d}.safetensors"
            write_files({file: as_weights({INDICES: torch.tensor(list(self._unsaved)), **rows})})
            self._unsaved.clear()
            self._saved_at = time.monotonic()

    def remove(self) -> None:
        """Once the evaluation is at its end."""
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
