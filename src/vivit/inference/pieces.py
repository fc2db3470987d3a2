"""Split clips into pieces that a model encodes separately, so that pieces shared by several clips are encoded once.

In the factorised encoder the pieces are the temporal indices: its spatial encoder sees each alone and does not know
where it is in the clip. In the other models every token sees the whole clip, which is then the only piece; likewise in
an exported model.

Shapes: B clips, P pieces of a clip, N pieces of any clips, t frames of a piece, T temporal positions, S spatial tokens,
D width, K classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vivit.inference.exported import ExportedModel
from vivit.inference.tokens import What, check_what, read_tokens
from vivit.labels import by_head
from vivit.model.vivit import FactorisedEncoder, ViViT


class Joined(NamedTuple):
    """A model's outputs for clips."""

    logits: dict[str, Tensor]
    """head → (B, K)."""
    features: Tensor | None
    """(B, …), if they are wanted."""


class Pieces:
    """A model in two parts: `encode` takes single pieces, and `join` combines the encoded pieces of each clip."""

    def __init__(self, model: ViViT | ExportedModel, what: What | None = None) -> None:
        """
        Args:
            what: the features wanted besides the logits, see `vivit.inference.tokens`.

        Raises:
            UserError: the model does not have these features.
        """
        if what is not None:
            check_what(model, what)
        self.model, self.what = model, what
        frames = range(model.config.num_frames)
        self._factorised: tuple[ViViT, FactorisedEncoder] | None = None
        self.frames: tuple[tuple[int, ...], ...] = (tuple(frames),)
        """For each piece of a clip, which of the clip's frames it consists of."""
        if isinstance(model, ViViT) and isinstance(model.encoder, FactorisedEncoder):
            self._factorised = model, model.encoder
            tubelet, sampled = model.embedding.tubelet_size[0], model.embedding.frame_indices or frames
            self.frames = tuple(tuple(sampled[at : at + tubelet]) for at in range(0, len(sampled), tubelet))

    @property
    def device(self) -> torch.device:
        """Where the model is; an exported one takes clips on the CPU."""
        return self.model.embedding.weight.device if isinstance(self.model, ViViT) else torch.device("cpu")

    def encode(self, frames: Tensor) -> Tensor:
        """(N, t, C, H, W) of the model's size → (N, …): what `join` needs of each piece."""
        if self._factorised is None:
            if self.what is not None and isinstance(self.model, ViViT):
                return self.model.encoder.all_tokens(self.model.embedding(frames))  # (N, all tokens, D)
            return torch.cat(list(by_head(self.model(frames)).values()), dim=1)  # (N, all classes)
        model, encoder = self._factorised
        tokens = model.embedding.embed(model.embedding.cut(frames)).squeeze(1)  # (N, 1, n_h, n_w, D) → (N, n_h, …)
        # Without a temporal encoder, features and attentive pooling are made of the spatial one's tokens.
        every = encoder.temporal is None and not (model.pooler is None and self.what is None)
        return encoder.spatial.all_tokens(tokens) if every else encoder.spatial(tokens)  # (N, S, D) or (N, D)

    def join(self, encoded: Tensor) -> Joined:
        """Combine the P encoded pieces of each clip: (B, P, …)."""
        if self.what is not None and isinstance(self.model, ViViT):
            tokens = self._tokens(encoded)
            features = read_tokens(self.model, tokens, "head")
            logits = dict(by_head(self.model.classify(features)))
            return Joined(logits, features if self.what == "head" else read_tokens(self.model, tokens, self.what))
        if self._factorised is None:
            counts = self.model.config.class_counts
            logits = dict(zip(counts, encoded.squeeze(1).split(list(counts.values()), dim=1), strict=True))
            return Joined(logits, None)
        model, encoder = self._factorised
        if model.pooler is None:
            x = encoder.over_time(encoded)
        else:
            x = model.pooler(self._tokens(encoded), encoded.shape[1])
        return Joined(dict(by_head(model.classify(model.represent(x)))), None)

    def _tokens(self, encoded: Tensor) -> Tensor:
        """All tokens of the last encoder: (B, P, …) → (B, all tokens, D)."""
        if self._factorised is not None and self._factorised[1].temporal is not None:
            return self._factorised[1].all_over_time(encoded)
        return encoded.flatten(1, 2)  # (B, T, S, D) → (B, T · S, D), or (B, 1, N, D) → (B, N, D)

    def logits(self, clips: Tensor) -> dict[str, Tensor]:
        """head → the logits of clips (B, frames, C, H, W) on the CPU; equal pieces among them are encoded once."""
        pieces = clips[:, torch.tensor(self.frames)].flatten(0, 1)  # (B, frames, …) → (B, P, t, …) → (B · P, t, …)
        first, which = distinct(pieces)
        if len(first) == len(pieces):
            return dict(by_head(self.model(clips.to(self.device))))
        return self.join(self.encode(pieces[first].to(self.device))[which].unflatten(0, (len(clips), -1))).logits


def distinct(rows: Tensor) -> tuple[list[int], list[int]]:
    """The indices of the rows that differ from all before them, and for each row which of these it equals."""
    seen: dict[bytes, int] = {}
    first: list[int] = []
    which: list[int] = []
    for index, row in enumerate(rows.numpy()):
        number = seen.setdefault(row.tobytes(), len(seen))
        if number == len(first):
            first.append(index)
        which.append(number)
    return first, which
