"""What a run starts from: weights, head and clip, and what it says about them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import ViTConfig, ViTModel, VivitConfig, VivitForVideoClassification, VivitModel
from transformers.utils import logging

from tests.support import random_weights
from vivit.config import ModelConfig, Preprocessing
from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.errors import UserError
from vivit.labels import LabelSpace
from vivit.model.encoder import StochasticDepth
from vivit.model.vivit import FactorisedEncoder, ViViT
from vivit.training.initialise import build_model, start_lines
from vivit.training.recipe import Recipe
from vivit.training.recipes import RECIPES, default_recipe
from vivit.weights.store import load, save

logging.set_verbosity_error()
logging.disable_progress_bar()

REFERENCE = Path(__file__).parents[1] / "parity" / "reference"
NPZ = REFERENCE / "image_init" / "vit32" / "vit.npz"
FINETUNE = Recipe(optimiser="adamw", learning_rate=1e-3)
SIZES: dict[str, Any] = {
    "variant": "factorised_encoder",
    "num_frames": 8,
    "image_size": 32,
    "tubelet_size": (2, 8, 8),
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "mlp_dim": 64,
    "temporal_layers": 1,
    "num_classes": 3,
}


def videos(*names: str, count: int = 4, multi_label: bool = False, **heads: Sequence[str]) -> VideoSet:
    """A set with these classes, whose files are never opened."""
    classes = {head: tuple(labels) for head, labels in heads.items()} or {"classes": names}
    labels = {head: tuple(names[:1]) for head, names in classes.items()}
    found = tuple(LabelledVideo(Path(f"{i}.mp4"), labels) for i in range(count))
    return VideoSet(found, LabelSpace(classes, multi_label), "a folder")


def vivit_folder(
    folder: Path, classes: Any = None, preprocessing: Preprocessing | None = None, **fields: Any
) -> tuple[str, ViViT]:
    """The folder of a saved video model with random weights, and the model."""
    heads = classes if isinstance(classes, dict) else {"classes": classes}
    names = None if classes is None else {head: tuple(letters) for head, letters in heads.items()}
    model = ViViT(ModelConfig(**{**SIZES, **fields}), classes=names, preprocessing=preprocessing, origin=["by hand"])
    random_weights(model, std=0.2)
    save(model, folder)
    return str(folder), model.eval()


def image_folder(folder: Path, **fields: Any) -> tuple[str, Any]:
    """The folder of a saved image ViT of transformers with random weights, and the model."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    image = ViTModel(ViTConfig(image_size=32, patch_size=8, **{**sizes, **fields})).eval()
    random_weights(image, std=0.2)
    image.save_pretrained(folder)
    return str(folder), image


def hf_vivit(folder: Path, kind: Any = VivitForVideoClassification, **fields: Any) -> tuple[str, Any]:
    """The folder of a saved ViViT of transformers with random weights, and the model."""
    theirs = kind(
        VivitConfig(
            num_frames=8,
            image_size=32,
            tubelet_size=[2, 8, 8],
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            **fields,
        )
    ).eval()
    random_weights(theirs, std=0.2)
    theirs.save_pretrained(folder)
    return str(folder), theirs


def recipe(**fields: Any) -> Recipe:
    return FINETUNE.model_copy(update=fields)


