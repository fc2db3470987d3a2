"""What can be read from a clip: the kinds of features, all made of the tokens of the model's last encoder.

These are the tokens after the encoder's final LayerNorm, as `all_tokens` gives them: first the class token, if there is
one, then those of each temporal index in turn. A factorised encoder's are those of its temporal encoder, one for each
temporal index. Without temporal layers they are the spatial encoder's, and each temporal index has a class token.

Shapes: B clips, N tokens, C class tokens, T temporal positions, S spatial tokens, D width.
"""

from typing import Literal

from torch import Tensor

from vivit.errors import UserError
from vivit.inference.exported import ExportedModel
from vivit.model.vivit import FactorisedEncoder, ViViT

What = Literal["head", "token", "pooled", "temporal", "tokens"]
"""Kinds of features.

- head: what the heads read, as `ViViT.features`: (D,) or (representation_size,);
- token: the class token; without temporal layers, the mean of those of the temporal indices: (D,);
- pooled: the mean of all tokens but the class token: (D,);
- temporal: for each temporal index, the mean of its tokens but the class token: (T, D);
- tokens: all tokens, with the class token: (N, D).
"""


def check_what(model: ViViT | ExportedModel, what: What) -> None:
    """Raise UserError if a model does not have these features."""
    if isinstance(model, ExportedModel):
        raise UserError("an exported model gives scores only; for features, give the model that it was made from")
    if what == "token" and model.config.pooling != "token":
        raise UserError("what: the model has no class token; choose head, pooled, temporal or tokens")


def read_tokens(model: ViViT, tokens: Tensor, what: What) -> Tensor:
    """Features of clips from all tokens of the model's last encoder: (B, N, D) → (B, …)."""
    if what == "tokens":
        return tokens
    if what == "head":
        return model.represent(_head(model, tokens))
    classes, others = _split(model, tokens)
    if what == "temporal":
        return others.mean(dim=2)
    return classes.mean(dim=1) if what == "token" else others.mean(dim=(1, 2))


def _head(model: ViViT, tokens: Tensor) -> Tensor:
    """What the representation layer or the heads read: (B, N, D) → (B, D)."""
    if model.pooler is not None:
        return model.pooler(tokens, model.config.grid[0])
    return read_tokens(model, tokens, "token" if model.config.pooling == "token" else "pooled")


def _split(model: ViViT, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The class tokens and the others: (B, N, D) → (B, C, D), (B, T, S, D)."""
    times, with_class = model.config.grid[0], model.config.pooling == "token"
    if with_class and isinstance(model.encoder, FactorisedEncoder) and model.encoder.temporal is None:
        each = tokens.unflatten(1, (times, -1))  # (B, T · (1 + S), D) → (B, T, 1 + S, D)
        return each[:, :, 0], each[:, :, 1:]
    count = int(with_class)
    return tokens[:, :count], tokens[:, count:].unflatten(1, (times, -1))
