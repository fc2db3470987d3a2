"""ViViT: the four models of the paper side by side (Arnab et al. 2021, section 3.3, figures 3 to 6).

Shapes: B batch, T temporal positions, n_h × n_w = S spatial positions, N tokens, D width, K classes;
video (B, frames, C, height, width).
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from vivit.config import ModelConfig, Preprocessing, Variant
from vivit.labels import ONLY_HEAD, LabelSpace, as_classes
from vivit.model.attention import SelfAttention
from vivit.model.embedding import Positions, TokenDropping, TubeletEmbedding
from vivit.model.encoder import GELU, MLP, Encoder, layer_norm
from vivit.model.pooling import AttentivePooling


class FactorisedEncoder(nn.Module):
    """Model 2: a spatial encoder sees each temporal index alone, then a temporal encoder sees its outputs.

    Without temporal layers the outputs are averaged: the paper's average-pooling baseline.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        times, *places = config.grid
        self.spatial = Encoder(config, tuple(places), config.num_layers, config.token_dropping)
        self.temporal = Encoder(config, (times,), config.temporal_layers) if config.temporal_layers else None
        self.adapter = Adapter(config, config.adapter_size) if config.adapter_size else None

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, n_h, n_w, D) → (B, D)."""
        return self.over_time(self.over_space(tokens))

    def over_space(self, tokens: Tensor) -> Tensor:
        """Encode each temporal index: (B, T, n_h, n_w, D) → (B, T, D)."""
        batch, times, *_ = tokens.shape
        x = self.spatial(tokens.flatten(0, 1), clips=batch)  # (B, T, n_h, n_w, D) → (B · T, D)
        # (B · T, D) → (B, T, D); with unflatten, torch.onnx's tracing exporter would fix the batch size
        return x.view(batch, times, -1)

    def over_time(self, x: Tensor) -> Tensor:
        """Encode the outputs of the spatial encoder: (B, T, D) → (B, D)."""
        return x.mean(dim=1) if self.temporal is None else self.temporal(self.adapted(x))

    def all_over_time(self, x: Tensor) -> Tensor:
        """The tokens of the temporal encoder, which must exist: (B, T, D) → (B, T, D), or (B, 1 + T, D)."""
        assert self.temporal is not None
        return self.temporal.all_tokens(self.adapted(x))

    def all_tokens(self, tokens: Tensor) -> Tensor:
        """The tokens of the last encoder: (B, T, n_h, n_w, D) → (B, N, D).

        Without temporal layers these are the spatial encoder's tokens of each temporal index in turn, each index with
        its class token if there is one.
        """
        if self.temporal is not None:
            return self.all_over_time(self.over_space(tokens))
        batch, *_, width = tokens.shape
        # (B, T, n_h, n_w, D) → (B · T, S, D) → (B, T · S, D)
        return self.spatial.all_tokens(tokens.flatten(0, 1), clips=batch).view(batch, -1, width)

    def adapted(self, x: Tensor) -> Tensor:
        """Apply the adapter, if there is one, to the outputs of the spatial encoder."""
        return x if self.adapter is None else self.adapter(x)


class Adapter(nn.Module):
    """A residual bottleneck between two encoders (Gowda et al. 2023, arXiv 2306.04822).

    It lets the temporal encoder reshape the outputs of a frozen spatial encoder; a fresh adapter changes nothing. The
    LayerNorm is on the branch, as in a block, because a frozen encoder's outputs may have any scale.
    """

    def __init__(self, config: ModelConfig, size: int) -> None:
        super().__init__()
        self.norm = layer_norm(config)
        self.down = nn.Linear(config.hidden_size, size)
        self.activation = nn.GELU(approximate=GELU[config.activation])
        self.up = nn.Linear(size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        return x + self.up(self.activation(self.down(self.norm(x))))


class FactorisedAttentionEncoder(Encoder):
    """Models 3 and 4: attention over space and over time in every layer, one after the other or in half the heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, config.grid, config.num_layers)
        self.token_dropping = TokenDropping(config.token_dropping)

    def forward(self, tokens: Tensor, clips: int | None = None) -> Tensor:
        """(B, T, n_h, n_w, D) → (B, D)."""
        return self._encoded(tokens, clips).mean(dim=(1, 2))

    def all_tokens(self, tokens: Tensor, clips: int | None = None) -> Tensor:
        """(B, T, n_h, n_w, D) → (B, T · S, D)."""
        return self._encoded(tokens, clips).flatten(1, 2)

    def _encoded(self, tokens: Tensor, clips: int | None) -> Tensor:
        x = self.positions(tokens).view_as(tokens).flatten(2, 3)  # (B, T, n_h, n_w, D) → (B, T, S, D)
        return self.encode(self.token_dropping(x), clips or x.shape[0])


