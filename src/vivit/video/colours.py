"""Change the colours of a clip, the same for all frames: (T, 3, H, W) uint8 RGB to the same, on any device.

Functions of single bytes are tables of 256 entries: exact, and cheap whatever they compute. RandAugment's operations
are Pillow's (ImageOps, ImageEnhance), with statistics over the whole clip, as in the official code (Scenic,
dataset_lib/video_ops.py), so that brightness does not flicker.
"""

import torch
from torch import Tensor


def _byte_values(clip: Tensor) -> Tensor:
    return torch.arange(256, device=clip.device)


def _look_up(table: Tensor, clip: Tensor) -> Tensor:
    """Replace each byte by its entry in a table: (256,), or (3, 256) with a row for each channel."""
    index = clip.int()
    if table.ndim == 2:
        index += 256 * torch.arange(3, dtype=torch.int32, device=clip.device).view(3, 1, 1)
    return table.clamp(0, 255).to(torch.uint8).flatten().index_select(0, index.flatten()).view(clip.shape)


def _blend(base: Tensor, values: Tensor, factor: float) -> Tensor:
    """`base` at factor 0, `values` at factor 1, extrapolated beyond; rounded down, as in Pillow."""
    base = base.float()
    return values.float().sub_(base).mul_(factor).add_(base).clamp_(0, 255).to(torch.uint8)


def _luma(clip: Tensor) -> Tensor:
    """(T, H, W) int32, 0 to 255: ITU-R 601-2 luma in Pillow's 16-bit fixed point, the same on every device."""
    red, green, blue = clip.int().unbind(1)
    return (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16


def grey(clip: Tensor) -> Tensor:
    return _luma(clip).to(torch.uint8).unsqueeze(1).expand_as(clip).contiguous()


def autocontrast(clip: Tensor) -> Tensor:
    """Scale each channel so that its darkest value in the clip becomes 0 and its brightest 255."""
    darkest, brightest = clip.amin((0, 2, 3)).int(), clip.amax((0, 2, 3)).int()
    spread = (brightest - darkest).unsqueeze(1)
    scaled = (_byte_values(clip) - darkest.unsqueeze(1)).clamp(min=0) * 255 // spread.clamp(min=1)
    return _look_up(torch.where(spread > 0, scaled, _byte_values(clip)), clip)


def equalise(clip: Tensor) -> Tensor:
    """Map each channel so that its values in the clip are spread evenly."""
    histogram = torch.stack([torch.bincount(clip[:, channel].flatten(), minlength=256) for channel in range(3)])
    total = histogram.sum(1, keepdim=True)
    of_brightest = histogram.gather(1, clip.amax((0, 2, 3)).long().unsqueeze(1))
    step = (total - of_brightest) // 255
    below = histogram.cumsum(1) - histogram
    spread = (below + step // 2) // step.clamp(min=1)
    return _look_up(torch.where(step > 0, spread, _byte_values(clip)), clip)


def invert(clip: Tensor) -> Tensor:
    return 255 - clip


def posterise(clip: Tensor, bits: int) -> Tensor:
    """Keep the highest `bits` (1 to 8) of each value."""
    return clip & (0xFF << (8 - bits) & 0xFF)


def solarise(clip: Tensor, threshold: int) -> Tensor:
    """Invert values at or above the threshold; above 255: none."""
    values = _byte_values(clip)
    return _look_up(torch.where(values < threshold, values, 255 - values), clip)


def solarise_add(clip: Tensor, addition: int) -> Tensor:
    """Add to the darker half of the values."""
    values = _byte_values(clip)
    return _look_up(torch.where(values < 128, values + addition, values), clip)


def colour(clip: Tensor, factor: float) -> Tensor:
    """Change saturation: factors above 1 move away from grey, below 1 towards it."""
    return _blend(_luma(clip).unsqueeze(1), clip, factor)


def contrast(clip: Tensor, factor: float) -> Tensor:
    """Change contrast: factors above 1 move away from the clip's mean luma, below 1 towards it.

    Unlike here and in Pillow, the official code uses the number of pixels divided by 256 for the mean, so it moves
    every clip of usual size towards or away from white.
    """
    luma = _luma(clip)
    mean = (2 * luma.sum() + luma.numel()) // (2 * luma.numel())  # rounded to the nearest
    return _look_up(_blend(mean, _byte_values(clip), factor), clip)


def brightness(clip: Tensor, factor: float) -> Tensor:
    """Change brightness: factors above 1 move away from black, below 1 towards it."""
    values = _byte_values(clip)
    return _look_up(_blend(torch.zeros_like(values), values, factor), clip)


def sharpness(clip: Tensor, factor: float) -> Tensor:
    """Change sharpness: factors above 1 move away from the blurred frame, below 1 towards it. Border pixels stay.

    Unlike here, the official code stacks the frames into one tall image, and blurs across their borders.
    """
    values = clip.short()
    rows = (values[..., :-2, :] + values[..., 1:-1, :]).add_(values[..., 2:, :])
    weighted = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:]).add_(values[..., 1:-1, 1:-1], alpha=4)
    blurred = (weighted + 6).float().div_(13).floor_()  # weights 1, and 5 in the middle; rounded to the nearest
    sharpened = clip.clone()
    sharpened[..., 1:-1, 1:-1] = _blend(blurred, clip[..., 1:-1, 1:-1], factor)
    return sharpened


