"""Windows of a stream against the model on each window's clip, and views that share pieces against each view alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support import encode, tiny_model
from vivit.config import Preprocessing
from vivit.inference.pieces import Pieces
from vivit.inference.streaming import Stream, Window, span_of, window_cost, windows
from vivit.inference.views import clip_spec, mean_logits
from vivit.labels import by_head
from vivit.model.vivit import ViViT
from vivit.video.clips import clip_indices, read_views
from vivit.video.decode import open_video
from vivit.weights.describe import multiply_adds

FACTORISED: dict[str, Any] = {"variant": "factorised_encoder", "temporal_layers": 2}
CASES: dict[str, dict[str, Any]] = {
    "class token": FACTORISED,
    "mean, adapter, representation": {**FACTORISED, "pooling": "mean", "adapter_size": 4, "representation_size": 7},
    "three frames in a tubelet": {**FACTORISED, "tubelet_size": (3, 8, 8)},
    "uniform frames, heads": {
        **FACTORISED,
        **{"embedding": "uniform_frames", "num_frames": 10, "sampled_frames": 4, "heads": {"verb": 3, "noun": 4}},
    },
    "attentive": {**FACTORISED, "attentive_pooling": True},
    "baseline": {**FACTORISED, "temporal_layers": 0},
    "baseline, attentive": {**FACTORISED, "temporal_layers": 0, "attentive_pooling": True},
    "spatiotemporal": {"variant": "spatiotemporal"},
    "factorised self-attention": {"variant": "factorised_self_attention"},
}


def made_model(case: str, stride: int = 2, short: str = "loop") -> ViViT:
    prepared = Preprocessing(frame_stride=stride, resize=24, short_clips=short)  # type: ignore[arg-type]
    return tiny_model(preprocessing=prepared, std=0.2, **CASES[case])


def made_video(frames: int, seed: int = 0) -> Tensor:
    shape = (frames, 3, 24, 30)  # the shorter side is as long as `resize`
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def recomputed(model: ViViT, video: Tensor, start: int) -> dict[str, Tensor]:
    """The model on the clip that begins there: the centre crop, frame by frame."""
    spec = clip_spec(model)
    clip = torch.stack([video[n] for n in clip_indices(len(video), spec.num_frames, spec.stride, start, spec.short)])
    top, left = (24 - spec.size[0]) // 2, (30 - spec.size[1]) // 2
    clip = clip[..., top : top + spec.size[0], left : left + spec.size[1]]
    return {head: logits[0] for head, logits in by_head(model(clip[None])).items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for head, logits in expected.items():
        assert (found[head] - logits).abs().max() <= 1e-5 * logits.abs().max()


def in_parts(video: Tensor, rng: np.random.Generator) -> Iterator[Tensor]:
    while len(video):
        count = int(rng.integers(1, 9))
        yield video[:count]
        video = video[count:]


@pytest.mark.parametrize("case", CASES)
def test_each_window_is_the_models_answer_to_its_clip(case: str) -> None:
    """At any step, stride, batch and length of the video; the windows cover every frame."""
    rng = np.random.default_rng(sorted(CASES).index(case))
    for _ in range(6):
        model = made_model(case, stride=int(rng.integers(1, 4)), short=str(rng.choice(["loop", "pad"])))
        span = span_of(clip_spec(model))
        step, batch = int(rng.integers(1, span + 5)), int(rng.integers(1, 5))
        video = made_video(int(rng.integers(1, 3 * span)))
        found = list(windows(model, in_parts(video, rng), step, batch))
        last = max(0, len(video) - span)
        assert [window.start for window in found] == [*range(0, last, step), last]
        for window in found:
            assert_equal(window.logits, recomputed(model, video, window.start))


def test_the_difference_shows() -> None:
    """Windows of a random video differ by more than the tolerance, so that a wrong one cannot pass."""
    model, video = made_model("class token"), made_video(40)
    one, two = (recomputed(model, video, start)["classes"] for start in (4, 8))
    assert (one - two).abs().max() > 1e-3 * one.abs().max()


def test_windows_of_a_file_are_the_clips_of_predict(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (48, 80, 3), np.uint8) for _ in range(21)]
    path = encode(tmp_path / "noise.mp4", pictures)
    model = made_model("class token")
    spec = clip_spec(model)
    with open_video(path) as video:
        frames = video.frames(range(21), short_side=spec.resize)
    found = {window.start: window.logits for window in windows(model, frames.split(5), step=5)}
    views = read_views(path, spec, 3, 1).frames  # they start at 0, 5 and 10
    for start, view in zip((0, 5, 10), views, strict=True):
        with torch.inference_mode():
            assert_equal(found[start], {"classes": model(view[None])[0]})


def test_frames_of_any_size_are_scaled_and_cropped() -> None:
    model, large = made_model("class token"), made_video(15).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    for window in windows(model, [large], step=4):
        assert_equal(window.logits, recomputed(model, made_scaled(large), window.start))


def made_scaled(video: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(video, (24, 30), mode="bilinear", antialias=True)


def test_a_live_window_comes_with_its_last_frame_and_memory_stays_bounded() -> None:
    model = made_model("class token")
    stream = Stream(model, step=4)
    found: list[Window] = []
    held: list[int] = []
    for number, frame in enumerate(made_video(200)):
        found += stream.push(frame[None])
        if number >= stream.span - 1 and (number - stream.span + 1) % 4 == 0:
            assert found[-1].start == number - stream.span + 1
        held.append(len(stream._frames) + len(stream._encoded))
    assert max(held) <= stream.span + 2 * len(stream._pieces.frames)
    assert [window.start for window in found + stream.finish()] == [*range(0, 189, 4), 189]
    assert stream.finish() == []


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of pieces in each call of `Pieces.encode`."""
    counts: list[int] = []
    really = Pieces.encode

    def counted(self: Pieces, frames: Tensor) -> Tensor:
        counts.append(len(frames))
        return really(self, frames)

    monkeypatch.setattr(Pieces, "encode", counted)
    return counts


