"""Changes of colour, each the same for every frame of a clip: uint8 (T, 3, H, W) RGB in, the same out, on any device.

What depends on one byte alone is a table of 256 bytes, so it is exact and costs little whatever it computes. The
operations of RandAugment are those of Pillow (ImageOps, ImageEnhance), but statistics are of the whole clip, as the
official code takes them (Scenic, dataset_lib/video_ops.py), so that the brightness of the frames does not flicker.
"""

import torch
from torch import Tensor


def _byte_values(clip: Tensor) -> Tensor:
    return torch.arange(256, device=clip.device)


def _look_up(table: Tensor, clip: Tensor) -> Tensor:
    """Each byte's entry in a table: (256,), or (3, 256) with a row for each channel."""
    index = clip.int()
    if table.ndim == 2:
        index += 256 * torch.arange(3, dtype=torch.int32, device=clip.device).view(3, 1, 1)
    return table.clamp(0, 255).to(torch.uint8).flatten().index_select(0, index.flatten()).view(clip.shape)


def _blend(base: Tensor, values: Tensor, factor: float) -> Tensor:
    """`base` where the factor is 0, `values` where it is 1, and past them beyond; rounded down, as in Pillow."""
    base = base.float()
    return values.float().sub_(base).mul_(factor).add_(base).clamp_(0, 255).to(torch.uint8)


def _luma(clip: Tensor) -> Tensor:
    """(T, H, W) int32, 0 to 255: ITU-R 601-2 luma in the 16-bit fixed point of Pillow, the same on every device."""
    red, green, blue = clip.int().unbind(1)
    return (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16


def grey(clip: Tensor) -> Tensor:
    return _luma(clip).to(torch.uint8).unsqueeze(1).expand_as(clip).contiguous()


def autocontrast(clip: Tensor) -> Tensor:
    """Each channel stretched so that its darkest value in the clip is 0 and its brightest 255."""
    darkest, brightest = clip.amin((0, 2, 3)).int(), clip.amax((0, 2, 3)).int()
    spread = (brightest - darkest).unsqueeze(1)
    stretched = (_byte_values(clip) - darkest.unsqueeze(1)).clamp(min=0) * 255 // spread.clamp(min=1)
    return _look_up(torch.where(spread > 0, stretched, _byte_values(clip)), clip)


def equalise(clip: Tensor) -> Tensor:
    """Each channel mapped so that its values in the clip are spread evenly."""
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
    """The highest `bits` of each value, 1 to 8."""
    return clip & (0xFF << (8 - bits) & 0xFF)


def solarise(clip: Tensor, threshold: int) -> Tensor:
    """Values from the threshold on inverted; past 255 that is none."""
    values = _byte_values(clip)
    return _look_up(torch.where(values < threshold, values, 255 - values), clip)


def solarise_add(clip: Tensor, addition: int) -> Tensor:
    """The darker half of the values made brighter by so much."""
    values = _byte_values(clip)
    return _look_up(torch.where(values < 128, values + addition, values), clip)


def colour(clip: Tensor, factor: float) -> Tensor:
    """Away from grey (above 1) or towards it."""
    return _blend(_luma(clip).unsqueeze(1), clip, factor)


def contrast(clip: Tensor, factor: float) -> Tensor:
    """Away from the clip's mean luma (above 1) or towards it.

    The official code divides the number of pixels by 256 where Pillow has the mean, and so turns every clip of a usual
    size towards or away from white; here it is the mean.
    """
    luma = _luma(clip)
    mean = (2 * luma.sum() + luma.numel()) // (2 * luma.numel())  # rounded to the nearest
    return _look_up(_blend(mean, _byte_values(clip), factor), clip)


def brightness(clip: Tensor, factor: float) -> Tensor:
    """Away from black (above 1) or towards it."""
    values = _byte_values(clip)
    return _look_up(_blend(torch.zeros_like(values), values, factor), clip)


def sharpness(clip: Tensor, factor: float) -> Tensor:
    """Away from the blurred frame (above 1) or towards it; the outermost pixels stay.

    The official code stacks the frames to one tall image, and blurs across their seams; here each is on its own.
    """
    values = clip.short()
    rows = (values[..., :-2, :] + values[..., 1:-1, :]).add_(values[..., 2:, :])
    weighted = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:]).add_(values[..., 1:-1, 1:-1], alpha=4)
    blurred = (weighted + 6).float().div_(13).floor_()  # weights 1, and 5 in the middle; rounded to the nearest
    sharpened = clip.clone()
    sharpened[..., 1:-1, 1:-1] = _blend(blurred, clip[..., 1:-1, 1:-1], factor)
    return sharpened


def cut_out(clip: Tensor, centre: tuple[int, int], half: int) -> Tensor:
    """A black square of twice `half` pixels a side around (row, column), as much of it as lies in the frame."""
    row, column = centre
    cut = clip.clone()
    cut[..., max(0, row - half) : row + half, max(0, column - half) : column + half] = 0
    return cut


def jitter(clip: Tensor, brightness: float, saturation: float, contrast: float, hue: float) -> Tensor:
    """Four changes in this order, clipped and rounded once at the end.

    As in the official pipeline (DMVR, processors.color_default_augm), whose strengths are `JITTER` in augment.py.

    Args:
        brightness: added to every value; 1 is from black to white.
        saturation: factor of the saturation in HSV, whose product stays at most 1.
        contrast: factor of the distance from the mean of the frame's channel.
        hue: by how much of the colour circle every hue turns.
    """
    values = clip.float() + 255 * brightness
    brightest, darkest = values.amax(1, keepdim=True), values.amin(1, keepdim=True)
    # The saturation is their distance over the brightest, and 0 where nothing is brighter than black.
    most = brightest.clamp(min=0) / (brightest - darkest).clamp(min=1e-6)
    values = values.sub_(brightest).mul_(most.clamp_(max=saturation)).add_(brightest)
    mean = values.mean((2, 3), keepdim=True)
    values = values.sub_(mean).mul_(contrast).add_(mean)
    return _turn_hue(values, hue).round_().clamp_(0, 255).to(torch.uint8)


def _turn_hue(values: Tensor, turn: float) -> Tensor:
    """Every hue further by a share of the circle, with the least and the greatest channel as they were."""
    red, green, blue = values.unbind(1)
    darkest, brightest = values.amin(1), values.amax(1)
    chroma = brightest - darkest
    scale = 1 / chroma.clamp(min=1e-6)
    # The hue in sixths of the circle, from red.
    sixths = torch.where(brightest == green, (blue - red) * scale + 2, (red - green) * scale + 4)
    sixths = torch.where(brightest == red, (green - blue) * scale, sixths)
    sixths = sixths.add_(6 * turn).remainder_(6)
    shares = torch.stack([(sixths - 3).abs_() - 1, 2 - (sixths - 2).abs_(), 2 - (sixths - 4).abs_()], dim=1)
    return shares.clamp_(0, 1).mul_(chroma.unsqueeze(1)).add_(darkest.unsqueeze(1))
