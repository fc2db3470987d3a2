"""From a video to tokens: tubelets or uniformly sampled frames, then positions and a class token (paper, section 3.2).

Shapes: B batch, T temporal positions, n_h × n_w = S spatial positions, N tokens, D width;
video (B, frames, C, height, width).
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vivit.config import ModelConfig, uniform_frame_indices

CHANNELS = 3
LARGEST_PIXEL = 1.01  # tolerates rounding


class TubeletEmbedding(nn.Module):
    """A linear map of each tubelet of frames × height × width pixels: a 3-D convolution whose stride is its kernel.

    It runs as one matrix product, several times faster than a convolution; `weight` keeps the convolution's shape
    (D, C, frames, height, width). Uniform frame sampling uses tubelets of one frame, over the sampled frames.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tubelet_size = config.tubelet_size
        self.clip_size = (config.num_frames, CHANNELS, *config.image_size)
        self.sampled_frames = sampled = config.sampled_frames
        self.frame_indices = None if sampled is None else uniform_frame_indices(config.num_frames, sampled)
        self.weight = nn.Parameter(torch.empty(config.hidden_size, CHANNELS, *config.tubelet_size))
        self.bias = nn.Parameter(torch.empty(config.hidden_size))
        self._range_is_known = False

    def forward(self, video: Tensor, any_size: bool = False) -> Tensor:
        """Embed a clip.

        Args:
            video: (B, frames, C, height, width), floating point in [−1, 1] or uint8.
            any_size: also take clips of other sizes, if they consist of whole tubelets.

        Returns:
            Tokens, (B, T, n_h, n_w, D).

        Raises:
            ValueError: the clip does not have the configured size, does not consist of whole tubelets, or holds
                integers other than uint8.
        """
        return self.embed(self.tubelets(video, any_size))

    def embed(self, tubelets: Tensor) -> Tensor:
        """The linear map: pixels of tubelets in the order of the kernel (…, C · t · h · w) → tokens (…, D)."""
        return F.linear(tubelets, self.weight.flatten(1), self.bias)

    def tubelets(self, video: Tensor, any_size: bool = False) -> Tensor:
        """The pixels of each tubelet, in [−1, 1]: (B, T, n_h, n_w, C · t · h · w). Takes the arguments of `forward`."""
        t, h, w = self.tubelet_size
        if video.ndim != 5 or video.shape[2] != CHANNELS or (not any_size and video.shape[1:] != self.clip_size):
            raise ValueError(
                f"the model takes clips (batch, frames, channels, height, width) = (B, "
                f"{', '.join(map(str, self.clip_size))}), not {tuple(video.shape)}"
            )
        if video.dtype != torch.uint8:
            if not video.is_floating_point():
                raise ValueError(f"pixels are uint8, or floating point in [-1, 1], not {video.dtype}")
            if not self._range_is_known and not torch.compiler.is_compiling() and not torch.jit.is_tracing():
                self._warn_of_range(video)
        if self.sampled_frames is not None and self.frame_indices is not None:
            indices, frames = self.frame_indices, video.shape[1]
            if frames < self.sampled_frames:
                raise ValueError(f"cannot take {self.sampled_frames} frames from a clip of {frames}")
            if frames != self.clip_size[0]:
                indices = uniform_frame_indices(frames, self.sampled_frames)
            video = video[:, indices]
        frames, _, height, width = video.shape[1:]
        if frames % t or height % h or width % w or 0 in (frames, height, width):
            raise ValueError(
                f"a clip of {frames} × {height} × {width} does not divide into tubelets of {t} × {h} × {w} (frames, "
                "height, width)"
            )
        return self.cut(video)

    def cut(self, frames: Tensor) -> Tensor:
        """Like `tubelets`, for frames that are already sampled, checked and divisible into whole tubelets."""
        t, h, w = self.tubelet_size
        batch, count, channels, height, width = frames.shape
        tubelets = frames.view(batch, count // t, t, channels, height // h, h, width // w, w)
        # (B, T, t, C, n_h, h, n_w, w) → (B, T, n_h, n_w, C, t, h, w): pixels in the order of the kernel
        tubelets = tubelets.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(4)
        if tubelets.dtype == torch.uint8:
            # Convert after the copy above, which then moves a quarter of the bytes; 16 bits would round pixels twice.
            wide = torch.promote_types(self.weight.dtype, torch.float32)
            tubelets = tubelets.to(wide).mul_(2 / 255).sub_(1)
        return tubelets.to(self.weight.dtype)

    def _warn_of_range(self, video: Tensor) -> None:
        """Warn once if floats are not in [−1, 1]. On a GPU, check only the first clips: a check synchronises."""
        try:
            low, high = (bound.item() for bound in video.detach().aminmax())
        except RuntimeError:  # no values to check: an empty or meta tensor, or one inside torch.func
            return
        inside = low >= -LARGEST_PIXEL and high <= LARGEST_PIXEL  # False for NaN
        self._range_is_known = not inside or video.device.type != "cpu"
        if not inside:
            warnings.warn(
                f"pixels range from {low:.4g} to {high:.4g}; the model takes floats in [-1, 1], or uint8", stacklevel=2
            )


class TokenDropping(nn.Module):
    """Drops a random fraction of each row's tokens in training; every row keeps the same number, in order.

    A row is a clip, or in the factorised encoder one temporal index of a clip. Models that attend over time at each
    spatial position drop whole positions, so that the remaining tokens still form a grid.
    """

    def __init__(self, rate: float) -> None:
        """rate: the fraction of tokens to drop, in [0, 1); at least one token is kept."""
        super().__init__()
        self.rate = rate

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) → (B, kept, D); or (B, T, S, D) → (B, T, kept, D), the same spatial positions at all times."""
        if not self.training or self.rate == 0.0:
            return tokens
        batch, *times, count, width = tokens.shape
        kept = max(1, round((1 - self.rate) * count))
        chosen = torch.rand(batch, count, device=tokens.device).argsort(dim=1)[:, :kept].sort(dim=1).values
        chosen = chosen.view(batch, *[1] * len(times), kept, 1).expand(-1, *times, -1, width)
        return tokens.gather(-2, chosen)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class Positions(nn.Module):
    """Adds a learned position embedding to every token, then prepends a class token with a position of its own.

    Tokens are dropped between these two steps, so that each has its position and the class token always stays.
    `embedding` keeps its axes, (T, n_h, n_w, D) or fewer, so that it can be resized along each of them.
    """

    def __init__(self, grid: tuple[int, ...], width: int, class_token: bool, token_dropping: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(*grid, width))
        self.class_token = nn.Parameter(torch.empty(width)) if class_token else None
        self.class_position = nn.Parameter(torch.empty(width)) if class_token else None
        self.token_dropping = TokenDropping(token_dropping)

    def forward(self, tokens: Tensor, places: Tensor | None = None) -> Tensor:
        """Add positions and the class token.

        Args:
            tokens: (B, *grid, D), where the embedding is resized to the grid; or with `places`, (B, N, D).
            places: (B, N), the index of each token in the configured grid, in row-major order. None: all are present.

        Returns:
            (B, N, D), or (B, 1 + N, D) with a class token.
        """
        if places is None:
            tokens = tokens + resize_positions(self.embedding, tokens.shape[1:-1])
            tokens = self.token_dropping(tokens.flatten(1, -2))
        else:
            tokens = tokens + self.embedding.flatten(0, -2)[places]
        if self.class_token is None or self.class_position is None:
            return tokens
        class_token = (self.class_token + self.class_position).expand(tokens.shape[0], 1, -1)
        return torch.cat([class_token, tokens], dim=1)


def resize_positions(embedding: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Interpolate position embeddings linearly along every axis, with corners aligned.

    This is what the official code does (Scenic: `model_utils.interpolate_positional_embeddings`).

    Args:
        embedding: (*old grid, D), with one to three axes before D.
        grid: the new lengths of those axes.

    Returns:
        (*grid, D); unchanged values if the grid is the same.
    """
    for axis, length in enumerate(grid):
        if embedding.shape[axis] != length:
            rows = embedding.movedim(axis, -1)
            leading = rows.shape[:-1]
            rows = F.interpolate(rows.reshape(1, -1, rows.shape[-1]), length, mode="linear", align_corners=True)
            embedding = rows.view(*leading, length).movedim(-1, axis)
    return embedding.contiguous()
