"""The forward pass of exported models, each in its own runtime, alternating with this package's.

    .venv/bin/python -m benchmarks.exported [--only factorised_encoder] [--threads 2] [--rounds 5]

ViViT-B/16x2 with random weights, on a uint8 clip of 32 × 224 × 224 of a generated video in memory. `vivit` is PyTorch,
in float32 and with its weights converted to bf16. int8 is calibrated on the same clip, and computes the rest in bf16
where the CPU makes that faster. Every round runs each once, after a warm-up round; ratios are within a round. Exporting
takes some minutes; `--folder` keeps the exported models for the next call.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cyclopts
import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.contenders import OURS, QUICK
from benchmarks.videos import FOLDER, generated
from vivit.config import ModelConfig, Preprocessing, Variant
from vivit.inference.export import export
from vivit.inference.exported import ExportedModel
from vivit.inference.speed import Seconds, ratios, spread, take_turns, time_of
from vivit.inference.views import clip_spec
from vivit.labels import ONLY_HEAD, by_head
from vivit.model.vivit import ViViT
from vivit.runtime import Precision
from vivit.video.clips import read_views
from vivit.weights.exported import Format
from vivit.weights.source import CONFIG_FILE
from vivit.weights.store import load, save

CPU = torch.device("cpu")
F32 = (OURS, "f32")
# The formats to measure, and the precision in which each runs.
EXPORTED: tuple[tuple[Format, Precision], ...] = (
    ("onnx", "f32"),
    ("openvino", "f32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("aotinductor", "f32"),
)
PACKAGES = ("onnxruntime", "openvino", "nncf")


def random_model(config: ModelConfig, folder: Path) -> None:
    torch.manual_seed(0)
    names = [f"class {number}" for number in range(config.class_counts[ONLY_HEAD])]
    model = ViViT(config, classes={ONLY_HEAD: names}, preprocessing=Preprocessing(resize=min(config.image_size)))
    for head in model.heads.parameters():
        torch.nn.init.normal_(head, std=0.02)
    save(model, folder)


@torch.inference_mode()
def measure(variant: Variant, folder: Path, formats: list[str], rounds: int, quick: bool) -> list[dict[str, Any]]:
    """The rows of a variant."""
    if not (folder / "model" / CONFIG_FILE).is_file():
        random_model(ModelConfig(variant=variant, **(QUICK if quick else {})), folder / "model")
    video = generated("320", FOLDER)
    plain, half = load(folder / "model"), load(folder / "model").bfloat16()
    models: dict[tuple[str, str], Callable[[Tensor], Any]] = {F32: plain, (OURS, "bf16"): half}
    for format, precision in EXPORTED:
        if format not in formats:
            continue
        place, int8 = folder / (f"{format}-int8" if precision == "int8" else format), precision == "int8"
        if not place.exists():
            parity = export(folder / "model", place, format, int8=int8, clips=[video])
            print(f"{variant}: {parity}", flush=True)
        models[format, precision] = exported = ExportedModel(place)
        exported.prepare(precision)
    clip = read_views(video, clip_spec(plain), 1, 1).frames
    expected = plain(clip)
    steps: dict[tuple[str, str], Callable[[], Seconds]] = {
        key: partial(time_of, partial(model, clip), CPU) for key, model in models.items()
    }
    taken = take_turns(steps, rounds)
    return [
        {
            "model": key[0],
            "variant": variant,
            "precision": key[1],
            "runtime": str(model.precision) if isinstance(model, ExportedModel) else "PyTorch",
            "seconds": spread([each.clock for each in taken[key]]),
            "processor seconds": spread([each.processor for each in taken[key]]),
            "ours f32 ÷ time": spread(ratios(taken[F32], taken[key])),
            "ours f32 ÷ processor time": spread(
                [ours.processor / each.processor for ours, each in zip(taken[F32], taken[key], strict=True)]
            ),
            "difference": ((by_head(model(clip))[ONLY_HEAD] - expected).abs().max() / expected.abs().max()).item(),
        }
        for key, model in models.items()
    ]


def main(
    only: str = "spatiotemporal,factorised_encoder",
    formats: str = "onnx,openvino",
    rounds: int = 5,
    threads: int | None = None,
    folder: Path | None = None,
    quick: bool = False,
    out: Path = harness.RESULTS / "exported.json",
) -> None:
    """Measure, print a table and write a record.

    Args:
        only: variants, separated by commas.
        formats: separated by commas; compiling aotinductor takes minutes.
        threads: of each runtime; by default PyTorch's own choice.
        folder: where to keep exported models; by default nowhere.
        quick: toy models, to check that it works.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    print(f"{harness.setting(*PACKAGES)}\n{torch.get_num_threads()} threads, medians of {rounds} rounds\n")
    print(f"{'':20}{'':24}seconds   of processors   ours f32 ÷ it   ÷ it, processors   max |Δ| ÷ max")
    rows = []
    variants: list[Any] = only.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        for variant in variants:
            for row in measure(variant, (folder or Path(temporary)) / variant, formats.split(","), rounds, quick):
                rows.append(row)
                times = (row[name]["median"] for name in ("seconds", "processor seconds"))
                shares = (row[name]["median"] for name in ("ours f32 ÷ time", "ours f32 ÷ processor time"))
                print(
                    f"{variant:20}{row['model'] + ' ' + row['precision']:24}"
                    + "".join(f"{value:7.2f}{'':9}" for value in (*times, *shares))
                    + f"{row['difference']:9.2g}",
                    flush=True,
                )
    task = {"batch": 1, "rounds": rounds, "threads": torch.get_num_threads(), "quick": quick}
    harness.write(out, {"task": task, "rows": rows}, packages=PACKAGES)


if __name__ == "__main__":
    cyclopts.run(main)
