"""A factorised encoder cut in two: features of each temporal index, and the part that turns them into logits."""

import torch
from torch import Tensor, nn

from vivit.errors import UserError
from vivit.model.vivit import FactorisedEncoder, ViViT


class TemporalPart(nn.Module):
    """Everything after the spatial encoder: adapter, temporal encoder, representation layer and heads.

    It shares these parameters with the model, under the same names, so training it trains the model.
    """

    def __init__(self, model: ViViT) -> None:
        """Raises UserError if the model is not a factorised encoder with temporal layers."""
        super().__init__()
        encoder = factorised_encoder_of(model)
        self.encoder = nn.ModuleDict(
            {name: part for name, part in encoder.named_children() if name in ("temporal", "adapter")}
        )
        self.representation = model.representation
        self.heads = model.heads
        # Bound methods, because the encoder as a submodule would bring its spatial part along.
        self._over_time, self._represent, self._classify = encoder.over_time, model.represent, model.classify

    def forward(self, features: Tensor) -> Tensor | dict[str, Tensor]:
        """Features (B, T, D) of `frame_features` to logits: (B, K), or head → (B, K)."""
        return self._classify(self._represent(self._over_time(features)))


@torch.no_grad()  # autograd refuses the tensors of inference_mode, and the temporal part is trained on these
def frame_features(model: ViViT, clips: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The spatial encoder's output for each temporal index, without dropout.

    Args:
        model: in eval mode during the call.
        clips: (B, frames, C, H, W) as the model takes them, on any device.
        dtype: bfloat16 and float16 by autocast.

    Returns:
        (B, T, D) float32 on the CPU.
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
    """Raises UserError if the model is not a factorised encoder with temporal layers."""
    if not isinstance(model.encoder, FactorisedEncoder) or model.encoder.temporal is None:
        kind = model.config.variant.replace("_", " ")
        without = " without temporal layers" if isinstance(model.encoder, FactorisedEncoder) else ""
        raise UserError(
            f"this is a {kind} model{without}; only a factorised encoder with temporal layers has a spatial part "
            "that works alone"
        )
    return model.encoder
