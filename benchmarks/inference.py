"""The forward pass of ViViT-B/16x2: this package's models, plain ones and those of other packages, alternating.

    .venv/bin/python -m benchmarks.inference [--only factorised_encoder] [--threads 2] [--budget 180]
    .venv/bin/python -m benchmarks.tables

One clip of 32 × 224 × 224 is in memory, as each model's own loader yields it, and goes through the model without
gradients, in float32 or with all weights converted to bf16. The models of one variant, products of two large matrices
in each precision, and a copy within memory take turns, after a warm-up round. Each variant has its own rounds, which
end when its budget of seconds is spent, but there are at least two. Peers that are not installed are skipped: `pip
install transformers vit-pytorch` for PyTorch's. vit-pytorch has neither biases in its attention nor the tanh form of
GELU, so it computes less.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cyclopts
import torch
from rich.console import Console

from benchmarks import harness
from benchmarks.contenders import CONTENDERS, OURS, QUICK, VARIANTS, build, in_precision, random_clips
from vivit.config import ModelConfig, Variant
from vivit.inference import speed
from vivit.runtime import DTYPES, Precision
from vivit.weights.describe import multiply_adds

PRECISIONS: tuple[Precision, ...] = ("f32", "bf16")
PACKAGES = ("transformers", "vit-pytorch")
PROGRESS = Console(stderr=True)


def step_of(name: str, config: ModelConfig, precision: Precision, device: torch.device, clips: int) -> speed.Step:
    """The forward pass of a model on random clips."""
    network = in_precision(build(name, config).eval(), device, precision)
    batch = random_clips(name, config, clips).to(device)
    batch = batch.to(DTYPES[precision]) if batch.is_floating_point() else batch
    return lambda: network(batch)


def measure(variant: Variant, names: list[str], rounds: int, budget: float, quick: bool) -> dict[str, Any]:
    """The rows of a variant, and the peaks measured among them."""
    device, config = torch.device("cpu"), ModelConfig(variant=variant, **(QUICK if quick else {}))
    names = [name for name in names if variant in CONTENDERS[name].variants]
    dtypes = {precision: DTYPES[precision] for precision in PRECISIONS}
    peaks = {f"product {precision}": speed.product(dtype, device) for precision, dtype in dtypes.items()}
    peaks["copy"] = speed.copy(device)
    steps = {
        (name, precision): step_of(name, config, precision, device, 1) for name in names for precision in PRECISIONS
    }

    def timed(step: speed.Step) -> Callable[[], speed.Seconds]:
        def run() -> speed.Seconds:
            with torch.inference_mode():
                return speed.time_of(step, device)

        return run

    every: dict[Any, speed.Step] = {**{name: peak.step for name, peak in peaks.items()}, **steps}
    taken = speed.take_turns(
        {key: timed(step) for key, step in every.items()},
        rounds,
        budget=budget,
        progress=lambda key: PROGRESS.print(f"{variant}: {key}", style="dim"),
    )
    rates = {name: peak.rate(taken[name]) for name, peak in peaks.items()}
    flops = 2 * multiply_adds(config)
    rows = []
    # All layers are alike, so one of them shows which attention runs.
    shallow = config.model_copy(update={"num_layers": 1, "temporal_layers": config.temporal_layers and 1})
    for name, precision in steps:
        seconds = speed.spread([each.clock for each in taken[name, precision]])
        row = {
            "model": name,
            "variant": variant,
            "precision": precision,
            "seconds": seconds,
            "processor seconds": speed.spread([each.processor for each in taken[name, precision]]),
            "flops": flops,
            "of the product peak": flops / seconds["median"] / rates[f"product {precision}"],
            "attention": speed.attention_of(step_of(name, shallow, precision, device, 1)),
        }
        if name != OURS and OURS in names:
            row["time ÷ ours"] = speed.spread(speed.ratios(taken[name, precision], taken[OURS, precision]))
        rows.append(row)
    return {"rows": rows, "peaks": rates}


def main(
    only: str = ",".join(VARIANTS),
    models: str = ",".join(CONTENDERS),
    rounds: int = 5,
    budget: float = 180.0,
    threads: int | None = None,
    quick: bool = False,
    out: Path = harness.RESULTS / "inference.json",
) -> None:
    """Measure, and write a record; `benchmarks.tables` makes the table and the plot.

    Args:
        only: variants, separated by commas.
        models: keys of CONTENDERS, separated by commas.
        rounds: the most measured rounds of each variant.
        budget: seconds after which a variant starts no further round.
        threads: of PyTorch; by default its own choice.
        quick: toy models, to check that it works.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    names = [name for name in models.split(",") if CONTENDERS[name].installed()]
    for name in models.split(","):
        if name not in names:
            print(f"{name} is left out: {CONTENDERS[name].package} is not installed")
    rows: list[Any] = []
    peaks: dict[str, Any] = {}
    for variant in VARIANTS:
        if variant not in only.split(","):
            continue
        found = measure(variant, names, rounds, budget, quick)
        rows += found["rows"]
        peaks[variant] = found["peaks"]
        task = {"batch": 1, "rounds": rounds, "budget": budget, "quick": quick}
        harness.write(out, {"task": task, "rows": rows, "peaks": peaks}, packages=PACKAGES)


if __name__ == "__main__":
    cyclopts.run(main)
