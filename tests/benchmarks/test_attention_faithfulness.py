"""The benchmark of attention: what it takes for the place of the moving object, and its table, with toys."""

from itertools import islice
from pathlib import Path

import pytest

from benchmarks import attention_faithfulness as benchmark
from vivit.video.decode import open_video


@pytest.fixture(autouse=True)
def few_textures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "TEXTURES", (1, 1))  # each takes a tenth of a second


def test_what_moves_is_in_the_box_and_nothing_else_does() -> None:
    for clip in islice(benchmark.Clips(3, held_out=True), 5):
        long, high, wide = benchmark.TUBELET
        touched = clip.touched.repeat_interleave(long, 0).repeat_interleave(high, 1).repeat_interleave(wide, 2)
        moved = (clip.frames[1:] != clip.frames[:-1]).any(dim=1)
        assert moved.flatten(1).any(dim=1).all()
        assert not (moved & ~(touched[1:] | touched[:-1])).any()
        assert clip.touched.float().mean() < 0.35


def test_the_tiny_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(tmp_path, variants="factorised_encoder", steps=1, clips=1)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| factorised_encoder")]
    assert [row.split(" | ")[2] for row in rows] == ["raw", "rollout", "gradient", "random"]
    with open_video(tmp_path / "example.mp4") as video:
        assert video.info.num_frames == benchmark.FRAMES
