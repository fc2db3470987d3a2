"""`vivit benchmark`"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.options import HARDWARE, INPUT, OUTPUT, Device
from vivit.cli.predict import CAMERA_MOTION
from vivit.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

app = verb(
    "benchmark",
    "vivit benchmark",
    "vivit benchmark --model run --batch 8",
    "vivit benchmark --model vivit-b-16x2-fe --precision bf16 --json",
)


@app.default
def benchmark(
    *,
    model: Annotated[
        str,
        Parameter(
            group=INPUT,
            metavar="NAME",
            help="A model folder, an exported one, a run, a Hub id, or a size such as vivit-b-16x2-fe, which gets "
            "random weights.",
        ),
    ] = CAMERA_MOTION,
    batch: Annotated[int, Parameter(group=INPUT, metavar="N")] = 1,
    rounds: Annotated[int, Parameter(group=INPUT, metavar="N")] = 7,
    json: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False,
    device: Device = "auto",
    precision: Annotated[
        tuple[Literal["f32", "bf16", "fp16", "int8"], ...],
        Parameter(group=HARDWARE, metavar="NAME…", consume_multiple=True),
    ] = (),
    threads: Annotated[int | None, Parameter(group=HARDWARE, metavar="N")] = None,
) -> None:
    """Measure how fast a model is on this machine.

    Random clips go through the model in each precision, alternating with a product of two large matrices and a copy,
    which show the most that the hardware can do. Times are medians, with quartiles in brackets. Memory is the peak of a
    process that does nothing else; on a GPU, that of PyTorch's tensors.

    Args:
        batch: Clips per batch.
        rounds: Measurements of each precision, after a warm-up.
        json: Print a record with every measurement, the hardware and the versions instead of a table.
        precision: One or more, separated by spaces; by default f32 and bf16. An exported model uses its file's.
        threads: CPU threads; by default PyTorch's choice.
    """
    for name, value in {"batch": batch, "rounds": rounds, "threads": threads}.items():
        if value is not None and value < 1:
            raise UserError(f"{name}: {value} is out of range; give 1 or more")
    import torch

    from vivit.experiments.record import record
    from vivit.inference.benchmark import Benchmark, run
    from vivit.progress import console, progress_bar
    from vivit.runtime import pick_device
    from vivit.tables import json_text

    if threads is not None:
        torch.set_num_threads(threads)
    place = pick_device(device)
    with progress_bar(model, visible=not json) as update:
        values = run(Benchmark(model, device, batch), precision, rounds, update)
    made = record(values, device=str(place))
    if json:
        print(json_text(made))
        return
    for line in _lines(made):
        console().print(line)


def _lines(record: "Mapping[str, Any]") -> "Iterator[str]":
    task, hardware, peaks = record["values"]["task"], record["hardware"], record["values"]["peaks"]
    size = "x".join(map(str, task["image_size"]))
    yield (
        f"{task['model']}: {task['variant'].replace('_', ' ')}, clips of {task['frames']}x{size}, "
        f"{task['flops a clip'] / 1e9:.4g} GFLOP each, {task['batch']} at once"
    )
    if hardware["device"] == "cpu":
        threads = f"{hardware['threads']} thread{'' if hardware['threads'] == 1 else 's'}"
        yield f"{hardware['cpu']}, {threads}, torch {record['versions']['torch']}"
    else:
        yield f"{hardware['device']}, torch {record['versions']['torch']}"
    yield ""
    yield (
        f"{'precision':11}{'seconds a clip':26}{'clips/s':>9}{'GFLOP/s':>9}{'of the peak':>13}{'memory':>10}  attention"
    )
    for row in record["values"]["rows"]:
        seconds = row["seconds"]
        spread = f"{seconds['median']:.4g} ({seconds['low']:.4g} to {seconds['high']:.4g})"
        share = "" if row["of the product peak"] is None else f"{row['of the product peak']:.0%}"
        yield (
            f"{row['precision']:11}{spread:26}{row['clips a second']:9.3g}{row['flops a second'] / 1e9:9,.0f}"
            f"{share:>13}{row['peak memory'] / 1e9:7.2f} GB  {row['attention']}"
        )
    yield ""
    products = ", ".join(
        f"{name.removeprefix('product ')} {rate / 1e9:,.0f} GFLOP/s" for name, rate in peaks.items() if name != "copy"
    )
    yield f"Measured beside it: products {products}; copies {peaks['copy'] / 1e9:.1f} GB/s."
