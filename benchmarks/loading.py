"""Time and memory to load ViViT-L/16x2 FE, compared with reading the file with safetensors alone.

    python benchmarks/loading.py [FOLDER]

Random weights are written once to FOLDER (a temporary one by default), in every layout to load. Each measurement runs
in its own process, the kinds take turns, and files are in the page cache. Time is from the call until every parameter
has been read in full, because a memory-mapped file is read only then. Memory is the process's peak resident set, minus
its size before the call. Imports come first and do not count.
"""

import gc
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgpack
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

import vivit
from vivit.weights import flax_keys
from vivit.weights.keymap import write

ROUNDS = 7
NAMES = {
    "safetensors": "safetensors alone",
    "folder": "vivit.load, model folder",
    "scenic": "vivit.load, Scenic checkpoint",
    "huggingface": "vivit.load, transformers' folder (spatio-temporal)",
}


def write_all(folder: Path) -> None:
    """ViViT-L/16x2 FE as a model folder and as a Scenic checkpoint, and the spatio-temporal model for transformers."""
    torch.manual_seed(0)
    model = vivit.ViViT(vivit.ModelConfig.named("vivit-l-16x2-fe"))
    vivit.save(model, folder / "folder")
    write_scenic(model, folder / "scenic")
    vivit.to_huggingface(vivit.ViViT(vivit.ModelConfig.named("vivit-l-16x2")), folder / "huggingface")


def write_scenic(model: vivit.ViViT, path: Path) -> None:
    """Serialise it like flax, with an optimiser's momentum, which the released files also contain."""
    packer = msgpack.Packer()
    arrays = write(model.state_dict(), flax_keys.key_map(model.config))

    def tree() -> dict[str, object]:
        root: dict[str, object] = {}
        for name, value in arrays.items():
            *parents, leaf = name.split("/")
            branch = root
            for parent in parents:
                branch = branch.setdefault(parent, {})  # type: ignore[assignment]
            array = value.numpy()
            branch[leaf] = msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))
        return root

    with path.open("wb") as file:
        file.write(packer.pack_map_header(1) + packer.pack("optimizer") + packer.pack_map_header(2))
        for key in ("state", "target"):
            file.write(packer.pack(key) + packer.pack(tree()))


def size_of(path: Path) -> int:
    """Bytes of the weights alone."""
    if path.is_dir():
        return (path / "model.safetensors").stat().st_size
    return path.stat().st_size // 2  # the other half belongs to the optimiser


def measure(kind: str, folder: Path) -> tuple[float, float]:
    """Seconds and peak memory in bytes for loading in this process."""
    path = folder / ("folder" if kind == "safetensors" else kind)
    load = vivit.load
    gc.collect()
    before = resident("VmRSS")
    begun = time.perf_counter()
    if kind == "safetensors":
        state: dict[str, Tensor] = load_file(path / "model.safetensors")
    else:
        state = load(path).state_dict()
    for value in state.values():
        value.sum()
    seconds = time.perf_counter() - begun
    return seconds, resident("VmHWM") - before


def resident(field: str) -> int:
    """A field of /proc/self/status (Linux), in bytes."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{field}:"))


def main() -> None:
    if len(sys.argv) == 3:
        torch.set_num_threads(1)
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        if not (folder / "huggingface").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_all(folder)
        runs: dict[str, list[tuple[float, float]]] = {kind: [] for kind in NAMES}
        for _ in range(ROUNDS):
            for kind, measured in runs.items():
                output = subprocess.run(
                    [sys.executable, __file__, kind, str(folder)], check=True, capture_output=True, text=True
                )
                measured.append(tuple(json.loads(output.stdout)))
        table = Table("kind", "seconds", "of safetensors'", "peak memory, MB", "of the file")
        alone = statistics.median(seconds for seconds, _ in runs["safetensors"])
        for kind, measured in runs.items():
            seconds = statistics.median(value for value, _ in measured)
            memory = statistics.median(value for _, value in measured)
            size = size_of(folder / ("folder" if kind == "safetensors" else kind))
            table.add_row(
                NAMES[kind], f"{seconds:.3f}", f"{seconds / alone:.2f}", f"{memory / 1e6:.0f}", f"{memory / size:.2f}"
            )
        console = Console(width=120)
        console.print(table)
        console.print(
            f"medians of {ROUNDS}; Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}"
        )


if __name__ == "__main__":
    main()
