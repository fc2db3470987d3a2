"""`adapt`, and `load` with changes: other clips, tubelet lengths and classes."""

from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from scipy.ndimage import zoom
from torch import Tensor

from tests.support import random_weights, refused, tiny_model
from vivit.config import ModelConfig, Preprocessing, Variant
from vivit.errors import UserError
from vivit.model.vivit import ViViT
from vivit.weights import keymap
from vivit.weights.adapt import KernelInit, adapt, resize_kernel
from vivit.weights.flax_keys import key_map
from vivit.weights.scenic import from_scenic
from vivit.weights.store import load, save

SCENIC = Path(__file__).parents[1] / "parity" / "reference" / "scenic"
SIZES: dict[str, Any] = {
    "num_frames": 8,
    "image_size": (24, 40),
    "tubelet_size": (2, 8, 8),
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_dim": 40,
    "num_classes": 5,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "spatiotemporal": {"variant": "spatiotemporal"},
    "spatiotemporal, mean": {"variant": "spatiotemporal", "pooling": "mean"},
    "factorised encoder": {"variant": "factorised_encoder", "temporal_layers": 2},
    "factorised encoder, mean": {"variant": "factorised_encoder", "temporal_layers": 2, "pooling": "mean"},
    "baseline": {"variant": "factorised_encoder", "temporal_layers": 0},
    "baseline, mean": {"variant": "factorised_encoder", "temporal_layers": 0, "pooling": "mean"},
    "factorised self-attention": {"variant": "factorised_self_attention"},
    "factorised dot-product": {"variant": "factorised_dot_product"},
}
# Each shape of positions and each encoder once; pooling makes no difference to kernels and heads.
FEW = ["spatiotemporal", "factorised encoder", "baseline", "factorised self-attention", "factorised dot-product"]
UNIFORM: dict[str, Any] = {"embedding": "uniform_frames", "sampled_frames": 4}
each_variant = pytest.mark.parametrize("variant", VARIANTS)
each_of_few = pytest.mark.parametrize("variant", FEW)
each_init = pytest.mark.parametrize("tubelet_init", ["filter_inflation", "central_frame"])


def build(variant: str = "spatiotemporal", classes: Any = None, **fields: Any) -> ViViT:
    return tiny_model(classes, **{**SIZES, **VARIANTS[variant], **fields})


