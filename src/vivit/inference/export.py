"""Write a model for other runtimes: ONNX, OpenVINO, torch.export and AOTInductor, with a report of its parity.

The folder is complete for labelling: class names and preprocessing are beside the file, and `ExportedModel` runs it.
"""

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import vivit
from vivit.errors import UserError
from vivit.files import as_json, new_folder, write_files
from vivit.inference.exported import VIDEO, ExportedModel, as_input, needed
from vivit.inference.fetch import Fetching
from vivit.inference.inputs import find_inputs
from vivit.inference.pipeline import Reading, Video, views_in_order
from vivit.inference.views import Views, clip_spec
from vivit.labels import by_head
from vivit.model.embedding import CHANNELS
from vivit.model.vivit import ViViT
from vivit.video.decode import ReadOptions
from vivit.video.source import VideoError
from vivit.weights.adapt import Wishes
from vivit.weights.exported import EXPORT_FILE, FILES, PARITY_FILE, Export, Format, Input, Parity
from vivit.weights.shipped import ANSWERS_FILE
from vivit.weights.source import CONFIG_FILE, Source
from vivit.weights.store import config_content, labels_of, load_video_model

OPSET = 20  # the first with GELU
EXAMPLE = 2  # clips; the batch is dynamic, but PyTorch specialises on sizes 0 and 1
MOST_CLIPS = 64  # of the user's, for calibration and parity
NOISE_CLIPS = 8
# Clips in a batch for the exported file, after a first batch of one.
TOGETHER = 3
PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch-export": ("torch",),
    "aotinductor": ("torch",),
}

Say = Callable[[str], object]


def export(
    model: str | Path,
    out: str | Path,
    format: Format = "onnx",
    *,
    input: Input = "uint8",
    int8: bool = False,
    clips: Sequence[str | Path] = (),
    overwrite: bool = False,
    say: Say = lambda line: None,
) -> Parity:
    """Write a folder that holds a model in another format, class names, preprocessing, and a report of its parity.

    The exported file takes any number of clips, (B, frames, 3, height, width), as input "video", and returns logits
    (B, K), one output for each head.

    Args:
        model: a model folder or Hub id.
        input: "uint8" takes pixels, scaled to [-1, 1] inside; "float32" takes floats in [-1, 1].
        int8: quantise to 8 bits, calibrated on `clips`; for OpenVINO.
        clips: videos, folders or patterns, for calibration and parity; without any, parity is measured on noise.
        overwrite: replace `out` if it is an exported model.
        say: called with each step as it starts.

    Returns:
        The parity, which is also in `parity.json`.

    Raises:
        UserError: no such model or clips, a package is missing, `out` exists, or it cannot be written.
    """
    out = Path(out)
    _check_out(out, overwrite)
    if int8 and format != "openvino":
        raise UserError(f"int8: is for OpenVINO, not for {format}; give the format openvino")
    if int8 and not clips:
        raise UserError("int8: is calibrated on your own videos; name some with --clips")
    source = Source.find(model)
    loaded = load_video_model(source, Wishes.of({}, None, "filter_inflation")).log().float().eval()
    labels_of(loaded, model)
    packages = (*PACKAGES[format], *(["nncf"] if int8 else []))
    needed(f"{format}{' int8' if int8 else ''} needs", *packages)

    videos = _read_clips(loaded, clips, say) if clips else _noise(loaded)
    about = Export(
        format=format,
        input=input,
        int8=int8,
        made_with={"vivit": vivit.__version__, **{each: version(each) for each in dict.fromkeys((*packages, "torch"))}},
    )
    with new_folder(out) as folder, _as_user_error(out):
        files = {CONFIG_FILE: config_content(loaded), EXPORT_FILE: as_json(about.model_dump(mode="json"))}
        write_files({folder / name: content for name, content in files.items()})
        if (source.folder / ANSWERS_FILE).is_file():
            shutil.copy(source.folder / ANSWERS_FILE, folder)
        say(f"writing {out / FILES[format]}")
        with _quietly():
            WRITE[format](loaded, about, folder / FILES[format], videos)
        exported = ExportedModel(folder)
        exported.prepare("int8" if int8 else "f32")
        parity = compare(loaded, exported, videos, "your clips" if clips else "random noise")
        write_files({folder / PARITY_FILE: as_json(parity.model_dump(mode="json"))})
    return parity


