"""Deletion and insertion on a model that needs one tubelet alone."""

import numpy as np
import pytest
import torch

from tests.support import tiny_config
from vivit.evaluation.faithfulness import faithfulness
from vivit.model.vivit import ViViT


class NeedsOnePixel(ViViT):
    """Says class 1 if the first pixel of the last frame is red."""

    def forward(self, video: torch.Tensor, any_size: bool = False) -> torch.Tensor:
        red = video[:, -1, 0, 0, 0] == 250
        return torch.stack([torch.zeros(len(video)), torch.where(red, 20.0, -20.0)], dim=1)


@pytest.mark.parametrize("uniform", [False, True])
def test_a_map_of_what_the_model_needs_is_the_most_faithful(uniform: bool) -> None:
    fields = {"embedding": "uniform_frames", "sampled_frames": 6} if uniform else {}
    model = NeedsOnePixel(tiny_config(num_classes=2, **fields))
    clip = torch.randint(0, 200, (6, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clip[-1, :, 0, 0] = 250
    right = torch.rand(model.config.grid, generator=torch.Generator().manual_seed(1))
    right[-1, 0, 0] = 2
    wrong = right.clone()
    wrong[-1, 0, 0] = -1
    best, worst = (faithfulness(model, clip, found, "classes", 1, points=19) for found in (right, wrong))
    np.testing.assert_allclose(best.deletion, [1] + [0] * 18, atol=1e-6)
    np.testing.assert_allclose(best.insertion, [0] + [1] * 18, atol=1e-6)
    np.testing.assert_allclose(worst.deletion, [1] * 18 + [0], atol=1e-6)
    assert best.deletion_area < 0.05 < 0.95 < worst.deletion_area
    assert worst.insertion_area < 0.05 < 0.95 < best.insertion_area
