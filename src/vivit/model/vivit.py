"""ViViT: the four models of the paper side by side (Arnab et al. 2021, section 3.3, figures 3 to 6).

Shapes: B batch, T temporal positions, n_h × n_w = S spatial positions, N tokens, D width, K classes;
video (B, frames, C, height, width).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vivit.config import ModelConfig, Preprocessing, Variant
from vivit.model.attention import SelfAttention
from vivit.model.embedding import Positions, TokenDropping, TubeletEmbedding
from vivit.model.encoder import GELU, MLP, Encoder, layer_norm


class SpatiotemporalEncoder(Encoder):
    """Model 1: every token attends to every other, over space and time."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, config.grid, config.num_layers, token_dropping=config.token_dropping)


class FactorisedEncoder(nn.Module):
    """Model 2: a spatial encoder sees each temporal index alone, then a temporal encoder sees its outputs.

    Without temporal layers the outputs are averaged: the paper's average-pooling baseline.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        times, *places = config.grid
        self.spatial = Encoder(config, tuple(places), config.num_layers, token_dropping=config.token_dropping)
        self.temporal = Encoder(config, (times,), config.temporal_layers) if config.temporal_layers else None
        self.adapter = Adapter(config, config.adapter_size) if config.adapter_size else None

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, n_h, n_w, D) → (B, D)."""
        return self.over_time(self.over_space(tokens))

    def over_space(self, tokens: Tensor) -> Tensor:
        """Encode each temporal index: (B, T, n_h, n_w, D) → (B, T, D)."""
        batch = tokens.shape[0]
        x = self.spatial(tokens.flatten(0, 1), clips=batch)  # (B, T, n_h, n_w, D) → (B · T, D)
        return x.unflatten(0, (batch, -1))  # (B · T, D) → (B, T, D)

    def over_time(self, x: Tensor) -> Tensor:
        """Encode the outputs of the spatial encoder: (B, T, D) → (B, D)."""
        if self.temporal is None:
            return x.mean(dim=1)
        if self.adapter is not None:
            x = self.adapter(x)
        return self.temporal(x)


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
        x = self.positions(tokens).view_as(tokens).flatten(2, 3)  # (B, T, n_h, n_w, D) → (B, T, S, D)
        return self.encode(self.token_dropping(x), clips or x.shape[0]).mean(dim=(1, 2))


ENCODERS: dict[Variant, type[nn.Module]] = {
    "spatiotemporal": SpatiotemporalEncoder,
    "factorised_encoder": FactorisedEncoder,
    "factorised_self_attention": FactorisedAttentionEncoder,
    "factorised_dot_product": FactorisedAttentionEncoder,
}


