"""All GPU measurements, in at most eight minutes on one H100 or H200, without network access.

    python -m benchmarks.gpu [--out docs/performance/gpu.json]
    python -m benchmarks.tables

Weights are random and clips are generated. The sections are: the peaks of products and copies; attention with each of
PyTorch's kernels at the shapes of the four models, and with `benchmarks.short_attention` for few tokens; inference in
bf16, eager, compiled block by block, and with the best kernel for each shape, beside transformers as shipped; a
training step; the temporal encoder of model 2 as a CUDA graph; a product in FP8; and decoding with NVDEC, with and
without a copy to the host. Triton and compiled blocks need a C compiler.

A failure costs only its own rows, which then say why. After `--minutes`, no new rows start, and they say so. MFU is the
fraction of the bf16 peak in NVIDIA's data sheet, without sparsity. The record is written after each section, and the
table is printed at the end.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cyclopts
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from benchmarks import harness, tables, training
from benchmarks.contenders import OURS, QUICK, TRANSFORMERS, VARIANTS, build, in_precision, random_clips
from benchmarks.videos import FOLDER, generated
from vivit.config import ModelConfig, Variant
from vivit.inference import speed
from vivit.model.encoder import encoders_of
from vivit.model.vivit import FactorisedEncoder
from vivit.runtime import DTYPES, Precision
from vivit.video.clips import clip_indices
from vivit.video.decode import open_video
from vivit.weights.describe import multiply_adds

# Part of the device's name → bf16 FLOP/s without sparsity.
DATASHEET = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
BY_TRITON = "triton for few tokens"
FEW = 32  # the most tokens for which this project has a kernel
TILES = 16, 32, 64, 128  # rows of that kernel's tile
TOLERANCE = 0.05  # of attention in bf16, for values with standard deviation 1
REPEATS = 10  # of a step that takes less than a millisecond
FP8_MAX = 448.0
LONGEST = 160  # characters of an error
Attend = Callable[..., Tensor]
"""Takes queries, keys and values of (B, H, N, d), and the other arguments of `scaled_dot_product_attention`."""


@dataclass
class Run:
    """What all sections share."""

    device: torch.device
    quick: bool
    rounds: int
    until: float
    """The `time.monotonic` after which no new rows start."""
    out: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    peaks: dict[str, float] = field(default_factory=dict)
    best: dict[int, Attend] = field(default_factory=dict)
    """Tokens → attention with PyTorch's fastest kernel."""
    few: dict[int, Attend] = field(default_factory=dict)
    """Few tokens → attention with this project's kernel and its fastest number of rows."""

    def with_few(self, tokens: int) -> "BestKernels":
        """The best kernels, and this project's for few tokens, which must have run for this number of them."""
        if tokens not in self.few:
            raise RuntimeError(f"the kernel has not run for {tokens} tokens")
        return BestKernels(self.best | self.few)

    @property
    def batch(self) -> int:
        return 2 if self.quick else 16

    def config(self, variant: Variant) -> ModelConfig:
        return ModelConfig(variant=variant, **(QUICK if self.quick else {}))

    @property
    def datasheet(self) -> float | None:
        if self.device.type != "cuda":
            return None
        name = torch.cuda.get_device_name()
        return next((peak for part, peak in DATASHEET.items() if part in name), None)

    @contextmanager
    def row(self, section: str, **labels: Any) -> Iterator[dict[str, Any]]:
        """A row to fill; an error within it becomes its content, and is printed."""
        row: dict[str, Any] = {"section": section, **labels}
        try:
            yield row
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:LONGEST]
            print(f"{section} {labels}: {row['error']}", flush=True)
            error.__traceback__ = None  # it holds the memory of the failed row
        self.rows.append(row)
        if "error" in row and self.device.type == "cuda":
            torch.cuda.empty_cache()

    def begin(self) -> None:
        """Raise TimeoutError if it is too late to start a row, so that nothing is built for it."""
        if time.monotonic() > self.until:
            raise TimeoutError("the time was over")

    def time(self, row: dict[str, Any], step: speed.Step, flops: float = 0.0, repeats: int = 1) -> None:
        """Time a step without gradients, and fill in a row. flops: of the step, for its rate."""
        with torch.inference_mode():
            self.time_step(row, step, flops, repeats)

    def time_step(self, row: dict[str, Any], step: speed.Step, flops: float, repeats: int = 1) -> None:
        self.begin()

        def repeated() -> None:
            for _ in range(repeats):
                step()

        taken = speed.take_turns({"": lambda: speed.time_of(repeated, self.device)}, self.rounds)[""]
        seconds = row["seconds"] = speed.spread([each.clock / repeats for each in taken])
        if flops:
            rate = row["flops a second"] = flops / seconds["median"]
            if peak := self.peaks.get(f"product {row.get('precision')}"):
                row["of the product peak"] = rate / peak
            if self.datasheet and row.get("precision") == "bf16":
                row["mfu"] = rate / self.datasheet

    def write(self) -> None:
        task = {"batch": self.batch, "rounds": self.rounds, "quick": self.quick}
        values = {"task": task, "rows": self.rows, "peaks": self.peaks, "datasheet": self.datasheet}
        harness.write(self.out, values, device=str(self.device), packages=["transformers", "triton", "torchcodec"])


