"""The labels of the benchmark tell what its videos show, and its splits share nothing."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vivit.data.readers.listing import open_data
from vivit.errors import UserError
from vivit.experiments import motion_benchmark
from vivit.experiments.material import open_material
from vivit.experiments.motion_benchmark import (
    GROUPS,
    LEVELS,
    OPPOSITE,
    VERBS,
    BenchmarkSettings,
    Difficulty,
    generate,
    object_path,
    render,
)

FEW = BenchmarkSettings(train_videos=len(VERBS), val_videos=3, test_videos=3, size=(64, 48))


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    generate(folder, settings=FEW, workers=1)
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_package_reads_it_as_verbs_and_nouns(benchmark: Path) -> None:
    data = open_data(benchmark)
    assert data.labels.classes["verb"] == VERBS
    assert set(data.labels.classes["noun"]) <= set(open_material(None, None).nouns)
    assert data.labels.joint == "action"
    assert [len(data.split(split).videos) for split in ("train", "val", "test")] == [len(VERBS), 3, 3]


def test_the_same_settings_make_the_same_bytes_interrupted_or_not_whatever_the_workers(
    benchmark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = motion_benchmark.encode, 0

    def encode_until_interrupted(clip: np.ndarray, path: Path, *how: int) -> None:
        nonlocal calls
        calls += 1
        encode(clip, path, *how)
        if calls == 5:
            path.write_bytes(path.read_bytes()[:1000])
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(motion_benchmark, "encode", encode_until_interrupted)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path, settings=FEW, workers=1)
    assert len(list(tmp_path.rglob("*.mp4"))) == 4
    generate(tmp_path, settings=FEW, workers=2)
    assert files_in(tmp_path) == files_in(benchmark)


def test_a_folder_made_with_other_settings_is_refused(benchmark: Path) -> None:
    with pytest.raises(UserError, match="delete it or name another folder"):
        generate(benchmark, settings=BenchmarkSettings(seed=1))


def test_every_pair_of_verb_and_noun_comes_once_before_any_comes_twice(tmp_path: Path) -> None:
    material = open_material(None, None)
    numbers = range(len(VERBS) * len(material.nouns))
    videos = [motion_benchmark._plan(tmp_path, "train", number, FEW, material) for number in numbers]
    assert len({(video.verb, video.objects[0].noun) for video in videos}) == len(videos)


# What a clip shows, measured without knowing how it was made


@dataclass
class Seen:
    """What happens to the object in each frame, relative to the background."""

    place: np.ndarray
    """(T, 2): x and y."""
    picture_place: np.ndarray
    """(T, 2): x and y in the picture."""
    area: np.ndarray
    angle: np.ndarray
    spread: np.ndarray
    """(T, 2): how far it reaches across and down."""


def film(verb: str, seed: int, difficulty: Difficulty, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A clip over a background whose green and blue tell the place, of a red object whose right half is darker."""

    def ramps(picture: np.ndarray, rng: np.random.Generator, width: int, height: int) -> torch.Tensor:
        x, y = torch.arange(width) - width / 2, torch.arange(height)[:, None] - height / 2
        return torch.stack(torch.broadcast_tensors(torch.zeros(1, 1), 128 + x * 0.5, 128 + y * 0.5))[None]

    monkeypatch.setitem(LEVELS, difficulty, replace(LEVELS[difficulty], background_light=(1.0, 1.0), object_light=0.0))
    monkeypatch.setattr(motion_benchmark, "cut", ramps)
    monkeypatch.setattr(motion_benchmark, "record", lambda clip, rng: clip.permute(0, 2, 3, 1).numpy())
    thing = np.zeros((60, 60, 4), np.uint8)
    thing[..., 0], thing[:, 30:, 0], thing[..., 3] = 250, 120, 255
    settings = BenchmarkSettings(difficulty=difficulty, size=(128, 96))
    return render(verb, np.random.default_rng(seed), thing, [thing], settings)