class ViViT(nn.Module):
    """A video classifier: tokens, one of the four models, and a head (or several) on its representation.

    `classes` (the labels of each head, in order) and `preprocessing` travel with the weights, so that whoever loads
    them can prepare videos and name what is predicted.
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
            classes: head → its labels; a model with `num_classes` has the one head "classes".
            preprocessing: what the weights expect; by default the paper's, in proportion to the crop.
            origin: where the weights come from, a line for each step; saved with them.

        Raises:
            ValueError: `classes` does not fit the heads.
        """
        super().__init__()
        self.config = config
        self.preprocessing = preprocessing or Preprocessing.of_crop(config.image_size)
        self.classes = None if classes is None else {head: tuple(names) for head, names in classes.items()}
        self.origin = tuple(origin)
        self.report: tuple[str, ...] = ()
        """What the loader that made this model had to do to fit it, a line each; empty where it took all as it was."""
        class_counts = config.class_counts
        if self.classes is not None and {head: len(names) for head, names in self.classes.items()} != class_counts:
            given = {head: len(names) for head, names in self.classes.items()}
            raise ValueError(f"classes: names for {given} given, but the heads of the model are {class_counts}")

        if self.classes is not None and not all(isinstance(x, str) for names in self.classes.values() for x in names):
            raise ValueError("classes: names are needed, as text")
        for head in class_counts:
            if hasattr(nn.ModuleDict(), head):
                raise ValueError(f"heads: {head!r} is a name that PyTorch uses itself; choose another")

        self.embedding = TubeletEmbedding(config)
        self.encoder = ENCODERS[config.variant](config)
        width = config.hidden_size
        self.representation: nn.Linear | None = None
        if config.representation_size is not None:
            self.representation = nn.Linear(width, config.representation_size)
            width = config.representation_size
        self.heads = nn.ModuleDict({head: nn.Linear(width, count) for head, count in class_counts.items()})
        self.initialise()

    def features(self, video: Tensor, any_size: bool = False) -> Tensor:
        """The clip's representation, before the head.

        Args:
            video: (B, frames, 3, height, width) of the configured size; floating point in [−1, 1], or uint8.
            any_size: take a clip of any whole number of tubelets; position embeddings are resized to it, along time,
                height and width, at every call. `vivit.adapt` does it once.

        Returns:
            (B, D), or (B, representation_size) where the config has one.

        Raises:
            ValueError: the clip is of another size, or with `any_size` not of whole tubelets.
        """
        return self.represent(self.encoder(self.embedding(video, any_size)))

    def forward(self, video: Tensor, any_size: bool = False) -> Tensor | dict[str, Tensor]:
        """Logits (never probabilities) of each clip: (B, K), or head → (B, K) where the config names heads.

        The arguments are those of `features`.
        """
        return self.classify(self.features(video, any_size))

    def represent(self, x: Tensor) -> Tensor:
        """The tanh layer, where the config has one, on what the model gives: (B, D) → (B, representation_size)."""
        return x if self.representation is None else torch.tanh(self.representation(x))

    def classify(self, features: Tensor) -> Tensor | dict[str, Tensor]:
        """The heads on what `features` gives: (B, K), or head → (B, K) where the config names heads."""
        logits = {name: head(features) for name, head in self.heads.items()}
        return logits if self.config.heads else logits["classes"]

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        licence: str | None = None,
        data: str | None = None,
        scores: Mapping[str, float] | None = None,
    ) -> None:
        """Write a model folder: config.json and model.safetensors, all that `vivit.load` needs, and a model card.

        Args:
            licence: of the weights, as the Hub names licences; this and the next are for the card.
            data: what the model was trained on.
            scores: metric → value between 0 and 1.

        Raises:
            UserError: the folder cannot be written; what stood there then stays.
        """
        # Files are another room's matter, which imports this one.
        from vivit.weights.store import save

        save(self, folder, licence=licence, data=data, scores=scores)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        licence: str | None = None,
        data: str | None = None,
        scores: Mapping[str, float] | None = None,
    ) -> str:
        """Save the model, as `save_pretrained` does, to a repository on the Hub, made if need be; returns its address.

        Raises:
            UserError: no access, or no connection.
        """
        from vivit.weights.hub import push

        return push(self, repo_id, private=private, token=token, licence=licence, data=data, scores=scores)

    @torch.no_grad()
    def initialise(self, position_std: float = 0.02) -> None:
        """Draw fresh weights, as the official code does; all initialisation is here.

        Attention and MLP kernels are Xavier-uniform (queries, keys, values and each head's output in one), MLP biases
        N(0, 1e-6²), positions N(0, `position_std`²), class tokens zero, and the heads zero, so that training starts
        from equal logits. An adapter's way up is zero, so that it starts as if it were not there. The embedding and the
        representation layer are Flax's default (LeCun normal).
        """
        if self.embedding.weight.is_meta:  # built to be filled with weights: there is nothing to draw
            return
        for module in self.modules():
            if isinstance(module, TubeletEmbedding):
                lecun_normal_(module.weight)
                nn.init.zeros_(module.bias)
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
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, Adapter):
                nn.init.xavier_uniform_(module.down.weight)
                for zero in (module.down.bias, module.up.weight, module.up.bias):
                    nn.init.zeros_(zero)
        for module in self.modules():
            if isinstance(module, MLP):
                for layer in (module.fc1, module.fc2):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.normal_(layer.bias, std=1e-6)
        if self.representation is not None:
            lecun_normal_(self.representation.weight)
            nn.init.zeros_(self.representation.bias)
        for parameter in self.heads.parameters():
            nn.init.zeros_(parameter)


def lecun_normal_(weight: Tensor) -> None:
    """A normal truncated at two deviations, with variance 1 / inputs (Flax: `linear.default_kernel_init`)."""
    # The truncation takes some of the variance away; the constant is the deviation of a truncated unit normal.
    deviation = math.sqrt(1 / weight[0].numel()) / 0.87962566103423978
    nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)
