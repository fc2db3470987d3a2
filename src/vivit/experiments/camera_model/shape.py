"""The shapes of the camera-motion model and its clips."""

import torch
from torch import Tensor

from vivit.config import ModelConfig, Preprocessing
from vivit.experiments.camera_motion import CLASSES

SIDE, FRAMES, STRIDE, RATE, TUBELET, PATCH = 64, 16, 3, 30.0, 4, 8
TIMES, PLACES = FRAMES // TUBELET, SIDE // PATCH
ARCHITECTURE = ModelConfig(
    variant="factorised_encoder",
    num_frames=FRAMES,
    image_size=(SIDE, SIDE),
    tubelet_size=(TUBELET, PATCH, PATCH),
    hidden_size=160,
    num_layers=4,
    num_heads=5,
    mlp_dim=640,
    temporal_layers=2,
    num_classes=len(CLASSES),
)
PREPROCESSING = Preprocessing(frame_stride=STRIDE, frame_rate=RATE, resize=SIDE, short_clips="pad")


def middles_of_patches() -> tuple[Tensor, Tensor]:
    """x and y of the centre of each patch, in heights of the picture: (PLACES²,) each."""
    along = (torch.arange(PLACES) + 0.5) / PLACES - 0.5
    y, x = torch.meshgrid(along, along, indexing="ij")
    return x.flatten(), y.flatten()
