"""Clips in pieces that a model encodes one by one, so that a piece that several clips share is encoded once.

In the factorised encoder the pieces are the temporal indices: its spatial encoder sees each alone and does not know
where it is in the clip. In the other models every token sees the whole clip, which is then the only piece.

Shapes: B clips, P pieces of a clip, N pieces of any clips, t frames of a piece, T temporal positions, S spatial tokens,
D width, K classes.
"""

import torch
from torch import Tensor

from vivit.labels import by_head
from vivit.model.vivit import FactorisedEncoder, ViViT


class Pieces:
    """A model in two parts: `encode` sees one piece of a clip, and `join` what it made of all pieces."""

    def __init__(self, model: ViViT) -> None:
        self.model = model
        frames, tubelet = range(model.config.num_frames), model.embedding.tubelet_size[0]
        self._factorised = model.encoder if isinstance(model.encoder, FactorisedEncoder) else None
        if self._factorised is not None:
            sampled = model.embedding.frame_indices or frames
            pieces = [tuple(sampled[at : at + tubelet]) for at in range(0, len(sampled), tubelet)]
        else:
            pieces = [tuple(frames)]
        self.frames: tuple[tuple[int, ...], ...] = tuple(pieces)
        """For each piece of a clip, which of the clip's frames it consists of."""

    def encode(self, frames: Tensor) -> Tensor:
        """(N, t, C, H, W) of the model's size → (N, …)."""
        if self._factorised is None:
            return self.model.features(frames)
        embedding, spatial = self.model.embedding, self._factorised.spatial
        tokens = embedding.embed(embedding.cut(frames)).flatten(0, 1)  # (N, 1, n_h, n_w, D) → (N, n_h, n_w, D)
        # Attentive pooling without a temporal encoder attends to the spatial one's tokens.
        every = self.model.pooler is not None and self._factorised.temporal is None
        return spatial.all_tokens(tokens) if every else spatial(tokens)  # (N, S, D) or (N, D)

    def join(self, encoded: Tensor) -> dict[str, Tensor]:
        """What `encode` made of the P pieces of each clip, (B, P, …) → head → logits (B, K)."""
        model, encoder, pooler = self.model, self._factorised, self.model.pooler
        if encoder is None:
            return dict(by_head(model.classify(encoded.squeeze(1))))
        if pooler is None:
            x = encoder.over_time(encoded)
        elif encoder.temporal is None:
            x = pooler(encoded.flatten(1, 2), encoded.shape[1])  # (B, T, S, D) → (B, T · S, D) → (B, D)
        else:
            x = pooler(encoder.all_over_time(encoded), encoded.shape[1])
        return dict(by_head(model.classify(model.represent(x))))

    def logits(self, clips: Tensor) -> dict[str, Tensor]:
        """head → the logits of clips (B, frames, C, H, W) on the CPU; equal pieces among them are encoded once."""
        device = self.model.embedding.weight.device
        pieces = clips[:, torch.tensor(self.frames)].flatten(0, 1)  # (B, frames, …) → (B, P, t, …) → (B · P, t, …)
        first, which = distinct(pieces)
        if len(first) == len(pieces):
            return dict(by_head(self.model(clips.to(device))))
        return self.join(self.encode(pieces[first].to(device))[which].unflatten(0, (len(clips), -1)))


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
