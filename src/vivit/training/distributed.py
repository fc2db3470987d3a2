"""Training in one process or many, with Accelerate; the model's code is the same for both."""

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, cast

import tensorboard  # noqa: F401  fail now: Accelerate imports it only after the run folder is written
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import TensorBoardTracker
from accelerate.utils import DistributedDataParallelKwargs
from accelerate.utils import gather_object as everyones
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from vivit.errors import Stopped, UserError
from vivit.model.encoder import encoders_of
from vivit.runtime import DTYPES, Precision, leave_gloo_at_exit, leave_process_groups
from vivit.training.recipe import Recipe

Tracker = Literal["wandb", "trackio"]
Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")


def leaves_process_groups(run: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Make `run` leave the process groups it joined.

    This is a decorator because the networks in the frame of `run` must be freed first: see `leave_process_groups`.
    """

    @wraps(run)
    def leaving(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            result = run(*args, **kwargs)
        except (UserError, Stopped):
            # Not now: a checkpoint may still be being written, and a rank that fails alone must first say why.
            leave_gloo_at_exit()
            raise
        leave_process_groups()
        return result

    return leaving


def start_processes(device: torch.device, precision: Precision, track: Tracker | None, shard: bool) -> Accelerator:
    """Join the processes that torchrun started, or run alone.

    Args:
        device: only its type matters; with several processes, each takes the GPU of its local rank.
        track: where to log curves besides TensorBoard.
        shard: whether to shard the model over the processes.

    Raises:
        UserError: the tracker is not installed, or there is only one process to shard over.
    """
    if track is not None and importlib.util.find_spec(track) is None:
        raise UserError(f"track: {track} is not installed; pip install {track}")
    # Accelerate would otherwise keep the settings of an earlier run in this process.
    AcceleratorState._reset_state(reset_partial_state=not dist.is_initialized())
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no" if precision == "f32" else precision,
        log_with=None if track is None else [track],
        # Gradients are views of the all-reduce buckets, not copies.
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    if shard and accelerator.num_processes == 1:
        raise UserError("shard: there is only one process; start several with torchrun (docs/clusters.md)")
    return accelerator


def distribute(network: nn.Module, accelerator: Accelerator, shard: bool, precision: Precision) -> nn.Module:
    """The network to train: wrapped in DDP, or sharded in place by FSDP2."""
    network.to(accelerator.device)
    if not shard:
        return accelerator.prepare_model(network)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    # DTensor caches the mesh for ever, so the mesh must not hold its groups; it finds them by name without
    # this registry.
    getattr(mesh, "_pg_registry", {}).clear()
    dtype = DTYPES[precision]
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, output_dtype=torch.float32)
    within = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for encoder in encoders_of(network):
        for block in encoder.blocks:
            fully_shard(block, mesh=mesh, mp_policy=within)
    fully_shard(network, mesh=mesh, mp_policy=policy)
    return network


def gradients_kept_local(network: nn.Module, accelerator: Accelerator, local: bool) -> AbstractContextManager[None]:
    """Inside this context, if `local`: accumulate gradients in each process, without averaging over processes."""
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(not local)
        return nullcontext()
    return accelerator.no_sync(network) if local else nullcontext()


def summed(value: float, accelerator: Accelerator) -> float:
    """The sum of the value over the processes; every process must call it."""
    if accelerator.num_processes == 1:
        return value
    return accelerator.reduce(torch.tensor([value], device=accelerator.device), "sum").item()


def together(work: Callable[[], Result]) -> Result:
    """Do the work in every process; if one raises UserError, all raise it, so none waits for ever."""
    result, failure = None, None
    try:
        result = work()
    except UserError as error:
        failure = error
    for message in filter(None, everyones([failure and str(failure)])):
        raise failure or UserError(message)
    return cast(Result, result)


def lost_another(error: RuntimeError) -> bool:
    """Whether the error means that a process this one waited for has ended."""
    return dist.is_initialized() and (isinstance(error, dist.DistError) or "gloo" in str(error))


def start_trackers(accelerator: Accelerator, out: Path, step: int, recipe: Recipe, track: Tracker | None) -> None:
    """Start logging curves, or continue them after `step`."""
    accelerator.log_with.append(TensorBoardTracker("tensorboard", out, purge_step=step + 1))
    fields: dict[str, Any] = {"name": out.name, "config": recipe.model_dump(mode="json")}
    accelerator.init_trackers("vivit", init_kwargs={} if track is None else {track: fields})
