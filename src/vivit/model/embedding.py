"""From a video to tokens: tubelets or uniformly sampled frames, then positions and a class token (paper, section 3.2).

Shapes: B batch, T temporal positions, n_h × n_w = S spatial positions, N tokens, D width;
video (B, frames, C, height, width).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vivit.config import ModelConfig, uniform_frame_indices

CHANNELS = 3


class TubeletEmbedding(nn.Module):
    """A linear map of every frames × height × width tube of pixels: a 3-D convolution whose stride is its kernel.

    It runs as one matrix product, which is several times faster than a convolution; `weight` keeps the convolution's
    shape (D, C, frames, height, width). Uniform frame sampling is the case of one-frame tubes over chosen frames.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tubelet_size = config.tubelet_size
        self.clip_size = (config.num_frames, CHANNELS, *config.image_size)
        self.sampled_frames = config.sampled_frames
        self.frame_indices = (
            None if config.sampled_frames is None else uniform_frame_indices(config.num_frames, config.sampled_frames)
        )
        self.weight = nn.Parameter(torch.empty(config.hidden_size, CHANNELS, *config.tubelet_size))
        self.bias = nn.Parameter(torch.empty(config.hidden_size))

    def forward(self, video: Tensor, any_size: bool = False) -> Tensor:
        """Embed a clip.

        Args:
            video: (B, frames, C, height, width), floating point in [−1, 1] or uint8.
            any_size: take clips of another size than the configured one, of whole tubelets.

        Returns:
            Tokens, (B, T, n_h, n_w, D).

        Raises:
            ValueError: the clip is not of the size that the model was built for, or not of whole tubelets.
        """
        t, h, w = self.tubelet_size
        if video.ndim != 5 or video.shape[2] != CHANNELS or (not any_size and video.shape[1:] != self.clip_size):
            raise ValueError(
                f"the model takes clips (batch, frames, channels, height, width) = (B, "
                f"{', '.join(map(str, self.clip_size))}), not {tuple(video.shape)}"
            )
        if self.sampled_frames is not None and self.frame_indices is not None:
            indices, frames = self.frame_indices, video.shape[1]
            if frames < self.sampled_frames:
                raise ValueError(f"{self.sampled_frames} frames cannot be taken from a clip of {frames}")
            if frames != self.clip_size[0]:
                indices = uniform_frame_indices(frames, self.sampled_frames)
            video = video[:, indices]
        batch, frames, channels, height, width = video.shape
        if frames % t or height % h or width % w or 0 in (frames, height, width):
            raise ValueError(
                f"a clip of {frames} × {height} × {width} is not of whole tubelets of {t} × {h} × {w} (frames, height, "
                "width)"
            )
        tubes = video.view(batch, frames // t, t, channels, height // h, h, width // w, w)
        # (B, T, t, C, n_h, h, n_w, w) → (B, T, n_h, n_w, C, t, h, w): each tube's pixels as the kernel has them
        tubes = tubes.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(4)
        if tubes.dtype == torch.uint8:
            # The copy above moves bytes, and only then do they become four times as large.
            tubes = tubes.to(self.weight.dtype).mul_(2 / 255).sub_(1)
        return F.linear(tubes, self.weight.flatten(1), self.bias)


class TokenDropping(nn.Module):
    """Drops a share of the tokens in training, drawn for each row: as many of each, and the order stays.

    A row is a clip, or in the factorised encoder one temporal index of a clip. Where attention goes along time at each
    place, whole places are dropped, so that a grid is left.
    """

    def __init__(self, share: float) -> None:
        """share: of the tokens that are dropped, from 0 to less than 1; one token is kept in any case."""
        super().__init__()
        self.share = share

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) → (B, kept, D); or (B, T, S, D) → (B, T, kept, D), the same places at all times of a clip."""
        if not self.training or self.share == 0.0:
            return tokens
        batch, *times, count, width = tokens.shape
        kept = max(1, round((1 - self.share) * count))
        chosen = torch.rand(batch, count, device=tokens.device).argsort(dim=1)[:, :kept].sort(dim=1).values
        chosen = chosen.view(batch, *[1] * len(times), kept, 1).expand(-1, *times, -1, width)
        return tokens.gather(-2, chosen)

    def extra_repr(self) -> str:
        return f"share={self.share}"


class Positions(nn.Module):
    """Adds a learned position embedding to every token, and a class token with a position of its own before them.

    Tokens that are dropped in training are so in between: they have their positions by then, and the class token stays.
    `embedding` keeps its axes, (T, n_h, n_w, D) or fewer, so that it can be resized along each.
    """

    def __init__(self, grid: tuple[int, ...], width: int, class_token: bool, token_dropping: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(*grid, width))
        self.class_token = nn.Parameter(torch.empty(width)) if class_token else None
        self.class_position = nn.Parameter(torch.empty(width)) if class_token else None
        self.token_dropping = TokenDropping(token_dropping)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, *axes, D) → (B, N, D), or (B, 1 + N, D) with a class token; another grid than ours resizes ours to it."""
        tokens = tokens + resize_positions(self.embedding, tokens.shape[1:-1])
        tokens = self.token_dropping(tokens.flatten(1, -2))
        if self.class_token is None or self.class_position is None:
            return tokens
        class_token = (self.class_token + self.class_position).expand(len(tokens), 1, -1)
        return torch.cat([class_token, tokens], dim=1)


def resize_positions(embedding: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Interpolate position embeddings linearly along every axis, corner to corner; never through a √N × √N square.

    That is how the official code does it (Scenic: `model_utils.interpolate_positional_embeddings`).

    Args:
        embedding: (*old grid, D), with one to three axes before D.
        grid: the new lengths of those axes.

    Returns:
        (*grid, D); the very same values where the grid stays.
    """
    for axis, length in enumerate(grid):
        if embedding.shape[axis] != length:
            rows = embedding.movedim(axis, -1)
            leading = rows.shape[:-1]
            rows = F.interpolate(rows.reshape(1, -1, rows.shape[-1]), length, mode="linear", align_corners=True)
            embedding = rows.view(*leading, length).movedim(-1, axis)
    return embedding.contiguous()