def clip(model: ViViT, examples: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    config = model.config
    return torch.rand(examples, config.num_frames, 3, *config.image_size, generator=generator) * 2 - 1


def logits(model: ViViT, video: Tensor) -> Tensor:
    with torch.no_grad():
        given = model.eval()(video)
    assert isinstance(given, Tensor)
    return given


def refused(message: str, init: str | None, settings: Recipe, train_set: VideoSet | None = None) -> None:
    with pytest.raises(UserError, match=message) as error:
        build_model(settings, train_set or videos("a", "b"), init, "clips")
    assert "\n" not in str(error.value)
    assert init is None or init in str(error.value)


# From scratch.


def test_from_scratch_is_the_recipes_model_drawn_from_torchs_seed() -> None:
    settings = RECIPES["demo"]
    torch.manual_seed(0)
    model = build_model(settings, videos("a", "b", "c", count=7), None, "clips").model
    torch.manual_seed(0)
    plain = ViViT(settings.build_config({"classes": 3}))
    plain.initialise(position_std=0.3)
    assert model.config == plain.config
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert model.training
    assert model.classes == {"classes": ("a", "b", "c")}
    assert model.preprocessing == Preprocessing(frame_stride=2, resize=48)
    assert model.origin == ("trained on 7 videos of 3 classes (clips), in a run of 6 epochs",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "resnet-50"}, "no model is named 'resnet-50'"),
        ({"image_size": 50, "model": "vivit-ti-16x2"}, "image_size: the height 50 is not a multiple"),
        ({"architecture": {"depth": 3}}, "depth"),
        ({"architecture": {"num_classes": 5}}, "classes: names for"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_one_line(fields: dict[str, Any], message: str) -> None:
    refused(message, None, recipe(**fields))


# From an image ViT.


def test_each_frame_of_a_still_video_is_seen_as_transformers_sees_the_picture(tmp_path: Path) -> None:
    init, image = image_folder(tmp_path)
    model = build_model(recipe(), videos("a", "b"), init, "clips").model.eval()
    numerics = {"activation": "gelu", "norm_eps": 1e-12}
    assert model.config == ModelConfig(**SIZES | {"num_frames": 32, "temporal_layers": 4, "num_classes": 2} | numerics)
    assert model.preprocessing == Preprocessing(frame_stride=2, resize=37)  # 32 · 256 / 224
    video = clip(model)[:, :1].repeat(1, 32, 1, 1, 1)
    assert isinstance(model.encoder, FactorisedEncoder)
    with torch.no_grad():
        seen = model.encoder.over_space(model.embedding(video))  # (B, T, D)
        expected = image(video[:, 0]).last_hidden_state[:, :1].expand(-1, 16, -1)
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)
    assert torch.count_nonzero(logits(model, clip(model))) == 0


def test_googles_file_gives_the_variant_and_clip_that_the_recipe_asks_for() -> None:
    settings = recipe(
        num_frames=8,
        image_size=48,
        frame_stride=3,
        dropout=0.1,
        stochastic_depth=0.4,
        architecture={"variant": "factorised_self_attention", "tubelet_size": (4, 8, 8), "attention_dropout": 0.2},
    )
    model, notes = build_model(settings, videos(count=2, verb="ab", noun="xyz"), str(NPZ), "clips")
    config = model.config
    assert (config.variant, config.grid) == ("factorised_self_attention", (2, 6, 6))
    assert (config.heads, config.dropout, config.attention_dropout) == ({"verb": 2, "noun": 3}, 0.1, 0.2)
    assert model.preprocessing == Preprocessing(frame_stride=3, resize=55)
    assert [x.rate for x in model.modules() if isinstance(x, StochasticDepth)] == pytest.approx([0.0, 0.2, 0.4])
    with np.load(NPZ) as file:
        kernel = torch.from_numpy(file["embedding/kernel"]).permute(3, 2, 0, 1)  # (h, w, C, D) → (D, C, h, w)
    frames = model.embedding.weight.detach().unbind(2)
    assert torch.equal(frames[2], kernel)
    assert not any(bool(frames[number].any()) for number in (0, 1, 3))
    assert model.origin[0] == "image ViT vit32/vit.npz, tubelets by central frame"
    assert model.origin[-1] == "trained on 2 videos of 2 verb and 3 noun classes (clips), in a run of 30 epochs"
    assert "positions resized from 4 × 4 to 6 × 6" in notes
    assert notes[-1] == (
        "clips of 8 frames at a stride of 3, 48 × 48 pixels, cropped from a shorter side of 55: "
        "num_frames, frame_stride, image_size from the recipe; resize in proportion to the crop"
    )


