"""The estimated memory of a step against counts by hand and real steps, and the advice if it is too much."""

import json
import os
import re
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from tests.support import refused
from vivit import runtime
from vivit.config import ModelConfig, Variant
from vivit.errors import UserError
from vivit.model.encoder import Encoder
from vivit.model.vivit import ViViT
from vivit.runtime import free_memory, out_of_memory
from vivit.training import memory
from vivit.training.memory import StepCost, check_memory, estimate_step

SIZES: dict[str, Any] = {
    "num_frames": 8,
    "image_size": 64,
    "tubelet_size": (2, 8, 8),
    "hidden_size": 64,
    "num_layers": 4,
    "num_heads": 4,
    "mlp_dim": 256,
    "num_classes": 5,
}
CPU = torch.device("cpu")
each_variant = pytest.mark.parametrize("variant", get_args(Variant))


def build(variant: Variant = "spatiotemporal", checkpointing: bool = False, **fields: Any) -> ViViT:
    model = ViViT(ModelConfig(variant=variant, **{**SIZES, **fields})).train()
    for module in model.modules():
        if isinstance(module, Encoder):
            module.activation_checkpointing = checkpointing
    return model


def estimate(model: ViViT, clips: int = 2, **other: Any) -> int:
    checkpointing = any(module.activation_checkpointing for module in model.modules() if isinstance(module, Encoder))
    settings = {"activation_checkpointing": checkpointing, **other}
    # `clips` is the size of a micro-batch.
    return estimate_step(model, StepCost(clips * settings.get("accumulate", 1), CPU, **settings))


def activations(model: ViViT, clips: int = 2, **other: Any) -> int:
    """The estimate without weights, SGD's momentum and the gradients of earlier micro-batches."""
    trained = size_of(p for p in model.parameters() if p.requires_grad)
    return estimate(model, clips, accumulate=2, **other) - size_of(model.parameters()) - 2 * trained


def size_of(parameters: Iterable[Tensor]) -> int:
    return 4 * sum(p.numel() for p in parameters)


def random_clips(clips: int) -> Tensor:
    return torch.randint(0, 256, (clips, 8, 3, 64, 64), dtype=torch.uint8)


def take_steps(model: ViViT, optimiser: torch.optim.Optimizer, clips: int, accumulate: int, dtype: torch.dtype) -> None:
    for _ in range(2):
        optimiser.zero_grad(set_to_none=True)
        for _ in range(accumulate):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                logits = model(random_clips(clips))
            logits.float().square().sum().backward()
        optimiser.step()


def allocated_at_most(model: ViViT, clips: int, accumulate: int, dtype: torch.dtype, adamw: bool) -> int:
    """The peak bytes of tensors in two real steps, as PyTorch's allocator records them."""
    there = size_of(model.parameters())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        kind: Any = torch.optim.AdamW if adamw else torch.optim.SGD
        settings: dict[str, Any] = {} if adamw else {"momentum": 0.9}
        take_steps(model, kind(model.parameters(), lr=1e-3, **settings), clips, accumulate, dtype)
    profiler: Any = record.profiler
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return there + most


# By hand.


def test_what_an_mlp_keeps_is_counted_by_hand() -> None:
    batch, width, hidden, out = 8, 16, 32, 4
    with FakeTensorMode():
        mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))
        with memory._LiveStorages(mlp.parameters()) as live:
            x = torch.empty(batch, width)
            total = mlp(x).sum()
            kept = 4 * batch * (width + hidden + hidden)  # the input of each layer
            assert live.live == kept + 4
            assert live.peak == kept + 4 * batch * out + 4
            total.backward()
            gradients = 4 * (width * hidden + hidden + hidden * out + out)
            assert live.live == 4 * batch * width + 4 + gradients
        del x, total
    assert live.live == gradients


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_of_a_transformer_are_counted_by_hand(checkpointing: bool) -> None:
    """A block keeps for each token D per input of a layer, 3 D for queries, keys and values, and mlp_dim on each side
    of GELU. The rest is small, or lives in the backward pass of a single block."""
    model, clips = build(pooling="mean", num_layers=8), 2
    tokens, width, hidden = clips * 4 * 8 * 8, 64, 256
    # LayerNorm's input and output, twice; queries, keys, values; attention's output; before and after GELU.
    block = 4 * tokens * (4 * width + 3 * width + width + 2 * hidden)
    tubes = 4 * tokens * 3 * 2 * 8 * 8
    kept = 8 * 4 * tokens * width + block if checkpointing else 8 * block
    counted = activations(model, clips, activation_checkpointing=checkpointing)
    assert kept + tubes < counted < 1.15 * (kept + tubes) + 4 * tokens * hidden


