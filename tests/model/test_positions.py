import numpy as np
import pytest
import torch
from scipy.ndimage import zoom

from vivit.model.embedding import resize_positions

GRIDS = [
    ((4, 4), (6, 6)),
    ((14, 14), (20, 20)),
    ((7, 7), (3, 3)),
    ((4, 6), (6, 4)),
    ((4, 6), (4, 9)),
    ((5, 3), (2, 8)),
    ((8,), (16,)),
    ((16,), (5,)),
    ((4, 3, 5), (8, 6, 5)),
    ((16, 4, 4), (8, 7, 3)),
    ((3, 1, 4), (3, 1, 7)),
]


@pytest.mark.parametrize("grid", sorted({grid for pair in GRIDS for grid in pair}))
def test_the_same_grid_is_the_identity(grid: tuple[int, ...]) -> None:
    positions = torch.randn(*grid, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize_positions(positions, grid), positions)


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_linear_zoom_of_scipy(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    positions = np.random.default_rng(0).normal(size=(*old, 6))
    factors = [after / before for before, after in zip(old, new, strict=True)]
    expected = zoom(positions, (*factors, 1), order=1)
    assert expected.shape == (*new, 6)
    resized = resize_positions(torch.from_numpy(positions), new)
    np.testing.assert_allclose(resized.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_a_ramp_along_each_axis_stays_a_ramp_and_does_not_leak(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    """Feature i of the embedding runs from 0 to 1 along axis i only; so it must on the new grid."""

    def ramps(grid: tuple[int, ...]) -> torch.Tensor:
        axes = [torch.linspace(0, 1, length, dtype=torch.float64) for length in grid]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)

    torch.testing.assert_close(resize_positions(ramps(old), new), ramps(new), atol=1e-12, rtol=0)


def test_one_place_fills_the_whole_axis() -> None:
    positions = torch.tensor([[1.0, -2.0]])
    assert torch.equal(resize_positions(positions, (3,)), positions.expand(3, 2))