@torch.inference_mode()
def compare(model: ViViT, exported: ExportedModel, clips: Tensor, taken_from: str) -> Parity:
    """Compare the logits of both on clips (N, T, C, H, W) uint8, N ≥ 1, in batches of different sizes."""
    difference, largest, same = 0.0, 0.0, dict.fromkeys(model.config.class_counts, 0)
    for part in [clips[:1], *(clips[1:].split(TOGETHER) if len(clips) > 1 else [])]:
        expected, found = by_head(model(part)), exported(part)
        for head, logits in expected.items():
            difference = max(difference, (found[head] - logits).abs().max().item())
            largest = max(largest, logits.abs().max().item())
            same[head] += int((found[head].argmax(dim=1) == logits.argmax(dim=1)).sum())
    return Parity(
        clips=len(clips),
        taken_from=taken_from,
        precision=str(exported.precision),
        max_difference=difference,
        max_logit=largest,
        same_top1=same,
    )


def _check_out(out: Path, overwrite: bool) -> None:
    """Refuse a folder that is not empty, unless it is an exported model that may be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / EXPORT_FILE).is_file():
        raise UserError(f"{out}: exists, and is not an exported model; choose another folder")
    if not overwrite:
        raise UserError(f"{out}: exists; --overwrite replaces it, or choose another folder")


def _read_clips(model: ViViT, words: Sequence[str | Path], say: Say) -> Tensor:
    """The middle clip of each video, (N, T, C, H, W) uint8; of at most `MOST_CLIPS` of them, evenly spread."""
    found = list(find_inputs([str(word) for word in words], io.BytesIO(), False, say))
    step = max(1, len(found) / MOST_CLIPS)
    chosen: list[Video | VideoError] = [found[int(number * step)] for number in range(min(len(found), MOST_CLIPS))]
    clips = []
    for read in views_in_order(chosen, Reading(clip_spec(model), Views(), ReadOptions(), Fetching()), ahead=1):
        if isinstance(read, VideoError):
            say(f"not used: {read}")
        else:
            clips.append(read[1].frames)
    if not clips:
        raise UserError(f"clips: none of {', '.join(map(str, words))} can be read as a video")
    say(f"{len(clips)} of {len(found)} videos, a clip of each")
    return torch.cat(clips)


def _noise(model: ViViT) -> Tensor:
    """Clips of random pixels, (N, T, C, H, W) uint8; the same for the same size."""
    shape = (NOISE_CLIPS, *_clip_size(model))
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def _clip_size(model: ViViT) -> tuple[int, int, int, int]:
    return (model.config.num_frames, CHANNELS, *model.config.image_size)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence the exporters' own messages."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def _as_user_error(out: Path) -> Iterator[None]:
    """Raise UserError for a full disk, which exporters report as a RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        if "No space left" not in str(error):
            raise
        raise UserError(f"{out}: not written (No space left on device)") from None


def _program(model: ViViT, input: Input) -> torch.export.ExportedProgram:
    """The model with a batch of any size."""
    dtype = {"uint8": torch.uint8, "float32": torch.float32}[input]
    example = torch.zeros(EXAMPLE, *_clip_size(model), dtype=dtype)
    with torch.no_grad():
        return torch.export.export(model, (example,), dynamic_shapes={VIDEO: {0: torch.export.Dim("batch")}})


def _write_onnx(model: ViViT, about: Export, path: Path, clips: Tensor) -> None:
    program = torch.onnx.export(
        _program(model, about.input),
        (),
        input_names=[VIDEO],
        output_names=list(model.config.class_counts),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(path)  # above 2 GB with the weights in a file beside it


def _write_openvino(model: ViViT, about: Export, path: Path, clips: Tensor) -> None:
    import openvino

    # Through ONNX, because OpenVINO's own conversion of an exported program loses all shapes.
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        onnx = Path(place) / FILES["onnx"]
        _write_onnx(model, about, onnx, clips)
        network = openvino.Core().read_model(onnx)
        if about.int8:
            network = _quantised(network, [as_input(clip[None], about.input) for clip in clips])
        openvino.save_model(network, path, compress_to_fp16=False)


def _quantised(network: Any, clips: Sequence[np.ndarray]) -> Any:
    """An OpenVINO model whose matrix products are in 8 bits; the clips calibrate the ranges of their inputs."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf.quantize(network, nncf.Dataset(clips), subset_size=len(clips), model_type=nncf.ModelType.TRANSFORMER)


def _write_torch_export(model: ViViT, about: Export, path: Path, clips: Tensor) -> None:
    torch.export.save(_program(model, about.input), path)


def _write_aotinductor(model: ViViT, about: Export, path: Path, clips: Tensor) -> None:
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        aoti_compile_and_package(_program(model, about.input), package_path=str(path))
    except InvalidCxxCompiler:
        raise UserError("aotinductor needs a C++ compiler, such as g++; install one, or choose onnx") from None


WRITE: Mapping[Format, Callable[[ViViT, Export, Path, Tensor], None]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torch-export": _write_torch_export,
    "aotinductor": _write_aotinductor,
}
