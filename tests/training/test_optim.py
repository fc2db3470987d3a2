import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from vivit.config import ModelConfig
from vivit.inference.features import TemporalPart
from vivit.model.vivit import ViViT
from vivit.training.initialise import freeze_spatial
from vivit.training.optim import (
    build_optimiser,
    layers_above,
    set_learning_rate,
)
from vivit.training.recipe import Recipe

TINY = {"num_frames": 4, "image_size": 32, "hidden_size": 8, "num_heads": 2, "mlp_dim": 16, "num_layers": 2}


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_decay_shrinks_kernels_and_nothing_else(tiny_recipe: Recipe, optimiser: str) -> None:
    """With gradients of zero a step shows decay alone: a factor of 1 − rate · decay."""
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
    """Under a gradient of 1 the velocity is 1, then 1.9: at rate 0.1 the weight goes 0, −0.1, −0.29."""
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
    """How far one step of SGD under gradients of 1 moves each parameter, as a share of the learning rate."""
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
    """Share of the rate → what has it, without the names within blocks and layers."""
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
    """A part of a model has the layers that it has, and a wrapper none."""
    recipe = Recipe(layer_decay=0.5)
    whole = moved_by(tiny("vivit-ti-16x2-fe", temporal_layers=2, adapter_size=4), recipe)
    model = tiny("vivit-ti-16x2-fe", temporal_layers=2, adapter_size=4)
    part: TemporalPart = freeze_spatial(model)
    assert moved_by(part, recipe) == {name: whole[name] for name, _ in part.named_parameters()}
    assert layers_above(nn.ModuleDict({"module": model})) == {
        f"module.{name}": above for name, above in layers_above(model).items()
    }


def test_frozen_parameters_are_not_the_optimisers() -> None:
    model = tiny("vivit-ti-16x2-fe")
    freeze_spatial(model)
    held = {id(p) for group in build_optimiser(model, Recipe()).param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}
    assert id(model.embedding.weight) not in held


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_without_layer_decay_there_are_two_groups(tiny_recipe: Recipe, optimiser: str) -> None:
    recipe = tiny_recipe.model_copy(update={"optimiser": optimiser})
    groups = build_optimiser(tiny("vivit-ti-16x2-fe"), recipe).param_groups
    assert [(group["weight_decay"], group["lr_scale"]) for group in groups] == [(0.05, 1.0), (0.0, 1.0)]


def test_the_rate_of_a_step_is_shared_out_by_layer() -> None:
    """Rates of 0.4 and then 0.1, decayed by a half for each layer above, under gradients of 1 and no momentum yet."""
    model = tiny("vivit-ti-16x2")
    optimiser = build_optimiser(model, Recipe(layer_decay=0.5, learning_rate=7.0))
    for rate in (0.4, 0.1):
        set_learning_rate(optimiser, rate)
        assert {round(group["lr"], 6) for group in optimiser.param_groups} == {rate, rate / 2, rate / 4, rate / 8}


def step_on(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The weights after five steps under gradients drawn at random, the same for every model of these sizes."""
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