ENCODERS: dict[Variant, Callable[[ModelConfig], Encoder | FactorisedEncoder]] = {
    # Model 1: every token attends to every other, over space and time.
    "spatiotemporal": lambda config: Encoder(config, config.grid, config.num_layers, config.token_dropping),
    "factorised_encoder": FactorisedEncoder,
    "factorised_self_attention": FactorisedAttentionEncoder,
    "factorised_dot_product": FactorisedAttentionEncoder,
}


class ViViT(nn.Module):
    """A video classifier: token embedding, one of the four encoders, and one or more heads.

    `labels` (class names), `preprocessing` and `origin` are saved with the weights, so that the model can prepare
    videos and name its predictions wherever it is loaded.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        classes: Mapping[str, Sequence[str]] | None = None,
        preprocessing: Preprocessing | None = None,
        origin: Sequence[str] = (),
    ) -> None:
        """Build the model with fresh weights.

        Args:
            config: the architecture.
            classes: head → its class names in order; a model with `num_classes` has one head, "classes".
            preprocessing: how videos become clips; by default as in the paper, scaled to the crop.
            origin: where the weights come from, one line per step.

        Raises:
            ValueError: `classes` does not fit the heads, or a head has a name that PyTorch reserves.
        """
        super().__init__()
        self.config = config
        self.labels = None if classes is None else LabelSpace(as_classes(classes), config.multi_label)
        self.preprocessing = preprocessing or Preprocessing.of_crop(config.image_size)
        self.origin = tuple(origin)
        class_counts = config.class_counts
        if self.labels is not None and self.labels.counts != class_counts:
            raise ValueError(
                f"classes: names for {self.labels.counts} given, but the heads of the model are {class_counts}"
            )
        for head in class_counts:
            if hasattr(nn.ModuleDict(), head):
                raise ValueError(f"heads: {head!r} is a name that PyTorch uses itself; choose another")

        self.embedding = TubeletEmbedding(config)
        self.encoder = ENCODERS[config.variant](config)
        self.pooler = AttentivePooling(config) if config.attentive_pooling else None
        width, size = config.hidden_size, config.representation_size
        self.representation = None if size is None else nn.Linear(width, size)
        self.heads = nn.ModuleDict({head: nn.Linear(size or width, count) for head, count in class_counts.items()})
        self.initialise()

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]] | None:
        """head → its class names in order; None if the classes have no names."""
        return None if self.labels is None else self.labels.classes

    def features(self, video: Tensor, any_size: bool = False) -> Tensor:
        """Representation of a clip, before the head.

        Args:
            video: (B, frames, 3, height, width) of the configured size; floating point in [−1, 1], or uint8.
            any_size: also take other clip sizes that divide into whole tubelets. Position embeddings are then resized
                along time, height and width in every call; `vivit.adapt` does it once.

        Returns:
            (B, D), or (B, representation_size) if the config has one.

        Raises:
            ValueError: the clip has another size, or with `any_size` does not divide into whole tubelets.
        """
        tokens = self.embedding(video, any_size)
        if self.pooler is None:
            return self.represent(self.encoder(tokens))
        return self.represent(self.pooler(self.encoder.all_tokens(tokens), tokens.shape[1]))

    def forward(self, video: Tensor, any_size: bool = False) -> Tensor | dict[str, Tensor]:
        """Logits (never probabilities) of each clip: (B, K), or head → (B, K) if the config names heads or has none.

        Takes the arguments of `features`.
        """
        return self.classify(self.features(video, any_size))

    def represent(self, x: Tensor) -> Tensor:
        """Apply the tanh layer, if there is one, to the encoder's output: (B, D) → (B, representation_size)."""
        return x if self.representation is None else torch.tanh(self.representation(x))

    def classify(self, features: Tensor) -> Tensor | dict[str, Tensor]:
        """Apply the heads to features: (B, K), or head → (B, K) if the config names heads or has none."""
        # Heads may be in float32 where the rest is not: see `vivit.inference.prepare`.
        features = features.to(next(self.heads.parameters(), features).dtype)
        logits = {name: head(features) for name, head in self.heads.items()}
        return logits[ONLY_HEAD] if self.config.num_classes else logits

    @torch.no_grad()
    def initialise(self, position_std: float = 0.02) -> None:
        """Draw fresh weights as the official code does. All initialisation is here, or called from here.

        Attention and MLP kernels are Xavier-uniform (queries, keys and values as separate kernels), MLP biases
        N(0, 1e-6²), positions N(0, `position_std`²), class tokens zero. The embedding and the representation layer
        have Flax's default (LeCun normal). Heads are zero, so training starts from equal logits. An adapter's `up` is
        zero, so it starts as the identity.
        """
        if self.embedding.weight.is_meta:  # weights will be loaded: nothing to draw
            return
        draw_weights([self.embedding, self.encoder], position_std)
        if self.representation is not None:
            lecun_normal_(self.representation)
        if self.pooler is not None:
            self.pooler.initialise()
        for parameter in self.heads.parameters():
            nn.init.zeros_(parameter)


