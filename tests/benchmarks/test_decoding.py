"""The benchmark of decoding finds frames that are not the right ones, and its arithmetic is that of its table."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import decoding, decoding_profile
from benchmarks.decoding import Seconds


@pytest.fixture
def not_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of the tests keeps its cores."""
    monkeypatch.setattr(decoding, "on_one_core", lambda: None)


def a_frame_early(path: Path, numbers: list[int], size: tuple[int, int]) -> Tensor:
    return decoding.ours(path, [number - 1 for number in numbers], size)


def not_antialiased(path: Path, numbers: list[int], size: tuple[int, int]) -> Tensor:
    with decoding.open_video(path) as video:
        return F.interpolate(video.frames(numbers), size, mode="nearest")


def red_and_blue_exchanged(path: Path, numbers: list[int], size: tuple[int, int]) -> Tensor:
    return decoding.ours(path, numbers, size).flip(1)


@pytest.mark.parametrize("name", decoding.CONTENDERS)
def test_every_contender_reads_the_frames_of_the_plain_reading(name: str, video: Path) -> None:
    if not decoding.installed([name]):
        pytest.skip(f"what {name} needs is not here")
    assert decoding.differences(video, [name])[name] < decoding.LIMIT


@pytest.mark.parametrize("wrong", [a_frame_early, not_antialiased, red_and_blue_exchanged])
def test_the_command_fails_where_ours_reads_something_else(
    wrong: decoding.Read, video: Path, not_pinned: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Scaled, so that how it is scaled can be seen.
    monkeypatch.setattr(decoding, "SHORT_SIDE", 112)
    decoding.main((video,), sizes="", only="ours", workloads="training", rounds=1)
    monkeypatch.setitem(decoding.CONTENDERS, "ours", (wrong, "ours"))
    with pytest.raises(SystemExit, match=r"ours: \d+\.\d+$"):
        decoding.main((video,), sizes="", only="ours", workloads="training", rounds=1)


def test_the_plain_reading_is_near_that_of_pillow(video: Path) -> None:
    import av
    from PIL import Image

    with av.open(str(video)) as container:
        images = [frame.to_image() for frame in container.decode(video=0)]
    resized = [images[number].resize((170, 128), Image.Resampling.BILINEAR) for number in (0, 30, 62)]
    expected = torch.from_numpy(np.stack([np.asarray(image) for image in resized])).permute(0, 3, 1, 2)
    plain = decoding.read_plainly(video, [0, 30, 62], (128, 170))
    # FFmpeg halves the resolution of colours here, and rounds down.
    assert (plain - expected.double()).abs().mean() < 1.5


def test_contenders_take_turns_and_read_the_same_clips(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, list[int]]] = []

    def sleeper(name: str) -> decoding.Read:
        def read(path: Path, numbers: list[int], size: tuple[int, int]) -> Tensor:
            calls.append((name, numbers))
            time.sleep(0.02)
            return torch.zeros(len(numbers), 3, *size, dtype=torch.uint8)

        return read

    monkeypatch.setattr(decoding, "NUM_FRAMES", 4)
    monkeypatch.setattr(decoding, "CONTENDERS", {name: (sleeper(name), name) for name in "abc"})
    taken = decoding.measure(video, "training", list("abc"), rounds=4)
    turns = "abc" + "bca" + "cab" + "abc" + "bca"
    assert [name for name, _ in calls] == [name for name in turns for _ in range(4)]
    clips = [numbers for _, numbers in calls]
    assert clips == clips[:4] * 15
    starts = [numbers[0] for numbers in clips[:4]]
    # A clip of 4 at stride 2 starts at one of 0 to 56: quarters of 14.25.
    bounds = [(0, 14), (14, 28), (28, 42), (42, 56)]
    assert all(first <= start <= last for start, (first, last) in zip(starts, bounds, strict=True))
    assert all(numbers == list(range(start, start + 8, 2)) for start, numbers in zip(starts, clips, strict=False))
    assert all(len(seconds) == 4 for seconds in taken.values())
    assert all(one.clock >= 4 * 0.02 > 4 * one.processor for one in taken["a"])


def test_evaluation_reads_clips_from_the_beginning_to_the_end(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "NUM_FRAMES", 2)
    assert decoding.passes_over(video, "evaluation") == [[0, 2, 20, 22, 40, 42, 60, 62]]


def test_the_table_tells_rates_and_ratios_worked_out_by_hand() -> None:
    # Seconds for four clips.
    taken = {
        "ours": [Seconds(0.5, 0.25), Seconds(1.0, 0.5), Seconds(0.25, 0.1)],
        "decord": [Seconds(1.0, 1.0), Seconds(1.0, 1.0), Seconds(1.0, 1.0)],
    }
    found = {"ours": 0.125, "decord": 1.5}
    ours, decord = decoding.table(Path("a/b.mp4"), "training", taken, found).splitlines()
    assert ours == "| b.mp4 | training | `vivit` | 8.00 | 16.00 |  |  | 0.12 |"
    # Ratios of the rounds are 2, 1, 4 by the clock and 4, 2, 10 of the processor.
    assert decord.endswith("| 4.00 | 4.00 | 2.00 (1.50–3.00) | 4.00 (3.00–7.00) | 1.50 |")


def test_the_tiny_form_prints_a_row_for_every_contender_and_workload(
    video: Path, not_pinned: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decoding.main((video,), sizes="", only="ours,pyav-documented", rounds=1, folder=tmp_path)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 2 * 2
    assert {row.count("|") for row in rows} == {len(decoding.COLUMNS) + 1}
    assert not list(tmp_path.iterdir())


def test_the_profile_leaves_nothing_out(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*args: object) -> None:
        draw(*args)
        end = time.process_time() + 0.005
        while time.process_time() < end:
            pass

    draw: Callable[..., None] = decoding_profile.display.draw
    monkeypatch.setattr(decoding_profile.display, "draw", slow)
    begun = time.process_time()
    opening, decoding_alone, converting = decoding_profile.profile(video, list(range(0, 40, 2)))
    whole = time.process_time() - begun
    assert converting >= 20 * 0.005 > decoding_alone > 0
    assert opening > 0 and 0.9 * whole < opening + decoding_alone + converting <= whole
