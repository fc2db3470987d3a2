"""The metadata in the folder of an exported model. The network is in a file that its own runtime runs.

Beside that file are `config.json`, as in any model folder, `export.json`, and `parity.json`, which says how close its
answers are to those of PyTorch.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from vivit.text import printable
from vivit.weights.files import read_record

EXPORT_FILE, PARITY_FILE = "export.json", "parity.json"

Format = Literal["onnx", "openvino", "torch-export", "aotinductor"]
Input = Literal["uint8", "float32"]
Text = Annotated[str, AfterValidator(printable)]
# The file that a runtime opens, for each format. OpenVINO's weights are in a .bin file beside it, and so are those of
# an ONNX model above 2 GB, in a .data file.
FILES: dict[Format, str] = {
    "onnx": "model.onnx",
    "openvino": "model.xml",
    "torch-export": "model.pt2",
    "aotinductor": "model.aoti.pt2",
}


class Export(BaseModel):
    """The content of `export.json`."""

    model_config = ConfigDict(extra="forbid")

    format: Format
    input: Input
    """What the file takes: pixels 0 to 255, or floats in [-1, 1]."""
    int8: bool = False
    """Whether its matrix products are quantised to 8 bits."""
    made_with: dict[str, Text]
    """Package → its version."""

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """What a folder says; None if it is not an exported model. Raises UserError if the file is damaged."""
        path = folder / EXPORT_FILE
        return read_record(path, cls) if path.is_file() else None

    def __str__(self) -> str:
        return f"{self.format}{' int8' if self.int8 else ''}"


class Parity(BaseModel):
    """The content of `parity.json`: the exported file against the PyTorch model in float32, on the same clips."""

    model_config = ConfigDict(extra="forbid")

    clips: Annotated[int, Field(ge=1)]
    taken_from: Text
    """The user's files, or random noise."""
    precision: Text
    """Of the exported file, and its runtime."""
    max_difference: float
    """max |Δ logits|"""
    max_logit: float
    """max |logits| of the PyTorch model"""
    same_top1: dict[str, Annotated[int, Field(ge=0)]]
    """head → clips that have the same most probable class."""

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Raises UserError if the file is missing or damaged."""
        return read_record(folder / PARITY_FILE, cls)

    def __str__(self) -> str:
        same = min(self.same_top1.values())
        return (
            f"max |Δ logits| {self.max_difference:.2g}, where logits reach {self.max_logit:.3g}; the same top-1 in "
            f"{same} of {self.clips} clips ({self.taken_from}), {self.precision}"
        )
