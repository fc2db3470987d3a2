"""Position embeddings to another grid, axis by axis; never through a √N × √N square."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(embedding: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Interpolate linearly along every axis, corner to corner.

    That is how the official code does it (Scenic: `model_utils.interpolate_positional_embeddings`).

    Args:
        embedding: (*old grid, D), with one to three axes before D.
        grid: the new lengths of those axes.

    Returns:
        (*grid, D); the very same values where the grid stays.
    """
    for axis, length in enumerate(grid):
        if embedding.shape[axis] != length:
            rows = embedding.movedim(axis, -1)
            leading = rows.shape[:-1]
            rows = F.interpolate(rows.reshape(1, -1, rows.shape[-1]), length, mode="linear", align_corners=True)
            embedding = rows.view(*leading, length).movedim(-1, axis)
    return embedding.contiguous()


def repeat_in_time(spatial: Tensor, times: int) -> Tensor:
    """(n_h, n_w, D) → (times, n_h, n_w, D): an image model's positions at every temporal index (paper, section 3.4)."""
    return torch.stack([spatial] * times)
