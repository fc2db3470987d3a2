"""The memory that a training step needs: estimated before the first one, with advice where it is not there.

The step is run on fake tensors, which have shapes and no numbers: the operators, and so what they keep for the
gradients, are those of the real step, and it takes neither its memory nor its time.
"""

import weakref
from collections.abc import Iterable
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
from vivit.model.embedding import CHANNELS
from vivit.model.encoder import Encoder
from vivit.model.vivit import ViViT
from vivit.runtime import DTYPES, Precision, free_memory

STATES = {"sgd": 1, "adamw": 2}  # numbers that the optimiser keeps for each trained one
# Freed pieces that nothing fits into stay with the allocator.
WITH_FRAGMENTS = 1.15
# Where memory ran out the estimate was too low, or others took theirs: what is then advised needs this share of it.
CLEARLY_LESS = 0.8


def estimate_step(
    model: ViViT,
    clips_at_once: int,
    *,
    accumulate: int,
    precision: Precision,
    optimiser: Literal["sgd", "adamw"],
    ema: bool,
    device: torch.device,
    shards: int,
    activation_checkpointing: bool,
) -> int:
    """Bytes on one device at the worst moment of a training step, parameters included.

    What the device takes for itself (context, fragments, scratch space) is not. The model is neither run nor changed,
    and nothing is drawn; frozen parameters and dropped tokens count as it has them.

    Args:
        clips_at_once: clips that go through the model together.
        accumulate: parts that an update is computed in; from the second part on, gradients are there from the start.
        device: where the step will run, since kernels differ; one that is there.
        shards: processes that FSDP2 shards the blocks over.
        ema: the weights are averaged. Then, or where they are sharded, there is a whole copy of the model besides.
    """
    parameters = _bytes(model.parameters())
    copy = parameters if ema or shards > 1 else 0
    gradients = _bytes(p for p in model.parameters() if p.requires_grad)
    optimiser_state = (STATES[optimiser] + ema) * gradients
    if shards > 1:
        # Whole are all parameters outside of the blocks, those of the block at work, and those of the next; and all
        # gradients, where they are added up over parts.
        blocks = [_bytes(block.parameters()) for encoder in _encoders(model) for block in encoder.blocks]
        whole = parameters - sum(blocks) + 2 * max(blocks)
        parameters = parameters // shards + whole
        optimiser_state //= shards
        gradients = gradients // shards + (gradients if accumulate > 1 else min(gradients, whole))
    gradients_first = accumulate > 1 or shards > 1
    peak = _peak_of_step(model, clips_at_once, precision, device, activation_checkpointing, gradients_first)
    return parameters + copy + optimiser_state + peak + gradients_first * gradients


