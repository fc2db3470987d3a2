import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vivit.training.optim import WeightAverage


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))


def walk(model: nn.Module, steps: range) -> Iterator[int]:
    """Weights on a random walk, the same for the same steps."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        yield step


def test_the_average_by_hand() -> None:
    """A weight of 0, then 1, 2 and 3. The decay is 1/10, 2/11, then the 0.2 that is asked for, below 3/12."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, 0.2)
    for step, (weight, expected) in enumerate(((1.0, 0.9), (2.0, 1.8), (3.0, 2.76))):
        nn.init.constant_(model.weight, weight)
        average.update(step)
        assert average.state["weight"].item() == pytest.approx(expected)
    assert model.weight.item() == 3.0


def test_a_long_average_is_a_loop_over_the_weights() -> None:
    model, decay = network(), 0.97
    average = WeightAverage(model, decay)
    expected = {name: value.detach().double() for name, value in model.named_parameters()}
    for step in walk(model, range(400)):
        average.update(step)
        keep = min(decay, (1 + step) / (10 + step))
        for name, value in model.named_parameters():
            expected[name] = keep * expected[name] + (1 - keep) * value.detach().double()
    assert average.state.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(average.state[name].double(), expected[name], rtol=1e-4, atol=1e-4)


def test_once_the_decay_has_grown_it_is_pytorchs_average() -> None:
    """From the 17th update on a decay of 0.6 is below (1 + n) / (10 + n)."""
    model = network()
    average = WeightAverage(model, 0.6)
    for step in walk(model, range(17)):
        average.update(step)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.6))
    for name, value in theirs.module.named_parameters():
        value.data.copy_(average.state[name])
    theirs.n_averaged.fill_(1)
    for step in walk(model, range(17, 60)):
        average.update(step)
        theirs.update_parameters(model)
    for name, value in theirs.module.named_parameters():
        torch.testing.assert_close(average.state[name], value.detach())


def test_a_constant_weight_is_its_own_average() -> None:
    model = network()
    average = WeightAverage(model, 0.999)
    for step in range(50):
        average.update(step)
    for name, value in model.named_parameters():
        torch.testing.assert_close(average.state[name], value.detach())


def test_a_resumed_average_goes_on_to_the_very_same_bytes() -> None:
    """Whatever the order of names in the checkpoint."""
    whole = network()
    without_stop = WeightAverage(whole, 0.9)
    for step in walk(whole, range(20)):
        without_stop.update(step)

    model = network()
    first = WeightAverage(model, 0.9)
    for step in walk(model, range(12)):
        first.update(step)
    resumed = copy.deepcopy(model)
    second = WeightAverage(resumed, 0.9)
    second.state = {name: value.clone() for name, value in reversed(first.state.items())}
    for step in walk(resumed, range(12, 20)):
        second.update(step)
    assert all(torch.equal(value, without_stop.state[name]) for name, value in second.state.items())


def test_frozen_weights_are_not_averaged() -> None:
    model = network()
    model[0].requires_grad_(False)  # type: ignore[index]
    assert set(WeightAverage(model, 0.9).state) == {"1.weight", "1.bias"}


def test_gradients_do_not_flow_into_the_average() -> None:
    model = network()
    average = WeightAverage(model, 0.9)
    model(torch.ones(1, 5)).sum().backward()
    average.update(0)
    assert all(not value.requires_grad and value.grad is None for value in average.state.values())


def test_sharded_weights_have_the_same_average(tmp_path: Path) -> None:
    plain, sharded = network(), network()
    expected = WeightAverage(plain, 0.5)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
        average = WeightAverage(sharded, 0.5)
        for step in range(12):
            for model, ema in ((plain, expected), (sharded, average)):
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.mul_(1.1).add_(0.1 * step)
                ema.update(step)
        for name, value in average.state.items():
            assert torch.equal(value.full_tensor(), expected.state[name])  # type: ignore[attr-defined]
    finally:
        dist.destroy_process_group()
