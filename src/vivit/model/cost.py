"""What a model costs: counted on a model without weights."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from vivit.config import ModelConfig
from vivit.model.embedding import CHANNELS
from vivit.model.vivit import ViViT


def multiply_adds(config: ModelConfig) -> int:
    """Multiply-adds of the matrix products for one clip; what the paper's table 2 calls FLOPs."""
    with torch.device("meta"):
        model = ViViT(config).eval()
        video = torch.empty(1, config.num_frames, CHANNELS, *config.image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(video)
    return counter.get_total_flops() // 2