def look(clip: np.ndarray) -> Seen:
    height, width = clip.shape[1:3]
    y, x = np.mgrid[0:height, 0:width] / height
    rows = []
    for frame in clip:
        light, dark = frame[..., 0] > 200, (frame[..., 0] > 80) & (frame[..., 0] < 160)
        thing, ground = frame[..., 0] > 60, frame[..., 0] < 1
        # A plane through the colours of the visible background says which point of it lies behind the object.
        known = np.stack([np.ones(ground.sum()), x[ground], y[ground]], axis=1)
        plane = np.linalg.lstsq(known, frame[ground][:, 1:] / 0.5 / height, rcond=None)[0]
        centre = np.array([1, x[thing].mean(), y[thing].mean()]) if thing.any() else np.full(3, np.nan)
        to_dark = (
            np.array([x[dark].mean() - x[light].mean(), y[dark].mean() - y[light].mean()])
            if dark.any() and light.any()
            else np.full(2, np.nan)
        ) @ plane[1:]
        scale = np.abs(np.linalg.det(plane[1:]))
        rows.append(
            (
                *(centre @ plane),
                *centre[1:],
                thing.sum() * scale,
                np.arctan2(to_dark[1], to_dark[0]),
                x[thing].std(),
                y[thing].std(),
            )
            if thing.any()
            else (np.nan,) * 4 + (0.0, np.nan, np.nan, np.nan)
        )
    table = np.array(rows)
    return Seen(table[:, :2], table[:, 2:4], table[:, 4], np.unwrap(table[:, 5]), table[:, 6:8])


def measured_verb(clip: np.ndarray) -> str:
    """The verb that a clip shows."""
    seen = look(clip)
    x, y = np.nanmean(seen.place[-2:], axis=0) - np.nanmean(seen.place[:2], axis=0)
    turned = np.degrees(seen.angle[-1] - seen.angle[0])
    grown = np.log(seen.area[-1] / seen.area[0])
    wider, taller = np.log(seen.spread[-1] / seen.spread[0])
    height = np.nanmax(seen.place[:, 1]) - seen.place[:, 1]
    rocked = np.abs(np.degrees(seen.angle - seen.angle[0]))
    if abs(turned) > 60:
        return "spins_clockwise" if turned > 0 else "spins_counterclockwise"
    if abs(wider) > 0.3 and abs(grown) < 0.45:
        return "falls_apart" if wider > 0 else "comes_together"
    if abs(grown) > 0.5:
        if abs(wider - taller) > 0.25:
            return "emerges" if grown > 0 else "sinks"
        return "grows" if grown > 0 else "shrinks"
    if abs(x) > 0.2:
        return "moves_right" if x > 0 else "moves_left"
    if abs(y) > 0.2:
        return "moves_down" if y > 0 else "moves_up"
    if np.ptp(height) < 0.12:
        return "stays"
    if rocked.max() > 25:
        return "hops_then_rocks" if height.argmax() < rocked.argmax() else "rocks_then_hops"
    up = height > height.max() / 2
    times = int((up[1:] & ~up[:-1]).sum()) + int(up[0])
    return {1: "hops_once", 2: "hops_twice", 3: "hops_three_times"}.get(times, f"hops {times} times")


@pytest.mark.parametrize("verb", VERBS)
def test_a_clip_shows_what_its_verb_says_and_backwards_the_opposite(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(2):
        clip = film(verb, seed, "medium", monkeypatch)
        assert measured_verb(clip) == verb, seed
        assert measured_verb(clip[::-1]) == OPPOSITE[verb], seed


def test_the_motion_in_the_picture_does_not_tell_the_motion_in_the_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    for seed in range(8):
        place = look(film("moves_left", seed, "hard", monkeypatch)).picture_place
        x, y = place[-1] - place[0]
        told.append(x < -abs(y))
    assert 0 < sum(told) < len(told)


def test_the_frames_of_one_to_three_hops_have_the_same_heights() -> None:
    heights = {}
    for verb in ("hops_once", "hops_twice", "hops_three_times"):
        paths = [object_path(verb, np.random.default_rng(seed), LEVELS["medium"]) for seed in range(300)]
        heights[verb] = np.quantile(np.concatenate([path[:, 1] for path in paths]), np.linspace(0.02, 0.98, 25))
    once, twice, three_times = heights.values()
    assert np.abs(once - twice).max() < 0.03
    assert np.abs(once - three_times).max() < 0.03


def test_groups_are_closed_under_playing_backwards() -> None:
    group_of = {verb: group for group in GROUPS for verb in group}
    assert sorted(group_of) == list(VERBS)
    assert all(group_of[OPPOSITE[verb]] == group_of[verb] for verb in VERBS)
    assert all(OPPOSITE[OPPOSITE[verb]] == verb for verb in VERBS)
