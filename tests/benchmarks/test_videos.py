"""The generated videos are like those that people have."""

from pathlib import Path

import av
import pytest

from benchmarks import videos


def test_a_cut_brings_a_key_frame_and_the_bit_rate_is_that_of_filmed_videos(tmp_path: Path) -> None:
    path = videos.generated("320", tmp_path, seconds=7)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width, stream.codec_context.name) == (256, 340, "h264")
        packets = [packet for packet in container.demux(stream) if packet.size]
    # In the order of decoding; the cut is at 6.3 s.
    assert [number for number, packet in enumerate(packets) if packet.is_keyframe] == [0, 189]
    assert any(packet.pts != packet.dts for packet in packets), "no frames are reordered: there are no B-frames"
    # 340 × 256 clips of Kinetics, as they are passed on, have about half a megabit a second.
    assert 0.3e6 < path.stat().st_size * 8 / 7 < 1e6


def test_a_video_that_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = videos.generated("320", tmp_path, seconds=0.1)
    monkeypatch.setattr(videos, "_write", lambda *args: pytest.fail("made again"))
    assert videos.generated("320", tmp_path, seconds=0.1) == path
    assert list(tmp_path.iterdir()) == [path]