def test_a_shared_tubelet_is_encoded_once(encoded: list[int]) -> None:
    model = made_model("class token")  # 3 tubelets that start 4 frames apart
    for step, new in ((4, 1), (2, 1), (1, 1), (6, 3), (8, 2), (12, 3)):
        encoded.clear()
        count = len(list(windows(model, [made_video(11 + 12 * step)], step, batch=1)))
        assert count == 13 and encoded[-1] == new
        cost = window_cost(model, step)
        assert cost.alone == multiply_adds(model.config)
        assert cost.shared == cost.alone if new == 3 else cost.shared < cost.alone
    assert window_cost(made_model("spatiotemporal"), 4).shared == window_cost(made_model("spatiotemporal"), 4).alone


@pytest.mark.parametrize("case", ["class token", "baseline, attentive", "spatiotemporal"])
def test_views_with_equal_pieces_get_the_answers_that_each_gets_alone(case: str, encoded: list[int]) -> None:
    """A video longer by a few frames than a clip, a still one, and one without anything to share."""
    model, still = made_model(case), made_video(1)
    moving, other = made_video(19)[..., 4:20, 3:27], made_video(11, seed=1)[..., 4:20, 3:27]
    views = [torch.stack([moving[start : start + 11 : 2] for start in (0, 4, 8, 8)])]
    views += [still[:, None].expand(2, 6, -1, -1, -1)[..., 4:20, 3:27], other[None, ::2]]
    found = mean_logits(model, views)["classes"]
    with torch.inference_mode():
        expected = torch.stack([torch.cat([model(view[None]) for view in some]).mean(dim=0) for some in views])
    for one, two in zip(found, expected, strict=True):
        assert_equal({"": one}, {"": two})
    assert encoded == ([5] if case == "spatiotemporal" else [5 + 1 + 3])
