"""Estimates the memory of a training step before the first one, and advises if there is too little.

The estimate runs the step on fake tensors, which have shapes but no data. The same operators keep the same activations
for the backward pass as in a real step, without its memory or time.
"""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from vivit.data.order import split_batch
from vivit.errors import UserError
from vivit.inference.features import TrainedPart, feature_shape
from vivit.model.embedding import CHANNELS
from vivit.model.encoder import encoders_of
from vivit.model.vivit import ViViT
from vivit.runtime import DTYPES, Precision

STATES = {"sgd": 1, "adamw": 2}  # values that the optimiser stores per trained parameter
# The allocator also holds free fragments too small to use.
WITH_FRAGMENTS = 1.15
# If memory ran out, the estimate was too low or other programs used some, so only settings that need at most this
# fraction of the estimate are advised.
CLEARLY_LESS = 0.8


UNITS = ((30, "GiB"), (20, "MiB"), (10, "KiB"))


@dataclass(frozen=True)
class StepCost:
    """Everything besides the model that determines how much memory an update takes in one process."""

    clips: int
    """Clips per update in this process."""
    device: torch.device
    """An existing device: kernels, and what they keep, differ between devices."""
    accumulate: int = 1
    """Micro-batches per update. From the second on, gradients exist before the forward pass."""
    paired: bool = False
    """Whether clips are mixed in pairs, see `split_batch`."""
    precision: Precision = "f32"
    optimiser: Literal["sgd", "adamw"] = "sgd"
    ema: bool = False
    """Whether weights are averaged (EMA). If they are averaged or sharded, the scored model is a copy."""
    part: type[TrainedPart] | None = None
    """The part trained on features; None if the whole model is trained."""
    shards: int = 1
    """Processes over which FSDP2 shards the blocks."""
    activation_checkpointing: bool = False

    @property
    def at_once(self) -> int:
        """Clips in the largest micro-batch."""
        return max(map(len, split_batch(self.clips, self.accumulate, self.paired)))


def estimate_step(model: ViViT, cost: StepCost) -> int:
    """Peak bytes on one device during a training step, including parameters.

    The device's own overhead (context, fragments, scratch space) is not included. The model is neither run nor changed,
    and no random numbers are drawn; frozen parameters and token dropping are taken into account.
    """
    parameters = _bytes(model.parameters())
    copy = parameters if cost.ema or cost.shards > 1 else 0
    gradients = _bytes(p for p in model.parameters() if p.requires_grad)
    optimiser_state = (STATES[cost.optimiser] + cost.ema) * gradients
    if cost.shards > 1:
        # FSDP2 keeps these unsharded: parameters outside the blocks, those of the current and the next block, and all
        # gradients while micro-batches accumulate.
        blocks = [_bytes(block.parameters()) for encoder in encoders_of(model) for block in encoder.blocks]
        whole = parameters - sum(blocks) + 2 * max(blocks)
        parameters = parameters // cost.shards + whole
        optimiser_state //= cost.shards
        gradients = gradients // cost.shards + (gradients if cost.accumulate > 1 else min(gradients, whole))
    gradients_first = cost.accumulate > 1 or cost.shards > 1
    peak = _peak_of_step(model, cost, gradients_first)
    return parameters + copy + optimiser_state + peak + gradients_first * gradients


