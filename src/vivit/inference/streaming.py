"""A model over the frames of a long or endless video: one window of frames after another.

What windows share is computed once and kept as long as a later window may need it, see `vivit.inference.pieces`: of a
factorised encoder, the spatial representation of each tubelet. Windows share tubelets if their starts differ by a
multiple of the tubelet's frames times the frame stride. Other models, and exported ones, compute each window anew.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vivit.inference.exported import ExportedModel
from vivit.inference.pieces import Pieces
from vivit.inference.tokens import What
from vivit.inference.views import BATCH, clip_spec
from vivit.model.embedding import CHANNELS
from vivit.model.vivit import ViViT
from vivit.video.augment import resized
from vivit.video.clips import ClipSpec, clip_indices, view_crops

Piece = tuple[int, ...]
"""The numbers of its frames in the video."""
# Pieces that are encoded at once.
MOST_PIECES = 64


@dataclass(frozen=True)
class Window:
    """A model's outputs for a clip."""

    start: int
    """The number of its first frame, counted from 0."""
    logits: dict[str, Tensor]
    """head → (K,) float32 on the CPU."""
    features: Tensor | None = None
    """(…) float32 on the CPU, if they are wanted."""


class Stream:
    """The windows of a video whose frames arrive in parts.

    They are the clips that `vivit predict` takes, one at every `step`-th frame. One more window ends with the video, so
    no frame is left out; a video shorter than a window gives one window, looped or padded as the model's preprocessing
    says. Memory holds the frames of a window, those that wait for a batch, and the encoded pieces of a window.
    """

    def __init__(self, model: ViViT | ExportedModel, step: int, batch: int = 1, what: What | None = None) -> None:
        """
        Args:
            model: in eval mode.
            step: frames from the start of a window to the start of the next.
            batch: windows that are computed together: 1 has the lowest latency, more have a higher throughput.
            what: the features wanted besides the logits, see `vivit.inference.tokens`.

        Raises:
            UserError: the model does not have these features.
        """
        if step < 1 or batch < 1:
            raise ValueError(f"step and batch are at least 1, not {step} and {batch}")
        self.step, self.batch = step, batch
        self.spec = spec = clip_spec(model)
        self.span = span_of(spec)
        """Frames from the first to the last of a window, both counted; with a stride of 2 it uses every second one."""
        self._pieces = Pieces(model, what)
        self._encoded: dict[Piece, Tensor] = {}
        self._frames: list[Tensor] = []  # (C, H, W) each; the first has the number `_dropped`
        self._dropped = 0
        self._next = 0  # the start of the next window

    @property
    def count(self) -> int:
        """Frames that have arrived."""
        return self._dropped + len(self._frames)

    def push(self, frames: Tensor) -> list[Window]:
        """Take the next frames; returns the windows that they complete.

        Args:
            frames: (N, C, H, W) uint8 RGB of any size, N of any number. They are scaled and cropped to the model's
                size; frames from `Video.frames(…, short_side=spec.resize)` give exactly the clips of `vivit predict`.
        """
        # Copied, so that keeping a frame does not keep all others that arrived with it in memory.
        self._frames += [frame.clone() for frame in _fitted(frames, self.spec)]
        found: list[Window] = []
        while self._next + (self.batch - 1) * self.step + self.span <= self.count:
            found += self._windows([self._next + number * self.step for number in range(self.batch)])
        return found

    def finish(self) -> list[Window]:
        """The remaining windows at the end of the video: those that wait for their batch, and the last one."""
        last = max(0, self.count - self.span)
        if not self.count or self._next == last + self.step:
            return []
        return self._windows([*range(self._next, last, self.step), last])

    def _windows(self, starts: Sequence[int]) -> list[Window]:
        spec, known = self.spec, self._encoded
        clips = [clip_indices(self.count, spec.num_frames, spec.stride, start, spec.short) for start in starts]
        windows = [[tuple(clip[frame] for frame in piece) for piece in self._pieces.frames] for clip in clips]
        with torch.inference_mode():
            new = list(dict.fromkeys(piece for pieces in windows for piece in pieces if piece not in known))
            for at in range(0, len(new), MOST_PIECES):
                some = new[at : at + MOST_PIECES]
                known.update(zip(some, self._encode(some), strict=True))
            encoded = torch.stack([torch.stack([known[piece] for piece in pieces]) for pieces in windows])
            joined = self._pieces.join(encoded)
            logits = {head: values.float().cpu() for head, values in joined.logits.items()}
            features = None if joined.features is None else joined.features.float().cpu()
        self._next = starts[-1] + self.step
        self._forget()
        return [
            Window(
                start,
                {head: values[number] for head, values in logits.items()},
                None if features is None else features[number],
            )
            for number, start in enumerate(starts)
        ]

    def _encode(self, pieces: Sequence[Piece]) -> Tensor:
        frames = [torch.stack([self._frames[number - self._dropped] for number in piece]) for piece in pieces]
        return self._pieces.encode(torch.stack(frames).to(self._pieces.device))

    def _forget(self) -> None:
        """Drop what no later window can need; if the video ends here, its last window ends here too."""
        keep = max(self._dropped, min(self._next, self.count - self.span))
        del self._frames[: keep - self._dropped]
        self._dropped = keep
        self._encoded = {piece: made for piece, made in self._encoded.items() if min(piece) >= keep}


def windows(
    model: ViViT | ExportedModel, frames: Iterable[Tensor], step: int, batch: int = BATCH, what: What | None = None
) -> Iterator[Window]:
    """The windows of a video from its frames, which come in any number of parts; see `Stream`."""
    stream = Stream(model, step, batch, what)
    for some in frames:
        yield from stream.push(some)
    yield from stream.finish()


@dataclass(frozen=True)
class WindowCost:
    """The cost of a window in the middle of a video, in multiply-adds of matrix products."""

    shared: int
    """If what it shares with earlier windows is reused."""
    alone: int
    """If nothing is reused."""


def window_cost(model: ViViT, step: int) -> WindowCost:
    """Count the cost of a window, with windows at every `step`-th frame. It uses shapes alone and computes nothing."""
    spec = clip_spec(model)
    with torch.device("meta"):
        pieces = Pieces(ViViT(model.config).eval())
        frames = torch.empty(1, len(pieces.frames[0]), CHANNELS, *spec.size, dtype=torch.uint8)
    with torch.no_grad():
        with FlopCounterMode(display=False) as of_piece:
            encoded = pieces.encode(frames)
        with FlopCounterMode(display=False) as of_joining:
            pieces.join(encoded[None].expand(-1, len(pieces.frames), *encoded.shape[1:]))
    each, joining = of_piece.get_total_flops() // 2, of_joining.get_total_flops() // 2
    # Pieces are where they are in the first window, shifted. Those of this window that an earlier one had:
    places = {piece[0] * spec.stride for piece in pieces.frames}
    earlier = {place - back for place in places for back in range(step, span_of(spec), step)}
    return WindowCost(len(places - earlier) * each + joining, len(places) * each + joining)


def span_of(spec: ClipSpec) -> int:
    """Frames from the first to the last of a clip, both counted."""
    return (spec.num_frames - 1) * spec.stride + 1


def _fitted(frames: Tensor, spec: ClipSpec) -> Tensor:
    """Scale and crop frames as for `vivit predict`: (N, C, H, W) → (N, C, *spec.size)."""
    height, width = frames.shape[-2:]
    scale = spec.resize / min(height, width)
    frames = resized(frames, (max(1, round(height * scale)), max(1, round(width * scale))))
    return view_crops(frames, spec.size, 1)[0]