def check_memory(
    model: ViViT,
    clips: int,
    *,
    accumulate: int,
    precision: Precision,
    optimiser: Literal["sgd", "adamw"],
    ema: bool,
    device: torch.device,
    shards: int = 1,
    paired: bool = False,
    ran_out: bool = False,
) -> str:
    """Say what an update needs and what is free; raise UserError, which says what would help, where that is too little.

    To be called before the optimiser has state; what is not named here is as in `estimate_step`.

    Args:
        clips: clips of an update in this process.
        paired: they are mixed, as in `split_batch`.
        ran_out: memory has run out in such an update: raise, whatever is free by now.
    """

    def at_once(parts: int) -> int:
        return max(map(len, split_batch(clips, parts, paired)))

    @cache
    def needed(checkpointing: bool, parts: int) -> int:
        estimate = estimate_step(
            model,
            at_once(parts),
            accumulate=parts,
            precision=precision,
            optimiser=optimiser,
            ema=ema,
            device=device,
            shards=shards,
            activation_checkpointing=checkpointing,
        )
        return int(WITH_FRAGMENTS * estimate)

    checkpoints = all(encoder.activation_checkpointing for encoder in _encoders(model))
    total = needed(checkpoints, accumulate)
    said = f"a step of {at_once(accumulate)} clips at once needs about {_gib(total)}"
    if ran_out:
        room = int(CLEARLY_LESS * total)
        said = f"memory ran out: {said}"
    else:
        room = free_memory(device) + _bytes(p for p in model.parameters() if p.device.type == device.type)
        said = f"{said} and {_gib(room)} are free"
        if total <= room:
            return said

    # Twice as many each time, and at last one clip at once.
    parts = [accumulate << power for power in range(clips.bit_length()) if accumulate << power < clips]
    parts.append(max(accumulate, clips))

    helpful = []
    for checkpointing in sorted({checkpoints, True}):
        # Parts need the gradients from the start, so that more of them may need more.
        fewest = next((number for number in parts if needed(checkpointing, number) <= room), None)
        if fewest is not None:
            flags = ["--activation-checkpointing"] if checkpointing > checkpoints else []
            flags += [f"--accumulate {fewest}"] if fewest > accumulate else []
            helpful.append(f"{_gib(needed(checkpointing, fewest))} with {' '.join(flags)}")
    if helpful:
        raise UserError(f"{said}; it would need {', or '.join(helpful)}")
    raise UserError(
        f"{said}; even one clip at once, with --activation-checkpointing, would need "
        f"{_gib(needed(True, parts[-1]))}: take a smaller --model, or smaller or shorter clips (--image-size, "
        "--num-frames)"
    )


def _peak_of_step(
    model: ViViT,
    clips: int,
    precision: Precision,
    device: torch.device,
    activation_checkpointing: bool,
    gradients_first: bool,
) -> int:
    """The most bytes that a forward and backward pass takes beside parameters, and gradients that are there before."""
    # A twin of fake parameters stays what it is when the model itself is compiled, sharded or moved.
    with torch.device("meta"):
        twin = ViViT(model.config).train()
    for encoder in _encoders(twin):
        encoder.activation_checkpointing = activation_checkpointing
    with FakeTensorMode():
        there_before: list[Tensor] = []
        for (name, meta), theirs in zip([*twin.named_parameters()], model.parameters(), strict=True):
            fake = nn.Parameter(torch.empty(meta.shape, dtype=meta.dtype, device=device), theirs.requires_grad)
            module, _, last = name.rpartition(".")
            setattr(twin.get_submodule(module), last, fake)
            there_before.append(fake)
            if gradients_first and fake.requires_grad:
                fake.grad = torch.empty_like(fake)
                there_before.append(fake.grad)
        with _LiveStorages(there_before) as live:
            shape = (clips, model.config.num_frames, CHANNELS, *model.config.image_size)
            video = torch.empty(shape, dtype=torch.uint8, device=device)
            with torch.autocast(device.type, DTYPES[precision], enabled=precision != "float32"):
                logits = twin(video)
            torch.stack([head.float().sum() for head in tree_leaves(logits)]).sum().backward()
    return live.peak


class _LiveStorages(TorchDispatchMode):
    """Follows the bytes of the storages that operators make, from their making to their end: now, and at most."""

    def __init__(self, there_before: Iterable[Tensor]) -> None:
        super().__init__()
        self.known = WeakIdKeyDictionary({tensor.untyped_storage(): None for tensor in there_before})
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor) and result.untyped_storage() not in self.known:
                self._count(result.untyped_storage())
        return results

    def _count(self, storage: torch.UntypedStorage) -> None:
        self.known[storage] = None
        weakref.finalize(storage, self._forget, storage.nbytes())
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)

    def _forget(self, size: int) -> None:
        self.live -= size


def _encoders(model: nn.Module) -> list[Encoder]:
    return [module for module in model.modules() if isinstance(module, Encoder)]


def _bytes(parameters: Iterable[Tensor]) -> int:
    return sum(p.nbytes for p in parameters)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.0f} MiB"
