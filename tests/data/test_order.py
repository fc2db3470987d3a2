"""The order of clips: seeds that never meet, and batches split evenly."""

import numpy as np
import pytest

from vivit.data.order import clip_rng, epoch_order, split_batch


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(("batch", "parts"), [(10, 2), (8, 3), (7, 2), (64, 8), (3, 3)])
def test_parts_of_a_batch_are_even_and_keep_pairs(batch: int, parts: int, paired: bool) -> None:
    found = split_batch(batch, parts, paired)
    assert sorted(np.concatenate(found).tolist()) == list(range(batch))
    sizes = [len(part) for part in found]
    assert max(sizes) - min(sizes) <= (2 if paired else 1)
    if paired and batch >= 2 * parts:
        for part in found:
            assert part[::-1].tolist() == [batch - 1 - clip for clip in part]


def test_random_streams_have_nothing_in_common() -> None:
    drawn = [clip_rng(*key).random() for key in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (3, 2, 0), (2, 3, 0)]]
    assert len(set(drawn)) == 6
    for seed, epoch in [(0, 0), (3, 2)]:
        order = epoch_order(1000, seed, epoch)
        assert sorted(order.tolist()) == list(range(1000))
        assert (order == clip_rng(seed, epoch, 0).permutation(1000)).sum() < 20