def test_gradients_and_the_optimisers_state_are_counted_by_hand() -> None:
    model = build()
    size, sgd = size_of(model.parameters()), estimate(model)
    # The average takes the weights once more, and the kept model takes them again.
    for optimiser, ema, copies in (("adamw", False, 2), ("sgd", True, 3), ("adamw", True, 4)):
        assert estimate(model, optimiser=optimiser, ema=ema) - sgd == (copies - 1) * size
    # Activations go while gradients come; gradients of an earlier micro-batch are there all the time.
    assert activations(model) + 2 * size < sgd < activations(model) + 3 * size

    encoder = next(module for module in model.modules() if isinstance(module, Encoder)).requires_grad_(False)
    trained = size - size_of(encoder.parameters())
    assert estimate(model, optimiser="adamw", ema=True) - estimate(model) == 2 * trained + size
    assert trained < size / 2


@pytest.mark.parametrize("accumulate", [1, 2])
def test_shards_divide_all_but_what_is_gathered(accumulate: int) -> None:
    model = build(num_layers=8, hidden_size=128)
    size = size_of(model.parameters())
    blocks = [size_of(block.parameters()) for block in model.encoder.blocks]  # type: ignore
    gathered = size - sum(blocks) + 2 * blocks[0]
    # Weights, momentum, variance and gradients; with micro-batches, gradients are whole until the last one. And the
    # copy that is scored.
    expected = 4 * (size // 4) + gathered + (size if accumulate == 2 else gathered) + size
    step = estimate(model, optimiser="adamw", shards=4, accumulate=accumulate)
    assert step - activations(model) == pytest.approx(expected, abs=16)


# Against real steps.


@each_variant
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_is_what_the_allocator_gives_out(variant: Variant, checkpointing: bool) -> None:
    model = build(variant, checkpointing, stochastic_depth=0.2)
    real = allocated_at_most(model, clips=2, accumulate=1, dtype=torch.float32, adamw=False)
    assert estimate(model) == pytest.approx(real, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "fields", "dtype"),
    [
        ({"accumulate": 2, "optimiser": "adamw"}, {}, torch.float32),
        ({"precision": "bf16"}, {}, torch.bfloat16),
        ({"precision": "bf16"}, {"token_dropping": 0.5, "dropout": 0.1}, torch.bfloat16),
        # On the CPU, attention with dropout keeps a number for each pair of tokens.
        ({}, {"attention_dropout": 0.1}, torch.float32),
    ],
)
def test_the_estimate_knows_the_settings(settings: dict[str, Any], fields: dict[str, Any], dtype: torch.dtype) -> None:
    model = build(**fields)
    adamw = settings.get("optimiser") == "adamw"
    real = allocated_at_most(model, clips=2, accumulate=settings.get("accumulate", 1), dtype=dtype, adamw=adamw)
    assert estimate(model, **settings) == pytest.approx(real, rel=0.05)


def real_growth() -> None:
    """Runs in a process of its own: prints the estimate, and the growth of the process in two real steps."""
    torch.set_num_threads(1)
    small = build("factorised_encoder", num_layers=1)
    take_steps(small, torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9), 1, 1, torch.float32)
    before = psutil.Process().memory_info().rss
    model = build("factorised_encoder", num_layers=4, hidden_size=192, mlp_dim=768)
    take_steps(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 8, 1, torch.float32)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
    most = int(status["VmHWM"].split()[0]) * 1024
    print(json.dumps([estimate(model, 8), most - before]))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_estimate_is_what_a_process_grows_by() -> None:
    # Makes the C library return freed memory at once; what it would hold back is not part of the estimate.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576", "OMP_NUM_THREADS": "1"}
    program = "from tests.training.test_memory import real_growth; real_growth()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    estimated, real = json.loads(done.stdout)
    assert real > 100 << 20
    assert estimated == pytest.approx(real, rel=0.2)


