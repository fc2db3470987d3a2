"""A model cut in two: a frozen part, whose outputs are the features of a clip, and the rest, which is trained on them.

Shapes: B batch, T temporal positions, N tokens, D width, K classes.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from vivit.config import ModelConfig
from vivit.errors import UserError
from vivit.model.embedding import CHANNELS
from vivit.model.vivit import FactorisedEncoder, ViViT


class TrainedPart(nn.Module):
    """What follows a model's frozen part: features to logits, (B, K), or head → (B, K).

    It shares its parameters with the model, under the same names, so training it trains the model.
    """

    called: ClassVar[str]
    """What is trained, in words."""
    stored: ClassVar[torch.dtype] = torch.float32
    """The precision of features on disk."""
    not_of_features: ClassVar[frozenset[str]] = frozenset(
        ("num_classes", "heads", "multi_label", "dropout", "attention_dropout", "stochastic_depth", "token_dropping")
    )
    """The fields of ModelConfig that features do not depend on, in eval mode."""

    @staticmethod
    def encode(model: ViViT, video: Tensor) -> Tensor:
        """The features of clips, of any precision: (B, frames, C, H, W) → (B, …)."""
        raise NotImplementedError

    @staticmethod
    def frozen(model: ViViT) -> list[nn.Module]:
        """The modules that features depend on."""
        raise NotImplementedError

    def __init__(self, model: ViViT) -> None:
        """Raises UserError if the model cannot be cut like this."""
        super().__init__()
        self.heads = model.heads
        # Bound methods, because the model as a submodule would bring its frozen part along.
        self._represent, self._classify = model.represent, model.classify


class TemporalPart(TrainedPart):
    """Everything after a factorised encoder's spatial encoder; its output for each temporal index is the features.

    Adapter, temporal encoder, attentive pooling, representation layer and heads.
    """

    called = "what follows the spatial encoder"
    not_of_features = TrainedPart.not_of_features | {
        *("temporal_layers", "adapter_size", "attentive_pooling", "representation_size")
    }

    @staticmethod
    def encode(model: ViViT, video: Tensor) -> Tensor:
        """→ (B, T, D)."""
        return factorised_encoder_of(model).over_space(model.embedding(video))

    @staticmethod
    def frozen(model: ViViT) -> list[nn.Module]:
        return [model.embedding, factorised_encoder_of(model).spatial]

    def __init__(self, model: ViViT) -> None:
        super().__init__(model)
        encoder = factorised_encoder_of(model)
        self.encoder = nn.ModuleDict(
            {name: part for name, part in encoder.named_children() if name in ("temporal", "adapter")}
        )
        self.pooler = model.pooler
        self.representation = model.representation
        self._over_time, self._all_over_time = encoder.over_time, encoder.all_over_time

    def forward(self, features: Tensor) -> Tensor | dict[str, Tensor]:
        if self.pooler is None:
            x = self._over_time(features)
        else:
            x = self.pooler(self._all_over_time(features), features.shape[1])
        return self._classify(self._represent(x))


class LinearProbe(TrainedPart):
    """The heads alone, on standardised features of the whole model.

    Mean and deviation are fixed before the first step; `fold` gives a model heads that need neither. They do what
    BatchNorm without scale and shift does before a linear probe (He et al. 2022, arXiv 2111.06377, appendix A.1): one
    learning rate suits all models and channels.
    """

    called = "a linear probe"
    mean: Tensor
    deviation: Tensor

    @staticmethod
    def encode(model: ViViT, video: Tensor) -> Tensor:
        """→ (B, D), or (B, representation_size) if the config has one."""
        return model.features(video)

    @staticmethod
    def frozen(model: ViViT) -> list[nn.Module]:
        return [module for name, module in model.named_children() if name != "heads"]

    def __init__(self, model: ViViT) -> None:
        super().__init__(model)
        weight = next(self.heads.parameters())
        self.register_buffer("mean", torch.zeros(weight.shape[1], device=weight.device))
        self.register_buffer("deviation", torch.ones(weight.shape[1], device=weight.device))

    def forward(self, features: Tensor) -> Tensor | dict[str, Tensor]:
        return self._classify((features - self.mean) / self.deviation)

    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """Set the moments of the features, (D,) each."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    @torch.no_grad()
    def fold(self, model: ViViT) -> None:
        """Fold the standardisation that these heads were trained with into a model's heads, in place."""
        for head in model.heads.values():
            assert isinstance(head, nn.Linear)
            head.weight.div_(self.deviation)
            head.bias.sub_(head.weight @ self.mean)


class AttentiveProbe(TrainedPart):
    """Attentive pooling, representation layer and heads, on all tokens of the encoder.

    The features are the normalised tokens, which fit into float16 whatever the weights are.
    """

    called = "an attentive probe"
    stored = torch.float16
    not_of_features = TrainedPart.not_of_features | {"representation_size"}

    @staticmethod
    def encode(model: ViViT, video: Tensor) -> Tensor:
        """→ (B, N, D)."""
        assert model.pooler is not None
        return model.pooler.norm1(model.encoder.all_tokens(model.embedding(video)))

    @staticmethod
    def frozen(model: ViViT) -> list[nn.Module]:
        return [model.embedding, model.encoder]

    def __init__(self, model: ViViT) -> None:
        super().__init__(model)
        assert model.pooler is not None
        self.pooler, self.times = model.pooler, model.config.grid[0]
        self.representation = model.representation

    def forward(self, features: Tensor) -> Tensor | dict[str, Tensor]:
        return self._classify(self._represent(self.pooler.gather(features.float(), self.times)))


@torch.no_grad()  # autograd refuses the tensors of inference_mode, and the trained part learns from these
def clip_features(
    model: ViViT, clips: Tensor, part: type[TrainedPart] = TemporalPart, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The features of clips for a trained part, without dropout.

    Args:
        model: in eval mode during the call.
        clips: (B, frames, C, H, W) as the model takes them, on any device.
        dtype: bfloat16 and float16 by autocast.

    Returns:
        (B, …) on the CPU, in the precision that the part stores.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        device = model.embedding.weight.device
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return part.encode(model, clips.to(device)).to("cpu", part.stored)
    finally:
        for module, training in modes.items():
            module.training = training


def feature_shape(config: ModelConfig, part: type[TrainedPart]) -> tuple[int, ...]:
    """The shape of one clip's features."""
    with torch.device("meta"), torch.no_grad():
        model = ViViT(config).eval()
        return tuple(part.encode(model, torch.empty(1, config.num_frames, CHANNELS, *config.image_size)).shape[1:])


def feature_bytes(config: ModelConfig, part: type[TrainedPart]) -> int:
    """Bytes of one clip's features on disk."""
    return math.prod(feature_shape(config, part)) * part.stored.itemsize


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
