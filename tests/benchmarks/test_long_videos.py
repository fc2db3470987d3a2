"""Long videos are made by copying packets, and a command's time and memory are seen from outside."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import long_videos
from tests.support import encode, read_numbers
from vivit.video.decode import open_video

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_video_is_repeated_to_its_frames(tmp_path: Path) -> None:
    out = long_videos.repeated(encode(tmp_path / "piece.mp4", 20), 3, tmp_path / "long.mp4")
    with open_video(out) as video:
        assert (video.info.num_frames, video.info.frame_rate) == (60, 25)
        assert read_numbers(torch.cat(list(video.in_turn(7)))) == 3 * list(range(20))


def test_the_record_has_a_row_for_each_command_and_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_videos, "WAYS", {"version": ("--version",)})
    hours = f"{0.4 / 3600:g},{0.8 / 3600:g}"
    out = tmp_path / "record.json"
    long_videos.main(hours, "version", piece=0.2, every=0.01, folder=tmp_path, out=out)
    rows = json.loads(out.read_text())["values"]["rows"]
    assert [row["seconds"] for row in rows] == pytest.approx([0.4, 0.8])
    for row in rows:
        assert row["lines"] == 1 and row["processor"] > 0
        assert 1e6 < row["late"] <= row["peak"] < 1e9