# What it depends on.


@each_variant
@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_grow_linearly_with_the_clips(variant: Variant, precision: str, checkpointing: bool) -> None:
    model = build(variant)
    settings = {"precision": precision, "activation_checkpointing": checkpointing}
    two, four, six = (activations(model, clips, **settings) for clips in (2, 4, 6))
    # With more clips, the peak may be at another moment, and then is higher still.
    assert 0 < four - two <= six - four < 1.05 * (four - two)


@each_variant
def test_checkpointing_dropping_tokens_and_freezing_need_less(variant: Variant) -> None:
    model = build(variant, num_layers=6)
    all_of_them = activations(model)
    assert activations(model, precision="bf16") < 0.8 * all_of_them
    assert activations(model, activation_checkpointing=True) < 0.5 * all_of_them
    assert 0.45 * all_of_them < activations(build(variant, num_layers=6, token_dropping=0.5)) < 0.65 * all_of_them
    model.requires_grad_(False)
    model.heads.requires_grad_(True)
    assert activations(model) < 0.25 * all_of_them


def test_attention_keeps_no_number_for_each_pair_of_tokens() -> None:
    short, long = (activations(build(num_frames=frames, image_size=128)) for frames in (16, 32))
    assert long == pytest.approx(2 * short, rel=0.01)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_model_is_left_alone_and_nothing_is_drawn(device: str) -> None:
    with torch.device(device):
        model = build(dropout=0.1, token_dropping=0.3, stochastic_depth=0.1).eval()
    parameters, before = dict(model.named_parameters()), torch.get_rng_state()
    estimate(model, activation_checkpointing=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in model.modules())
    assert all(model.get_parameter(name) is parameter for name, parameter in parameters.items())
    assert all(parameter.grad is None for parameter in parameters.values())
    assert not any(m.activation_checkpointing for m in model.modules() if isinstance(m, Encoder))


def test_the_largest_model_is_estimated_without_its_memory() -> None:
    config = ModelConfig.named("vivit-h-14x2")
    with torch.device("meta"):
        model = ViViT(config)
    before = psutil.Process().memory_info().rss
    step = estimate(model, 64, precision="bf16")
    assert step > 300 << 30
    assert psutil.Process().memory_info().rss - before < 200 << 20


# Advice.


def needed(*args: Any, **settings: Any) -> int:
    return int(memory.WITH_FRAGMENTS * estimate(*args, **settings))


def advice(model: ViViT, clips: int, free: int, **other: Any) -> str:
    """The message with `free` bytes for the step, including the parameters, which are allocated already."""
    there = sum(p.nbytes for p in model.parameters())
    checkpointing = any(module.activation_checkpointing for module in model.modules() if isinstance(module, Encoder))
    cost = StepCost(clips, CPU, activation_checkpointing=checkpointing, **other)
    return refused(lambda: check_memory(model, cost, free - there))