def test_a_models_name_gives_variant_and_tubelet_to_an_image_vit_of_that_size(tmp_path: Path) -> None:
    init, _ = image_folder(
        tmp_path, hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768
    )
    model = build_model(recipe(model="vivit-ti-8x4-fsa", num_frames=8), videos("a", "b"), init, "clips").model
    assert (model.config.variant, model.config.tubelet_size) == ("factorised_self_attention", (4, 8, 8))
    refused(
        r"model: you gave vivit-b-8x4-fsa, but .* is an image ViT with 12 layers, 3 heads, width 192, MLP 768, "
        r"patches of 8 × 8: leave --model out \(--recipe finetune has none\), or give vivit-ti-8x4-fsa",
        init,
        recipe(model="vivit-b-8x4-fsa"),
    )
    for other in ("vivit-ti-16x2-fe", "vivit-ti-12x2-fe"):
        refused("give vivit-ti-8x2-fe$", init, recipe(model=other))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "vivit-b-16x2-fe"}, "model: .* vivit-b-16x2-fe.* 2 layers, 4 heads, width 32.*leave --model out"),
        ({"architecture": {"hidden_size": 64}}, "hidden_size: you gave 64, but the image model has 32"),
        ({"architecture": {"num_layers": 3}}, "num_layers: you gave 3"),
        ({"architecture": {"activation": "gelu_tanh"}}, "activation: you gave gelu_tanh"),
        ({"architecture": {"tubelet_size": (2, 4, 4)}}, r"tubelet_size: you gave \(2, 4, 4\)"),
        ({"architecture": {"tubelet_size": 2}}, "tubelet_size"),
        ({"architecture": {"depth": 1}}, "depth"),
        ({"architecture": {"num_classes": 5}}, "classes: names for"),
        ({"architecture": {"variant": "spatiotemporal", "temporal_layers": 2}}, "temporal_layers goes with"),
        ({"architecture": {"variant": "spatiotemporal"}, "adapter_size": 4}, "adapter_size goes with"),
        ({"num_frames": 7}, "num_frames: 7 is not a multiple"),
        ({"image_size": 20}, "image_size: the height 20 is not"),
    ],
)
def test_what_an_image_vit_cannot_give_is_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    refused(message, image_folder(tmp_path)[0], recipe(**fields))


def test_a_recipe_takes_the_first_layers_of_an_image_vit(tmp_path: Path) -> None:
    settings = recipe(architecture={"num_layers": 1})
    model, notes = build_model(settings, videos("a", "b"), image_folder(tmp_path)[0], "clips")
    assert model.config.num_layers == 1
    assert "the first 1 of the image model's 2 layers" in notes


@pytest.mark.parametrize("std", [0.02, 0.5])
def test_fresh_temporal_positions_have_the_recipes_deviation(std: float, tmp_path: Path) -> None:
    init, _ = image_folder(tmp_path)
    model = build_model(recipe(position_std=std, num_frames=64), videos("a", "b"), init, "clips").model
    assert isinstance(model.encoder, FactorisedEncoder)
    assert model.encoder.temporal is not None
    assert float(model.encoder.temporal.positions.embedding.detach().std()) == pytest.approx(std, rel=0.1)


# From a video model.


def test_other_classes_get_a_fresh_head_on_the_very_features_of_the_weights(tmp_path: Path) -> None:
    init, source = vivit_folder(tmp_path, "pqr", Preprocessing(frame_stride=5, resize=40, short_clips="pad"))
    model, notes = build_model(recipe(), videos("a", "b"), init, "clips")
    assert model.training
    assert model.config == source.config.model_copy(update={"num_classes": 2})
    assert model.classes == {"classes": ("a", "b")}
    assert model.preprocessing == source.preprocessing
    with torch.no_grad():
        assert torch.equal(model.eval().features(clip(model)), source.features(clip(model)))
    assert torch.count_nonzero(logits(model, clip(model))) == 0
    fresh = "fresh head of 2 classes, untrained: the weights have 3"
    assert model.origin == ("by hand", fresh, "trained on 4 videos of 2 classes (clips), in a run of 30 epochs")
    assert notes == (
        fresh,
        "clips of 8 frames at a stride of 5, 32 × 32 pixels, cropped from a shorter side of 40: "
        "num_frames, frame_stride, image_size, resize from the weights",
    )


