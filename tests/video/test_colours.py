"""Compare changes of colour with Pillow, on all frames as one tall picture, and with colorsys, pixel by pixel."""

import colorsys
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from vivit.video import colours


def smooth(frames: int = 3, height: int = 40, width: int = 56, seed: int = 0) -> Tensor:
    """(T, 3, H, W): waves with noise, so that histograms are uneven; each frame has other extremes."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    clip = [
        [100 + 20 * t + 60 * np.sin(rows / (5 + c) + t) * np.cos(columns / (7 + t) + c) for c in range(3)]
        for t in range(frames)
    ]
    return torch.from_numpy((np.array(clip) + rng.normal(0, 6, (frames, 3, height, width))).clip(3, 250)).byte()


def noise(frames: int = 3, height: int = 24, width: int = 31) -> Tensor:
    """Colours of all kinds, with black, white and the pure ones."""
    clip = np.random.default_rng(1).integers(0, 256, (frames, 3, height, width), dtype=np.uint8)
    corners = np.array(np.meshgrid([0, 255], [0, 255], [0, 255])).reshape(3, 8)
    clip[0, :, 0, :8] = corners
    return torch.from_numpy(clip)


def tall(clip: Tensor) -> Image.Image:
    """The frames, one below the other."""
    return Image.fromarray(np.ascontiguousarray(clip.permute(0, 2, 3, 1).flatten(0, 1).numpy()))


def clip_of(picture: Image.Image, frames: int) -> Tensor:
    pixels = torch.from_numpy(np.array(picture))
    return pixels.unflatten(0, (frames, -1)).permute(0, 3, 1, 2)


def furthest(one: Tensor, other: Tensor) -> int:
    assert one.dtype == other.dtype == torch.uint8 and one.shape == other.shape
    return int((one.int() - other.int()).abs().max())


Change = Callable[[Tensor], Tensor]
PillowChange = Callable[[Image.Image], Image.Image]


def enhanced(enhance: Callable[[Image.Image], ImageEnhance._Enhance], factor: float) -> PillowChange:
    return lambda picture: enhance(picture).enhance(factor)


EXACT: dict[str, tuple[Change, PillowChange]] = {
    "equalise": (colours.equalise, ImageOps.equalize),
    "invert": (colours.invert, ImageOps.invert),
    "grey": (colours.grey, lambda picture: picture.convert("L").convert("RGB")),
}
for bits in (1, 4, 6, 8):
    EXACT[f"posterise {bits}"] = partial(colours.posterise, bits=bits), partial(ImageOps.posterize, bits=bits)
for threshold in (0, 77, 128, 256, 384):
    EXACT[f"solarise {threshold}"] = (
        partial(colours.solarise, threshold=threshold),
        partial(ImageOps.solarize, threshold=threshold),
    )
for name, change, enhance in (
    ("colour", colours.colour, ImageEnhance.Color),
    ("contrast", colours.contrast, ImageEnhance.Contrast),
    ("brightness", colours.brightness, ImageEnhance.Brightness),
):
    for factor in (0.0, 0.1, 0.64, 1.0, 1.9, 2.8, 3.7):
        EXACT[f"{name} {factor}"] = partial(change, factor=factor), enhanced(enhance, factor)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("clip", [smooth(), noise()], ids=["smooth", "noise"])
def test_the_same_bytes_as_pillow_on_all_frames_as_one_picture(name: str, clip: Tensor) -> None:
    change, pillow = EXACT[name]
    before = clip.clone()
    assert furthest(change(clip), clip_of(pillow(tall(clip)), len(clip))) == 0
    assert torch.equal(clip, before)


@pytest.mark.parametrize("factor", [0.1, 1.0, 1.9, 2.8, 3.7])
def test_sharpness_is_pillows_of_each_frame(factor: float) -> None:
    for clip in (smooth(), noise()):
        frames = [clip_of(ImageEnhance.Sharpness(tall(frame[None])).enhance(factor), 1) for frame in clip]
        assert furthest(colours.sharpness(clip, factor), torch.cat(frames)) == 0


@pytest.mark.parametrize("size", [(1, 9), (2, 2), (3, 1)])
def test_sharpness_leaves_frames_without_inner_pixels(size: tuple[int, int]) -> None:
    clip = noise()[..., : size[0], : size[1]]
    assert torch.equal(colours.sharpness(clip, 2.8), clip)


def test_autocontrast_is_pillows_within_its_rounding_and_exact_in_whole_numbers() -> None:
    clip = smooth()
    scaled = colours.autocontrast(clip)
    assert furthest(scaled, clip_of(ImageOps.autocontrast(tall(clip)), len(clip))) <= 1
    for channel in range(3):
        values = clip[:, channel].numpy().astype(int)
        expected = (values - values.min()) * 255 // (values.max() - values.min())
        assert np.array_equal(scaled[:, channel].numpy(), expected)


@pytest.mark.parametrize("change", [colours.autocontrast, colours.equalise])
def test_a_channel_of_one_value_stays(change: Change) -> None:
    clip = smooth()
    clip[:, 1] = 77
    changed = change(clip)
    assert (changed[:, 1] == 77).all()
    assert not torch.equal(changed[:, 0], clip[:, 0])


def test_solarise_add_brightens_the_darker_half() -> None:
    clip = torch.tensor([0, 20, 89, 90, 127, 128, 255], dtype=torch.uint8).expand(2, 3, 1, 7)
    assert colours.solarise_add(clip, 165)[1, 2, 0].tolist() == [165, 185, 254, 255, 255, 128, 255]


def test_cut_out_is_black_within_the_square_in_every_frame() -> None:
    clip = noise(height=20, width=30) | 1
    for centre, rows, columns in (((10, 12), (6, 14), (8, 16)), ((1, 28), (0, 5), (24, 30)), ((0, 0), (0, 4), (0, 4))):
        black = np.zeros((20, 30), bool)
        black[slice(*rows), slice(*columns)] = True
        cut = colours.cut_out(clip, centre, 4)
        expected = torch.where(torch.from_numpy(black), torch.zeros_like(clip), clip)
        assert torch.equal(cut, expected)


def jittered_by_colorsys(clip: Tensor, brightness: float, saturation: float, contrast: float, hue: float) -> np.ndarray:
    """The four changes, one pixel at a time, in double precision from 0 to 1."""
    values = clip.permute(0, 2, 3, 1).numpy() / 255 + brightness  # (T, H, W, 3)

    def saturated(pixel: np.ndarray) -> tuple[float, ...]:
        if max(pixel) <= 0:
            return (max(pixel),) * 3
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb(h, min(1.0, s * saturation), v)

    def turned(pixel: np.ndarray) -> np.ndarray:
        # For values between 0 and 1: only what is between the smallest and the largest channel turns.
        low, high = min(pixel), max(pixel)
        if high == low:
            return pixel
        h, s, v = colorsys.rgb_to_hsv(*(pixel - low) / (high - low))
        return low + (high - low) * np.array(colorsys.hsv_to_rgb((h + hue) % 1, s, v))

    values = np.apply_along_axis(saturated, -1, values)
    mean = values.mean(axis=(1, 2), keepdims=True)
    values = np.apply_along_axis(turned, -1, (values - mean) * contrast + mean)
    return 255 * values.transpose(0, 3, 1, 2).clip(0, 1)


@pytest.mark.parametrize(
    "amounts",
    [
        (0.0, 1.0, 1.0, 0.0),
        (0.1, 1.0, 1.0, 0.0),
        (0.0, 0.6, 1.0, 0.0),
        (0.0, 1.4, 1.0, 0.0),
        (0.0, 1.0, 1.4, 0.0),
        (0.0, 1.0, 1.0, 0.2),
        (0.0, 1.0, 1.0, -0.2),
        (-32 / 255, 1.4, 1.4, 0.13),
        (32 / 255, 1.4, 0.6, -0.07),
    ],
)
def test_jitter_is_colorsys_pixel_by_pixel(amounts: tuple[float, float, float, float]) -> None:
    for clip in (smooth(2), noise(2)):
        before = clip.clone()
        changed = colours.jitter(clip, *amounts)
        # Rounding is half a level.
        assert np.abs(changed.numpy() - jittered_by_colorsys(clip, *amounts)).max() < 0.502
        assert torch.equal(clip, before)


def test_a_third_of_the_circle_turns_red_to_green() -> None:
    red = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    red[:, 0] = 200
    assert colours.jitter(red, 0, 1, 1, 1 / 3)[0, :, 0, 0].tolist() == [0, 200, 0]
    assert colours.jitter(red, 0, 1, 1, -1 / 3)[0, :, 0, 0].tolist() == [0, 0, 200]
