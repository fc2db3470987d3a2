"""From nothing to the first label: `vivit predict clip.mp4`, and transformers' pipeline with the same weights.

    .venv/bin/python -m benchmarks.cold_start [--rounds 3] [--threads 1] [--precisions auto,f32]

ViViT-B/16x2, model 1, has random weights and is stored in a folder of each format; the clip is in the page cache. Each
measurement is a new process, from the start of Python to the label. The ways take turns. Seconds are CPU time, which
depends little on other work on the machine; memory is the peak of the process.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cyclopts
import torch

import vivit
from benchmarks import harness
from benchmarks.videos import generated
from vivit.inference.speed import spread

# What a process reports at its end: CPU seconds, including its children's, and peak memory.
ENDING = """
import json, resource, time
children = resource.getrusage(resource.RUSAGE_CHILDREN)
seconds = time.process_time() + children.ru_utime + children.ru_stime
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print("\\n" + json.dumps({"seconds": seconds, "memory": peak}))
"""
OURS = """
import sys
from vivit.cli import main
sys.argv = ["vivit", "predict", clip, "--model", folder, "--precision", precision]
try:
    main()
except SystemExit as end:
    assert not end.code
"""
THEIRS = """
from transformers import pipeline
print(pipeline("video-classification", model=folder)(clip, num_frames=frames)[0]["label"])
"""


def measured(code: str, threads: int, **values: object) -> dict[str, Any]:
    """CPU seconds and memory of a process that runs this code with these names set."""
    names = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", names + code + ENDING]
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    result: dict[str, Any] = json.loads(said.splitlines()[-1])
    return result


def main(
    rounds: int = 3,
    threads: int = 1,
    precisions: str = "auto,f32",
    clip: Path | None = None,
    quick: bool = False,
    out: Path = harness.RESULTS / "cold_start.json",
) -> None:
    """Measure, print a table and write a record.

    Args:
        precisions: of our model, separated by commas; the pipeline computes in f32.
        clip: a video; by default a generated one of 340 × 256.
        quick: a toy model, to check that it works.
    """
    clip = clip or generated("320", seconds=4)
    smaller = {"num_layers": 1, "hidden_size": 48, "num_heads": 4, "mlp_dim": 96} if quick else {}
    config = vivit.ModelConfig.named("vivit-b-16x2", num_classes=400, **smaller)
    with tempfile.TemporaryDirectory() as temporary:
        folder, theirs = Path(temporary) / "vivit", Path(temporary) / "transformers"
        model = vivit.ViViT(config, classes={"classes": [f"class {number}" for number in range(400)]})
        torch.nn.init.normal_(model.heads["classes"].get_parameter("weight"), std=0.02)
        vivit.save(model, folder)
        vivit.to_huggingface(model, theirs)
        ours = {"folder": str(folder), "clip": str(clip)}
        pipeline = {"folder": str(theirs), "clip": str(clip), "frames": config.num_frames}
        taken: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for _ in range(rounds):
            for precision in precisions.split(","):
                row = measured(OURS, threads, precision=precision, **ours)
                taken.setdefault(("vivit", precision), []).append(row)
            taken.setdefault(("transformers pipeline", "f32"), []).append(measured(THEIRS, threads, **pipeline))
    peer = taken[("transformers pipeline", "f32")]
    print(f"{harness.setting('transformers', 'av')}\n{threads} threads, medians of {rounds} rounds\n")
    print(f"{'':32}seconds of processors   ÷ the pipeline's   memory, MB")
    rows = []
    for (name, precision), found in taken.items():
        ratios = [mine["seconds"] / its["seconds"] for mine, its in zip(found, peer, strict=True)]
        row = {
            "model": name,
            "precision": precision,
            "processor seconds": spread([one["seconds"] for one in found]),
            "of the pipeline's": spread(ratios),
            "peak memory": max(one["memory"] for one in found),
        }
        rows.append(row)
        seconds, ratio = row["processor seconds"]["median"], row["of the pipeline's"]["median"]
        print(f"{name + ' ' + precision:32}{seconds:21.2f}{ratio:19.2f}{row['peak memory'] / 1e6:13,.0f}")
    harness.write(
        out,
        {"task": {"rounds": rounds, "threads": threads, "quick": quick}, "rows": rows},
        packages=["transformers", "av"],
    )


if __name__ == "__main__":
    cyclopts.run(main)
