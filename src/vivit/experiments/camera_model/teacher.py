"""How the model learns: it starts as motion filters, and auxiliary heads on its tokens teach it, then are removed."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vivit.experiments.camera_model.shape import PATCH, PLACES, SIDE, TIMES, middles_of_patches
from vivit.model.encoder import MLP
from vivit.model.vivit import FactorisedEncoder, ViViT

KEPT = 0.35  # of the tokens, until the last part of training
STILL_PIXEL = 0.3 / SIDE  # the scale of motions in the loss is linear below this and logarithmic above


@dataclass(frozen=True)
class Phase:
    """A part of training."""

    until: float
    """The fraction of all steps at which it ends."""
    jumbled: float
    """The fraction of clips with a new camera motion in every tubelet; they have no label."""
    label_weight: float
    motion_weight: float
    kept: float
    """The fraction of the tokens at each temporal position that the model sees."""
    rate: float
    """The learning rate at its beginning; it falls linearly to that of the next phase, and finally to 0."""


PHASES = (
    Phase(until=0.3, jumbled=0.7, label_weight=0.3, motion_weight=3, kept=KEPT, rate=1e-3),
    Phase(until=0.8, jumbled=0.3, label_weight=1, motion_weight=2, kept=KEPT, rate=5e-4),
    Phase(until=1.0, jumbled=0.1, label_weight=1, motion_weight=1, kept=1, rate=2.5e-4),
)


@torch.no_grad()
def start_as_motion_filters(model: ViViT, rng: np.random.Generator) -> None:
    """Initialise the embedding as pairs of moving stripes a quarter period apart, and the first MLP to rectify them.

    A pair responds to motion in its direction, wherever the patch has detail of its width. Position embeddings start as
    large as the tokens and linear in x and y: the sign of a zoom is motion in proportion to position.
    """
    weight = model.embedding.weight
    width, _, frames, height, across = weight.shape
    t, y, x = np.meshgrid(*(np.arange(length) - (length - 1) / 2 for length in (frames, height, across)), indexing="ij")
    filters = np.zeros((width, frames, height, across))
    for number in range(0, width, 2):
        cycles, angle = rng.uniform(0.25, 2.6) / PATCH, rng.uniform(0, 2 * np.pi)
        speed = np.exp(rng.uniform(np.log(0.05), np.log(5))) * (rng.random() > 0.12)
        phase = 2 * np.pi * (cycles * (np.cos(angle) * x + np.sin(angle) * y) - min(cycles * speed, 0.45) * t)
        centre = rng.uniform(-1.5, 1.5, 2)
        window = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * 2.6**2))
        for shift in (0, 1):
            stripes = window * np.cos(phase + shift * np.pi / 2)
            stripes -= stripes.mean()
            # Fine detail is fainter than coarse detail in pictures.
            filters[number + shift] = stripes / np.linalg.norm(stripes) * (cycles * PATCH) ** 0.8
    grey = torch.from_numpy(filters).float()[:, None].expand_as(weight) / 3**0.5
    weight.copy_(4.8 * (grey + 0.02 * torch.from_numpy(rng.standard_normal(weight.shape)).float()))
    x_places, y_places = middles_of_patches()
    codes = 4 * torch.from_numpy(rng.standard_normal((2, width))).float()
    spatial = _encoder(model).spatial
    places = spatial.positions.embedding
    places.add_((x_places[:, None] * codes[0] + y_places[:, None] * codes[1]).view_as(places))
    first = cast(MLP, spatial.blocks[0].mlp).fc1.weight
    first[:width], first[width : 2 * width] = 2 * torch.eye(width), -2 * torch.eye(width)


def _encoder(model: ViViT) -> FactorisedEncoder:
    assert isinstance(model.encoder, FactorisedEncoder)
    return model.encoder


class Teacher(nn.Module):
    """The model, and auxiliary heads that learn the camera's motion: they teach its tokens and are then removed."""

    def __init__(self, model: ViViT) -> None:
        super().__init__()
        self.model = model
        width = model.config.hidden_size
        self.places = nn.ModuleList(nn.Linear(width, 4) for _ in _encoder(model).spatial.blocks[1:])
        self.tubelets = nn.Linear(width, 4)
        self.whole = nn.Linear(width, 4)
        for layer in (*self.places, self.tubelets, self.whole):
            nn.init.zeros_(layer.weight)

    def forward(self, clips: Tensor, motions: Tensor, labels: Tensor, phase: Phase) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch of `Example`s, and its parts."""
        encoder, batch = _encoder(self.model), len(clips)
        spatial = encoder.spatial
        x = spatial.positions(self.model.embedding(clips).flatten(0, 1))  # (B · T, 1 + S, D)
        in_places = motion_in_places(motions).flatten(0, 1)  # (B · T, S, 4)
        if phase.kept < 1:
            rows, count = len(x), PLACES * PLACES
            kept = torch.rand(rows, count).argsort(dim=1)[:, : int(phase.kept * count), None]
            x = torch.cat([x[:, :1], x[:, 1:].gather(1, kept.expand(-1, -1, x.shape[-1]))], dim=1)
            in_places = in_places.gather(1, kept.expand(-1, -1, 4))
        local = []
        for number, block in enumerate(spatial.blocks):
            x = block(x, batch)
            if number:
                local.append(F.smooth_l1_loss(self.places[number - 1](x[:, 1:]).float(), in_places))
        tubelets = spatial.norm(x)[:, 0].view(batch, TIMES, -1)
        features = encoder.over_time(tubelets)
        logits = self.model.classify(features)
        assert isinstance(logits, Tensor)
        labelled = labels.sum().clamp(min=1)
        parts = {
            "label": -(labels * logits.float().log_softmax(dim=-1)).sum() / labelled,
            "motion in places": torch.stack(local).mean(),
            "motion in tubelets": F.smooth_l1_loss(self.tubelets(tubelets).float(), _on_scale(motions)),
            "motion of the clip": F.smooth_l1_loss(self.whole(features).float(), _on_scale(motions.mean(dim=1))),
        }
        loss = phase.label_weight * (parts["label"] + parts["motion of the clip"]) + parts["motion in tubelets"]
        return loss + 2 * phase.motion_weight * parts["motion in places"], parts


def motion_in_places(motions: Tensor) -> Tensor:
    """The scene's motion in each patch, on the scale of the loss: (B, TIMES, 4) → (B, TIMES, PLACES², 4).

    The components are to the right, downwards, away from the centre of the picture, and clockwise around it.
    """
    x, y = middles_of_patches()
    across, down, growth, turn = motions[..., None, :].unbind(-1)
    right, below = -(across + growth * x - turn * y), -(down + growth * y + turn * x)
    radius = (x**2 + y**2).sqrt()
    outwards, around = (right * x + below * y) / radius, (below * x - right * y) / radius
    return torch.asinh(torch.stack([right, below, outwards, around], dim=-1) / STILL_PIXEL)


def _on_scale(motions: Tensor) -> Tensor:
    """The camera's motion on the scale of the loss; zooms and rolls by what they move at a third of the height."""
    return torch.asinh(motions * torch.tensor([1, 1, 0.35, 0.35]) / STILL_PIXEL)
