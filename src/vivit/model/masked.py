"""Masked autoencoding: the encoder sees some tubes of a clip, and a light decoder predicts the pixels of the others.

This is VideoMAE (Tong et al. 2022, arXiv 2203.12602) for models 1 and 2. A tube is one spatial position at all temporal
indices: if a position were hidden at only some of them, its neighbours in time would reveal it.

Shapes: B batch, T temporal positions, S spatial positions, V of them visible and S − V hidden, D width of the encoder,
W width of the decoder, P = C · t · h · w pixels of a tubelet.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vivit.config import ModelConfig
from vivit.model.embedding import CHANNELS, Positions
from vivit.model.encoder import Block, Encoder, layer_norm
from vivit.model.vivit import FactorisedEncoder, ViViT, draw_weights

HEAD_SIZE = 32  # of the decoder's attention
POSITION_STD = 0.3  # so that positions are about as large as tokens from the start
EPSILON = 1e-2  # added to a tubelet's deviation: the noise in a plain surface is not worth predicting


class MaskedAutoencoder(nn.Module):
    """A ViViT without a head, and a decoder that is trained with it and not needed afterwards.

    In model 1 the decoder attends over all tokens of a clip. In model 2 it decodes each temporal index alone, from the
    spatial encoder's visible tokens of this index and two outputs of the temporal encoder: the one for this index, and
    the one for the clip, which a head would classify. Whatever the decoder knows of other indices has thus passed
    through the temporal encoder; a decoder that saw the spatial encoder's tokens of all indices could bypass it.
    """

    def __init__(self, model: ViViT, decoder_layers: int, decoder_size: int) -> None:
        """
        Args:
            model: trained in place.
            decoder_layers: at least 1.
            decoder_size: width of the decoder, a multiple of HEAD_SIZE.

        Raises:
            ValueError: the model is neither model 1 nor model 2.
        """
        super().__init__()
        if model.config.variant not in ("spatiotemporal", "factorised_encoder"):
            raise ValueError(f"masked tubes need model 1 or 2, not {model.config.variant.replace('_', ' ')}")
        times, rows, columns = model.config.grid
        self.places = rows * columns
        self.model = model
        self.decoder = Decoder(model.config, (times, self.places), decoder_layers, decoder_size)

    def forward(self, video: Tensor, visible: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the hidden tubes from the visible ones.

        Args:
            video: (B, frames, C, height, width) of the configured size; floating point in [−1, 1], or uint8.
            visible: (B, V) int64, spatial positions in row-major order.
            hidden: (B, S − V), the others.

        Returns:
            The predicted pixels and the true ones, `normalised`; both (B, T, S − V, P).
        """
        tubelets = self.model.embedding.tubelets(video).flatten(2, 3)  # (B, T, S, P)
        tokens = self.model.embedding.embed(_at(tubelets, visible))  # (B, T, V, D)
        firsts = self.places * torch.arange(tokens.shape[1], device=tokens.device)[:, None]
        seen, unseen = (firsts + places[:, None] for places in (visible, hidden))  # (B, T, V) in the grid of (T, S)
        encoder = self.model.encoder
        if isinstance(encoder, FactorisedEncoder):
            summary, x = encode_factorised(encoder, tokens, visible)
            seen, unseen = seen.flatten(0, 1), unseen.flatten(0, 1)  # (B · T, V)
        else:
            assert isinstance(encoder, Encoder)
            seen, unseen = seen.flatten(1), unseen.flatten(1)  # (B, T · V)
            x = encoder.encode(encoder.positions(tokens.flatten(1, 2), seen), clips=len(tokens))
            summary, x = x.split([x.shape[1] - seen.shape[1], seen.shape[1]], dim=1)
        pixels = normalised(_at(tubelets, hidden))
        return self.decoder(summary, x, seen, unseen).view_as(pixels), pixels

    @torch.no_grad()
    def reconstruct(self, video: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """The clip, the clip with hidden tubes grey, and the clip with predicted tubes.

        Predictions have no brightness and contrast: each tubelet gets the true ones. Takes the arguments of `forward`.

        Returns:
            (3, B, frames, C, height, width) in [−1, 1]; only the sampled frames if the model samples frames.
        """
        tubelets = self.model.embedding.tubelets(video)  # (B, T, n_h, n_w, P)
        predicted, _ = self(video, visible, hidden)
        mean, deviation = statistics(_at(tubelets.flatten(2, 3), hidden))
        guessed = predicted.float().unflatten(-1, (CHANNELS, -1)) * (deviation + EPSILON) + mean
        clips = [self._clip(tubelets)]
        for filling in (torch.zeros_like(predicted), guessed.flatten(-2)):
            filled = tubelets.flatten(2, 3).clone()
            places = hidden[:, None, :, None].expand_as(filling)
            clips.append(self._clip(filled.scatter_(2, places, filling.to(filled.dtype)).view_as(tubelets)))
        return torch.stack(clips).clamp(-1, 1)

    def _clip(self, tubelets: Tensor) -> Tensor:
        """(B, T, n_h, n_w, P) → (B, frames, C, height, width)."""
        t, h, w = self.model.config.tubelet_size
        x = tubelets.unflatten(-1, (CHANNELS, t, h, w)).permute(0, 1, 5, 4, 2, 6, 3, 7)
        # (B, T, n_h, n_w, C, t, h, w) → (B, T, t, C, n_h, h, n_w, w)
        return x.flatten(6, 7).flatten(4, 5).flatten(1, 2)


def encode_factorised(encoder: FactorisedEncoder, tokens: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Encode the visible tokens (B, T, V, D).

    Returns:
        (B · T, 2, D), the temporal encoder's outputs for the index and for the clip; and (B · T, V, D), the spatial
        encoder's tokens.
    """
    batch, times, count, _ = tokens.shape
    places = visible.repeat_interleave(times, dim=0)  # (B · T, V)
    x = encoder.spatial.encode(encoder.spatial.positions(tokens.flatten(0, 1), places), clips=batch)
    over_time = encoder.spatial.pool(x).view(batch, times, -1)
    if encoder.temporal is None:
        of_clip = over_time.mean(dim=1)
    else:
        over_time = encoder.temporal.all_tokens(encoder.adapted(over_time))
        of_clip = encoder.temporal.pool(over_time)
    of_indices = over_time[:, -times:]
    summary = torch.stack([of_indices, of_clip[:, None].expand_as(of_indices)], dim=2)  # (B, T, 2, D)
    return summary.flatten(0, 1), x[:, -count:]


class Decoder(nn.Module):
    """A few narrow layers over visible tokens and over a learned token at each hidden position."""

    def __init__(self, config: ModelConfig, grid: tuple[int, int], layers: int, size: int) -> None:
        """
        Args:
            config: of the encoder.
            grid: (T, S).
        """
        super().__init__()
        rates = dict.fromkeys(("dropout", "attention_dropout", "stochastic_depth"), 0.0)
        sizes = {"hidden_size": size, "num_heads": size // HEAD_SIZE, "mlp_dim": 4 * size}
        narrow = config.model_copy(update={"variant": "spatiotemporal", **sizes, **rates})
        self.narrow = nn.Linear(config.hidden_size, size)
        self.mask_token = nn.Parameter(torch.empty(size))
        self.positions = Positions(grid, size, class_token=False)
        self.blocks = nn.ModuleList(Block(narrow, 0.0) for _ in range(layers))
        self.norm = layer_norm(narrow)
        self.pixels = nn.Linear(size, CHANNELS * math.prod(config.tubelet_size))
        draw_weights([self], POSITION_STD)
        nn.init.normal_(self.mask_token, std=POSITION_STD)
        nn.init.normal_(self.pixels.weight, std=0.02)  # so that the first predictions are nearly flat
        nn.init.zeros_(self.pixels.bias)

    def forward(self, summary: Tensor, x: Tensor, seen: Tensor, unseen: Tensor) -> Tensor:
        """Predict the pixels of the hidden tubelets.

        Args:
            summary: (R, any number, D), tokens without a position.
            x: (R, N, D), the visible tokens.
            seen, unseen: (R, N) and (R, M), the positions of visible and hidden tokens in the grid.

        Returns:
            (R, M, P).
        """
        rows, count = unseen.shape
        masks = self.positions(self.mask_token.expand(rows, count, -1), unseen)
        x = torch.cat([self.narrow(summary), self.positions(self.narrow(x), seen), masks], dim=1)
        for block in self.blocks:
            x = block(x, rows)
        return self.pixels(self.norm(x[:, x.shape[1] - count :]))


def normalised(pixels: Tensor) -> Tensor:
    """Each tubelet's pixels (…, C · t · h · w) with mean 0 and deviation 1 in each channel.

    A flat prediction then has a loss of 1 for every tubelet, whatever its brightness and contrast.
    """
    mean, deviation = statistics(pixels)
    return ((pixels.float().unflatten(-1, (CHANNELS, -1)) - mean) / (deviation + EPSILON)).flatten(-2)


def statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each tubelet's channels: (…, C · t · h · w) → 2 × (…, C, 1)."""
    channels = pixels.float().unflatten(-1, (CHANNELS, -1))
    mean = channels.mean(dim=-1, keepdim=True)
    return mean, (channels - mean).square().mean(dim=-1, keepdim=True).sqrt()


def tubes(rngs: Sequence[np.random.Generator], places: int, mask_ratio: float) -> tuple[Tensor, Tensor]:
    """Draw the visible and the hidden spatial positions of each clip: (B, V) and (B, S − V), sorted.

    The hidden fraction is `mask_ratio`, rounded to whole tubes; at least one tube is visible.
    """
    visible = max(1, places - round(mask_ratio * places))
    orders = torch.from_numpy(np.stack([rng.permutation(places) for rng in rngs]))
    return orders[:, :visible].sort(dim=1).values, orders[:, visible:].sort(dim=1).values


def _at(tubelets: Tensor, places: Tensor) -> Tensor:
    """The tubelets (B, T, S, P) at these spatial positions (B, V): (B, T, V, P)."""
    batch, times, _, width = tubelets.shape
    return tubelets.gather(2, places[:, None, :, None].expand(batch, times, -1, width))