def check_memory(model: ViViT, cost: StepCost, free: int | None) -> str:
    """Say how much memory an update needs and how much is free.

    Args:
        free: free bytes on the device before the optimiser has state; None if memory ran out in such an update.

    Raises:
        UserError: there is too little memory, or it ran out; the message says which flags would help.
    """

    @cache
    def needed(checkpointing: bool, parts: int) -> int:
        return int(
            WITH_FRAGMENTS
            * estimate_step(model, replace(cost, accumulate=parts, activation_checkpointing=checkpointing))
        )

    checkpointing, accumulate = cost.activation_checkpointing, cost.accumulate
    total = needed(checkpointing, accumulate)
    said = f"a step with {cost.at_once} clips at once needs about {size_in_words(total)}"
    if free is None:
        room = int(CLEARLY_LESS * total)
        said = f"memory ran out: {said}"
    else:
        room = free + _bytes(p for p in model.parameters() if p.device.type == cost.device.type)
        said = f"{said}, {size_in_words(room)} are free"
        if total <= room:
            return said

    # Double the number of micro-batches each time, ending with one clip in each.
    parts = [accumulate << power for power in range(cost.clips.bit_length()) if accumulate << power < cost.clips]
    parts.append(max(accumulate, cost.clips))

    helpful = []
    for with_checkpointing in sorted({checkpointing, cost.part is None}):
        # Several micro-batches need gradients from the start, so two may need more memory than one.
        fewest = next((number for number in parts if needed(with_checkpointing, number) <= room), None)
        if fewest is not None:
            flags = ["--activation-checkpointing"] if with_checkpointing > checkpointing else []
            flags += [f"--accumulate {fewest}"] if fewest > accumulate else []
            helpful.append(f"{size_in_words(needed(with_checkpointing, fewest))} with {' '.join(flags)}")
    if helpful:
        raise UserError(f"{said}; it would need {', or '.join(helpful)}")
    least = size_in_words(needed(True, parts[-1]))
    raise UserError(
        f"{said}; even one clip at once with --activation-checkpointing would need {least}: "
        "use a smaller --model, or smaller or shorter clips (--image-size, --num-frames)"
    )


def _peak_of_step(model: ViViT, cost: StepCost, gradients_first: bool) -> int:
    """Peak bytes of the forward and backward pass, besides parameters and gradients that exist beforehand."""
    # Run a twin with fake parameters, because the model itself may already be compiled, sharded or moved.
    with torch.device("meta"):
        twin = ViViT(model.config).train()
    for encoder in encoders_of(twin):
        encoder.activation_checkpointing = cost.activation_checkpointing
    config, part = model.config, cost.part
    of_clip = (config.num_frames, CHANNELS, *config.image_size)
    shape = of_clip if part is None else feature_shape(config, part)
    with FakeTensorMode():
        there_before: list[Tensor] = []
        for (name, meta), theirs in zip([*twin.named_parameters()], model.parameters(), strict=True):
            fake = nn.Parameter(torch.empty(meta.shape, dtype=meta.dtype, device=cost.device), theirs.requires_grad)
            module, _, last = name.rpartition(".")
            setattr(twin.get_submodule(module), last, fake)
            there_before.append(fake)
            if gradients_first and fake.requires_grad:
                fake.grad = torch.empty_like(fake)
                there_before.append(fake.grad)
        with _LiveStorages(there_before) as live:
            network = twin if part is None else part(twin)
            dtype = torch.uint8 if part is None else part.stored
            inputs = torch.empty((cost.at_once, *shape), dtype=dtype, device=cost.device)
            with torch.autocast(cost.device.type, DTYPES[cost.precision], enabled=cost.precision != "f32"):
                logits = network(inputs)
            torch.stack([head.float().sum() for head in tree_leaves(logits)]).sum().backward()
    return live.peak


class _LiveStorages(TorchDispatchMode):
    """Counts the bytes of live storages that operators have allocated: the current total and the peak."""

    def __init__(self, there_before: Iterable[Tensor]) -> None:
        super().__init__()
        self.known = WeakIdKeyDictionary({tensor.untyped_storage(): None for tensor in there_before})
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor) and (storage := result.untyped_storage()) not in self.known:
                self.known[storage] = None
                weakref.finalize(storage, self._forget, storage.nbytes())
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
        return results

    def _forget(self, size: int) -> None:
        self.live -= size


def _bytes(parameters: Iterable[Tensor]) -> int:
    return sum(p.nbytes for p in parameters)


def size_in_words(size: int) -> str:
    """Bytes in GiB, MiB or KiB."""
    unit, name = next(((2**power, name) for power, name in UNITS if size >= 2**power / 10), (1, "bytes"))
    return f"{size / unit:.1f} {name}" if name == "GiB" else f"{size / unit:.0f} {name}"
