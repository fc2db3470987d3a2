from itertools import pairwise

import pytest
import torch

from vivit.model.vivit import ViViT
from vivit.training.optim import build_optimiser, learning_rate
from vivit.training.recipe import Recipe


def test_schedule_by_hand() -> None:
    """Warm-up over 4 of 12 steps to 0.8, then half a cosine over 8."""
    rates = [learning_rate(step, 0.8, 4, 12) for step in range(12)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    # 0.4 · (1 + cos(π · k / 8)) at k = 2, 4, 6, 8
    assert rates[5::2] == pytest.approx([0.682843, 0.4, 0.117157, 0.0], abs=1e-6)
    assert all(later < earlier for earlier, later in pairwise(rates[3:]))


def test_schedule_without_warm_up_is_the_cosine_alone() -> None:
    rates = [learning_rate(step, 1.0, 0, 4) for step in range(4)]
    assert rates == pytest.approx([0.853553, 0.5, 0.146447, 0.0], abs=1e-6)


def test_warm_up_of_a_fraction_of_a_step_count() -> None:
    """2.5 epochs of 3 steps are 7.5 steps: step 6 ends at 7 / 7.5, and no rate is above the highest."""
    rates = [learning_rate(step, 1.0, 7.5, 30) for step in range(30)]
    assert rates[6] == pytest.approx(7 / 7.5)
    assert max(rates) <= 1.0


def test_warm_up_as_long_as_the_run_never_falls() -> None:
    rates = [learning_rate(step, 1.0, 5, 5) for step in range(5)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


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
        *(f"model.{encoder}_encoder.blocks.0.{part}.weight" for encoder in ("spatial", "temporal") for part in KERNELS),
    }
    for name in decayed:
        value = model.get_parameter(name)
        torch.testing.assert_close(value, torch.full_like(value, 0.95))


KERNELS = ("attention.attention.qkv", "attention.attention.out", "mlp.mlp.hidden", "mlp.mlp.out")


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