def test_the_same_classes_keep_the_head_in_any_order(tmp_path: Path) -> None:
    init, source = vivit_folder(tmp_path, "pqr")
    same, notes = build_model(recipe(), videos("p", "q", "r"), init, "clips")
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in source.state_dict().items())
    assert notes[0] == "head kept: its 3 classes are those of the data"

    other, notes = build_model(recipe(), videos("r", "p", "q"), init, "clips")
    assert other.classes == {"classes": ("r", "p", "q")}
    expected = logits(source, clip(source))[:, [2, 0, 1]]
    torch.testing.assert_close(logits(other, clip(source)), expected, rtol=1e-5, atol=1e-6)
    assert notes[0] == "the 3 classes of the head reordered"


def test_each_of_several_heads_is_kept_or_fresh_on_its_own(tmp_path: Path) -> None:
    init, source = vivit_folder(
        tmp_path, {"verb": "ab", "noun": "xyz", "tool": "st"}, num_classes=None, heads={"verb": 2, "noun": 3, "tool": 2}
    )
    model = build_model(recipe(), videos(noun="zyx", verb="ac"), init, "clips").model.eval()
    with torch.no_grad():
        given, theirs = model(clip(model)), source(clip(model))
    assert isinstance(given, dict) and isinstance(theirs, dict)
    assert given.keys() == {"noun", "verb"}
    torch.testing.assert_close(given["noun"], theirs["noun"].flip(1), rtol=1e-5, atol=1e-6)
    assert torch.count_nonzero(given["verb"]) == 0


def test_a_head_whose_classes_have_no_names_is_fresh_even_for_as_many(tmp_path: Path) -> None:
    init, _ = vivit_folder(tmp_path)
    model, notes = build_model(recipe(), videos("a", "b", "c"), init, "clips")
    assert torch.count_nonzero(logits(model, clip(model))) == 0
    assert notes[0].startswith("new head: the weights have 3 classes too, but without names")
    assert notes[0] in model.origin


def test_another_clip_resizes_what_load_resizes(tmp_path: Path) -> None:
    init, _ = vivit_folder(tmp_path, "pqr", Preprocessing(frame_stride=5, resize=40, short_clips="pad"))
    settings = recipe(num_frames=16, image_size=48, architecture={"tubelet_size": [4, 8, 8]})
    model, notes = build_model(settings, videos("p", "q", "r"), init, "clips")
    expected = load(init, num_frames=16, image_size=48, tubelet_size=(4, 8, 8))
    assert model.config == expected.config
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in expected.state_dict().items())
    assert model.preprocessing == Preprocessing(frame_stride=5, resize=60, short_clips="pad")
    assert set(expected.origin[1:]) < set(notes)
    given, notes = build_model(recipe(frame_stride=1, frame_rate=12.5, resize=64), videos("p", "q"), init, "clips")
    assert given.preprocessing == Preprocessing(frame_stride=1, frame_rate=12.5, resize=64, short_clips="pad")
    assert "at 12.5 frames a second and a stride of 1, " in notes[-1]


def test_regularisation_is_the_recipes_whatever_the_weights_were_trained_with(tmp_path: Path) -> None:
    init, _ = vivit_folder(
        tmp_path, "pqr", dropout=0.5, attention_dropout=0.5, stochastic_depth=0.5, token_dropping=0.5
    )
    plain = build_model(recipe(), videos("p", "q"), init, "clips").model
    for field in ("dropout", "attention_dropout", "stochastic_depth", "token_dropping"):
        assert getattr(plain.config, field) == 0
    # No dropout is left in the modules: even in train mode, the model gives the same result twice.
    assert torch.equal(plain.features(clip(plain)), plain.features(clip(plain)))
    settings = recipe(stochastic_depth=0.3, architecture={"attention_dropout": 0.1})
    model = build_model(settings, videos("p", "q", multi_label=True), init, "clips").model
    assert (model.config.stochastic_depth, model.config.attention_dropout, model.config.multi_label) == (0.3, 0.1, True)
    assert [x.rate for x in model.modules() if isinstance(x, StochasticDepth)] == [0.0, 0.3, 0.0]