def cut_out(clip: Tensor, centre: tuple[int, int], half: int) -> Tensor:
    """Draw a black square with sides of 2 · `half` pixels around (row, column), cropped to the frame."""
    row, column = centre
    cut = clip.clone()
    cut[..., max(0, row - half) : row + half, max(0, column - half) : column + half] = 0
    return cut


def jitter(clip: Tensor, brightness: float, saturation: float, contrast: float, hue: float) -> Tensor:
    """Apply four changes in this order; clip and round once at the end.

    As in the official pipeline (DMVR, processors.color_default_augm), whose strengths are `JITTER` in augment.py.

    Args:
        brightness: added to every value; 1 turns black into white.
        saturation: factor of the saturation in HSV; the result is at most 1.
        contrast: factor of the distance from the mean of the frame's channel.
        hue: the fraction of the colour circle by which every hue turns.
    """
    values = clip.float() + 255 * brightness
    brightest, darkest = values.amax(1, keepdim=True), values.amin(1, keepdim=True)
    # Saturation is their difference divided by the brightest; 0 if that is not above black.
    most = brightest.clamp(min=0) / (brightest - darkest).clamp(min=1e-6)
    values = values.sub_(brightest).mul_(most.clamp_(max=saturation)).add_(brightest)
    mean = values.mean((2, 3), keepdim=True)
    values = values.sub_(mean).mul_(contrast).add_(mean)
    return _turn_hue(values, hue).round_().clamp_(0, 255).to(torch.uint8)


def _turn_hue(values: Tensor, turn: float) -> Tensor:
    """Turn every hue by a fraction of the circle; the smallest and largest channel values stay the same."""
    red, green, blue = values.unbind(1)
    darkest, brightest = values.amin(1), values.amax(1)
    chroma = brightest - darkest
    scale = 1 / chroma.clamp(min=1e-6)
    # The hue in sixths of the circle, from red.
    sixths = torch.where(brightest == green, (blue - red) * scale + 2, (red - green) * scale + 4)
    sixths = torch.where(brightest == red, (green - blue) * scale, sixths)
    sixths = sixths.add_(6 * turn).remainder_(6)
    fractions = torch.stack([(sixths - 3).abs_() - 1, 2 - (sixths - 2).abs_(), 2 - (sixths - 4).abs_()], dim=1)
    return fractions.clamp_(0, 1).mul_(chroma.unsqueeze(1)).add_(darkest.unsqueeze(1))
