from itertools import pairwise

import pytest

from vivit.training.optim import Schedule, learning_rate, planned_epochs, scaled_learning_rate
from vivit.training.recipe import Recipe


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
    """2.5 epochs of 3 steps are 7.5 steps: step 6 ends at 7 / 7.5, and no rate is above the highest."""
    rates = [learning_rate(step, 1.0, 7.5, 30) for step in range(30)]
    assert rates[6] == pytest.approx(7 / 7.5)
    assert max(rates) <= 1.0


def test_warm_up_as_long_as_the_run_never_falls() -> None:
    rates = [learning_rate(step, 1.0, 5, 5) for step in range(5)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_the_rate_follows_the_batch() -> None:
    """0.1 is for 64 clips: 16 get a quarter of it, 256 four times as much."""
    recipe = Recipe(learning_rate=0.1, learning_rate_batch=64)
    assert [scaled_learning_rate(recipe, batch) for batch in (16, 64, 256)] == pytest.approx([0.025, 0.1, 0.4])
    assert scaled_learning_rate(recipe.model_copy(update={"learning_rate_batch": None}), 16) == 0.1


@pytest.mark.parametrize(("steps_per_epoch", "epochs"), [(1, 200), (2, 100), (3, 67), (19, 11), (20, 10), (1000, 10)])
def test_few_videos_get_more_epochs(steps_per_epoch: int, epochs: int) -> None:
    """200 steps at least, in whole epochs, and ten epochs at least."""
    assert planned_epochs(Recipe(epochs=10, min_steps=200), steps_per_epoch) == epochs


def test_a_run_is_scored_as_often_as_its_recipe_has_epochs() -> None:
    """9 videos are 2 steps; 42 steps are 21 epochs, 5 for each of the recipe's 4, and a score after the last."""
    recipe = Recipe(epochs=4, min_steps=42, warmup_epochs=1, batch_size=4, learning_rate=0.1, learning_rate_batch=8)
    schedule = Schedule.planned(recipe, 9)
    assert (schedule.batch_size, schedule.steps_per_epoch, schedule.epochs, schedule.num_steps) == (4, 2, 21, 42)
    assert [step for step in range(43) if schedule.is_scored(step)] == [10, 20, 30, 40, 42]
    assert [schedule.times_scored(step) for step in (0, 10, 20, 40, 42)] == [0, 1, 2, 4, 5]
    # The warm-up is a quarter of the run, to half the rate, for half the batch.
    assert max(map(schedule.rate, range(42))) == pytest.approx(0.05, rel=1e-3)
    assert schedule.rate(8) == pytest.approx(0.05 * 9 / 10.5)


def test_a_batch_of_more_videos_than_there_are_is_of_all_of_them() -> None:
    schedule = Schedule.planned(Recipe(epochs=2, min_steps=0, batch_size=64), 9)
    assert (schedule.batch_size, schedule.steps_per_epoch, schedule.num_steps) == (9, 1, 2)