@pytest.mark.parametrize("kind", ["video model", "video model with another adapter", "image ViT"])
def test_an_adapter_is_fresh_and_changes_nothing_yet(kind: str, tmp_path: Path) -> None:
    if kind == "image ViT":
        init, _ = image_folder(tmp_path)
    else:
        init, _ = vivit_folder(tmp_path, adapter_size=3 if "another" in kind else None)
    torch.manual_seed(0)
    model, notes = build_model(recipe(num_frames=8, adapter_size=5), videos("a", "b"), init, "clips")
    model.eval()
    assert isinstance(model.encoder, FactorisedEncoder)
    assert model.encoder.adapter is not None
    assert model.encoder.adapter.down.weight.shape == (5, 32)
    assert model.encoder.adapter.down.weight.any()
    with torch.no_grad():
        features = model.features(clip(model))
        model.encoder.adapter = None
        assert torch.equal(features, model.features(clip(model)))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert any("adapter" in line for line in notes)


def test_an_adapter_that_the_weights_have_is_kept(tmp_path: Path) -> None:
    init, source = vivit_folder(tmp_path, adapter_size=5)
    for size in (5, None):
        model = build_model(recipe(adapter_size=size), videos("a", "b"), init, "clips").model.eval()
        with torch.no_grad():
            assert torch.equal(model.features(clip(model)), source.features(clip(model)))


def test_weights_of_half_precision_are_trained_in_float32(tmp_path: Path) -> None:
    init, source = vivit_folder(tmp_path, "pqr")
    save(source.bfloat16(), tmp_path)
    model, notes = build_model(recipe(), videos("p", "q", "r"), init, "clips")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert "weights converted from bfloat16 to float32" in notes
    assert logits(model, clip(model)).abs().max() > 0.1


@pytest.mark.parametrize("names", ["abc", "pq"])
def test_training_leaves_the_file_that_it_started_from_alone(names: str, tmp_path: Path) -> None:
    init, _ = vivit_folder(tmp_path, "abc")
    before = {name: value.clone() for name, value in load_file(tmp_path / "model.safetensors").items()}
    model = build_model(recipe(), videos(*names), init, "clips").model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    after = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_a_run_is_a_start_and_its_origin_goes_on(tmp_path: Path) -> None:
    init, _ = vivit_folder(tmp_path / "weights", "pqr")
    first = build_model(recipe(), videos("a", "b", count=9), init, "first").model
    save(first, tmp_path / "run")
    second = build_model(recipe(epochs=3), videos("a", "b"), str(tmp_path / "run"), "second").model
    assert second.origin == (*first.origin, "trained on 4 videos of 2 classes (second), in a run of 3 epochs")


def test_weights_that_tell_no_origin_are_called_by_their_folder(tmp_path: Path) -> None:
    save(ViViT(ModelConfig(**SIZES)), tmp_path / "weights")
    model = build_model(recipe(num_frames=16, min_steps=50), videos("a", "b"), str(tmp_path / "weights"), "clips").model
    assert model.origin[0] == f"ViViT {tmp_path.name}/weights"
    assert model.origin[-1] == "trained on 4 videos of 2 classes (clips), in a run of 50 epochs"


def test_transformers_vivit_goes_on_giving_its_logits_for_its_own_classes(tmp_path: Path) -> None:
    labels = {0: "wave", 1: "jump", 2: "fall"}
    init, theirs = hf_vivit(tmp_path, id2label=labels, label2id={name: i for i, name in labels.items()})
    model = build_model(recipe(), videos("fall", "jump", "wave"), init, "clips").model
    with torch.no_grad():
        expected = theirs(pixel_values=clip(model)).logits
    torch.testing.assert_close(logits(model, clip(model)), expected.flip(1), rtol=1e-3, atol=1e-4)
    fresh = build_model(recipe(), videos("wave", "jump"), init, "clips").model
    with torch.no_grad():
        features = theirs.vivit(pixel_values=clip(model)).last_hidden_state[:, 0]
        torch.testing.assert_close(fresh.eval().features(clip(fresh)), features, rtol=1e-3, atol=1e-4)
    assert torch.count_nonzero(logits(fresh, clip(fresh))) == 0


def test_transformers_vivit_without_a_head_gets_a_fresh_one_that_is_told_of_once(tmp_path: Path) -> None:
    init, _ = hf_vivit(tmp_path, VivitModel)
    model, notes = build_model(recipe(), videos("a", "b"), init, "clips")
    assert torch.count_nonzero(logits(model, clip(model))) == 0
    assert len([line for line in notes if "fresh" in line]) == 1


