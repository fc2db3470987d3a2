"""What is measured are the steps themselves: turns, warm-up, ratios, peaks, and the attention that really runs."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from vivit.inference import speed
from vivit.inference.speed import Seconds

CPU = torch.device("cpu")


def test_all_take_turns_beginning_with_another_one_and_the_first_round_does_not_count() -> None:
    turns: list[str] = []

    def step(name: str) -> Callable[[], Seconds]:
        def run() -> Seconds:
            turns.append(name)
            return Seconds(len(turns), 0.0)

        return run

    taken = speed.take_turns({name: step(name) for name in "abc"}, rounds=2)
    assert "".join(turns) == "abcbcacab"
    assert {name: [one.clock for one in each] for name, each in taken.items()} == {
        "a": [6, 8],
        "b": [4, 9],
        "c": [5, 7],
    }


def test_two_rounds_count_even_without_a_budget_left() -> None:
    taken = speed.take_turns({"a": lambda: Seconds(1.0, 1.0)}, rounds=9, budget=0.0)
    assert len(taken["a"]) == 2


def test_a_ratio_is_that_of_each_round_and_its_spread_is_in_quartiles() -> None:
    theirs, ours = [[Seconds(clock, 0.0) for clock in each] for each in ([8.0, 2.0, 8.0], [4.0, 2.0, 1.0])]
    assert speed.ratios(theirs, ours) == [2, 1, 8]
    assert speed.spread([2, 1, 8]) == {"median": 2, "low": 1.5, "high": 5, "each": [2, 1, 8]}
    assert speed.spread([3.0])["low"] == 3.0


def test_peaks_count_the_work_of_the_best_round() -> None:
    taken = [Seconds(4.0, 0.0), Seconds(2.0, 0.0)]
    assert speed.product(torch.float32, CPU, side=8).rate(taken) == 2 * 8**3 / 2
    assert speed.copy(CPU, size=64).rate(taken) == 2 * 64 / 2
    assert speed.time_of(speed.product(torch.bfloat16, CPU, side=64).step, CPU).clock > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_attention_is_the_one_that_runs(dtype: torch.dtype) -> None:
    q, short = torch.randn(2, 3, 7, 8, dtype=dtype), torch.randn(2, 3, 5, 8, dtype=dtype)

    def step() -> None:
        for tokens in (q, short, q):
            F.scaled_dot_product_attention(tokens, tokens, tokens)

    assert speed.attention_of(step) == "flash (7 tokens), flash (5 tokens)"
    with sdpa_kernel(SDPBackend.MATH):
        assert speed.attention_of(step) == "plain softmax (7 tokens), plain softmax (5 tokens)"
    assert speed.attention_of(lambda: q + q) == ""
