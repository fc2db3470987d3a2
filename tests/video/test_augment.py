"""What is drawn at random for a clip, and that all its frames change in the same way."""

import colorsys
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vivit.errors import UserError
from vivit.video import colours
from vivit.video.augment import (
    RANDAUGMENT,
    Augmentation,
    Geometry,
    augment_batch,
    augment_colours,
    cover,
    draw_geometry,
    resized,
)


def noise(frames: int = 2, height: int = 12, width: int = 15, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (frames, 3, height, width), dtype=np.uint8))


def places(height: int, width: int) -> Tensor:
    """(2, 3, height, width): each pixel holds its row, its column and its frame."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.stack([rows, columns, torch.full_like(rows, t)]) for t in range(2)]).byte()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"flip": 1.5}, "flip: 1.5 is not a probability"),
        ({"colour_jitter": -0.1}, "colour_jitter: -0.1"),
        ({"grey_scale": math.nan}, "grey_scale: nan"),
        ({"scale_jitter": (1.33, 0.9)}, "scale_jitter: 1.33 to 0.9"),
        ({"scale_jitter": (0.0, 1.0)}, "scale_jitter: 0 to 1"),
        ({"randaugment": (0, 15)}, "randaugment: 0 operations"),
        ({"randaugment": (2, 31)}, "a magnitude of 31"),
        ({"randaugment": (2, math.nan)}, "a magnitude of nan"),
    ],
)
def test_fields_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Augmentation(**fields)


def test_height_and_width_are_scaled_independently_and_evenly_over_the_range() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([draw_geometry(Augmentation(scale_jitter=(0.9, 1.33)), rng).factors for _ in range(4000)])
    assert drawn.min() >= 0.9 and drawn.max() < 1.33
    assert np.abs(np.corrcoef(drawn.T)[0, 1]) < 0.05
    for factors in drawn.T:
        counts, _ = np.histogram(factors, bins=10, range=(0.9, 1.33))
        assert counts.min() > 320 and counts.max() < 480  # 400 ± 4 deviations


def test_only_the_requested_change_differs() -> None:
    """Scale jitter changes neither the place nor the mirroring of a clip."""
    for seed in range(20):
        plain = draw_geometry(Augmentation(), np.random.default_rng(seed))
        jittered = draw_geometry(Augmentation(scale_jitter=(0.9, 1.33)), np.random.default_rng(seed))
        assert plain.factors == (1.0, 1.0) != jittered.factors
        assert (plain.place, plain.mirrored) == (jittered.place, jittered.mirrored)


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_a_clip_is_mirrored_as_often_as_asked(probability: float) -> None:
    rng = np.random.default_rng(1)
    fraction = np.mean([draw_geometry(Augmentation(flip=probability), rng).mirrored for _ in range(2000)])
    assert fraction == pytest.approx(probability, abs=0.04 if 0 < probability < 1 else 0)


@pytest.mark.parametrize(
    ("video", "factors", "expected"),
    [
        ((1080, 1920), (1.0, 1.0), (256, 455)),
        ((1920, 1080), (1.0, 1.0), (455, 256)),
        ((240, 320), (1.25, 0.9), (320, 307)),
        ((240, 320), (0.91, 1.33), (233, 454)),
        # 0.8 · 256 is 204.8: the crop of 224 does not fit, so both sides grow by 224 / 204.8.
        ((256, 256), (0.8, 1.0), (224, 280)),
        ((256, 256), (0.8, 0.8), (224, 224)),
    ],
)
def test_frames_are_scaled_once_to_their_jittered_size(
    video: tuple[int, int], factors: tuple[float, float], expected: tuple[int, int]
) -> None:
    assert Geometry(factors, (0, 0), False).frame_size(*video, 256, (224, 224)) == expected


def test_a_crop_fits_at_any_size_and_jitter() -> None:
    rng = np.random.default_rng(2)
    for _ in range(2000):
        rows, columns, crop_rows, crop_columns, short_side = rng.integers(1, 400, 5).tolist()
        geometry = draw_geometry(Augmentation(scale_jitter=(0.1, 3)), rng)
        height, width = geometry.frame_size(rows, columns, short_side, (crop_rows, crop_columns))
        assert height >= crop_rows and width >= crop_columns


def test_every_place_and_mirror_is_taken_and_kept_over_time() -> None:
    rng = np.random.default_rng(3)
    found: Counter[tuple[int, int, bool]] = Counter()
    frames = places(10, 9)
    for _ in range(1800):
        geometry = draw_geometry(Augmentation(), rng)
        clip = geometry.apply(frames, (8, 7))
        upright = clip.flip(-1) if clip[0, 1, 0, 0] > clip[0, 1, 0, 1] else clip
        top, left = int(upright[0, 0, 0, 0]), int(upright[0, 1, 0, 0])
        assert torch.equal(upright, frames[..., top : top + 8, left : left + 7])
        found[top, left, upright is not clip] += 1
    assert len(found) == 3 * 3 * 2
    assert min(found.values()) > 60  # of 100 expected


def test_resized_scales_a_ramp_along_each_side() -> None:
    frames = places(40, 60)
    assert resized(frames, (40, 60)) is frames
    scaled = resized(frames, (80, 30)).float()
    assert scaled.shape == (2, 3, 80, 30)
    assert ((scaled[0, 0, :, 5] - ((torch.arange(80) + 0.5) / 2 - 0.5))[1:-1].abs() <= 0.51).all()
    assert ((scaled[0, 1, 5] - ((torch.arange(30) + 0.5) * 2 - 0.5))[1:-1].abs() <= 0.51).all()


def at_magnitude(magnitude: float, clip: Tensor) -> list[Tensor]:
    """The result of each operation except the cut-out, with strengths worked out by hand."""
    bits, threshold, addition, factor = {
        5: (2, 128, 55, 1.0),
        10: (4, 256, 110, 1.9),
        15: (6, 384, 165, 2.8),
        20: (8, 512, 220, 3.7),
    }[int(magnitude)]
    return [
        clip,
        colours.autocontrast(clip),
        colours.equalise(clip),
        255 - clip,
        colours.posterise(clip, bits),
        colours.solarise(clip, threshold),
        colours.solarise_add(clip, addition),
        colours.colour(clip, factor),
        colours.contrast(clip, factor),
        colours.brightness(clip, factor),
        colours.sharpness(clip, factor),
    ]


@pytest.mark.parametrize("magnitude", [5, 10, 15, 20])
def test_randaugment_has_the_official_operations_and_strengths(magnitude: int) -> None:
    clip = noise()
    expected = at_magnitude(magnitude, clip)
    rng = np.random.default_rng(0)
    assert len(RANDAUGMENT) == len(expected) + 1
    for operation, changed in zip(RANDAUGMENT[:-1], expected, strict=True):
        # Strengths are floats, 0.1 + 1.8 × 1.5 is not quite 2.8.
        assert (operation(clip, magnitude / 10, rng).int() - changed.int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("size", "magnitude", "side"), [((224, 224), 15, 120), ((256, 320), 20, 160), ((112, 112), 15, 60)]
)
def test_the_square_cut_out_is_the_papers_at_224_and_smaller_on_smaller_frames(
    size: tuple[int, int], magnitude: float, side: int
) -> None:
    clip = torch.full((2, 3, *size), 9, dtype=torch.uint8)
    rng = np.random.default_rng(0)
    largest = [0, 0]
    for _ in range(60):
        black = RANDAUGMENT[-1](clip, magnitude / 10, rng) == 0
        assert torch.equal(black[0, 0].expand_as(black), black)
        largest = [max(seen, int(black[0, 0].any(axis).sum())) for axis, seen in zip((1, 0), largest, strict=True)]
    assert largest == [side, side]


def test_each_operation_is_drawn_as_often_and_two_follow_each_other() -> None:
    clip = noise()
    once = {changed.numpy().tobytes(): number for number, changed in enumerate(at_magnitude(10, clip))}
    # Above 10, solarising changes nothing, so it counts as the identity.
    one_layer, two_layers = Augmentation(randaugment=(1, 10)), Augmentation(randaugment=(2, 10))
    drawn = Counter(
        once.get(augment_colours(clip, one_layer, np.random.default_rng(seed)).numpy().tobytes())
        for seed in range(2400)
    )
    assert drawn.pop(once[clip.numpy().tobytes()]) == pytest.approx(400, abs=80)
    assert len(drawn) == 10
    assert all(count == pytest.approx(200, abs=60) for count in drawn.values())
    twice = Counter(
        torch.equal(augment_colours(clip, two_layers, np.random.default_rng(seed)), 255 - clip) for seed in range(1500)
    )
    # Inversion with one of the two that change nothing, in either order: 4 of 144.
    assert twice[True] == pytest.approx(1500 * 4 / 144, abs=22)


def test_jitter_and_grey_come_as_often_as_asked_and_after_randaugment() -> None:
    clip = noise()
    greys = changes = 0
    for seed in range(400):
        changed = augment_colours(clip, Augmentation(colour_jitter=0.8, grey_scale=0.1), np.random.default_rng(seed))
        grey = torch.equal(changed[:, 0], changed[:, 1]) and torch.equal(changed[:, 0], changed[:, 2])
        greys += grey
        changes += not torch.equal(changed, clip) and not torch.equal(changed, colours.grey(clip))
    assert greys == pytest.approx(40, abs=24)
    assert changes == pytest.approx(320, abs=32)
    always = Augmentation(randaugment=(2, 15), colour_jitter=1.0, grey_scale=1.0)
    for seed in range(40):
        last = augment_colours(clip, always, np.random.default_rng(seed))
        assert torch.equal(last, colours.grey(last))


def test_jitter_stays_within_the_official_strengths_and_reaches_them() -> None:
    """Measured on pictures of one grey, of two greys, and of one colour."""
    grey = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    only_jitter = Augmentation(colour_jitter=1.0)
    added = [
        int(augment_colours(grey, only_jitter, np.random.default_rng(seed))[0, 0, 0, 0]) - 100 for seed in range(600)
    ]
    assert -32 <= min(added) <= -31 and 31 <= max(added) <= 32
    # Two greys 50 apart: only contrast changes their distance.
    two = grey.clone()
    two[..., 2:] = 150
    changed = [augment_colours(two, only_jitter, np.random.default_rng(seed))[0, 0, 0] for seed in range(600)]
    apart = [(int(row[3]) - int(row[0])) / 50 for row in changed]
    assert 0.58 <= min(apart) <= 0.63 and 1.37 <= max(apart) <= 1.42
    # One colour with a saturation that is never clipped: contrast changes nothing.
    brick = torch.tensor([150, 100, 100], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    hues, saturations = [], []
    for seed in range(600):
        red, green, blue = augment_colours(brick, only_jitter, np.random.default_rng(seed))[0, :, 0, 0].tolist()
        hue, _, _ = colorsys.rgb_to_hsv(red, green, blue)
        hues.append(hue if hue < 0.5 else hue - 1)
        # Brightness, applied first, left the distance between the channels at 50.
        saturations.append((max(red, green, blue) - min(red, green, blue)) / 50)
    assert -0.205 <= min(hues) <= -0.19 and 0.19 <= max(hues) <= 0.205
    assert 0.58 <= min(saturations) <= 0.63 and 1.37 <= max(saturations) <= 1.42


EVERYTHING = Augmentation(colour_jitter=0.8, grey_scale=0.1, randaugment=(2, 15))


def test_a_clip_alone_is_the_clip_in_a_batch() -> None:
    # Crops of wider, interleaved frames: their layout in memory is unlike that of a batch.
    wide = [noise(3, 80, 90, seed).contiguous(memory_format=torch.channels_last) for seed in range(12)]
    crops = [frames[..., 3:76, 7:80] for frames in wide]
    clips = torch.stack(crops)
    before = clips.clone()
    augmented = augment_batch(clips, EVERYTHING, [np.random.default_rng(seed) for seed in range(12)])
    assert torch.equal(clips, before)
    changed = 0
    for seed, clip in enumerate(crops):
        assert torch.equal(augmented[seed], augment_colours(clip, EVERYTHING, np.random.default_rng(seed)))
        changed += not torch.equal(augmented[seed], clip)
    assert changed >= 10


def test_the_layout_in_memory_makes_no_difference() -> None:
    """Means of many floats depend on the layout by less than a level, which shows in a pixel of some clips."""
    clip = noise(8, 224, 224)
    beside = clip.contiguous(memory_format=torch.channels_last)
    assert beside.stride() != clip.stride()
    for seed in range(20):
        one, other = (
            augment_colours(c, Augmentation(colour_jitter=1.0), np.random.default_rng(seed)) for c in (clip, beside)
        )
        assert torch.equal(one, other)


def test_equal_frames_stay_equal() -> None:
    frame = noise(1, 30, 30)
    for seed in range(30):
        changed = augment_colours(frame.expand(4, -1, -1, -1), EVERYTHING, np.random.default_rng(seed))
        assert torch.equal(changed, changed[:1].expand_as(changed))


def test_nothing_asked_for_changes_nothing_and_draws_no_global_numbers() -> None:
    clip = noise()
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert torch.equal(augment_colours(clip, Augmentation(), np.random.default_rng(0)), clip)
    augment_colours(clip, EVERYTHING, np.random.default_rng(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.get_state()[1].tolist() == numpy_state  # type: ignore[index]


def test_cover_enlarges_only_what_is_too_small() -> None:
    clip = places(10, 20)
    assert cover(clip, (10, 20)) is clip
    enlarged = cover(clip, (20, 20))
    assert enlarged.shape == (2, 3, 20, 40)
    # A ramp becomes a ramp of half the slope: new pixel k is at (k + 1/2) / 2 - 1/2 of the old.
    expected = (torch.arange(40) + 0.5) / 2 - 0.5
    assert (enlarged[0, 1, 5].float() - expected)[1:-1].abs().max() <= 0.5
    assert cover(clip, (3, 30)).shape == (2, 3, 15, 30)
