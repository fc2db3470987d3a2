"""Optimisers and learning rates by layer, the EMA of the weights, and the schedule."""

import copy
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vivit.config import ModelConfig
from vivit.inference.features import TemporalPart
from vivit.model.vivit import ViViT
from vivit.training.initialise import freeze
from vivit.training.optim import (
    Schedule,
    WeightAverage,
    build_optimiser,
    layers_above,
    learning_rate,
    planned_epochs,
    set_learning_rate,
)
from vivit.training.recipe import Recipe

TINY = {"num_frames": 4, "image_size": 32, "hidden_size": 8, "num_heads": 2, "mlp_dim": 16, "num_layers": 2}


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_decay_shrinks_kernels_and_nothing_else(tiny_recipe: Recipe, optimiser: str) -> None:
    """With zero gradients, a step shows only the decay: a factor of 1 − rate · decay."""
    recipe = tiny_recipe.model_copy(update={"optimiser": optimiser, "weight_decay": 0.5, "learning_rate": 0.1})
    model = ViViT(recipe.build_config({"classes": 2}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    build_optimiser(model, recipe).step()
    decayed = {name for name, value in model.named_parameters() if not torch.equal(value, torch.ones_like(value))}
    assert decayed == {
        "embedding.weight",
        "heads.classes.weight",
        *(f"encoder.{encoder}.blocks.0.{part}.weight" for encoder in ("spatial", "temporal") for part in KERNELS),
    }
    for name in decayed:
        value = model.get_parameter(name)
        torch.testing.assert_close(value, torch.full_like(value, 0.95))


KERNELS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


def test_sgd_has_momentum(tiny_recipe: Recipe) -> None:
    """With a gradient of 1 the velocity is 1, then 1.9: at rate 0.1 the weight goes 0, −0.1, −0.29."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    recipe = tiny_recipe.model_copy(update={"optimiser": "sgd", "learning_rate": 0.1, "weight_decay": 0.0})
    optimiser = build_optimiser(model, recipe)
    for expected in (-0.1, -0.29, -0.561):
        model.weight.grad = torch.ones(1, 1)
        optimiser.step()
        assert model.weight.item() == pytest.approx(expected)


def tiny(name: str, **fields: int) -> ViViT:
    return ViViT(ModelConfig.named(name, num_classes=3, **{**TINY, **fields}))


def moved_by(model: nn.Module, recipe: Recipe) -> dict[str, float]:
    """How far one step of SGD with gradients of 1 moves each parameter, as a fraction of the learning rate."""
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
        parameter.grad = torch.ones_like(parameter)
    build_optimiser(model, recipe.model_copy(update={"optimiser": "sgd"})).step()
    moves = {}
    for name, value in model.named_parameters():
        assert torch.equal(value, value.flatten()[0].expand_as(value))
        moves[name] = round(-value.flatten()[0].item() / recipe.learning_rate, 6)
    return moves


def by_share(moves: dict[str, float]) -> dict[float, set[str]]:
    """Fraction of the rate → the layers that have it."""
    shares: dict[float, set[str]] = {}
    for name, share in moves.items():
        head, _, tail = name.partition("blocks.")
        shares.setdefault(share, set()).add(f"{head}{tail[0]}" if tail else name.rpartition(".")[0])
    return shares


def test_each_layer_of_a_factorised_encoder_learns_half_as_fast_as_the_one_above() -> None:
    model = tiny("vivit-ti-16x2-fe", temporal_layers=2, adapter_size=4, representation_size=5)
    assert by_share(moved_by(model, Recipe(layer_decay=0.5))) == {
        1.0: {"heads.classes", "representation", "encoder.temporal.norm"},
        1 / 2: {"encoder.temporal.1"},
        1 / 4: {"encoder.temporal.0"},
        1 / 8: {
            "encoder.temporal.positions",
            "encoder.spatial.norm",
            *(f"encoder.adapter.{layer}" for layer in ("norm", "down", "up")),
        },
        1 / 16: {"encoder.spatial.1"},
        1 / 32: {"encoder.spatial.0"},
        1 / 64: {"embedding", "encoder.spatial.positions"},
    }


@pytest.mark.parametrize("name", ["vivit-ti-16x2", "vivit-ti-16x2-fsa", "vivit-ti-16x2-fdp"])
def test_each_layer_of_a_single_encoder_learns_half_as_fast_as_the_one_above(name: str) -> None:
    assert by_share(moved_by(tiny(name), Recipe(layer_decay=0.5))) == {
        1.0: {"heads.classes", "encoder.norm"},
        1 / 2: {"encoder.1"},
        1 / 4: {"encoder.0"},
        1 / 8: {"embedding", "encoder.positions"},
    }


def test_layers_of_the_average_pooling_baseline_end_in_the_spatial_encoder() -> None:
    assert by_share(moved_by(tiny("vivit-ti-16x2-fe", temporal_layers=0), Recipe(layer_decay=0.5))) == {
        1.0: {"heads.classes", "encoder.spatial.norm"},
        1 / 2: {"encoder.spatial.1"},
        1 / 4: {"encoder.spatial.0"},
        1 / 8: {"embedding", "encoder.spatial.positions"},
    }


def test_twelve_blocks_are_in_the_order_of_their_numbers() -> None:
    above = layers_above(tiny("vivit-ti-16x2", num_layers=12))
    assert [above[f"encoder.blocks.{block}.norm2.bias"] for block in range(12)] == list(range(12, 0, -1))


def test_a_head_may_be_named_like_a_layer() -> None:
    heads = {"adapter": 2, "positions": 2, "embedding": 2}
    above = layers_above(ViViT(ModelConfig.named("vivit-ti-16x2-fe", heads=heads, **TINY)))
    assert {above[f"heads.{head}.{part}"] for head in heads for part in ("weight", "bias")} == {0}


def test_what_follows_a_frozen_spatial_encoder_learns_as_in_the_whole_model() -> None:
    """Layers are counted within the part; a wrapper adds none."""
    recipe = Recipe(layer_decay=0.5)
    whole = moved_by(tiny("vivit-ti-16x2-fe", temporal_layers=2, adapter_size=4), recipe)
    model = tiny("vivit-ti-16x2-fe", temporal_layers=2, adapter_size=4)
    part = freeze(model, TemporalPart)
    assert moved_by(part, recipe) == {name: whole[name] for name, _ in part.named_parameters()}
    assert layers_above(nn.ModuleDict({"module": model})) == {
        f"module.{name}": above for name, above in layers_above(model).items()
    }


def test_frozen_parameters_are_not_the_optimisers() -> None:
    model = tiny("vivit-ti-16x2-fe")
    freeze(model, TemporalPart)
    held = {id(p) for group in build_optimiser(model, Recipe()).param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}
    assert id(model.embedding.weight) not in held


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_without_layer_decay_there_are_two_groups(tiny_recipe: Recipe, optimiser: str) -> None:
    recipe = tiny_recipe.model_copy(update={"optimiser": optimiser})
    groups = build_optimiser(tiny("vivit-ti-16x2-fe"), recipe).param_groups
    assert [(group["weight_decay"], group["lr_scale"]) for group in groups] == [(0.05, 1.0), (0.0, 1.0)]


def test_the_rate_of_a_step_is_shared_out_by_layer() -> None:
    """Rates of 0.4 and then 0.1, halved for each layer above."""
    model = tiny("vivit-ti-16x2")
    optimiser = build_optimiser(model, Recipe(layer_decay=0.5, learning_rate=7.0))
    for rate in (0.4, 0.1):
        set_learning_rate(optimiser, rate)
        assert {round(group["lr"], 6) for group in optimiser.param_groups} == {rate, rate / 2, rate / 4, rate / 8}


def step_on(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The weights after five steps with random gradients, the same for every model of these sizes."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        for parameter in model.parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            if isinstance(parameter, DTensor):
                gradient = distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
            parameter.grad = gradient
        optimiser.step()
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in values.items()}


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_one_kernel_for_all_parameters_gives_what_a_loop_over_them_gives(tiny_recipe: Recipe, optimiser: str) -> None:
    recipe = tiny_recipe.model_copy(update={"optimiser": optimiser, "learning_rate": 0.01, "layer_decay": 0.8})
    model = tiny("vivit-ti-16x2-fe")
    plain = copy.deepcopy(model)
    ours, theirs = build_optimiser(model, recipe), build_optimiser(plain, recipe)
    for group in theirs.param_groups:
        group.update(fused=False, foreach=False)
    assert all(group["fused"] for group in ours.param_groups)
    torch.testing.assert_close(step_on(model, ours), step_on(plain, theirs))


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_sharded_parameters_learn_alike(tiny_recipe: Recipe, optimiser: str, tmp_path: Path) -> None:
    recipe = tiny_recipe.model_copy(update={"optimiser": optimiser, "learning_rate": 0.01, "layer_decay": 0.8})
    model = tiny("vivit-ti-16x2-fe")
    plain = copy.deepcopy(model)
    expected = step_on(plain, build_optimiser(plain, recipe))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        torch.testing.assert_close(step_on(model, build_optimiser(model, recipe)), expected)
    finally:
        dist.destroy_process_group()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))


def walk(model: nn.Module, steps: range) -> Iterator[int]:
    """Move the weights randomly, in the same way for the same steps."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        yield step


def test_the_average_by_hand() -> None:
    """A weight of 0, then 1, 2 and 3. The decay is 1/10, 2/11, and then the given 0.2, less than 3/12."""
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
    """From the 17th update on, a decay of 0.6 is less than (1 + n) / (10 + n)."""
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


def test_schedule_by_hand() -> None:
    """Warm-up over 4 of 12 steps to 0.8, then half a cosine over 8."""
    rates = [learning_rate(step, 0.8, 4, 12) for step in range(12)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    # 0.4 · (1 + cos(π · k / 8)) at k = 0, 2, 4, 6
    assert rates[4::2] == pytest.approx([0.8, 0.682843, 0.4, 0.117157], abs=1e-6)
    assert all(later < earlier for earlier, later in pairwise(rates[4:]))


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("warmup", [0, 0.5, 1])
def test_no_step_is_spent_on_a_rate_of_nothing(steps: int, warmup: float) -> None:
    assert all(learning_rate(step, 1.0, warmup, steps) > 0 for step in range(steps))


def test_schedule_without_warm_up_is_the_cosine_alone() -> None:
    rates = [learning_rate(step, 1.0, 0, 4) for step in range(4)]
    assert rates == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_warm_up_of_a_fraction_of_a_step_count() -> None:
    """2.5 epochs of 3 steps are 7.5 steps: step 6 ends at 7 / 7.5, and no rate exceeds the peak."""
    rates = [learning_rate(step, 1.0, 7.5, 30) for step in range(30)]
    assert rates[6] == pytest.approx(7 / 7.5)
    assert max(rates) <= 1.0


def test_warm_up_as_long_as_the_run_never_falls() -> None:
    rates = [learning_rate(step, 1.0, 5, 5) for step in range(5)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_the_rate_follows_the_batch() -> None:
    """0.1 is for 64 clips: batches of 16 get a quarter of it, batches of 256 four times as much."""

    def highest(batch: int, meant_for: int | None) -> float:
        recipe = Recipe(learning_rate=0.1, learning_rate_batch=meant_for, batch_size=batch)
        return Schedule.planned(recipe, num_videos=1000).highest_rate

    assert [highest(batch, meant_for=64) for batch in (16, 64, 256)] == pytest.approx([0.025, 0.1, 0.4])
    assert highest(16, meant_for=None) == 0.1


@pytest.mark.parametrize(("steps_per_epoch", "epochs"), [(1, 200), (2, 100), (3, 67), (19, 11), (20, 10), (1000, 10)])
def test_few_videos_get_more_epochs(steps_per_epoch: int, epochs: int) -> None:
    """At least 200 steps, in whole epochs, and at least ten epochs."""
    assert planned_epochs(Recipe(epochs=10, min_steps=200), steps_per_epoch) == epochs


def test_a_run_is_scored_as_often_as_its_recipe_has_epochs() -> None:
    """9 videos are 2 steps; 42 steps are 21 epochs, 5 for each of the recipe's 4, and a score after the last."""
    recipe = Recipe(epochs=4, min_steps=42, warmup_epochs=1, batch_size=4, learning_rate=0.1, learning_rate_batch=8)
    schedule = Schedule.planned(recipe, 9)
    assert (schedule.batch_size, schedule.steps_per_epoch, schedule.epochs, schedule.num_steps) == (4, 2, 21, 42)
    assert [step for step in range(43) if schedule.is_scored(step)] == [10, 20, 30, 40, 42]
    # The warm-up is a quarter of the run; the peak is half the rate, for half the batch.
    assert max(map(schedule.rate, range(42))) == pytest.approx(0.05, rel=1e-3)
    assert schedule.rate(8) == pytest.approx(0.05 * 9 / 10.5)


def test_a_batch_of_more_videos_than_there_are_is_of_all_of_them() -> None:
    schedule = Schedule.planned(Recipe(epochs=2, min_steps=0, batch_size=64), 9)
    assert (schedule.batch_size, schedule.steps_per_epoch, schedule.num_steps) == (9, 1, 2)