def measure_peaks(run: Run) -> None:
    side, size = (256, 1 << 20) if run.quick else (None, None)
    for precision, dtype in {"f32": torch.float32, "bf16": torch.bfloat16}.items():
        with run.row("peaks", what=f"product {precision}") as row:
            peak = speed.product(dtype, run.device, side)
            run.time(row, peak.step, peak.work)
            run.peaks[f"product {precision}"] = peak.work / min(row["seconds"]["each"])
    with run.row("peaks", what="copy") as row:
        peak = speed.copy(run.device, size)
        run.time(row, peak.step)
        run.peaks["copy"] = row["bytes a second"] = peak.work / min(row["seconds"]["each"])


def attention_shapes(run: Run) -> dict[str, tuple[int, ...]]:
    """Name of an attention → (B, N, H, 3, d) of its fused queries, keys and values in this package's models."""
    config = run.config("spatiotemporal")
    times, places = config.grid[0], config.grid[1] * config.grid[2]
    heads, width = config.num_heads, config.hidden_size // config.num_heads
    return {
        "model 1, all tokens": (run.batch, times * places + 1, heads, 3, width),
        "model 2, space": (run.batch * times, places + 1, heads, 3, width),
        "model 2, time": (run.batch, times + 1, heads, 3, width),
        "model 3, time": (run.batch, times, places * heads, 3, width),
        "model 3, space": (run.batch * times, places, heads, 3, width),
    }


def measure_attention(run: Run) -> None:
    """Each kernel at each shape, on views with the strides of this package's models."""
    for what, shape in attention_shapes(run).items():
        fused = torch.randn(shape, device=run.device).bfloat16()
        q, k, v = fused.permute(3, 0, 2, 1, 4).unbind(0)  # 3 × (B, H, N, d)
        batch, tokens, heads, _, width = shape
        flops = 4.0 * batch * heads * tokens**2 * width

        attend = partial(F.scaled_dot_product_attention, q, k, v)
        seconds: dict[str, float] = {}
        for name, backend in BACKENDS.items():
            with run.row("attention", what=what, tokens=tokens, kernel=name, precision="bf16") as row:
                with sdpa_kernel(backend):
                    run.time(row, attend, flops, REPEATS)
                seconds[name] = row["seconds"]["median"]
        with run.row("attention", what=what, tokens=tokens, kernel="as PyTorch chooses", precision="bf16") as row:
            run.time(row, attend, flops, REPEATS)
            row["attention"] = speed.attention_of(attend)
        if seconds:
            run.best[tokens] = by_backend(BACKENDS[min(seconds, key=seconds.__getitem__)])
        if tokens <= FEW:
            measure_few_tokens(run, what, q, k, v, flops)
        del fused, q, k, v, attend


