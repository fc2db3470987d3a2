"""Whether an attention map shows what a model needs: deletion and insertion (Petsiuk et al. 2018, arXiv 1806.07421).

Deletion removes the content of tubelets in the order of the map, most attention first, and records the probability of
the class; insertion restores the content of an empty clip in that order. The sooner the probability falls or rises, the
more faithful the map. Tubelets without content have the mean colour of the clip.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vivit.inference.views import BATCH
from vivit.labels import LabelSpace, by_head
from vivit.model.vivit import ViViT


@dataclass(frozen=True)
class Faithfulness:
    """The probability of a class against the fraction of changed tubelets, P points each."""

    parts: np.ndarray
    """(P,) from 0 to 1."""
    deletion: np.ndarray
    """(P,) with these fractions removed."""
    insertion: np.ndarray
    """(P,) with only these fractions present."""

    @property
    def deletion_area(self) -> float:
        """The area under the deletion curve, 0 to 1; lower is better."""
        return _area(self.deletion, self.parts)

    @property
    def insertion_area(self) -> float:
        """The area under the insertion curve, 0 to 1; higher is better."""
        return _area(self.insertion, self.parts)


def _area(values: np.ndarray, parts: np.ndarray) -> float:
    return float((values[1:] + values[:-1]) / 2 @ np.diff(parts))


@torch.inference_mode()
def faithfulness(
    model: ViViT, clip: Tensor, attention: Tensor, head: str, number: int, points: int = 17
) -> Faithfulness:
    """Record the probability of a class as tubelets are removed, and as they are restored.

    Args:
        model: in eval mode.
        clip: (frames, C, H, W) uint8 of the model's size, on its device.
        attention: (T, n_h, n_w), see `vivit.inference.attention_maps`; only its order counts.
        head, number: the class.
        points: the number of points of each curve, P.
    """
    order = attention.flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    counts = torch.linspace(0, len(order), points, device=order.device).round()
    changed = rank.view(attention.shape) < counts[:, None, None, None]  # (P, T, n_h, n_w)
    pixels = _pixels(model, changed.to(clip.device), clip)
    plain = clip.float().mean(dim=(0, 2, 3), keepdim=True).round().to(clip.dtype)
    labels = LabelSpace({head: ()}, model.config.multi_label)

    def probability(keep: Tensor) -> np.ndarray:
        clips = torch.where(keep, clip, plain)
        logits = torch.cat([by_head(model(some))[head].float() for some in clips.split(BATCH)])
        found: np.ndarray = labels.probabilities(logits)[:, number].cpu().numpy()
        return found

    return Faithfulness((counts / len(order)).cpu().numpy(), probability(~pixels), probability(pixels))


def _pixels(model: ViViT, tubelets: Tensor, clip: Tensor) -> Tensor:
    """Which pixels belong to tubelets: (P, T, n_h, n_w) → (P, frames, 1, H, W)."""
    frames, height, width = model.embedding.tubelet_size
    of_places = tubelets.repeat_interleave(height, dim=2).repeat_interleave(width, dim=3)
    of_seen = of_places.repeat_interleave(frames, dim=1)
    if model.embedding.frame_indices is None:
        return of_seen[:, :, None]
    pixels = torch.zeros(len(tubelets), len(clip), *of_seen.shape[2:], dtype=torch.bool, device=clip.device)
    pixels[:, model.embedding.frame_indices] = of_seen
    return pixels[:, :, None]
