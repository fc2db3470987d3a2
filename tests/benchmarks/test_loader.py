"""The benchmark of the loader tells waiting from working, and reads the same from files, shards and beside."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import decoding, loader
from benchmarks.loader import Stall
from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.data.pack import Encoding
from vivit.labels import LabelSpace
from vivit.video.clips import ClipSpec


class Clock:
    """In place of the module time."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_waiting_is_the_share_of_time_after_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(loader, "time", clock)

    def batches() -> Iterator[Tensor]:
        clock.sleep(5.0)
        while True:
            yield torch.zeros(4, 1)
            clock.sleep(0.25)

    # Two steps of 0.25 s waiting and 0.75 s working each: 8 clips in 2 s.
    assert loader.measure(batches(), 4, step=0.75, steps=2) == Stall(first=5.0, waiting=0.25, clips=4.0)


def test_a_batch_of_another_size_is_not_measured() -> None:
    with pytest.raises(AssertionError):
        loader.measure(iter([torch.zeros(4), torch.zeros(3)]), 4, step=0.0, steps=1)


def test_the_peer_reads_as_transformers_documentation_does(video: Path) -> None:
    videos = VideoSet((LabelledVideo(video, {"classes": ("one",)}),), LabelSpace({"classes": ("one", "other")}), "")
    clip = loader.TransformersClips(videos, ClipSpec(32, 2, (224, 224), 256))[0]
    assert torch.equal(clip, decoding.pyav_documented(video, list(range(0, 63, 2)), (256, 340)))


def test_the_tiny_form_reads_from_files_and_shards(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loader, "generated", lambda size, folder: video)
    monkeypatch.setattr(loader, "COPIES", 2)
    tiny = replace(
        loader.TASKS["b16x2"], spec=ClipSpec(2, 1, (32, 32), 32), batch_size=2, encoding=Encoding(short_side=32)
    )
    monkeypatch.setitem(loader.TASKS, "b16x2", tiny)
    loader.main(tasks="b16x2", workers="0", step=0.01, steps=2, rounds=1, folder=tmp_path)
    out = capsys.readouterr().out
    assert "a step of 0.01 s (given), which takes 200 clips/s" in out
    assert [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| ")] == [
        *("loader", "`vivit`, files", "`vivit`, shards", "`vivit`, shards, encoded anew"),
        "`DataLoader`, PyAV and transformers, files",
    ]
    sizes = {folder: sum(file.stat().st_size for file in (tmp_path / folder).rglob("*.tar")) for folder in
             ("b16x2_shards", "b16x2_encoded_shards")}  # fmt: skip
    assert 0 < sizes["b16x2_encoded_shards"] < sizes["b16x2_shards"] / 4