def measure_few_tokens(run: Run, what: str, q: Tensor, k: Tensor, v: Tensor, flops: float) -> None:
    """The kernel of `benchmarks.short_attention`, in tiles of each size."""
    tokens, seconds = q.shape[2], {}
    for rows in [rows for rows in TILES if rows >= tokens]:
        kernel = f"triton, few tokens, {rows} rows"
        with run.row("attention", what=what, tokens=tokens, kernel=kernel, precision="bf16") as row:
            from benchmarks.short_attention import plain_attention, short_attention  # triton may be missing

            difference = (short_attention(q, k, v, rows).float() - plain_attention(q, k, v)).abs().max().item()
            row["difference"] = difference
            if not difference <= TOLERANCE:
                raise ArithmeticError(f"differs by {difference:.2g}")
            run.time(row, partial(short_attention, q, k, v, rows), flops, REPEATS)
            seconds[rows] = row["seconds"]["median"]
    if seconds:
        rows = min(seconds, key=seconds.__getitem__)
        run.few[tokens] = lambda q, k, v, **options: short_attention(q, k, v, rows)


def by_backend(backend: SDPBackend) -> Attend:
    def attend(*args: Any, **kwargs: Any) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(*args, **kwargs)

    return attend


class BestKernels(TorchFunctionMode):
    """Inside this mode, each attention runs with the kernel for its number of tokens."""

    def __init__(self, best: Mapping[int, Attend]) -> None:
        super().__init__()
        self.best = best

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            func = self.best.get(args[0].shape[-2], func)
        return func(*args, **(kwargs or {}))


def compile_blocks(network: nn.Module) -> None:
    """Compile the blocks of each encoder, which share the code compiled for the first."""
    torch._dynamo.reset()  # PyTorch compiles a function only a few times, and the models share functions
    for encoder in encoders_of(network):
        for block in encoder.blocks:
            # Otherwise the temporal encoder of model 2 gets code for all sizes, which its spatial one would also run.
            block.compile(fullgraph=True, dynamic=False)


def forward_of(run: Run, name: str, variant: Variant, precision: Precision, batch: int) -> tuple[nn.Module, speed.Step]:
    run.begin()
    config = run.config(variant)
    network = in_precision(build(name, config).eval(), run.device, precision)
    clips = random_clips(name, config, batch).to(run.device)
    clips = clips.to(DTYPES[precision]) if clips.is_floating_point() else clips
    return network, lambda: network(clips)


def measure_inference(run: Run) -> None:
    flops = {variant: 2.0 * multiply_adds(run.config(variant)) for variant in VARIANTS}
    for batch in (1, run.batch):
        for variant in VARIANTS:
            labels = {"model": OURS, "variant": variant, "precision": "bf16", "batch": batch}
            ways: dict[str, Callable[[], AbstractContextManager[Any]]] = {
                "eager": nullcontext,
                "best kernels": lambda: BestKernels(run.best),
            }
            if variant in ("factorised_self_attention", "factorised_dot_product"):
                ways[f"best kernels, {BY_TRITON}"] = lambda: run.with_few(run.config("spatiotemporal").grid[0])
            step = None
            for how, kernels in ways.items():
                with run.row("inference", **labels, how=how) as row:
                    step = step or forward_of(run, OURS, variant, "bf16", batch)[1]
                    with kernels():
                        run.time(row, step, batch * flops[variant])
                        row["attention"] = speed.attention_of(step)
    precisions: tuple[Precision, ...] = ("f32", "bf16")
    for precision in precisions:
        labels = {"model": TRANSFORMERS, "variant": "spatiotemporal", "precision": precision, "batch": run.batch}
        with run.row("inference", **labels, how="as shipped") as row:
            _, step = forward_of(run, TRANSFORMERS, "spatiotemporal", precision, run.batch)
            run.time(row, step, run.batch * flops["spatiotemporal"])
            row["attention"] = speed.attention_of(step)


