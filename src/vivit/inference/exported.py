"""Run exported models, each with its own runtime, behind the small interface that labelling needs.

`vivit.inference.export` writes their folders. They run on the CPU, with as many threads as PyTorch has.
"""

import hashlib
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit.errors import UserError
from vivit.labels import LabelSpace, by_head
from vivit.model.vivit import ViViT
from vivit.runtime import Choice, Precision, WantedPrecision, pick_precision
from vivit.weights.adapt import Wishes
from vivit.weights.exported import EXPORT_FILE, FILES, Export, Format, Input
from vivit.weights.fingerprint import hash_model
from vivit.weights.source import CONFIG_FILE, Source
from vivit.weights.store import folder_config, labels_of, load_video_model

CPU = torch.device("cpu")
VIDEO = "video"  # the name of the input
# The packages that run each format, besides PyTorch.
RUNTIMES: dict[Format, str] = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "torch-export": "torch",
    "aotinductor": "torch",
}

Run = Callable[[np.ndarray], Sequence[np.ndarray]]
"""Clips (B, T, C, H, W) → the logits of each head in turn, (B, K)."""


class ExportedModel:
    """An exported model, which answers like the `ViViT` it was made from."""

    def __init__(self, folder: Path) -> None:
        """Find what `vivit export` wrote in a folder; `prepare` opens it.

        Raises:
            UserError: the folder is not an exported model, or is damaged or incomplete.
        """
        about = Export.of(folder)
        if about is None:
            raise UserError(f"{folder}: no {EXPORT_FILE}; not an exported model")
        config = folder_config(folder)
        self.folder, self.export = folder, about
        self.config, self.preprocessing = config.architecture, config.preprocessing
        self.labels = None if config.classes is None else LabelSpace(config.classes, self.config.multi_label)
        self.origin = config.origin
        self.file = folder / FILES[about.format]
        if not self.file.is_file():
            raise UserError(f"{folder}: no {self.file.name}; not a complete exported model")
        self.precision: Choice | None = None
        """The precision of most arithmetic, and the runtime; None until the file is open."""
        self._run: Run | None = None

    def prepare(self, wanted: WantedPrecision = "auto") -> Choice:
        """Open the file with its runtime. Returns the precision of most arithmetic, and the runtime.

        Only OpenVINO offers a choice, f32 or bf16; auto takes bf16 where the processor makes it faster. A file in int8
        has its other arithmetic in that precision.

        Raises:
            UserError: the file is damaged, its runtime is not installed, or does not compute in this precision.
        """
        package, int8 = RUNTIMES[self.export.format], self.export.int8
        openvino = self.export.format == "openvino"
        has: tuple[Precision, ...] = ("int8",) if int8 else ("f32", "bf16") if openvino else ("f32",)
        if wanted not in ("auto", *has):
            raise UserError(f"precision: {self.folder} computes in {' or '.join(has)}, not in {wanted}")
        rest = pick_precision("auto" if int8 else wanted, CPU) if openvino else Choice("f32", "")
        needed(f"{self.folder}: an exported model, run by", package)
        run_by = f"run by {package} {version(package)}"
        try:
            self._run = OPEN[self.export.format](self.file, rest.precision)
        except Exception as error:  # each runtime has errors of its own for a damaged file
            raise UserError(f"{self.file}: cannot be {run_by} ({_first_line(error)})") from None
        choice = Choice("int8", f"{run_by}; the rest in {rest}") if int8 else Choice(rest.precision, run_by)
        self.precision = choice
        return choice

    def __call__(self, video: Tensor) -> dict[str, Tensor]:
        """Logits of each clip, head → (B, K) float32.

        Args:
            video: (B, frames, 3, height, width) of the configured size, uint8.
        """
        if self._run is None:
            self.prepare()
        assert self._run is not None
        logits = self._run(as_input(video.cpu(), self.export.input))
        return {head: torch.from_numpy(found) for head, found in zip(self.config.class_counts, logits, strict=True)}

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the files that answers depend on."""
        digest = hashlib.sha256()
        for path in (self.folder / CONFIG_FILE, *sorted(self.folder.glob(f"{self.file.stem}.*"))):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def open_model(source: Source) -> tuple[ViViT | ExportedModel, LabelSpace]:
    """A model with named classes, and its labels.

    Raises:
        UserError: the model is incomplete, cannot be run here, or has no classes or no names for them.
    """
    if (source.folder / EXPORT_FILE).is_file():
        exported = ExportedModel(source.folder)
        if exported.labels is None:
            raise UserError(f"{source.name}: has no class names in its config.json, so nothing can be named")
        return exported, exported.labels
    model = load_video_model(source, Wishes.of({}, None, "filter_inflation")).log()
    return model, labels_of(model, source.name)


def fingerprint(model: ViViT | ExportedModel) -> str:
    """A hash of everything that a model's answers depend on."""
    return hash_model(model) if isinstance(model, ViViT) else model.fingerprint()


def as_input(clips: Tensor, input: Input) -> np.ndarray:
    """Convert uint8 clips to the input type of an exported file."""
    return (clips if input == "uint8" else clips.float() * (2 / 255) - 1).numpy()


def needed(what_for: str, *packages: str) -> None:
    """Raise a UserError, which begins with `what_for`, if one of these packages is not installed."""
    for package in packages:
        if package in ("openvino", "nncf"):
            send_no_usage_data()
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise UserError(f"{what_for} {error.name}: pip install 'vivit[export]'") from None


def send_no_usage_data() -> None:
    """Opt out of the telemetry of OpenVINO and NNCF, before they are imported.

    They send usage data through another package, and none if it cannot be imported.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


def _open_onnx(file: Path, precision: Precision) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda clips: session.run(None, {VIDEO: clips})


def _open_openvino(file: Path, precision: Precision) -> Run:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(file, "CPU", settings)
    # Copies: the next call reuses the same output buffers.
    return lambda clips: [logits.copy() for logits in compiled(clips).to_tuple()]


def _open_torch_export(file: Path, precision: Precision) -> Run:
    return _of_torch(torch.export.load(file).module())


def _open_aotinductor(file: Path, precision: Precision) -> Run:
    return _of_torch(torch._inductor.aoti_load_package(str(file)))


def _of_torch(program: Callable[[Tensor], Any]) -> Run:
    def run(clips: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [logits.numpy() for logits in by_head(program(torch.from_numpy(clips))).values()]

    return run


OPEN: dict[Format, Callable[[Path, Precision], Run]] = {
    "onnx": _open_onnx,
    "openvino": _open_openvino,
    "torch-export": _open_torch_export,
    "aotinductor": _open_aotinductor,
}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
