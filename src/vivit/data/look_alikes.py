"""Finds videos with the same content but different bytes, from small grey pictures of three frames of each."""

import base64
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 12
BRIGHTNESS = (0.299, 0.587, 0.114)
"""Weights of red, green and blue, ITU-R BT.601."""
# The largest root mean square difference of two pictures of the same content, in grey levels from 0 to 255. Videos
# re-encoded with other codecs and sizes mostly differ by less; at another frame rate, fast motion may differ by more.
NEAR = 5.0
# A picture with a smaller standard deviation, such as a black one, looks like any other flat picture.
FLAT = 4.0
# Two versions of a video may differ in length by this many seconds plus this fraction.
SECONDS, FRACTION = 0.1, 0.02
# Pictures, and pairs, to compare at once.
_BLOCK, _PAIRS = 512, 8192


def thumbnails(frames: Tensor) -> str:
    """Three RGB frames, (3, 3, H, W) uint8, as base64 of (3, SIDE, SIDE) uint8."""
    # Codecs keep brightness better than colour.
    brightness = torch.einsum("c,nchw->nhw", torch.tensor(BRIGHTNESS), frames.float())
    grey = F.adaptive_avg_pool2d(brightness, SIDE).round().byte()
    return base64.b64encode(grey.numpy().tobytes()).decode("ascii")


def look_alikes(pictures: Sequence[str], durations: Sequence[float]) -> list[list[int]]:
    """Group videos with the same content. Returns ascending indices into the arguments.

    Two videos belong together if at least two of their three pictures match and their lengths are about equal. The
    third picture may be at a cut or in fast motion, where two versions never show exactly the same moment.

    Args:
        pictures: from `thumbnails`.
        durations: seconds.
    """
    if len(pictures) < 2:
        return []
    stored = b"".join(base64.b64decode(text) for text in pictures)
    pixels = np.frombuffer(stored, np.uint8).reshape(len(pictures), 3, SIDE * SIDE).astype(np.float32)
    lengths = np.asarray(durations)
    groups = _Groups(len(pictures))
    # If two of three match, one of the first two does.
    for place in (0, 1):
        _join_near(pixels, lengths, place, groups)
    return groups.of_several()


def _join_near(pixels: np.ndarray, lengths: np.ndarray, place: int, groups: "_Groups") -> None:
    """Join videos whose pictures match at this place and at another one.

    Projected on any axis, two points are no further apart than in space. So each is compared only with its neighbours
    along the axis with the largest variance, not with all others.
    """
    contrasted = np.flatnonzero(pixels[:, place].std(axis=1) >= FLAT)
    if len(contrasted) < 2:
        return
    points = pixels[contrasted, place]
    points -= points.mean(axis=0)
    axis = np.linalg.eigh(points.T @ points)[1][:, -1]
    order = np.argsort(points @ axis)
    points, videos = points[order], contrasted[order]
    along, squares = points @ axis, (points**2).sum(axis=1)
    radius = NEAR * SIDE
    for first in range(0, len(points), _BLOCK):
        last = min(first + _BLOCK, len(points))
        end = int(np.searchsorted(along, along[last - 1] + radius, side="right"))
        distances = squares[first:last, None] + squares[first:end] - 2 * points[first:last] @ points[first:end].T
        # Allow for rounding; the exact comparison follows.
        ones, others = np.nonzero(np.triu(distances <= radius**2 + 10.0, 1))
        ones, others = videos[first + ones], videos[first + others]
        for some in range(0, len(ones), _PAIRS):
            one, other = ones[some : some + _PAIRS], others[some : some + _PAIRS]
            # If many are alike, a few pairs join them all, and the other pairs need no comparison.
            apart = groups.root[one] != groups.root[other]
            one, other = one[apart], other[apart]
            same = _show_the_same(pixels, lengths, one, other)
            groups.join(one[same], other[same])


def _show_the_same(pixels: np.ndarray, lengths: np.ndarray, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compare pairs exactly: (pairs,) bool."""
    longer = np.maximum(lengths[ones], lengths[others])
    same = np.abs(lengths[ones] - lengths[others]) <= SECONDS + FRACTION * longer
    candidates = np.flatnonzero(same)
    one, other = pixels[ones[candidates]], pixels[others[candidates]]  # (pairs, 3, pixels)
    near = np.sqrt(((one - other) ** 2).mean(axis=2)) <= NEAR
    same[candidates] = (near & (one.std(axis=2) >= FLAT)).sum(axis=1) >= 2
    return same


class _Groups:
    """Disjoint sets of numbers, joined pair by pair."""

    def __init__(self, count: int) -> None:
        self.root = np.arange(count)
        """For each number, the smallest number in its group."""
        self._members = {number: [number] for number in range(count)}

    def join(self, ones: np.ndarray, others: np.ndarray) -> None:
        for one, other in zip(ones.tolist(), others.tolist(), strict=True):
            low, high = sorted((int(self.root[one]), int(self.root[other])))
            if low != high:
                moved = self._members.pop(high)
                self.root[moved] = low
                self._members[low] += moved

    def of_several(self) -> list[list[int]]:
        return [sorted(members) for _, members in sorted(self._members.items()) if len(members) > 1]