def measure_compiled_inference(run: Run) -> None:
    for variant in VARIANTS:
        labels = {"model": OURS, "variant": variant, "precision": "bf16", "batch": run.batch}
        with run.row("inference", **labels, how="compiled blocks") as row:
            network, step = forward_of(run, OURS, variant, "bf16", run.batch)
            compile_blocks(network)
            run.time(row, step, run.batch * 2.0 * multiply_adds(run.config(variant)))


def measure_training(run: Run, compiled: bool) -> None:
    names = list(VARIANTS) if compiled else [*VARIANTS, training.PEER]
    for name in names:
        task = training.Task(run.batch, "adamw", "bf16", str(run.device), torch.get_num_threads(), run.quick)
        labels = {
            "model": TRANSFORMERS if name == training.PEER else OURS,
            "variant": training.MODELS[name]["variant"],
            "precision": "bf16",
            "batch": run.batch,
        }
        torch._dynamo.reset()  # see compile_blocks
        with run.row("training step", **labels, how="compiled blocks" if compiled else "eager") as row:
            run.begin()
            trainer = training.Trainer(name, task)
            if run.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            run.time_step(row, partial(trainer.step, compiled, False), training.flops_of_step(name, task))
            if run.device.type == "cuda":
                row["peak memory"] = torch.cuda.max_memory_allocated()
            del trainer


