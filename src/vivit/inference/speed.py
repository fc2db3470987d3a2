"""Measure speed so that the numbers can be compared: steps take turns, and each is compared with the machine's peaks.

A step is whatever is measured: a forward pass, a training step, a product of two matrices.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Step = Callable[[], object]
Key = TypeVar("Key")
Result = TypeVar("Result")

# A product of two square matrices of this side, and a copy of this many bytes, are large enough to reach the peak.
SIDES = {"cpu": 2048, "cuda": 8192}
COPIED = {"cpu": 1 << 28, "cuda": 1 << 30}


@dataclass(frozen=True)
class Seconds:
    """What one run of a step took."""

    clock: float
    processor: float
    """CPU seconds of all threads together, which other work on the machine affects less."""


def time_of(step: Step, device: torch.device) -> Seconds:
    """Run a step once, and wait for the GPU."""
    _wait_for(device)
    clock, processor = time.perf_counter(), time.process_time()
    result = step()
    _wait_for(device)
    seconds = Seconds(time.perf_counter() - clock, time.process_time() - processor)
    del result  # not within the measurement
    return seconds


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def take_turns(
    steps: Mapping[Key, Callable[[], Result]],
    rounds: int,
    *,
    budget: float | None = None,
    progress: Callable[[Key], object] = lambda key: None,
) -> dict[Key, list[Result]]:
    """Run all steps once in every round, each round starting with another; the first round is a warm-up.

    Args:
        steps: each runs once and returns what it measured, usually `Seconds`.
        rounds: the most rounds that count.
        budget: seconds after which no further round begins, but at least two rounds count.
        progress: called before each run.

    Returns:
        The results of each step, one for each round.
    """
    taken: dict[Key, list[Result]] = {key: [] for key in steps}
    keys, begun = list(steps), time.perf_counter()
    for number in range(rounds + 1):
        if budget is not None and number > 2 and time.perf_counter() - begun > budget:
            break
        first = number % len(keys)
        for key in [*keys[first:], *keys[:first]]:
            progress(key)
            result = steps[key]()
            if number:
                taken[key].append(result)
    return taken


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The median, the quartiles and the values themselves."""
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return {"median": middle, "low": low, "high": high, "each": [*values]}


def ratios(over: Sequence[Seconds], under: Sequence[Seconds]) -> list[float]:
    """The ratio of clock seconds in each round."""
    return [one.clock / other.clock for one, other in zip(over, under, strict=True)]


@dataclass(frozen=True)
class Peak:
    """A step that does nothing but the work whose rate is a peak of the machine."""

    step: Step
    work: float
    """Floating-point operations, or bytes read and written."""

    def rate(self, taken: Sequence[Seconds]) -> float:
        """The best rate of all rounds, per second."""
        return self.work / min(seconds.clock for seconds in taken)


def product(dtype: torch.dtype, device: torch.device, side: int | None = None) -> Peak:
    """A product of two large matrices."""
    side = side or SIDES[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return Peak(lambda: torch.mm(a, b), 2.0 * side**3)


def copy(device: torch.device, size: int | None = None) -> Peak:
    """A copy within memory, which reads and writes each of `size` bytes."""
    size = size or COPIED[device.type]
    source, target = (torch.ones(size // 4, device=device) for _ in range(2))
    return Peak(lambda: target.copy_(source), 2.0 * size)


class _Attention(TorchDispatchMode):
    """Notes which attention kernels run within it, and on how many tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kernel = re.fullmatch(r"aten::_scaled_dot_product_(?:fused_)?(\w+)", func.name())
        if kernel or func.name() in ("aten::_softmax", "aten::_safe_softmax"):
            words = re.sub("_?attention|_for_cpu", "", kernel[1]) if kernel else "plain softmax"
            tokens = args[0].shape[-2 if kernel else -1]  # of the queries (…, N, d), or the keys of scores (…, rows, N)
            self.found[f"{words} ({tokens} tokens)"] = None
        return func(*args, **(kwargs or {}))


def attention_of(step: Step) -> str:
    """Which attention kernels a step really runs: "flash (197 tokens), plain softmax (16 tokens)"; "" for none.

    Kernels have PyTorch's names, without what all names have in common. The step must not enter PyTorch's
    inference mode, in which they cannot be told apart.
    """
    with torch.no_grad(), _Attention() as seen:
        step()
    return ", ".join(seen.found)
