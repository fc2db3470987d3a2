"""Token merging against the plain model, whose tokens are replaced by the averages of explicit groups in each layer.

Attention over tokens that count several times is attention over as many equal tokens. So the plain blocks run on all
tokens, and after each attention, the tokens of a group are set to their mean.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vivit
from tests.support import encode, noisy, random_clips, refused, tiny_model
from vivit.inference.exported import ExportedModel
from vivit.inference.merging import AXES, Merge, Over, counts, merge_tokens
from vivit.inference.prepare import prepare
from vivit.inference.streaming import windows
from vivit.inference.views import clip_spec
from vivit.model.attention import FactorisedDotProductAttention, SelfAttention
from vivit.model.encoder import Block, Encoder, FactorisedBlock
from vivit.model.vivit import FactorisedEncoder, ViViT
from vivit.video.clips import read_views

Place = tuple[int, int]  # time and place of a token
Item = list[Place]  # what merges as one: a token, or a row or column of a grid
Group = list[Item]  # what has become one

CASES: list[tuple[str, Over, dict[str, Any]]] = [
    (variant, over, fields)
    for variant, axes in AXES.items()
    for over in axes
    for fields in ([{}, {"pooling": "mean"}] if variant in ("spatiotemporal", "factorised_encoder") else [{}])
]
NAMES = [" ".join([variant, over, *fields.values()]) for variant, over, fields in CASES]


def made_model(variant: str, fields: dict[str, Any], **more: Any) -> ViViT:
    temporal = {"temporal_layers": 1} if variant == "factorised_encoder" else {}
    shape = {"num_layers": 4, "num_frames": 10, "image_size": (24, 32)}
    return tiny_model(variant=variant, **{**shape, **temporal, **fields, **more}).double()


def encoder_of(model: ViViT) -> Encoder:
    return model.encoder.spatial if isinstance(model.encoder, FactorisedEncoder) else model.encoder


def problems(variant: str, over: Over, times: int, places: int) -> list[list[Item]]:
    """What may merge with each other."""
    rows = [[(t, s) for s in range(places)] for t in range(times)]
    columns = [[(t, s) for t in range(times)] for s in range(places)]
    if variant in ("spatiotemporal", "factorised_encoder"):
        together = {"both": [[token for row in rows for token in row]], "space": rows, "time": columns}[over]
        return [[[token] for token in tokens] for tokens in together]
    return [columns if over == "space" else rows]


def paired(groups: list[Group], keys: Tensor, count: int) -> list[Group]:
    """keys: (T, S, d) of one clip. The groups that are left, in the order that the next layer deals them out in."""

    def key(group: Group) -> Tensor:
        return F.normalize(torch.cat([keys[place] for place in group[0]]), dim=0)

    first, second = groups[::2], [list(group) for group in groups[1::2]]
    found = []
    for number, group in enumerate(first):
        similarities = [float(key(group) @ key(other)) for other in groups[1::2]]
        found.append((max(similarities), number, similarities.index(max(similarities))))
    merging = sorted(found, reverse=True)[: len(groups) - count]
    for _, number, into in merging:
        second[into] += first[number]
    gone = {number for _, number, _ in merging}
    return [group for number, group in enumerate(first) if number not in gone] + second


def keys_of(attention: SelfAttention, y: Tensor, heads: slice = slice(None)) -> Tensor:
    """(…, D) → (…, d): the keys of each token, averaged over the heads."""
    qkv = F.linear(y, attention.qkv.weight, attention.qkv.bias).unflatten(-1, (attention.num_heads, 3, -1))
    return qkv[..., heads, 1, :].mean(dim=-2)


def plain_layers(model: ViViT, ratio: float, over: Over) -> Any:
    variant, class_token = model.config.variant, int(model.config.pooling == "token")
    times, height, width = model.config.grid
    shape = (1 if variant == "factorised_encoder" else times, height * width)

    def attended(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(block, FactorisedBlock):
            y = block.norm_space(x)
            x, space = x + block.attn_space(y), keys_of(block.attn_space, y)
            y = block.norm_time(x)
            return x + block.attn_time(y), space if over == "space" else keys_of(block.attn_time, y)
        assert isinstance(block, Block)
        y = block.norm1(x)
        heads, half = slice(None), block.attn.num_heads // 2
        if isinstance(block.attn, FactorisedDotProductAttention):
            heads = slice(half, None) if over == "space" else slice(half)
        return x + block.attn(y), keys_of(block.attn, y, heads)

    def run(blocks: nn.ModuleList, x: Tensor) -> Tensor:
        starts = [[[item] for item in items] for items in problems(variant, over, *shape)]
        groups = [[list(some) for some in starts] for _ in x]
        for block, count in zip(blocks, counts(len(starts[0]), ratio, len(blocks)), strict=True):
            x, keys = attended(block, x)
            grid = x if x.ndim == 4 else x[:, class_token:].unflatten(1, shape)
            keys = keys if x.ndim == 4 else keys[:, class_token:].unflatten(1, shape)
            grid = grid.clone()
            for row in range(len(x)):
                groups[row] = [paired(some, keys[row], count) for some in groups[row]]
                for group in (group for some in groups[row] for group in some):
                    for places in zip(*group, strict=True):  # the same place of each item
                        t, s = (list(index) for index in zip(*places, strict=True))
                        grid[row, t, s] = grid[row, t, s].mean(dim=0)
            x = grid if x.ndim == 4 else torch.cat([x[:, :class_token], grid.flatten(1, 2)], dim=1)
            norm = block.norm_mlp if isinstance(block, FactorisedBlock) else block.norm2
            x = x + block.mlp(norm(x))  # type: ignore[operator]
        return x

    return run


@torch.inference_mode()
@pytest.mark.parametrize(("variant", "over", "fields"), CASES, ids=NAMES)
def test_it_is_the_plain_model_with_averages_of_groups(variant: str, over: Over, fields: dict[str, Any]) -> None:
    model = made_model(variant, fields)
    clips = random_clips(model.config).double()
    plain = model(clips)
    for ratio in (0.3, 0.6):
        merge_tokens(model, Merge(ratio, over))
        found = model(clips)
        encoder_of(model).merging = plain_layers(model, ratio, over)
        expected = model(clips)
        assert (expected - plain).abs().max() > 1e-4 * plain.abs().max()  # merging changes something
        # Masks are the logarithms of float32.
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * expected.abs().max().item())
    merge_tokens(model, Merge(0.0, over))
    assert torch.equal(model(clips), plain)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("variant", "over"), [(variant, over) for variant, axes in AXES.items() for over in axes])
def test_merging_equal_tokens_changes_nothing(variant: str, over: Over, dtype: torch.dtype) -> None:
    """A clip of one colour, without positions: all tokens are the same, whichever merge."""
    model = made_model(variant, {}).to(dtype)
    encoder_of(model).positions.embedding.zero_()
    clips = torch.full((2, 10, 3, 24, 32), 90, dtype=torch.uint8)
    plain = model(clips)
    merge_tokens(model, Merge(0.75, over))
    assert (model(clips) - plain).abs().max() <= (1e-5 if dtype == torch.float32 else 2e-2) * plain.abs().max()


def test_attentive_pooling_and_streams_see_the_shapes_that_they_know() -> None:
    for fields in ({"attentive_pooling": True}, {"attentive_pooling": True, "temporal_layers": 0}, {}):
        model = made_model("factorised_encoder", fields).float()
        merge_tokens(model, Merge(0.5))
        frames = torch.randint(0, 256, (30, 3, 32, 32), dtype=torch.uint8)
        step = model.preprocessing.frame_stride * 2
        for window in windows(model, [frames], step):
            with torch.inference_mode():
                size = model.preprocessing.resize
                clip = F.interpolate(frames, (size, size), mode="bilinear", antialias=True)
                top, left = (size - 24) // 2, (size - 32) // 2
                clip = clip[window.start :: model.preprocessing.frame_stride][:10, :, top : top + 24, left : left + 32]
                torch.testing.assert_close(window.logits["classes"], model(clip[None])[0], rtol=1e-4, atol=1e-5)


def test_so_many_tokens_are_left() -> None:
    assert counts(3136, 0.5, 12) == [2637, 2217, 1865, *[1568] * 9]
    assert counts(64, 0.5, 4) == [45, 32, 32, 32]
    assert counts(64, 0.75, 4) == [32, 16, 16, 16]
    assert counts(7, 0.9, 4) == [4, 2, 1, 1]
    for ratio in (0.01, 0.3, 0.5, 0.77, 0.95):
        for tokens in (1, 2, 5, 196, 3136):
            left = counts(tokens, ratio, 12)
            assert left[-1] == max(1, round(tokens * (1 - ratio))) or tokens < 20
            assert all(after >= math.ceil(before / 2) for before, after in zip([tokens, *left], left, strict=False))


def test_what_cannot_merge_is_refused_in_a_line() -> None:
    model = made_model("factorised_encoder", {})
    refused(lambda: merge_tokens(model, Merge(0.5, "time")), "factorised encoder model can merge over space, not")
    grid = made_model("factorised_self_attention", {})
    refused(lambda: merge_tokens(grid, Merge(0.5, "both")), "over space or time, not over both")
    for ratio in (-0.1, 0.96, math.nan):
        refused(lambda: Merge(ratio), "use 0 to 0.95")  # noqa: B023


def test_a_predictor_merges_and_an_exported_model_does_not(tmp_path: Path) -> None:
    made = tiny_model(classes={"classes": list("abcde")}, num_layers=4, std=0.2)
    vivit.save(made, tmp_path / "model")
    video = encode(tmp_path / "clip.mp4", noisy(120, frames=20))
    (view,) = read_views(video, clip_spec(made), 1, 1).frames
    for merge, same in ((0.0, Merge(0.0)), (0.5, Merge(0.5, "both")), (Merge(0.5, "time"), Merge(0.5, "time"))):
        predictor = vivit.Predictor(tmp_path / "model", "cpu", precision="f32", merge=merge)
        merge_tokens(made, same)
        with torch.inference_mode():
            expected = made(view[None]).softmax(dim=1).amax().item()
        assert predictor.predict(video).labels[0].score == pytest.approx(expected, abs=1e-6)
    exported = object.__new__(ExportedModel)
    refused(lambda: prepare(exported, "cpu", "auto", Merge(0.5)), "merge: an exported model")


def test_training_merges_nothing() -> None:
    model = made_model("spatiotemporal", {})
    clips = random_clips(model.config).double()
    expected = model.train()(clips)
    merge_tokens(model, Merge(0.5))
    assert torch.equal(model(clips), expected)
    assert not torch.allclose(model.eval()(clips), expected)
