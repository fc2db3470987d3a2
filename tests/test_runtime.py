"""Ranks hear from each other."""

from typing import Any

from vivit.runtime import Ranks


def test_one_process_is_alone() -> None:
    ranks = Ranks()
    assert (ranks.rank, ranks.world_size) == (0, 1)
    assert ranks.gather([1, 2]) == [1, 2]
    assert ranks.any(True) and not ranks.any(False)


def test_a_flag_in_any_rank_is_heard() -> None:
    def gather(items: list[Any]) -> list[Any]:
        return [False, *items, False]

    assert Ranks(1, 3, gather).any(True)
    assert not Ranks(1, 3, gather).any(False)
    assert Ranks(0, 2, lambda items: [*items, True]).any(False)