def graphed(call: Callable[[Tensor], Tensor], example: Tensor) -> speed.Step:
    """The call as a CUDA graph, which launches all its kernels at once."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # memory is reserved and kernels are chosen before the capture
        for _ in range(3):
            call(example)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call(example)
    return graph.replay


def measure_graphs(run: Run) -> None:
    """The temporal encoder of model 2, whose kernels take less time to run than to launch."""
    config = run.config("factorised_encoder")
    network, _ = forward_of(run, OURS, "factorised_encoder", "bf16", 1)
    encoder = network.get_submodule("encoder")
    assert isinstance(encoder, FactorisedEncoder)
    for batch in (1, run.batch):
        frames = torch.randn(batch, config.grid[0], config.hidden_size, device=run.device).bfloat16()
        labels = {"what": "temporal encoder of model 2", "batch": batch, "precision": "bf16"}
        with run.row("CUDA graph", **labels, how="eager") as row:
            run.time(row, partial(encoder.over_time, frames), repeats=REPEATS)
        with run.row("CUDA graph", **labels, how="graph") as row:
            with torch.inference_mode():
                replay = graphed(encoder.over_time, frames)
            run.time(row, replay, repeats=REPEATS)
        with run.row("CUDA graph", **labels, how=f"graph, {BY_TRITON}") as row:
            with torch.inference_mode(), run.with_few(config.grid[0] + 1):
                replay = graphed(encoder.over_time, frames)
            run.time(row, replay, repeats=REPEATS)


def measure_fp8(run: Run) -> None:
    """The first product of an MLP at the tokens of a batch, in bf16 and in FP8 with its conversion of the tokens."""
    config = run.config("spatiotemporal")
    tokens = run.batch * config.grid[0] * config.grid[1] * config.grid[2]
    x = torch.randn(tokens, config.hidden_size, device=run.device).bfloat16()
    weight = torch.randn(config.mlp_dim, config.hidden_size, device=run.device).bfloat16()
    flops = 2.0 * tokens * config.hidden_size * config.mlp_dim
    with run.row("FP8", what="product of the MLP", precision="bf16") as row:
        run.time(row, lambda: F.linear(x, weight), flops, REPEATS)

    def to_fp8(values: Tensor) -> tuple[Tensor, Tensor]:
        scale = FP8_MAX / values.abs().amax().float()
        return (values * scale).to(torch.float8_e4m3fn), scale.reciprocal()

    with run.row("FP8", what="product of the MLP", precision="fp8") as row:
        small, weight_scale = to_fp8(weight)

        def product() -> Tensor:
            tokens, scale = to_fp8(x)
            return torch._scaled_mm(tokens, small.t(), scale, weight_scale, out_dtype=torch.bfloat16)

        run.time(row, product, flops, REPEATS)
        expected = F.linear(x, weight).float()
        row["error of the product"] = float((product().float() - expected).norm() / expected.norm())


def measure_decoding(run: Run) -> None:
    """A clip of 32 frames at stride 2, of 340 × 256 and of 1080p, with a shorter side of 256."""
    for size in ("320", "1080"):
        run.begin()
        path = generated(size, FOLDER, 2.5)  # longer 1080p videos take a minute to make
        with open_video(path) as video:
            numbers = clip_indices(video.info.num_frames, 32, 2, 0)
            scaled = video.frames(numbers[:1], 256).shape[-2:]
        for decoder in ("pyav", "nvdec"):
            with run.row("decoding", what=f"{size}p", how=f"{decoder}, to the host") as row:

                def read(path: Path = path, numbers: list[int] = numbers, decoder: Any = decoder) -> None:
                    with open_video(path, decoder) as video:
                        video.frames(numbers, 256)

                run.time(row, read)
        with run.row("decoding", what=f"{size}p", how="nvdec, stays on the GPU") as row:
            if run.device.type != "cuda":
                raise RuntimeError("needs an NVIDIA GPU")
            from torchcodec.decoders import VideoDecoder

            def read_there(path: Path = path, numbers: list[int] = numbers, scaled: Any = scaled) -> Tensor:
                frames = VideoDecoder(path, device="cuda", num_ffmpeg_threads=1).get_frames_at(numbers).data
                if frames.shape[-2:] == scaled:
                    return frames
                # PyTorch does not scale bytes on a GPU.
                return F.interpolate(frames.float(), scaled, mode="bilinear", antialias=True).round().byte()

            run.time(row, read_there)


SECTIONS: dict[str, Callable[[Run], None]] = {
    "peaks": measure_peaks,
    "attention": measure_attention,
    "inference": measure_inference,
    "training": lambda run: measure_training(run, compiled=False),
    "graphs": measure_graphs,
    "fp8": measure_fp8,
    "compiled inference": measure_compiled_inference,
    "compiled training": lambda run: measure_training(run, compiled=True),
    "decoding": measure_decoding,
}


def main(
    only: str = ",".join(SECTIONS),
    minutes: float = 7.5,
    rounds: int = 5,
    device: str = "cuda",
    quick: bool = False,
    out: Path = harness.RESULTS / "gpu.json",
) -> None:
    """Measure, print a table in Markdown, and write a record.

    Args:
        only: sections, separated by commas: peaks, attention, inference, training, graphs, fp8, compiled inference,
            compiled training, decoding.
        minutes: after which no new rows start.
        rounds: measurements of each row, after a warm-up.
        quick: toy models, to check that it works, even on a CPU.
    """
    begun = time.monotonic()
    run = Run(torch.device(device), quick, rounds, begun + 60 * minutes, out)
    for name in only.split(","):
        try:
            SECTIONS[name](run)
        except Exception as error:  # from code outside a row
            run.rows.append({"section": name, "error": f"{type(error).__name__}: {error}"[:LONGEST]})
            print(f"{name}: {error}", flush=True)
        run.write()
        print(f"{name}: done after {time.monotonic() - begun:.0f} s", flush=True)
    print("\n".join(tables.gpu_lines(harness.read(out))))


if __name__ == "__main__":
    cyclopts.run(main)
