"""The cost of a model, counted on the meta device."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from vivit.config import ModelConfig
from vivit.model.embedding import CHANNELS
from vivit.model.vivit import ViViT


def multiply_adds(config: ModelConfig) -> int:
    """Multiply-adds of the matrix products for one clip; table 2 of the paper calls them FLOPs."""
    with torch.device("meta"):
        model = ViViT(config).eval()
        video = torch.empty(1, config.num_frames, CHANNELS, *config.image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(video)
    return counter.get_total_flops() // 2