def noise(frames: int, height: int, width: int) -> Tensor:
    return torch.rand(2, frames, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def clip_of(model: ViViT) -> Tensor:
    return noise(model.config.num_frames, *model.config.image_size)


def copy_state(model: ViViT) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_state(state: dict[str, Tensor], expected: dict[str, Tensor], but: tuple[str, ...] = ()) -> None:
    """Compare bit for bit, except names with one of these endings."""
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        if not name.endswith(but or ("nothing",)):
            same = state[name].dtype == value.dtype and torch.equal(state[name], value)
            assert same, name


def scipy_zoom(positions: Tensor, grid: tuple[int, ...]) -> Tensor:
    factors = [after / before for before, after in zip(positions.shape, grid, strict=False)]
    zoomed = zoom(positions.double().numpy(), [*factors, 1], order=1)
    assert zoomed.shape == (*grid, positions.shape[-1])
    return torch.from_numpy(zoomed).float()


# Positions.


@each_variant
@pytest.mark.parametrize("fields", [{}, UNIFORM], ids=["tubelet", "uniform frames"])
def test_nothing_asked_for_gives_a_copy_with_the_very_same_logits(variant: str, fields: dict[str, Any]) -> None:
    model = build(variant, **fields)
    repeated: dict[str, Any] = {"num_frames": 8, "image_size": (24, 40), "num_classes": 5, "tubelet_size": None}
    for copy in (adapt(model), adapt(model, **repeated)):
        assert copy is not model
        assert (copy.config, copy.preprocessing) == (model.config, model.preprocessing)
        assert copy.origin == ()
        with torch.no_grad():
            assert torch.equal(copy(clip_of(model)), model(clip_of(model)))


RESIZES: list[dict[str, Any]] = [
    {"num_frames": 12, "image_size": (32, 56)},
    {"num_frames": 4, "image_size": (16, 24)},
    {"num_frames": 16},
    {"num_frames": 6},
    {"image_size": (40, 40)},
    {"image_size": (24, 16)},
    {"image_size": (40, 24)},
    {"image_size": 8, "num_frames": 2},
]


@each_variant
@pytest.mark.parametrize("changes", RESIZES, ids=str)
def test_positions_are_zoomed_along_time_height_and_width_and_nothing_else_changes(
    variant: str, changes: dict[str, Any]
) -> None:
    model = build(variant)
    before, adapted = copy_state(model), adapt(model, **changes)
    size = changes.get("image_size", (24, 40))
    height, width = (size, size) if isinstance(size, int) else size
    times, places = changes.get("num_frames", 8) // 2, (height // 8, width // 8)
    grids = {
        "encoder.positions.embedding": (times, *places),
        "encoder.spatial.positions.embedding": places,
        "encoder.temporal.positions.embedding": (times,),
    }
    after = adapted.state_dict()
    resized = [name for name in after if name.endswith("positions.embedding")]
    for name in resized:
        torch.testing.assert_close(after[name], scipy_zoom(before[name], grids[name]), rtol=0, atol=2e-6)
        if before[name].shape == after[name].shape:
            assert torch.equal(before[name], after[name])
    assert len(resized) == (2 if variant.startswith("factorised encoder") else 1)
    assert_same_state(after, before, but=("positions.embedding",))
    assert adapted.config == ModelConfig(**{**SIZES, **VARIANTS[variant], **changes})
    assert adapted(clip_of(adapted)).isfinite().all()


@each_of_few
@pytest.mark.parametrize(
    ("changes", "times"),
    [
        ({"num_frames": 9, "sampled_frames": 6}, 6),
        ({"num_frames": 16}, 4),
        ({"num_frames": 16, "sampled_frames": 8, "image_size": (32, 32)}, 8),
        ({"sampled_frames": 2}, 3),  # the official sampling takes one frame more here
        ({"sampled_frames": 8}, 8),
    ],
)
def test_positions_of_uniform_frames_follow_how_many_are_taken(
    variant: str, changes: dict[str, Any], times: int
) -> None:
    model = build(variant, **UNIFORM)
    before, adapted = copy_state(model), adapt(model, **changes)
    places = (4, 4) if "image_size" in changes else (3, 5)
    after = adapted.state_dict()
    for name, grid in {
        "encoder.positions.embedding": (times, *places),
        "encoder.spatial.positions.embedding": places,
        "encoder.temporal.positions.embedding": (times,),
    }.items():
        if name in after:
            torch.testing.assert_close(after[name], scipy_zoom(before[name], grid), rtol=0, atol=2e-6)
    assert_same_state(after, before, but=("positions.embedding",))
    assert adapted(clip_of(adapted)).isfinite().all()


@pytest.mark.parametrize("variant", ["spatiotemporal", "factorised self-attention", "factorised dot-product"])
@pytest.mark.parametrize("image_size", [(32, 56), (16, 24), (40, 24), (64, 64)])
@pytest.mark.parametrize("num_frames", [8, 14])
def test_positions_of_time_alone_stay_so(variant: str, image_size: tuple[int, int], num_frames: int) -> None:
    """No axis may be mistaken for part of another."""
    model = build(variant)
    times = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    positions = model.get_parameter("encoder.positions.embedding")
    positions.data.copy_(times[:, None, None].expand_as(positions))
    resized = adapt(model, image_size=image_size, num_frames=num_frames).get_parameter("encoder.positions.embedding")
    expected = scipy_zoom(times, (num_frames // 2,))[:, None, None].expand_as(resized)
    torch.testing.assert_close(resized.detach(), expected, rtol=0, atol=2e-6)
    assert (resized[0] - resized[-1]).abs().max() > 0.5


def positions_of_places(model: ViViT) -> str:
    return f"encoder.{'spatial.' if model.config.variant == 'factorised_encoder' else ''}positions.embedding"


@each_of_few
@pytest.mark.parametrize("axis", [-3, -2], ids=["row", "column"])
@pytest.mark.parametrize("changes", [{"num_frames": 16}, {"num_frames": 6}, {"num_frames": 18, "image_size": (24, 40)}])
def test_positions_of_one_row_or_column_stay_so_when_time_changes(
    variant: str, axis: int, changes: dict[str, Any]
) -> None:
    model = build(variant)
    positions = model.get_parameter(name := positions_of_places(model))
    lines = torch.randn(positions.shape[axis], 32, generator=torch.Generator().manual_seed(2))
    positions.data.copy_((lines[:, None] if axis == -3 else lines).expand_as(positions))
    resized = adapt(model, **changes).get_parameter(name)
    expected = (lines[:, None] if axis == -3 else lines).expand_as(resized)
    torch.testing.assert_close(resized.detach(), expected, rtol=0, atol=2e-6)


@each_of_few
def test_positions_of_the_row_alone_stay_so_when_the_width_changes(variant: str) -> None:
    model = build(variant)
    positions = model.get_parameter(name := positions_of_places(model))
    rows = torch.randn(3, 1, 32, generator=torch.Generator().manual_seed(2))
    positions.data.copy_(rows.expand_as(positions))
    resized = adapt(model, image_size=(24, 64), num_frames=10).get_parameter(name)
    assert resized.shape[-3:-1] == (3, 8)
    torch.testing.assert_close(resized.detach(), rows.expand_as(resized), rtol=0, atol=2e-6)


# The copy.


@each_of_few
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_frames": 12, "image_size": (32, 56)},
        {"tubelet_size": (4, 8, 8)},
        {"num_classes": 3},
        {"classes": list("vwxyz")},
        {"dropout": 0.1},
    ],
    ids=str,
)
def test_editing_the_copy_never_changes_the_original(variant: str, changes: dict[str, Any]) -> None:
    model = build(variant)
    before, config = copy_state(model), model.config
    copy = adapt(model, **changes)
    assert_same_state(model.state_dict(), before)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.fill_(7)
    assert_same_state(model.state_dict(), before)
    assert (model.config, model.classes, model.origin) == (config, None, ())
    assert model.preprocessing == Preprocessing.of_crop((24, 40))
    with torch.no_grad():
        assert model(clip_of(model)).isfinite().all()


@pytest.mark.parametrize("train", [True, False])
def test_the_copy_learns_and_stays_in_its_mode(train: bool) -> None:
    model = build("factorised encoder").train(train)
    copy = adapt(model, num_frames=12, image_size=(32, 56), tubelet_size=(4, 8, 8), num_classes=3, dropout=0.1)
    assert copy.training == train
    assert all(module.training == train for module in copy.modules())
    torch.nn.functional.cross_entropy(copy(clip_of(copy)), torch.tensor([0, 2])).backward()
    for name, parameter in copy.named_parameters():
        assert parameter.is_leaf and parameter.grad is not None, name
    head = copy.get_parameter("heads.classes.weight").grad
    assert head is not None and torch.count_nonzero(head) > 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_precision_stays(dtype: torch.dtype) -> None:
    changes: dict[str, Any] = {"num_frames": 12, "image_size": (32, 56), "tubelet_size": (4, 8, 8), "num_classes": 3}
    adapted = adapt(build("factorised encoder").to(dtype), **changes)
    assert {parameter.dtype for parameter in adapted.parameters()} == {dtype}


def test_all_of_the_copy_is_where_the_model_is() -> None:
    adapted = adapt(build("factorised encoder").to("meta"), num_classes=3, tubelet_size=(4, 8, 8), image_size=32)
    assert {parameter.device.type for parameter in adapted.parameters()} == {"meta"}


# Tubelets of another length.


@pytest.mark.parametrize("frames", [2, 3, 4, 6])
@each_of_few
def test_one_frame_to_several_are_equations_8_and_9(variant: str, frames: int) -> None:
    model = build(variant, num_frames=12, tubelet_size=(1, 8, 8))
    kernel = model.embedding.weight.detach().clone()
    inflated = adapt(model, tubelet_size=(frames, 8, 8)).embedding.weight
    torch.testing.assert_close(inflated.detach(), kernel.expand(-1, -1, frames, -1, -1) / frames)
    central = adapt(model, tubelet_size=(frames, 8, 8), tubelet_init="central_frame").embedding.weight
    expected = torch.zeros(32, 3, frames, 8, 8)
    expected[:, :, frames // 2] = kernel[:, :, 0]
    assert torch.equal(central, expected)


LENGTHS = [(1, 2), (1, 3), (2, 4), (4, 2), (2, 3), (3, 2), (4, 1), (2, 1), (3, 4), (2, 6)]


@pytest.mark.parametrize(("before", "after"), LENGTHS)
def test_inflation_shares_every_frame_out_evenly(before: int, after: int) -> None:
    """Cut each old frame into `after` parts; every new frame is the next `before` of them."""
    kernel = torch.randn(4, 3, before, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts = kernel.repeat_interleave(after, dim=2) / after
    expected = parts.unflatten(2, (after, before)).sum(dim=3)
    torch.testing.assert_close(resize_kernel(kernel, after, "filter_inflation"), expected)


def test_central_frames_stay_together_in_the_middle() -> None:
    kernel = torch.randn(4, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    zeros = torch.zeros(4, 3, 1, 2, 2)
    assert torch.equal(resize_kernel(kernel, 4, "central_frame"), torch.cat([zeros, kernel, zeros], dim=2))


@each_init
@pytest.mark.parametrize(("before", "after"), LENGTHS)
def test_a_standing_picture_gives_the_same_tokens(before: int, after: int, tubelet_init: KernelInit) -> None:
    model = build(num_frames=2 * before, tubelet_size=(before, 8, 8))
    adapted = adapt(model, tubelet_init=tubelet_init, tubelet_size=(after, 8, 8), num_frames=3 * after)
    old, new = model.embedding.weight.detach(), adapted.embedding.weight.detach()
    assert new.shape[2] == after
    torch.testing.assert_close(new.sum(dim=2), old.sum(dim=2))
    picture = noise(1, 24, 40)
    with torch.no_grad():
        tokens = model.embedding(picture.expand(-1, 2 * before, -1, -1, -1))
        adapted_tokens = adapted.embedding(picture.expand(-1, 3 * after, -1, -1, -1))
    assert adapted_tokens.shape[1] == 3
    for time in range(3):
        torch.testing.assert_close(adapted_tokens[:, time], tokens[:, 0], rtol=1e-4, atol=1e-4)


@each_of_few
@pytest.mark.parametrize(("before", "times"), [(2, 2), (1, 2), (1, 3), (2, 3)])
def test_a_video_played_slower_is_seen_as_before(variant: str, before: int, times: int) -> None:
    """Repeating every frame and stretching the tubelets by the same factor keeps all tokens and logits."""
    model = build(variant, tubelet_size=(before, 8, 8))
    adapted = adapt(model, tubelet_size=(before * times, 8, 8), num_frames=8 * times)
    video = clip_of(model)
    with torch.no_grad():
        slower = video.repeat_interleave(times, dim=1)
        torch.testing.assert_close(adapted.embedding(slower), model.embedding(video), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(adapted(slower), model(video), rtol=1e-3, atol=1e-3)
        # And back: a pair of equal frames is one frame for a kernel of half the length.
        back = adapt(adapted, tubelet_size=(before, 8, 8), num_frames=8)
        torch.testing.assert_close(back(video), model(video), rtol=1e-3, atol=1e-3)


@each_of_few
def test_frames_embedded_one_by_one_become_tubelets(variant: str) -> None:
    model = build(variant, num_frames=4, **UNIFORM)  # all four frames
    kernel = model.embedding.weight.detach().clone()
    changes: dict[str, Any] = {"embedding": "tubelet", "tubelet_size": (2, 8, 8), "num_frames": 8}
    inflated = adapt(model, **changes)
    assert (inflated.config.embedding, inflated.config.sampled_frames) == ("tubelet", None)
    assert inflated.config.grid == model.config.grid
    torch.testing.assert_close(inflated.embedding.weight.detach(), torch.cat([kernel, kernel], dim=2) / 2)
    video = clip_of(model)
    with torch.no_grad():
        torch.testing.assert_close(inflated(video.repeat_interleave(2, dim=1)), model(video), rtol=1e-3, atol=1e-3)
        central = adapt(model, tubelet_init="central_frame", **changes)
        # Only the second frame of each pair has a kernel that is not zero.
        pairs = torch.stack([noise(4, 24, 40).flip(1), video], dim=2).flatten(1, 2)
        torch.testing.assert_close(central(pairs), model(video), rtol=1e-3, atol=1e-3)


def test_tubelets_become_frames_embedded_one_by_one() -> None:
    model = build(tubelet_size=(2, 8, 8))
    adapted = adapt(model, embedding="uniform_frames", sampled_frames=4)
    assert adapted.config.tubelet_size == (1, 8, 8)
    expected = model.embedding.weight.detach().sum(dim=2, keepdim=True)
    torch.testing.assert_close(adapted.embedding.weight.detach(), expected)
    assert adapted.origin == ("tubelet kernel summed up from 2 to 1 frames", "4 frames of 8 sampled uniformly")


# Classes.


def head(model: ViViT, name: str = "classes") -> tuple[Tensor, Tensor]:
    return model.get_parameter(f"heads.{name}.weight").detach(), model.get_parameter(f"heads.{name}.bias").detach()


def assert_fresh(model: ViViT, old: ViViT, counts: dict[str, int]) -> None:
    assert model.config.class_counts == counts
    assert list(model.heads) == list(counts)
    for name, count in counts.items():
        weight, bias = head(model, name)
        assert weight.shape[0] == bias.shape[0] == count
        assert torch.count_nonzero(weight) == torch.count_nonzero(bias) == 0
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("heads.")}
    assert_same_state(state, {name: value for name, value in old.state_dict().items() if not name.startswith("heads.")})


@each_of_few
@pytest.mark.parametrize("representation", [None, 24])
def test_another_number_of_classes_is_a_fresh_head_and_said(variant: str, representation: int | None) -> None:
    model = build(variant, classes={"classes": list("abcde")}, representation_size=representation)
    adapted = adapt(model, num_classes=3)
    assert_fresh(adapted, model, {"classes": 3})
    assert adapted.classes is None
    assert adapted.origin == ("fresh head of 3 classes, untrained: the weights have 5",)
    with torch.no_grad():
        assert torch.equal(adapted(clip_of(model)), torch.zeros(2, 3))
        assert torch.equal(adapted.features(clip_of(model)), model.features(clip_of(model)))


def test_as_many_classes_as_before_keep_the_head_and_its_names() -> None:
    model = build(classes={"classes": list("abcde")})
    for changes in ({"num_classes": 5}, {"classes": list("abcde")}, {"classes": {"classes": list("abcde")}}):
        adapted = adapt(model, num_frames=4, **changes)
        assert torch.equal(head(adapted)[0], head(model)[0]) and torch.equal(head(adapted)[1], head(model)[1])
        assert adapted.classes == {"classes": tuple("abcde")}
        assert adapted.origin == ("positions resized from 4 × 3 × 5 to 2 × 3 × 5",)


def test_names_for_as_many_nameless_classes_name_them() -> None:
    model = build()
    adapted = adapt(model, classes=list("abcde"))
    assert adapted.classes == {"classes": tuple("abcde")}
    assert_same_state(adapted.state_dict(), model.state_dict())
    assert adapted.origin == ()


@pytest.mark.parametrize("classes", ["abcde", 3, {"classes": "abcde"}, {"classes": 5}])
def test_names_that_are_no_list_are_refused(classes: Any) -> None:
    with pytest.raises(UserError, match=r"classes: give a list of names, not"):
        adapt(build(), classes=classes)


def test_names_that_no_head_can_have_are_refused() -> None:
    with pytest.raises(UserError, match=r"heads: 'keys' is a name that PyTorch uses itself"):
        adapt(build(), heads={"keys": 2})


def test_names_of_several_heads_describe_a_scenic_checkpoint_whose_outputs_they_are() -> None:
    path = SCENIC / "fe_epic" / "checkpoint"
    names = {"noun": list("abcde"), "verb": list("xyz")}
    loaded = load(path, image_size=32, classes=names)
    described = from_scenic(path, image_size=32, heads={"noun": 5, "verb": 3})
    assert_same_state(loaded.state_dict(), described.state_dict())
    assert loaded.classes == {"noun": tuple("abcde"), "verb": tuple("xyz")}


def test_frozen_parameters_stay_frozen_and_a_fresh_head_learns() -> None:
    model = build("factorised encoder").requires_grad_(False)
    adapted = adapt(model, image_size=24 if model.config.image_size != (24, 24) else 32, num_classes=3)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained == {"heads.classes.weight", "heads.classes.bias"}


@pytest.mark.parametrize("names", ["abcdx", "abcda", "abc", "abcdef"])
def test_other_names_than_the_models_are_a_fresh_head(names: str) -> None:
    model = build(classes={"classes": list("abcde")})
    adapted = adapt(model, classes=list(names))
    assert_fresh(adapted, model, {"classes": len(names)})
    assert adapted.classes == {"classes": tuple(names)}
    assert adapted.origin[0].startswith(f"fresh head of {len(names)} classes") and "have 5" in adapted.origin[0]
    assert len(adapted.origin) == 1


@pytest.mark.parametrize("changes", [{}, {"num_frames": 4}])
def test_the_models_names_in_another_order_reorder_its_head(changes: dict[str, Any]) -> None:
    model = build(classes={"classes": list("abcde")})
    adapted = adapt(model, classes=list("cabed"), **changes)
    assert adapted.classes == {"classes": tuple("cabed")}
    for given, before in zip(head(adapted), head(model), strict=True):
        assert torch.equal(given, torch.stack([before["abcde".index(name)] for name in "cabed"]))
    assert adapted.origin[-1] == "the 5 classes of the head reordered"
    back = adapt(adapted, classes=list("abcde"), num_frames=8)
    assert torch.equal(head(back)[0], head(model)[0])


def test_a_name_that_two_classes_share_does_not_tell_an_order() -> None:
    model = build(classes={"classes": list("abcdd")})
    assert_fresh(adapt(model, classes=list("ddcba")), model, {"classes": 5})


def test_one_of_several_heads_is_reordered() -> None:
    names = {"verb": list("abc"), "noun": list("wxyz")}
    model = build(num_classes=None, heads={"verb": 3, "noun": 4}, classes=names)
    adapted = adapt(model, classes={"verb": list("abc"), "noun": list("zwxy")})
    assert torch.equal(head(adapted, "verb")[0], head(model, "verb")[0])
    assert torch.equal(head(adapted, "noun")[0], head(model, "noun")[0].roll(1, dims=0))
    assert torch.equal(head(adapted, "noun")[1], head(model, "noun")[1].roll(1))
    assert adapted.origin == ("the 4 noun classes of the head reordered",)


@pytest.mark.parametrize("before", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fresh_adapter_leaves_the_logits_as_they_were(before: int | None, dtype: torch.dtype) -> None:
    bare = build("factorised encoder").to(dtype)
    model = bare
    if before is not None:
        model = random_weights(adapt(bare, adapter_size=before))
    adapted = adapt(model, adapter_size=6)
    assert adapted.origin[-1] == "fresh adapter of width 6, untrained: it changes nothing yet"
    assert adapted.get_parameter("encoder.adapter.down.weight").shape == (6, 32)
    assert {value.dtype for value in adapted.state_dict().values()} == {dtype}

    def others(model: ViViT) -> dict[str, Tensor]:
        return {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.adapter.")}

    assert_same_state(others(adapted), others(model))
    video = clip_of(model).to(dtype)
    bare.load_state_dict(others(model))
    with torch.no_grad():
        assert torch.equal(adapted(video), bare(video))


def test_an_adapter_that_is_asked_for_anew_stays() -> None:
    model = random_weights(adapt(build("factorised encoder"), adapter_size=6))
    assert_same_state(adapt(model, adapter_size=6, num_frames=8).state_dict(), copy_state(model))


def test_fresh_attentive_pooling_leaves_the_encoder_as_it_was_and_heads_start_anew(tmp_path: Path) -> None:
    model = build("factorised encoder").double()
    pooled = adapt(model, attentive_pooling=True)
    assert pooled.origin[-1] == "fresh attentive pooling, untrained"
    added = {name for name in pooled.state_dict() if name.startswith("pooler.")}
    assert pooled.state_dict().keys() - model.state_dict().keys() == added
    before = {name: value for name, value in pooled.state_dict().items() if name not in added}
    assert_same_state(before, copy_state(model), but=("heads.classes.weight", "heads.classes.bias"))
    assert not any(torch.any(parameter) for parameter in pooled.heads.parameters())
    assert pooled.get_parameter("pooler.query").std() > 0.01
    save(pooled, tmp_path)
    video = clip_of(model).double()
    with torch.no_grad():
        assert torch.equal(load(tmp_path).features(video), pooled.features(video))
        assert not torch.allclose(pooled.features(video), model.features(video))
    refused(lambda: adapt(pooled, attentive_pooling=False), "^attentive_pooling: you gave False")
    assert_same_state(adapt(pooled, attentive_pooling=True).state_dict(), pooled.state_dict())


def test_what_a_logit_means_changes_on_request() -> None:
    model = build()
    adapted = adapt(model, multi_label=True)
    assert adapted.config.multi_label
    assert_same_state(adapted.state_dict(), model.state_dict())


def test_from_one_head_to_several_and_back() -> None:
    model = build("factorised encoder", classes={"classes": list("abcde")})
    several = adapt(model, heads={"verb": 3, "noun": 4})
    assert_fresh(several, model, {"verb": 3, "noun": 4})
    assert several.config.num_classes is None
    assert several.origin == ("fresh head of 3 verb and 4 noun classes, untrained: the weights have 5",)
    assert {name: tuple(x.shape) for name, x in several(clip_of(model)).items()} == {"verb": (2, 3), "noun": (2, 4)}

    random_weights(several)
    one = adapt(several, num_classes=7)
    assert_fresh(one, several, {"classes": 7})
    assert one.config.heads is None
    assert one.origin[-1] == "fresh head of 7 classes, untrained: the weights have 3 verb and 4 noun"
    assert one(clip_of(model)).shape == (2, 7)


def test_named_heads_are_kept_named_or_fresh_as_one_head_is() -> None:
    model = build(num_classes=None, heads={"verb": 3, "noun": 4})
    names = {"noun": list("wxyz"), "verb": list("abc")}
    for changes in ({"heads": {"noun": 4, "verb": 3}}, {"classes": names}):
        kept = adapt(model, num_frames=4, **changes)
        for name in ("verb", "noun"):
            assert torch.equal(head(kept, name)[0], head(model, name)[0])
            assert torch.equal(head(kept, name)[1], head(model, name)[1])
        assert len(kept.origin) == 1
    assert kept.classes == {"noun": tuple("wxyz"), "verb": tuple("abc")}
    other = adapt(kept, classes={"verb": list("abc"), "noun": list("wxy")})
    # The verbs are the same, and keep their head.
    assert list(other.heads) == ["verb", "noun"]
    assert torch.equal(head(other, "verb")[0], head(model, "verb")[0])
    assert torch.equal(head(other, "verb")[1], head(model, "verb")[1])
    assert torch.count_nonzero(head(other, "noun")[0]) == torch.count_nonzero(head(other, "noun")[1]) == 0
    assert head(other, "noun")[0].shape[0] == 3
    assert other.origin[-1] == "fresh head of 3 noun classes, untrained: the weights have 4 noun and 3 verb"


def test_classes_and_a_number_that_contradicts_them_are_refused() -> None:
    contradictions: list[dict[str, Any]] = [
        {"classes": list("ab"), "num_classes": 5},
        {"classes": {"verb": list("ab")}, "heads": {"verb": 3}},
        {"classes": {"verb": list("ab")}, "num_classes": 2},
        {"heads": {"verb": 2}, "num_classes": 2},
    ]
    for changes in contradictions:
        refused(partial(adapt, build(), **changes), "classes")


# Preprocessing, log and origin.


@pytest.mark.parametrize(
    ("image_size", "resize"), [(112, 128), ((112, 192), 192), (320, 366), ((224, 224), 256), ((448, 224), 448)]
)
def test_the_shorter_side_follows_the_crop(image_size: int | tuple[int, int], resize: int) -> None:
    with torch.device("meta"):
        model = ViViT(
            ModelConfig(**{**SIZES, "image_size": 224, "tubelet_size": (2, 16, 16)}),
            preprocessing=Preprocessing(frame_stride=3, resize=256, short_clips="pad"),
        )
    adapted = adapt(model, image_size=image_size)
    assert adapted.preprocessing == Preprocessing(frame_stride=3, resize=resize, short_clips="pad")
    lines = [line for line in adapted.origin if "shorter side" in line]
    assert lines == ([] if resize == 256 else [f"shorter side resized to {resize} pixels, not 256"])


def test_the_shorter_side_keeps_its_ratio_to_the_crop_and_ignores_time() -> None:
    model = build()
    model.preprocessing = Preprocessing(frame_stride=1, resize=60)
    assert adapt(model, image_size=(48, 80)).preprocessing == Preprocessing(frame_stride=1, resize=120)
    assert adapt(model, image_size=(16, 40)).preprocessing == Preprocessing(frame_stride=1, resize=40)
    assert adapt(model, num_frames=4, num_classes=2).preprocessing == model.preprocessing


def test_a_shorter_side_that_stays_is_not_told_as_changed() -> None:
    model = build()
    model.preprocessing = Preprocessing(resize=60)
    adapted = adapt(model, image_size=(24, 48))
    assert adapted.preprocessing == model.preprocessing
    assert adapted.origin == ("positions resized from 4 × 3 × 5 to 4 × 3 × 6",)


def test_what_is_not_in_the_weights_changes_without_a_line() -> None:
    rates: dict[str, Any] = {"dropout": 0.1, "attention_dropout": 0.2, "stochastic_depth": 0.3}
    model = build("factorised encoder")
    adapted = adapt(model, **rates)
    assert adapted.config == model.config.model_copy(update=rates)
    assert adapted.origin == ()
    assert_same_state(adapted.state_dict(), model.state_dict())
    assert {module.p for module in adapted.modules() if isinstance(module, torch.nn.Dropout)} == {0.1}
    with torch.no_grad():
        assert torch.equal(adapted(clip_of(model)), model(clip_of(model)))
        adapted.train()
        assert not torch.equal(adapted(clip_of(model)), model(clip_of(model)))


@pytest.mark.parametrize(
    ("variant", "positions"),
    [
        ("spatiotemporal", ["positions resized from 4 × 3 × 5 to 3 × 4 × 4"]),
        (
            "factorised encoder",
            ["spatial positions resized from 3 × 5 to 4 × 4", "temporal positions resized from 4 to 3"],
        ),
        ("baseline", ["spatial positions resized from 3 × 5 to 4 × 4"]),
        ("factorised self-attention", ["positions resized from 4 × 3 × 5 to 3 × 4 × 4"]),
        ("factorised dot-product", ["positions resized from 4 × 3 × 5 to 3 × 4 × 4"]),
    ],
)
@each_init
def test_log_and_origin_tell_every_change(
    variant: str, positions: list[str], tubelet_init: KernelInit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "vivit")
    model = build(variant)
    model.origin = ("drawn at random",)
    adapted = adapt(
        model, tubelet_init=tubelet_init, num_frames=12, image_size=32, tubelet_size=(4, 8, 8), num_classes=3
    )
    how = "inflated" if tubelet_init == "filter_inflation" else "re-centred"
    expected = [
        *positions,
        f"tubelet kernel {how} from 2 to 4 frames",
        "fresh head of 3 classes, untrained: the weights have 5",
        f"shorter side resized to {round(40 * 32 / 24)} pixels, not 40",
    ]
    assert adapted.origin[0] == "drawn at random"
    assert sorted(adapted.origin[1:]) == sorted(expected)
    assert tuple(caplog.messages) == adapted.origin[1:]
    assert model.origin == ("drawn at random",)

    save(adapted, tmp_path)
    loaded = load(tmp_path)
    assert loaded.origin == adapted.origin
    again = adapt(adapted, num_classes=2)
    assert again.origin == (*adapted.origin, "fresh head of 2 classes, untrained: the weights have 3")


# Changes that are refused.


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("spatiotemporal", {"hidden_size": 64}, "hidden_size: you gave 64, but the weights have 32"),
        ("spatiotemporal", {"num_layers": 3}, "num_layers: you gave 3"),
        ("spatiotemporal", {"num_heads": 4}, "num_heads: you gave 4"),
        ("spatiotemporal", {"mlp_dim": 32}, "mlp_dim: you gave 32"),
        ("spatiotemporal", {"representation_size": 8}, "representation_size: you gave 8"),
        ("spatiotemporal", {"activation": "gelu"}, "activation: you gave gelu"),
        ("spatiotemporal", {"norm_eps": 1e-5}, "norm_eps: "),
        ("spatiotemporal", {"pooling": "mean"}, "pooling: you gave mean"),
        ("spatiotemporal", {"tubelet_size": (2, 4, 8)}, "tubelet_size: "),
        ("spatiotemporal", {"tubelet_size": (2, 8, 4)}, "tubelet_size: "),
        ("spatiotemporal", {"tubelet_size": (2, 8, 20)}, "tubelet_size: "),
        ("factorised encoder", {"temporal_layers": 3}, "temporal_layers: you gave 3"),
        ("factorised encoder", {"temporal_layers": 0}, "temporal_layers: you gave 0"),
        ("baseline", {"temporal_layers": 1}, "temporal_layers: you gave 1"),
        ("factorised encoder, mean", {"pooling": "token"}, "pooling: you gave token"),
        ("factorised self-attention", {"attention_order": "time_space"}, "attention_order: you gave time_space"),
        # Contradictory sizes.
        ("spatiotemporal", {"num_frames": 7}, "num_frames: 7 is not a multiple"),
        ("spatiotemporal", {"tubelet_size": (3, 8, 8)}, "num_frames: 8 is not a multiple of the tubelet's 3"),
        ("spatiotemporal", {"image_size": 20}, "image_size: the height 20"),
        ("spatiotemporal", {"image_size": (24, 44)}, "image_size: the width 44"),
        ("spatiotemporal", {"num_frames": 0}, "num_frames: "),
        ("spatiotemporal", {"image_size": (24, 40, 3)}, "image_size: "),
        ("spatiotemporal", {"tubelet_size": 4}, "tubelet_size: "),
        ("spatiotemporal", {"sampled_frames": 4}, "sampled_frames goes with"),
        ("spatiotemporal", {"embedding": "uniform_frames"}, "sampled_frames: .* needs the number"),
        ("spatiotemporal", {"embedding": "uniform_frames", "sampled_frames": 9}, "sampled_frames: cannot take 9"),
        ("spatiotemporal", {"num_classes": -1}, "num_classes: "),
        ("spatiotemporal", {"heads": {}}, "heads: "),
        ("spatiotemporal", {"dropout": 1.5}, "dropout: "),
        # Unknown fields.
        ("spatiotemporal", {"depth": 3}, "depth: "),
        ("spatiotemporal", {"tubelet_init": "random"}, "tubelet_init: "),
    ],
)
def test_what_the_weights_cannot_become_is_refused_in_one_line(
    variant: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = build(variant)
    refused(lambda: adapt(model, **changes), rf"^{message}")
    save(model, tmp_path)
    with pytest.raises(UserError, match=rf"^{tmp_path}: {message}"):
        load(tmp_path, **changes)


@each_of_few
@pytest.mark.parametrize(
    "other", ["spatiotemporal", "factorised_encoder", "factorised_self_attention", "factorised_dot_product"]
)
def test_another_variant_is_refused_by_its_name(variant: str, other: Variant) -> None:
    model = build(variant)
    if other == model.config.variant:
        assert adapt(model, variant=other).config == model.config
        return
    with pytest.raises(UserError, match=rf"^variant: you gave {other}, but the weights have {model.config.variant}"):
        adapt(model, variant=other)


def test_a_width_is_refused_by_its_name_even_where_heads_do_not_divide_it() -> None:
    with pytest.raises(UserError, match=r"^hidden_size: you gave 33"):
        adapt(build(), hidden_size=33)


# Adapting while loading.


@each_of_few
@pytest.mark.parametrize(
    "changes",
    [
        {"num_frames": 12, "image_size": (32, 56)},
        {"tubelet_size": (4, 8, 8), "tubelet_init": "central_frame"},
        {"classes": list("xyz"), "stochastic_depth": 0.2},
        {"heads": {"verb": 3, "noun": 4}},
        {"num_frames": 8},
    ],
    ids=str,
)
def test_load_with_changes_adapts_what_is_loaded(variant: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = build(variant, classes={"classes": list("abcde")})
    model.origin = ("drawn at random",)
    save(model, tmp_path)
    loaded, expected = load(tmp_path, **changes), adapt(model, **changes)
    assert_same_state(loaded.state_dict(), expected.state_dict())
    for field in ("config", "classes", "preprocessing", "origin", "training"):
        assert getattr(loaded, field) == getattr(expected, field), field
    assert_same_state(load(tmp_path).state_dict(), model.state_dict())
    save(loaded, tmp_path)  # replaces the file that it was read from
    assert_same_state(load(tmp_path).state_dict(), expected.state_dict())


@pytest.mark.parametrize("case", ["fe", "joint"])
def test_a_scenic_checkpoint_is_loaded_for_other_classes_which_from_scenic_refuses(case: str) -> None:
    path = SCENIC / case / "checkpoint"
    original = from_scenic(path, image_size=32)
    with pytest.raises(UserError, match=r"num_classes: you gave 3, but the weights have 7"):
        from_scenic(path, image_size=32, num_classes=3)
    loaded = load(path, image_size=32, num_classes=3)
    assert_fresh(loaded, original, {"classes": 3})
    assert loaded.origin == (*original.origin, "fresh head of 3 classes, untrained: the weights have 7")
    assert not loaded.training

    heads = load(path, image_size=32, heads={"verb": 3, "noun": 5})
    assert_fresh(heads, original, {"verb": 3, "noun": 5})
    fresh = load(path, image_size=32, classes=["wave", "jump"])
    assert_fresh(fresh, original, {"classes": 2})
    assert fresh.classes == {"classes": ("wave", "jump")}
    named = load(path, image_size=32, classes=list("abcdefg"))
    assert named.classes == {"classes": tuple("abcdefg")}
    assert_same_state(named.state_dict(), original.state_dict())


@pytest.mark.parametrize("case", ["fe", "joint"])
def test_what_describes_a_scenic_checkpoint_is_still_held_against_it(case: str) -> None:
    path = SCENIC / case / "checkpoint"
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"num_classes": 3}, "give image_size"),
        ({"image_size": 32, "num_layers": 9}, "num_layers: you gave 9"),
        ({"image_size": 32, "num_layers": 9, "num_classes": 3}, "num_layers: you gave 9"),
        ({"image_size": 40}, "image_size: 40 × 40"),
        ({"image_size": 32, "depth": 9}, "depth"),
    ]
    for keywords, message in refusals:
        refused(partial(load, path, **keywords), rf"checkpoint: .*{message}")


# The released checkpoints: 32 frames of 224 × 224, tubelets of 2 × 16 × 16, loaded without keywords.

RELEASED: dict[str, dict[str, Any]] = {
    "joint": {"variant": "spatiotemporal"},
    "factorised encoder": {"variant": "factorised_encoder", "temporal_layers": 1},
}
EPIC_LINES = [
    "397 outputs taken as EPIC-Kitchens' 300 noun and 97 verb classes",
    "every frame taken, as EPIC-Kitchens' config has it",
]
CLIP_LINE = "clip taken as 32 frames of 224 × 224, as all released checkpoints have"
each_released = pytest.mark.parametrize("kind", RELEASED)


def write_flax(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write nested maps of arrays as `flax.serialization.msgpack_serialize` does."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))
    path.write_bytes(msgpack.packb({"step": 7, "optimizer": {"target": tree, "state": {"step": 7}}}))


def released(kind: str, path: Path, **fields: Any) -> tuple[ViViT, dict[str, np.ndarray]]:
    """Write a tiny file like the released ones; return its model and arrays."""
    epic = not fields
    fields = fields or {"heads": {"noun": 300, "verb": 97}}
    config = ModelConfig(
        **RELEASED[kind], hidden_size=8, num_layers=2 if kind == "joint" else 1, num_heads=2, mlp_dim=12, **fields
    )
    model = random_weights(ViViT(config, preprocessing=Preprocessing(frame_stride=1 if epic else 2, resize=256)))
    arrays = {name: array.numpy() for name, array in keymap.write(model.state_dict(), key_map(config)).items()}
    write_flax(arrays, path)
    return model, arrays


@each_released
def test_the_file_is_laid_out_as_the_official_code_has_it(kind: str, tmp_path: Path) -> None:
    """Check the file by flax's own arithmetic, so that the tests below do not depend on the key map."""
    model, arrays = released(kind, tmp_path / "checkpoint")
    factorised = kind == "factorised encoder"
    stem = "SpatialTransformer" if factorised else "Transformer"
    x = np.random.default_rng(0).normal(size=8).astype(np.float32)

    block = "encoder.spatial.blocks.0" if factorised else "encoder.blocks.0"
    with torch.no_grad():
        qkv = model.get_submodule(f"{block}.attn.qkv")(torch.from_numpy(x)).view(2, 3, 4)
        out = model.get_submodule(f"{block}.attn.proj")(torch.from_numpy(x)).numpy()
    attention = f"{stem}/encoderblock_0/MultiHeadDotProductAttention_0"
    for i, part in enumerate(("query", "key", "value")):
        projected = np.einsum("i,ihd->hd", x, arrays[f"{attention}/{part}/kernel"]) + arrays[f"{attention}/{part}/bias"]
        np.testing.assert_allclose(qkv[:, i].numpy(), projected, rtol=1e-4, atol=1e-5)
    mixed = np.einsum("hd,hdo->o", x.reshape(2, 4), arrays[f"{attention}/out/kernel"]) + arrays[f"{attention}/out/bias"]
    np.testing.assert_allclose(out, mixed, rtol=1e-4, atol=1e-5)

    tube = noise(2, 16, 16)[:1]
    small = ViViT(model.config.model_copy(update={"num_frames": 2, "image_size": (16, 16)})).embedding
    small.load_state_dict(model.embedding.state_dict())
    token = np.einsum("tchw,thwcd->d", tube[0].numpy(), arrays["embedding/kernel"]) + arrays["embedding/bias"]
    np.testing.assert_allclose(small(tube).detach().numpy().ravel(), token, rtol=1e-4, atol=1e-4)

    rows = arrays[f"{stem}/posembed_input/pos_embedding"]
    if factorised:
        assert rows.shape == (1, 1 + 14 * 14, 8)
        place = model.state_dict()["encoder.spatial.positions.embedding"][3, 9]
        np.testing.assert_array_equal(rows[0, 1 + 3 * 14 + 9], place.numpy())
        assert arrays["TemporalTransformer/posembed_input/pos_embedding"].shape == (1, 1 + 16, 8)
    else:
        assert rows.shape == (1, 1 + 16 * 14 * 14, 8)
        place = model.state_dict()["encoder.positions.embedding"][5, 3, 9]
        np.testing.assert_array_equal(rows[0, 1 + (5 * 14 + 3) * 14 + 9], place.numpy())
    outputs = x @ arrays["output_projection/kernel"] + arrays["output_projection/bias"]
    with torch.no_grad():
        noun, verb = (model.heads[name](torch.from_numpy(x)).numpy() for name in ("noun", "verb"))
    np.testing.assert_allclose(np.concatenate([noun, verb]), outputs, rtol=1e-4, atol=1e-5)


@each_released
def test_a_released_checkpoint_needs_no_keyword(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "vivit_checkpoint"
    written, _ = released(kind, path)
    for model in (from_scenic(path), load(path)):
        assert model.config == written.config
        assert list(model.config.class_counts.items()) == [("noun", 300), ("verb", 97)]
        assert list(model.heads) == ["noun", "verb"]
        assert sorted(model.origin[1:]) == sorted([*EPIC_LINES, CLIP_LINE])
        assert model.origin[0].startswith("Scenic") and model.origin[0].endswith("vivit_checkpoint")
        assert_same_state(model.state_dict(), written.state_dict())
        assert model.preprocessing == Preprocessing(frame_stride=1, resize=256)


@each_released
def test_other_numbers_of_outputs_are_plain_classes(kind: str, tmp_path: Path) -> None:
    written, _ = released(kind, tmp_path / "checkpoint", num_classes=174)
    model = from_scenic(tmp_path / "checkpoint")
    assert model.config == written.config
    assert model.origin[1:] == (CLIP_LINE,)
    assert model.preprocessing == Preprocessing(frame_stride=2, resize=256)
    assert_same_state(model.state_dict(), written.state_dict())


@each_released
def test_what_is_told_is_not_assumed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    _, arrays = released(kind, path)
    told = from_scenic(path, image_size=224, num_classes=397)
    assert told.origin[1:] == ()
    assert torch.equal(head(told)[0], torch.from_numpy(arrays["output_projection/kernel"].T))
    told = from_scenic(path, image_size=224, heads={"thing": 300, "deed": 97})
    assert list(told.heads) == ["thing", "deed"]
    np.testing.assert_array_equal(head(told, "deed")[1].numpy(), arrays["output_projection/bias"][300:])


@each_released
@pytest.mark.parametrize("keywords", [{"num_frames": 16}, {"image_size": 320}, {"num_classes": 174}])
def test_from_scenic_changes_no_released_checkpoint(kind: str, keywords: dict[str, Any], tmp_path: Path) -> None:
    released(kind, tmp_path / "checkpoint")
    refused(lambda: from_scenic(tmp_path / "checkpoint", **keywords), f"checkpoint: {next(iter(keywords))}: ")


@each_released
@pytest.mark.parametrize(
    "changes",
    [
        {"num_frames": 16, "image_size": (224, 256)},
        {"num_frames": 16},
        {"image_size": 320},
        {"image_size": (240, 320), "num_frames": 64, "num_classes": 3},
        {"tubelet_size": (4, 16, 16), "tubelet_init": "central_frame"},
        # These sizes divide the positions, so they could be mistaken for the size of the weights.
        {"image_size": 112},
        {"image_size": (224, 256)},
        {"image_size": (112, 448)},
    ],
    ids=str,
)
def test_load_adapts_a_released_checkpoint(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    written, _ = released(kind, path)
    loaded, expected = load(path, **changes), adapt(written, **changes)
    assert loaded.config == expected.config
    assert_same_state(loaded.state_dict(), expected.state_dict())
    assert loaded.preprocessing == expected.preprocessing
    assert CLIP_LINE in loaded.origin
    assert loaded.origin[-len(expected.origin) :] == expected.origin


@each_released
def test_the_positions_of_a_released_checkpoint_are_zoomed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    _, arrays = released(kind, path)
    state = load(path, num_frames=16, image_size=(224, 256)).state_dict()
    if kind == "joint":
        rows = torch.from_numpy(arrays["Transformer/posembed_input/pos_embedding"][0, 1:].reshape(16, 14, 14, 8))
        wanted = {"encoder.positions.embedding": scipy_zoom(rows, (8, 14, 16))}
    else:
        places = torch.from_numpy(arrays["SpatialTransformer/posembed_input/pos_embedding"][0, 1:].reshape(14, 14, 8))
        times = torch.from_numpy(arrays["TemporalTransformer/posembed_input/pos_embedding"][0, 1:])
        wanted = {
            "encoder.spatial.positions.embedding": scipy_zoom(places, (14, 16)),
            "encoder.temporal.positions.embedding": scipy_zoom(times, (8,)),
        }
    for name, expected in wanted.items():
        torch.testing.assert_close(state[name], expected, rtol=0, atol=2e-6)


@each_released
def test_names_for_the_parts_of_a_released_checkpoint_go_by_the_heads_names(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    written, _ = released(kind, path)
    names = {"verb": [f"verb {i}" for i in range(97)], "noun": [f"noun {i}" for i in range(300)]}
    model = load(path, classes=names)
    assert model.classes == {name: tuple(labels) for name, labels in names.items()}
    for name in names:
        assert torch.equal(head(model, name)[0], head(written, name)[0])
        assert torch.equal(head(model, name)[1], head(written, name)[1])


@pytest.mark.parametrize("change", [{"num_frames": 30}, {"image_size": (224, 240)}])
def test_a_clip_of_another_size_is_not_taken_for_the_released_one(change: dict[str, Any], tmp_path: Path) -> None:
    released("joint", tmp_path / "checkpoint", num_classes=5, **change)
    with pytest.raises(UserError, match="give image_size"):
        from_scenic(tmp_path / "checkpoint")
    with pytest.raises(UserError, match="give image_size"):
        load(tmp_path / "checkpoint", num_frames=16)