@pytest.mark.parametrize(
    ("case", "fields"),
    [
        ("fe", {"num_frames": 8}),
        ("joint", {}),
        ("fdp", {"architecture": {"variant": "factorised_dot_product"}}),
        ("fsa", {"architecture": {"attention_order": "time_space"}}),
    ],
)
def test_a_scenic_checkpoint_gives_the_official_features(case: str, fields: dict[str, Any]) -> None:
    init = REFERENCE / "scenic" / case / "checkpoint"
    # The same number of classes, but the weights have no names for them.
    model = build_model(recipe(image_size=32, **fields), videos(*"abcdefg"), str(init), "clips").model.eval()
    head = load(init, image_size=32, **fields.get("architecture", {})).heads["classes"]
    with np.load(init.with_name("io.npz")) as io:
        video, official = torch.from_numpy(io["video"]).permute(0, 1, 4, 2, 3), io["logits"]
    assert torch.count_nonzero(logits(model, video)) == 0
    with torch.no_grad():
        given = head(model.features(video)).numpy()
    assert np.abs(given - official).max() <= 1e-5 * np.abs(official).max()


def test_a_shorter_clip_of_a_scenic_checkpoint() -> None:
    init = REFERENCE / "scenic" / "fe" / "checkpoint"
    model, notes = build_model(recipe(image_size=32, num_frames=4), videos("a", "b"), str(init), "clips")
    assert model.config.grid == (2, 4, 4)
    assert "temporal positions resized from 4 to 2" in notes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model": "vivit-b-16x2-fe"},
            "model: you gave vivit-b-16x2-fe, but .* is a factorised encoder model with 2 la",
        ),
        ({"model": "resnet"}, "no model is named 'resnet'"),
        ({"architecture": {"temporal_layers": 2}}, "temporal_layers: you gave 2, but the weights have 1"),
        ({"architecture": {"variant": "spatiotemporal"}}, "variant: you gave spatiotemporal"),
        ({"architecture": {"hidden_size": 64}}, "hidden_size: you gave 64"),
        ({"architecture": {"tubelet_size": (2, 4, 4)}}, "tubelet_size"),
        ({"architecture": {"tubelet_size": 2}}, "tubelet_size"),
        ({"architecture": {"num_classes": 5}}, "num_classes: you gave 5, but classes names"),
        ({"architecture": {"depth": 1}}, "depth"),
        ({"num_frames": 7}, "num_frames: 7 is not a multiple"),
        ({"image_size": 20}, "image_size: the height 20 is not"),
    ],
)
def test_what_a_video_model_cannot_become_is_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    init, _ = vivit_folder(tmp_path)
    if fields.get("model") == "resnet":
        with pytest.raises(UserError, match=message):
            build_model(recipe(**fields), videos("a", "b"), init, "clips")
    else:
        refused(message, init, recipe(**fields))


def test_a_models_name_must_be_that_of_the_weights(tmp_path: Path) -> None:
    model = ViViT(ModelConfig.named("vivit-ti-16x4", num_frames=8, image_size=32, num_classes=2))
    save(model, tmp_path)
    for name in ("vivit-ti-16x2", "vivit-ti-16x4-fe", "vivit-s-16x4"):
        refused("spatiotemporal model with 12 layers.* or give vivit-ti-16x4$", str(tmp_path), recipe(model=name))
    settings = recipe(model="vivit-ti-16x4", architecture={"tubelet_size": (2, 16, 16)})
    assert build_model(settings, videos("a", "b"), str(tmp_path), "clips").model.config.tubelet_size == (2, 16, 16)


def test_the_demos_recipe_goes_on_from_a_run_of_its_own(tmp_path: Path) -> None:
    settings = RECIPES["demo"]
    save(build_model(settings, videos("a", "b"), None, "clips").model, tmp_path)
    again = build_model(settings, videos("a", "b"), str(tmp_path), "clips").model
    assert again.config == settings.build_config({"classes": 2})