def draw_weights(parts: Sequence[nn.Module], position_std: float) -> None:
    """Draw fresh weights for all embeddings, positions, attention, MLPs, norms and adapters; see `initialise`."""
    modules = [module for part in parts for module in part.modules()]
    for module in modules:
        if isinstance(module, TubeletEmbedding):
            lecun_normal_(module)
        elif isinstance(module, Positions):
            nn.init.normal_(module.embedding, std=position_std)
            if module.class_token is not None and module.class_position is not None:
                nn.init.zeros_(module.class_token)
                nn.init.normal_(module.class_position, std=position_std)
        elif isinstance(module, SelfAttention):
            # The fused matrix is (3 D, D), but each of its three kernels counts as a (D, D) one.
            bound = math.sqrt(6 / (2 * module.proj.in_features))
            nn.init.uniform_(module.qkv.weight, -bound, bound)
            nn.init.xavier_uniform_(module.proj.weight)
            nn.init.zeros_(module.qkv.bias)
            nn.init.zeros_(module.proj.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, Adapter):
            nn.init.xavier_uniform_(module.down.weight)
            for zero in (module.down.bias, module.up.weight, module.up.bias):
                nn.init.zeros_(zero)
    for module in modules:  # after all others: a seed's weights depend on the order of the draws
        if isinstance(module, MLP):
            for layer in (module.fc1, module.fc2):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.normal_(layer.bias, std=1e-6)


def lecun_normal_(layer: nn.Linear | TubeletEmbedding) -> None:
    """Weights from a normal truncated at two deviations, with variance 1 / inputs, and zero biases (Flax's default)."""
    # Truncation lowers the variance; the constant is the deviation of a truncated unit normal.
    deviation = math.sqrt(1 / layer.weight[0].numel()) / 0.87962566103423978
    nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    nn.init.zeros_(layer.bias)
