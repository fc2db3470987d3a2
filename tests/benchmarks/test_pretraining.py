"""The benchmark of pretraining times the steps that it says."""

import pytest

from benchmarks.pretraining import CASES, QUICK, main, steps_of, take_both
from vivit.training.recipes import PRETRAIN_RECIPES


def test_it_prints_a_row_for_each_model(capsys: pytest.CaptureFixture[str]) -> None:
    main(rounds=1, quick=True)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| vivit-")]
    assert [row.split(" | ")[0] for row in rows] == [f"| {model}" for model, _ in CASES]


def test_both_steps_take_time_and_the_first_learns_without_labels() -> None:
    recipe = PRETRAIN_RECIPES["pretrain"].model_copy(update=QUICK)
    ((masked, whole),) = take_both(steps_of(recipe, 2), rounds=1)
    assert masked > 0 and whole > 0