@pytest.mark.parametrize("share", [0.6, 0.35, 0.2])
def test_what_is_advised_is_the_least_that_fits(share: float) -> None:
    model = build(num_layers=3)
    free = int(share * needed(model, 12))
    said = advice(model, 12, free)
    assert said.startswith("a step with 12 clips at once needs about ")

    without, _, with_checkpointing = said.partition(", or ")
    for text, checkpointing in ((without, False), (with_checkpointing, True)):
        assert ("--activation-checkpointing" in text) == checkpointing
        found = re.search(r"--accumulate (\d+)", text)
        parts = int(found[1]) if found else 1
        assert parts in (1, 2, 4, 8, 12)
        settings: dict[str, Any] = {"activation_checkpointing": checkpointing}
        assert needed(model, -(-12 // parts), accumulate=parts, **settings) <= free
        if parts > 1:
            fewer = 8 if parts == 12 else parts // 2
            assert needed(model, -(-12 // fewer), accumulate=fewer, **settings) > free


def test_parts_of_clips_that_are_mixed_are_whole_pairs() -> None:
    """Six clips make micro-batches of 4 and 2 if they are mixed in pairs, otherwise of 3 and 3."""
    model = build(num_layers=3)
    for paired, at_once in ((True, 4), (False, 3)):
        said = advice(model, 6, 1 << 20, accumulate=2, paired=paired)
        assert said.startswith(f"a step with {at_once} clips at once ")


def test_what_fits_in_one_part_is_advised_though_two_would_need_more() -> None:
    model = build(num_layers=3, hidden_size=512, mlp_dim=2048)
    free = needed(model, 2, activation_checkpointing=True)
    assert free < needed(model, 1, accumulate=2, activation_checkpointing=True)
    assert advice(model, 2, free).endswith(" GiB with --activation-checkpointing")


def test_advice_goes_on_from_the_settings_there_are() -> None:
    model = build(checkpointing=True, num_layers=3)
    total = needed(model, 6, accumulate=2)
    said = advice(model, 12, total - 1, accumulate=2)
    assert said.startswith("a step with 6 clips at once ")
    assert said.endswith(" with --accumulate 4")
    assert "--activation-checkpointing" not in said


def test_where_nothing_fits_smaller_clips_are_advised() -> None:
    said = advice(build(), 12, 1 << 20)
    assert "even one clip at once" in said
    assert "--image-size" in said
    assert "--accumulate" not in said


def test_a_step_that_fits_is_let_be_and_one_that_ran_out_is_not() -> None:
    model = build(num_layers=3)
    cost = StepCost(12, CPU)
    free = needed(model, 12) - sum(p.nbytes for p in model.parameters())
    assert re.search("a step with 12 clips .* MiB, .* MiB are free", check_memory(model, cost, free))
    refused(lambda: check_memory(model, cost, free - 1), "needs about")
    ran_out = "ran out: a step with 12 .* with --accumulate 2, or .* --activation-check"
    refused(lambda: check_memory(model, cost, None), ran_out)


# What is there.


def test_free_memory_is_that_of_the_machine_or_less_under_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    available = namedtuple("available", "available")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available(1000))
    for left, expected in (([], 1000), ([2000], 1000), ([2000, 300], 300), ([-5], 0)):
        monkeypatch.setattr(runtime, "left_in_control_groups", lambda left=left: iter(left))
        assert free_memory(torch.device("cpu")) == expected


def control_group(folder: Path, names: tuple[str, str, str], limit: str, used: int, cached: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {cached}\n")


def test_every_limit_from_the_own_group_up_counts(tmp_path: Path) -> None:
    groups, root = tmp_path / "cgroup", tmp_path / "fs"
    second = ("memory.max", "memory.current", "inactive_file")
    groups.write_text("0::/job/step\n")
    control_group(root / "job" / "step", second, "max", 50, 0)
    control_group(root / "job", second, "1000", 700, 200)
    assert list(runtime.left_in_control_groups(groups, root)) == [500]
    control_group(root / "job" / "step", second, "600", 450, 50)
    assert list(runtime.left_in_control_groups(groups, root)) == [200, 500]

    first = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    groups.write_text("5:cpu,cpuacct:/\n4:memory:/of/the/machine\n0::/\n")
    control_group(root / "memory", first, "900", 300, 100)  # a container sees its own group at the top
    assert list(runtime.left_in_control_groups(groups, root)) == [700]
    assert list(runtime.left_in_control_groups(tmp_path / "none", root)) == []


def test_memory_that_ran_out_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 50, dtype=torch.uint8)
    assert out_of_memory(error.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    with pytest.raises(MemoryError) as python:
        bytearray(1 << 60)
    assert out_of_memory(python.value)
    with pytest.raises(RuntimeError) as other:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not out_of_memory(other.value)
    assert not out_of_memory(UserError("memory"))
