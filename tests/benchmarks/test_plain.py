"""The plain models of the benchmarks are ours: the same logits from the same weights."""

from typing import get_args

import pytest
import torch

from benchmarks.plain import PlainViViT
from tests.support import random_clips, tiny_model
from vivit.config import Variant


@pytest.mark.parametrize("variant", get_args(Variant))
def test_the_plain_model_has_our_logits(variant: Variant) -> None:
    model = tiny_model(variant=variant).double()
    clips = random_clips(model.config).double()
    with torch.no_grad():
        expected = model(clips)
        torch.testing.assert_close(PlainViViT.of(model).double()(clips), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1