def test_uniformly_sampled_frames_have_no_tubelet_in_a_models_name(tmp_path: Path) -> None:
    config = ModelConfig.named(
        "vivit-ti-16x2", num_frames=8, image_size=32, num_classes=2, embedding="uniform_frames", sampled_frames=4
    )
    save(ViViT(config), tmp_path)
    assert build_model(recipe(model="vivit-ti-16x2"), videos("a", "b"), str(tmp_path), "clips").model.config == config


@pytest.mark.parametrize("content", [None, b"", b"no weights"])
def test_no_weights_are_no_start(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "start"
    if content is not None:
        path.write_bytes(content)
    refused("start", str(path), recipe())


def test_an_empty_folder_is_no_start(tmp_path: Path) -> None:
    refused("no config.json", str(tmp_path), recipe())


# In words.


def lines_of(settings: Recipe, train_set: VideoSet, init: str | None) -> list[str]:
    return start_lines(build_model(settings, train_set, init, "clips"), settings, init, len(train_set.videos))


def test_a_large_model_from_scratch_on_few_videos_is_warned_of() -> None:
    small = RECIPES["small"]
    lines = lines_of(small, videos("a", "b", count=320), None)
    assert lines[0] == "recipe small, the default without --init"
    assert lines[1] == "factorised encoder of 7.4 M parameters, from scratch"
    assert lines[-1].startswith("from scratch on 320 videos a model of 7.4 M parameters learns little: give --init")
    assert len([line for line in lines_of(small, videos("a", "b", count=10_000), None) if "little" in line]) == 0


def test_the_demo_is_not_warned_of() -> None:
    lines = lines_of(RECIPES["demo"], videos("a", "b", count=3000), None)
    assert lines == [
        "recipe demo",
        "factorised encoder of 1.0 M parameters, from scratch",
        "clips of 8 frames at a stride of 2, 48 × 48 pixels, cropped from a shorter side of 48: "
        "num_frames, frame_stride, image_size, resize from the recipe",
    ]


def test_what_differs_from_the_named_recipe_is_told() -> None:
    settings = RECIPES["small"].model_copy(update={"epochs": 3, "flip": 0.0})
    assert lines_of(settings, videos("a", "b"), None)[0] == (
        "recipe small, the default without --init; changed: epochs 3, flip 0.0"
    )


def test_weights_are_named_and_never_warned_of(tmp_path: Path) -> None:
    init, _ = image_folder(
        tmp_path, hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768
    )
    lines = lines_of(recipe(), videos("a", "b"), init)
    assert f"factorised encoder of 7.2 M parameters, starting from {init}" in lines
    assert any(line.startswith("not from the image model: encoder.temporal, heads") for line in lines)
    assert not any("little" in line for line in lines)


def test_the_default_recipe_follows_the_start() -> None:
    init = "google/vit-base-patch16-224-in21k"
    given = [(None, None), (init, None), (init, "linear")]
    assert [default_recipe(*options) for options in given] == ["small", "finetune", "probe"]


# It learns.


def ramps(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy clips (N, 8, 3, 32, 32) that grow brighter or darker, which no single frame shows."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    slope = np.where(labels, 1, -1)[:, None] * np.linspace(-60, 60, 8)
    brightness = 127 + slope + rng.uniform(-20, 20, (count, 1))
    clips = brightness[:, :, None, None, None] + rng.normal(0, 20, (count, 8, 3, 32, 32))
    return torch.from_numpy(clips.clip(0, 255).astype(np.uint8)), torch.from_numpy(labels)


def start_npz(_: Path) -> str:
    return str(NPZ)


def start_vivit(folder: Path) -> str:
    torch.manual_seed(2)
    save(ViViT(ModelConfig(**SIZES)), folder)
    return str(folder)


@pytest.mark.parametrize("start", [start_npz, start_vivit])
def test_thirty_steps_from_a_start_tell_two_classes_apart(start: Callable[[Path], str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(recipe(num_frames=8), videos("dark", "bright", count=20), start(tmp_path), "clips").model
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    clips, labels = ramps(20, seed=0)
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(model(clips), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    unseen, truth = ramps(40, seed=1)
    assert torch.equal(logits(model, clips).argmax(dim=1), labels)
    assert (logits(model, unseen).argmax(dim=1) == truth).float().mean() > 0.8
