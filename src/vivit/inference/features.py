"""A factorised encoder cut in two: a frozen spatial encoder, and what is trained after it."""

import torch
from torch import Tensor, nn

from vivit.errors import UserError
from vivit.model.vivit import FactorisedEncoder, ViViT


class TemporalPart(nn.Module):
    """What follows the spatial encoder: adapter, temporal encoder, representation layer and heads.

    Its parameters are those of the model that it was made of, under the same names, and no others: to train it is to
    train the model.
    """

    def __init__(self, model: ViViT) -> None:
        """Raises UserError where the model is no factorised encoder with temporal layers."""
        super().__init__()
        encoder = factorised_encoder_of(model)
        self.encoder = nn.ModuleDict(
            {name: part for name, part in encoder.named_children() if name in ("temporal", "adapter")}
        )
        self.representation = model.representation
        self.heads = model.heads
        # Methods, so that what is spatial does not become a part of this module.
        self._over_time, self._represent, self._classify = encoder.over_time, model.represent, model.classify

    def forward(self, features: Tensor) -> Tensor | dict[str, Tensor]:
        """(B, T, D), as `frame_features` gives them, to logits: (B, K), or head → (B, K)."""
        return self._classify(self._represent(self._over_time(features)))


@torch.no_grad()  # not inference_mode, whose tensors no gradient may pass by
def frame_features(model: ViViT, clips: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What the spatial encoder makes of each temporal index of clips, without dropout.

    Args:
        model: put into eval mode meanwhile.
        clips: (B, T, C, H, W) as the model takes them, on any device.
        dtype: of most arithmetic; bfloat16 and float16 by autocast.

    Returns:
        (B, T, D) float32 on the CPU; T counts temporal indices.
    """
    encoder = factorised_encoder_of(model)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        device = model.embedding.weight.device
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return encoder.over_space(model.embedding(clips.to(device))).float().cpu()
    finally:
        for module, training in modes.items():
            module.training = training


def factorised_encoder_of(model: ViViT) -> FactorisedEncoder:
    """Raises UserError where the model is no factorised encoder with temporal layers."""
    if not isinstance(model.encoder, FactorisedEncoder) or model.encoder.temporal is None:
        kind = model.config.variant.replace("_", " ")
        without = " without temporal layers" if isinstance(model.encoder, FactorisedEncoder) else ""
        raise UserError(
            f"freeze_spatial: this is a {kind} model{without}; only a factorised encoder with temporal layers has a "
            "spatial encoder that can be frozen"
        )
    return model.encoder
