"""ViViTs of transformers give the same logits here, and ours give the same logits there."""

import json
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import VivitConfig, VivitForVideoClassification, VivitImageProcessor, VivitModel
from transformers.utils import logging

import vivit
from tests.support import random_weights, refused, tiny_model
from vivit.config import ModelConfig, Preprocessing
from vivit.errors import UserError
from vivit.model.vivit import ViViT
from vivit.video.clips import view_crops
from vivit.weights.huggingface import from_huggingface, to_huggingface

SIZES: dict[str, Any] = {
    "num_frames": 4,
    "image_size": [32, 48],
    "tubelet_size": [2, 8, 16],
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "num_labels": 3,
}
OURS: dict[str, Any] = {
    "num_frames": 4,
    "image_size": (32, 48),
    "tubelet_size": (2, 8, 16),
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "mlp_dim": 48,
    "num_classes": 3,
}
ACTIVATIONS = ("gelu_fast", "gelu", "gelu_new", "gelu_pytorch_tanh")
EPSILONS = (1e-6, 1e-5, 1e-12)
WEIGHT = "vivit.encoder.layer.1.output.dense.weight"


@pytest.fixture(autouse=True, scope="module")
def _quiet_transformers() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()
    logging.set_verbosity(before)


def draw(seed: int) -> dict[str, Any]:
    """Fields of a VivitConfig; consecutive seeds cycle through the activations and epsilons."""
    rng = np.random.default_rng(seed)
    tubelet = [int(rng.integers(1, 5)), *rng.permutation([4, 6, 8, 12])[:2].tolist()]
    frames, height, width = (rng.integers(1, 4, size=3) * tubelet).tolist()
    heads = int(rng.integers(1, 5))
    return {
        "num_frames": frames,
        "image_size": [height, width],
        "tubelet_size": tubelet,
        "hidden_size": heads * int(rng.choice([6, 8, 12])),
        "num_hidden_layers": int(rng.integers(1, 5)),
        "num_attention_heads": heads,
        "intermediate_size": int(rng.integers(8, 64)),
        "num_labels": int(rng.integers(1, 12)),
        "hidden_act": ACTIVATIONS[seed % len(ACTIVATIONS)],
        "layer_norm_eps": EPSILONS[seed % len(EPSILONS)],
        "qkv_bias": bool(rng.random() < 0.7),
    }


CASES: dict[str, dict[str, Any]] = {
    "oblong": SIZES,
    "square": SIZES | {"image_size": 32, "tubelet_size": [4, 16, 8], "num_labels": 11},
    "one frame a tubelet": SIZES | {"tubelet_size": [1, 16, 8], "num_attention_heads": 1},
    "three frames a tubelet": SIZES | {"num_frames": 6, "tubelet_size": [3, 4, 12], "hidden_act": "gelu"},
    "one token": SIZES | {"tubelet_size": [4, 32, 48], "num_labels": 1, "num_hidden_layers": 1},
    "deep": SIZES | {"num_hidden_layers": 4, "hidden_act": "gelu_new", "layer_norm_eps": 1e-12},
    "no biases": SIZES | {"qkv_bias": False, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-5},
    **{f"drawn {seed}": draw(seed) for seed in range(12)},
}


def partner(**fields: Any) -> Any:
    """A classifier of transformers, with its plain attention."""
    model = VivitForVideoClassification(VivitConfig(**SIZES | {"attn_implementation": "eager"} | fields))
    return random_weights(model, std=0.2, seed=7).eval()


def headless(add_pooling_layer: bool = True, **fields: Any) -> Any:
    model = VivitModel(VivitConfig(**SIZES | {"attn_implementation": "eager"} | fields), add_pooling_layer)
    return random_weights(model, std=0.2, seed=7).eval()


def build(**fields: Any) -> ViViT:
    return tiny_model(**OURS | fields, std=0.2, seed=7)


def clip_for(config: Any) -> Tensor:
    """A batch of clips in [−1, 1] for a config of transformers or of ours."""
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return torch.rand(2, config.num_frames, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def their_logits(model: Any, video: Tensor) -> Tensor:
    logits: Tensor = model(video).logits
    return logits


@torch.no_grad()
def our_logits(model: ViViT, video: Tensor) -> Tensor:
    logits = model(video)
    assert isinstance(logits, Tensor)
    return logits


def difference(values: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    assert values.shape == expected.shape
    assert values.dtype == expected.dtype == torch.float32
    return float((values - expected).abs().max() / expected.abs().max())


def assert_equal_states(values: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        assert values[name].dtype == value.dtype, name
        assert torch.equal(values[name], value), name


def load_whole(folder: Path) -> Any:
    """Load with transformers; fail on missing weights, which it would draw at random."""
    model, info = VivitForVideoClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES.keys())
def test_a_model_of_transformers_gives_its_logits_here_and_back_there(fields: dict[str, Any], tmp_path: Path) -> None:
    theirs = partner(**fields)
    theirs.save_pretrained(tmp_path / "theirs")
    video = clip_for(theirs.config)
    expected = their_logits(theirs, video)

    ours = from_huggingface(tmp_path / "theirs")
    assert not ours.training
    assert ours.origin[1:] == ()
    assert difference(our_logits(ours, video), expected) <= 1e-5

    to_huggingface(ours, tmp_path / "ours")
    back = load_whole(tmp_path / "ours")
    assert difference(their_logits(back, video), expected) <= 1e-5
    state = back.state_dict()
    if not theirs.config.qkv_bias:  # we write biases of zero
        added = [name for name in state if name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias"))]
        assert len(added) == 3 * theirs.config.num_hidden_layers
        assert all(torch.count_nonzero(state.pop(name)) == 0 for name in added)
    assert_equal_states(state, theirs.state_dict())


@pytest.mark.parametrize(
    ("theirs", "other"),
    [
        *[({"layer_norm_eps": eps}, {"norm_eps": other}) for eps in EPSILONS for other in EPSILONS if eps != other],
        ({"hidden_act": "gelu"}, {"activation": "gelu_tanh"}),
        *[({"hidden_act": name}, {"activation": "gelu"}) for name in ACTIVATIONS if name != "gelu"],
    ],
)
def test_another_epsilon_or_form_of_gelu_would_show(
    theirs: dict[str, Any], other: dict[str, Any], tmp_path: Path
) -> None:
    model = partner(**theirs)
    with torch.no_grad():
        if "layer_norm_eps" in theirs:  # epsilon matters for small inputs
            for parameter in model.vivit.embeddings.parameters():
                parameter.mul_(1e-3)
        else:  # the forms of GELU differ most at about ±2
            for layer in model.vivit.layers:
                layer.mlp.fc1.weight.mul_(10)
    model.save_pretrained(tmp_path)
    video = clip_for(model.config)
    expected = their_logits(model, video)
    ours = from_huggingface(tmp_path)
    assert difference(our_logits(ours, video), expected) <= 1e-5

    wrong = ViViT(ModelConfig(**ours.config.model_dump() | other)).eval()
    wrong.load_state_dict(ours.state_dict())
    assert difference(our_logits(wrong, video), expected) > 5e-5


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"activation": "gelu", "norm_eps": 1e-12},
        {"image_size": 32, "tubelet_size": (4, 16, 8), "num_heads": 1, "num_layers": 3, "num_classes": 1},
        {"num_frames": 3, "tubelet_size": (1, 16, 4), "num_heads": 2, "num_layers": 1, "norm_eps": 1e-5},
        {"dropout": 0.1, "attention_dropout": 0.2, "mlp_dim": 7, "num_classes": 11},
    ],
)
def test_a_model_of_ours_returns_from_transformers_bit_for_bit(fields: dict[str, Any], tmp_path: Path) -> None:
    model = build(**fields)
    to_huggingface(model, tmp_path / "there")
    theirs = load_whole(tmp_path / "there")
    video = clip_for(model.config)
    assert difference(their_logits(theirs, video), our_logits(model, video)) <= 1e-5

    theirs.save_pretrained(tmp_path / "saved there")
    for folder in ("there", "saved there"):
        back = vivit.load(tmp_path / folder)
        assert back.config == model.config
        assert_equal_states(back.state_dict(), model.state_dict())


def save_published(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    assert WEIGHT in load_file(folder / "model.safetensors")


def save_todays(model: Any, folder: Path) -> None:
    model.save_pretrained(folder, save_original_format=False)
    assert "vivit.layers.1.mlp.fc2.weight" in load_file(folder / "model.safetensors")


def save_sharded(model: Any, folder: Path, name: str = WEIGHT, **options: Any) -> None:
    model.save_pretrained(folder, max_shard_size="20KB", **options)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert name in index["weight_map"]
    assert len(set(index["weight_map"].values())) > 1


def save_todays_sharded(model: Any, folder: Path) -> None:
    save_sharded(model, folder, "vivit.layers.1.mlp.fc2.weight", save_original_format=False)


def save_pickled(model: Any, folder: Path) -> None:
    """Save pickled weights, as transformers used to."""
    model.save_pretrained(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def save_pickled_shards(model: Any, folder: Path) -> None:
    save_sharded(model, folder)
    index = folder / "model.safetensors.index.json"
    names: dict[str, str] = {}
    for number, shard in enumerate(sorted(folder.glob("*.safetensors"))):
        state = load_file(shard)
        torch.save(state, folder / f"pytorch_model-{number}.bin")
        names |= dict.fromkeys(state, f"pytorch_model-{number}.bin")
        shard.unlink()
    index.unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize(
    "save",
    [save_published, save_todays, save_sharded, save_todays_sharded, save_pickled, save_pickled_shards],
)
def test_every_form_on_disk_is_the_same_model(save: Callable[[Any, Path], None], tmp_path: Path) -> None:
    theirs = partner()
    theirs.save_pretrained(tmp_path / "plain")
    save(theirs, tmp_path / "form")
    ours = from_huggingface(tmp_path / "form")
    video = clip_for(theirs.config)
    assert difference(our_logits(ours, video), their_logits(theirs, video)) <= 1e-5
    assert_equal_states(ours.state_dict(), from_huggingface(tmp_path / "plain").state_dict())
    assert ours.origin[1:] == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("save", [save_published, save_todays_sharded, save_pickled])
def test_sixteen_bits_become_float32(dtype: torch.dtype, save: Callable[[Any, Path], None], tmp_path: Path) -> None:
    theirs = partner(num_hidden_layers=4).to(dtype)
    save(theirs, tmp_path / "half")
    ours = from_huggingface(tmp_path / "half")

    theirs.to(torch.float32)
    video = clip_for(theirs.config)
    assert difference(our_logits(ours, video), their_logits(theirs, video)) <= 1e-5
    theirs.save_pretrained(tmp_path / "converted")
    assert_equal_states(ours.state_dict(), from_huggingface(tmp_path / "converted").state_dict())


def test_a_model_of_ours_in_sixteen_bits_is_written_as_it_is(tmp_path: Path) -> None:
    model = build().to(torch.bfloat16)
    to_huggingface(model, tmp_path)
    theirs = load_whole(tmp_path)
    assert {value.dtype for value in theirs.state_dict().values()} == {torch.bfloat16}
    video = clip_for(model.config)
    assert difference(their_logits(theirs.float(), video), our_logits(model.float(), video)) <= 1e-5


@pytest.mark.parametrize("fields", [{}, {"pooler_output_size": 20}, {"qkv_bias": False, "hidden_act": "gelu"}])
@pytest.mark.parametrize("original", [True, False])
@pytest.mark.parametrize("pooler", [True, False])
def test_a_model_without_a_head_gets_a_fresh_one(
    fields: dict[str, Any], original: bool, pooler: bool, tmp_path: Path
) -> None:
    theirs = headless(pooler, num_labels=5, **fields)
    theirs.save_pretrained(tmp_path, save_original_format=original)
    ours = from_huggingface(tmp_path)

    video = clip_for(theirs.config)
    with torch.no_grad():
        assert difference(ours.features(video), theirs(video).last_hidden_state[:, 0]) <= 1e-5
    assert torch.equal(our_logits(ours, video), torch.zeros(2, 5))
    said = ["no head in the weights: a fresh one of 5 classes"]
    if pooler:
        said.append("not used: pooler.dense.bias, pooler.dense.weight")
    assert ours.origin[1:] == tuple(said)
    assert all(parameter.requires_grad for parameter in ours.parameters())


def test_a_head_is_made_for_the_names_of_a_model_without_one(tmp_path: Path) -> None:
    names = ("wave", "jump", "run", "sit")
    headless(num_labels=4, id2label=dict(enumerate(names))).save_pretrained(tmp_path)
    ours = from_huggingface(tmp_path)
    assert ours.classes == {"classes": names}
    assert ours.config.num_classes == 4


def test_a_model_without_a_head_and_labels_gets_the_two_classes_of_transformers(tmp_path: Path) -> None:
    theirs = headless(num_labels=2)
    theirs.save_pretrained(tmp_path)
    assert "id2label" not in json.loads((tmp_path / "config.json").read_text())
    assert from_huggingface(tmp_path).config.num_classes == theirs.config.num_labels


def test_class_names_go_both_ways(tmp_path: Path) -> None:
    names = ("wave", "Sprünge, hoch", "跑")
    partner(id2label=dict(enumerate(names))).save_pretrained(tmp_path / "theirs")
    ours = from_huggingface(tmp_path / "theirs")
    assert ours.classes == {"classes": names}
    to_huggingface(ours, tmp_path / "ours")
    config = VivitConfig.from_pretrained(tmp_path / "ours")
    assert config.id2label == dict(enumerate(names))
    assert config.label2id == {name: i for i, name in enumerate(names)}
    assert vivit.load(tmp_path / "ours").classes == {"classes": names}


def test_names_are_taken_by_their_number_not_their_place(tmp_path: Path) -> None:
    partner(num_labels=11).save_pretrained(tmp_path)
    labels = {str(i): f"class {i}" for i in (10, 3, 0, 7, 1, 9, 2, 8, 4, 6, 5)}
    edit_json(tmp_path / "config.json", lambda config: config.update(id2label=labels))
    assert from_huggingface(tmp_path).classes == {"classes": tuple(f"class {i}" for i in range(11))}


def test_numbered_labels_are_no_names(tmp_path: Path) -> None:
    partner().save_pretrained(tmp_path / "theirs")
    ours = from_huggingface(tmp_path / "theirs")
    assert ours.classes is None
    to_huggingface(ours, tmp_path / "ours")
    labels = ("LABEL_0", "LABEL_1", "LABEL_2")
    config = VivitConfig.from_pretrained(tmp_path / "ours")
    assert config.id2label == dict(enumerate(labels))
    assert config.label2id == {name: i for i, name in enumerate(labels)}
    assert vivit.load(tmp_path / "ours").classes is None


@pytest.mark.parametrize("names", [["wave", "jump"], ["wave", "jump", "run", "sit"]])
def test_names_for_another_number_of_classes_are_left_out_and_that_is_said(names: list[str], tmp_path: Path) -> None:
    theirs = partner()
    theirs.save_pretrained(tmp_path)
    labels = {str(i): name for i, name in enumerate(names)}
    edit_json(tmp_path / "config.json", lambda config: config.update(id2label=labels))
    ours = from_huggingface(tmp_path)
    assert ours.classes is None
    assert ours.origin[1:] == (f"class names left out: {len(names)} in config.json, but 3 classes in the weights",)
    video = clip_for(theirs.config)
    assert difference(our_logits(ours, video), their_logits(theirs, video)) <= 1e-5


def random_frames(height: int, width: int) -> Tensor:
    """A clip (T, C, H, W) of uint8, as a decoder gives it."""
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (4, 3, height, width), dtype=torch.uint8, generator=generator)


def processed(processor: Any, frames: Tensor) -> Tensor:
    pictures = list(frames.permute(0, 2, 3, 1).numpy())
    values: Tensor = processor(pictures, return_tensors="pt")["pixel_values"]
    return values


@pytest.mark.parametrize(
    ("image_size", "resize", "height", "width"),
    [((32, 48), None, 48, 60), ((32, 48), 53, 53, 71), ((32, 48), 50, 75, 50), (32, None, 37, 37), (32, 32, 32, 49)],
)
def test_the_processor_crops_and_scales_as_our_model_does(
    image_size: Any, resize: int | None, height: int, width: int, tmp_path: Path
) -> None:
    config = ModelConfig(**OURS | {"image_size": image_size})
    model = ViViT(config, preprocessing=None if resize is None else Preprocessing(resize=resize))
    random_weights(model, std=0.2, seed=7).eval()
    to_huggingface(model, tmp_path)
    processor = VivitImageProcessor.from_pretrained(tmp_path)
    assert processor.size["shortest_edge"] == min(height, width)

    frames = random_frames(height, width)
    crop_height, crop_width = config.image_size
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    middle = frames[:, :, top : top + crop_height, left : left + crop_width]
    pixels = processed(processor, frames)
    # One rounding of a product of up to 2.
    torch.testing.assert_close(pixels[0].double(), middle.double() / 127.5 - 1, rtol=0, atol=1.5e-7)
    [crop] = view_crops(frames, config.image_size, 1)
    assert difference(our_logits(model, crop[None]), their_logits(load_whole(tmp_path), pixels)) <= 1e-5

    back = vivit.load(tmp_path)
    assert back.preprocessing.resize == min(height, width)
    assert back.origin[1:] == ()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_normalize": False},
        {"do_normalize": False, "offset": False},
        {"do_normalize": False, "offset": False, "rescale_factor": 1 / 255},
        {"offset": False, "rescale_factor": 1 / 255},
        {"do_rescale": False, "offset": False},
        {"do_rescale": False, "offset": False, "do_normalize": False},
        {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.2, 0.3, 0.4]},
        {"image_mean": [0.0, 0.2, 0.0], "image_std": [1.0, 1.0, 1.0]},
        {"image_mean": 0.5, "image_std": 0.5},
        {"image_mean": 0.0, "image_std": 1.0},
    ],
)
def test_a_processor_that_scales_otherwise_is_said_and_changes_no_logits(
    options: dict[str, Any], tmp_path: Path
) -> None:
    theirs = partner()
    theirs.save_pretrained(tmp_path)
    without = from_huggingface(tmp_path)
    processor = VivitImageProcessor(
        **{"size": {"shortest_edge": 50}, "crop_size": {"height": 32, "width": 48}} | options
    )
    processor.save_pretrained(tmp_path)
    ours = from_huggingface(tmp_path)

    frames = torch.zeros(4, 3, 50, 50, dtype=torch.uint8)
    frames[:, :, 25:] = 255
    lows, highs = (values.squeeze() for values in processed(processor, frames)[0, 0].float().flatten(1).aminmax(dim=1))
    if torch.allclose(lows, -torch.ones(3), atol=1e-3) and torch.allclose(highs, torch.ones(3), atol=1e-3):
        assert ours.origin[1:] == ()
    else:
        [line] = ours.origin[1:]
        assert line.startswith("its processor scales pixels to ")
        assert "ours to [-1, 1]" in line
        if len(lows.unique()) == len(highs.unique()) == 1:
            assert f"to [{lows[0]:.3g}, {highs[0]:.3g}]," in line
    assert ours.preprocessing.resize == 50
    assert_equal_states(ours.state_dict(), without.state_dict())
    video = clip_for(theirs.config)
    assert torch.equal(our_logits(ours, video), our_logits(without, video))


def test_the_processor_of_the_published_folders_scales_to_minus_three(tmp_path: Path) -> None:
    partner().save_pretrained(tmp_path)
    VivitImageProcessor().save_pretrained(tmp_path)
    ours = vivit.load(tmp_path)
    assert len(ours.origin[1:]) == 1
    assert "scales pixels to [-3, 1], ours to [-1, 1]" in ours.origin[1]
    assert ours.preprocessing.resize == 256


@pytest.mark.parametrize(
    ("fields", "lacking"),
    [
        ({"variant": "factorised_encoder"}, "the factorised_encoder variant"),
        ({"variant": "factorised_self_attention"}, "the factorised_self_attention variant"),
        ({"variant": "factorised_dot_product"}, "the factorised_dot_product variant"),
        ({"embedding": "uniform_frames", "sampled_frames": 2}, "uniform frame sampling"),
        ({"pooling": "mean"}, "mean pooling"),
        ({"representation_size": 24}, "a representation layer"),
        ({"attentive_pooling": True}, "attentive pooling"),
        ({"heads": {"verb": 3, "noun": 4}, "num_classes": None}, "named heads"),
    ],
)
def test_what_transformers_lacks_is_named_and_nothing_written(
    fields: dict[str, Any], lacking: str, tmp_path: Path
) -> None:
    refused(
        lambda: to_huggingface(build(**fields), tmp_path / "folder"), f"transformers' ViViT cannot express {lacking}"
    )
    assert list(tmp_path.iterdir()) == []


def assert_refused(folder: Path, message: str) -> None:
    for load in (from_huggingface, vivit.load):
        start = time.process_time()
        refused(partial(load, folder), message, re.escape(str(folder)))
        assert time.process_time() - start < 5


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    partner().save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    assert_refused(tmp_path, r"config\.json")


def test_a_folder_without_weights(tmp_path: Path) -> None:
    partner().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert_refused(tmp_path, r"no model\.safetensors")


def test_a_model_of_another_kind(tmp_path: Path) -> None:
    partner().save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", lambda config: config.update(model_type="videomae"))
    assert_refused(tmp_path, "videomae")
    with pytest.raises(UserError, match=r"config\.json: model_type 'videomae'"):
        from_huggingface(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '"vivit"', "\x00", "[" * 100_000])
def test_a_config_that_is_none(text: str, tmp_path: Path) -> None:
    partner().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text)
    assert_refused(tmp_path, r"config\.json: ")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_act", "relu", r"config\.json: hidden_act 'relu' is not supported"),
        ("hidden_act", ["gelu"], r"config\.json: hidden_act"),
        ("num_hidden_layers", 1, r"model\.safetensors: not expected: vivit\.encoder\.layer\.1"),
        ("num_hidden_layers", 3, r"model\.safetensors: missing: vivit\.encoder\.layer\.2"),
        ("num_hidden_layers", 1000, r"model\.safetensors: .*too few for 1000 layers"),
        ("num_hidden_layers", 10**9, r"config\.json: num_layers"),
        ("num_hidden_layers", -1, r"config\.json: num_layers"),
        ("num_attention_heads", 5, r"config\.json: num_heads: 5 heads"),
        ("num_attention_heads", 0, r"config\.json: num_heads"),
        ("hidden_size", 10**9, r"config\.json: hidden_size"),
        ("hidden_size", 64, r"model\.safetensors: .* has the shape"),
        ("hidden_size", 1 << 24, r"model\.safetensors: "),
        ("intermediate_size", 49, r"model\.safetensors: .*intermediate\.dense\.weight has the shape \(48, 32\).*49"),
        ("num_frames", 8, r"position_embeddings has the shape \(1, 25, 32\).* \(1, 49, 32\)"),
        ("num_frames", 5, r"config\.json: num_frames: 5"),
        ("num_frames", 10**30, r"config\.json: num_frames"),
        ("image_size", [32, 64], r"position_embeddings has the shape \(1, 25, 32\).* \(1, 33, 32\)"),
        ("image_size", [32], r"config\.json: image_size"),
        ("tubelet_size", [2, 8], r"config\.json: tubelet_size"),
        ("tubelet_size", [2, 0, 16], r"config\.json: tubelet_size"),
        ("tubelet_size", [2, 16, 8], r"projection\.weight has the shape \(32, 3, 2, 8, 16\).*\(32, 3, 2, 16, 8\)"),
        ("qkv_bias", False, r"not expected: vivit\.encoder\.layer\.0\.attention\.attention\.key\.bias"),
        ("layer_norm_eps", "small", r"config\.json: norm_eps"),
    ],
)
def test_a_config_that_does_not_fit_the_weights(field: str, value: Any, message: str, tmp_path: Path) -> None:
    partner().save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", lambda config: config.update({field: value}))
    assert_refused(tmp_path, message)


@pytest.mark.parametrize("labels", [7, True, 0.5])
def test_labels_that_are_none_raise_nothing_but_user_errors(labels: Any, tmp_path: Path) -> None:
    headless().save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", lambda config: config.update(id2label=labels))
    try:
        model = from_huggingface(tmp_path)
    except UserError as error:
        assert "config.json" in str(error)
        assert "\n" not in str(error)
    else:
        assert model.classes is None
        assert model.config.num_classes == 2


def lose(weights: dict[str, Tensor]) -> None:
    del weights[WEIGHT]


def add(weights: dict[str, Tensor]) -> None:
    weights["vivit.encoder.layer.0.colour"] = torch.zeros(1)


def narrow(weights: dict[str, Tensor]) -> None:
    weights[WEIGHT] = torch.zeros(32, 47)


def narrow_key(weights: dict[str, Tensor]) -> None:
    weights["vivit.encoder.layer.0.attention.attention.key.weight"] = torch.zeros(31, 32)


def swap_axes(weights: dict[str, Tensor]) -> None:
    weights[WEIGHT] = weights[WEIGHT].T.contiguous()


def flatten_token(weights: dict[str, Tensor]) -> None:
    weights["vivit.embeddings.cls_token"] = torch.zeros(32)


def grow_positions(weights: dict[str, Tensor]) -> None:
    weights["vivit.embeddings.position_embeddings"] = torch.zeros(1, 26, 32)


def halve_head(weights: dict[str, Tensor]) -> None:
    weights["classifier.weight"] = torch.zeros(3, 16)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lose, f"missing: {WEIGHT}"),
        (add, "not expected: vivit.encoder.layer.0.colour"),
        (narrow, rf"{WEIGHT} has the shape \(32, 47\), but the model wants \(32, 48\)"),
        (
            narrow_key,
            r"vivit\.encoder\.layer\.0\.attention\.attention\.key\.weight has the shape \(31, 32\), .* \(32, 32\)",
        ),
        (swap_axes, rf"{WEIGHT} has the shape \(48, 32\), but the model wants \(32, 48\)"),
        (flatten_token, r"vivit\.embeddings\.cls_token has the shape \(32,\), but the model wants \(1, 1, 32\)"),
        (
            grow_positions,
            r"vivit\.embeddings\.position_embeddings has the shape \(1, 26, 32\), but the model wants \(1, 25, 32\)",
        ),
        (halve_head, r"classifier\.weight has the shape \(3, 16\), but the model wants \(3, 32\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    edit: Callable[[dict[str, Tensor]], None], message: str, tmp_path: Path
) -> None:
    partner().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    edit(weights)
    save_file(weights, tmp_path / "model.safetensors")
    assert_refused(tmp_path, rf"model\.safetensors: {message}")


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        ("model-00009-of-00009.safetensors", r"model-00009-of-00009\.safetensors: "),
        ("../x", r"index\.json: '\.\./x' is not the name of a file in its folder"),
        ("/x", r"index\.json: '/x' is not the name of a file in its folder"),
        ("..", r"index\.json: '\.\.' is not the name of a file in its folder"),
        ("", r"index\.json: '' is not the name of a file in its folder"),
        (3, r"index\.json: no weight_map from names to files"),
        ("config.json", r"config\.json: not readable"),
    ],
)
def test_an_index_that_names_no_shard_beside_it(shard: Any, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_sharded(partner(), folder)
    # Complete weights lie outside the folder, where such a path leads.
    save_file({WEIGHT: torch.zeros(32, 48)}, tmp_path / "x")
    edit_json(folder / "model.safetensors.index.json", lambda index: index["weight_map"].update({WEIGHT: shard}))
    assert_refused(folder, message)


def test_an_index_that_is_wrong_about_a_shard(tmp_path: Path) -> None:
    save_sharded(partner(), tmp_path)
    edit_json(
        tmp_path / "model.safetensors.index.json",
        lambda index: index["weight_map"].update({WEIGHT: index["weight_map"]["vivit.embeddings.cls_token"]}),
    )
    assert_refused(tmp_path, rf"index\.json: {WEIGHT} is not in model-")


def test_a_shard_that_is_lost(tmp_path: Path) -> None:
    save_sharded(partner(), tmp_path)
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    assert_refused(tmp_path, shard.name)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("content", [b"", b"These are not weights.\n" * 100, b"\xff" * 1000])
def test_weights_that_are_none(name: str, content: bytes, tmp_path: Path) -> None:
    partner().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path, f"{name}: not ")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_cut_short(name: str, tmp_path: Path) -> None:
    save_pickled(partner(), tmp_path) if name.endswith(".bin") else save_published(partner(), tmp_path)
    whole = (tmp_path / name).read_bytes()
    for part in (0.2, 0.9):
        (tmp_path / name).write_bytes(whole[: int(len(whole) * part)])
        assert_refused(tmp_path, f"{name}: not ")


def test_loading_is_the_same_by_either_name(tmp_path: Path) -> None:
    partner(id2label={0: "wave", 1: "jump", 2: "run"}).save_pretrained(tmp_path)
    VivitImageProcessor().save_pretrained(tmp_path)
    for source in (tmp_path, str(tmp_path)):
        loaded, expected = vivit.load(source), from_huggingface(source)
        assert_equal_states(loaded.state_dict(), expected.state_dict())
        for field in ("config", "classes", "preprocessing", "origin", "training"):
            assert getattr(loaded, field) == getattr(expected, field), field


@pytest.mark.parametrize(
    ("changes", "report"),
    [
        ({}, []),
        ({"num_frames": 8}, ["positions resized from 2 × 4 × 3 to 4 × 4 × 3"]),
        (
            {"image_size": (48, 32)},
            ["positions resized from 2 × 4 × 3 to 2 × 6 × 2"],
        ),
        ({"num_classes": 7}, ["fresh head of 7 classes, untrained: the weights have 3"]),
        (
            {"num_frames": 6, "image_size": (64, 64), "num_classes": 2},
            [
                "positions resized from 2 × 4 × 3 to 3 × 8 × 4",
                "shorter side resized to 128 pixels, not 64",
                "fresh head of 2 classes, untrained: the weights have 3",
            ],
        ),
    ],
)
def test_loading_with_changes_resizes_positions_and_says_so(
    changes: dict[str, Any], report: list[str], tmp_path: Path
) -> None:
    theirs = partner()
    theirs.save_pretrained(tmp_path)
    VivitImageProcessor(size={"shortest_edge": 64}, do_normalize=False).save_pretrained(tmp_path)
    ours = vivit.load(tmp_path, **changes)
    assert sorted(ours.origin[1:]) == sorted(report)

    fields: dict[str, Any] = {"num_frames": 4, "image_size": (32, 48)} | changes
    num_classes = fields.pop("num_classes", 3)
    larger = partner(**fields, num_labels=num_classes)
    state = theirs.state_dict()
    name = "vivit.embeddings.position_embeddings"
    places = state[name][:, 1:].unflatten(1, (2, 4, 3)).movedim(-1, 1)  # (1, T, n_h, n_w, D) → (1, D, T, n_h, n_w)
    height, width = fields["image_size"]
    grid = (fields["num_frames"] // 2, height // 8, width // 16)
    resized = F.interpolate(places, grid, mode="trilinear", align_corners=True)
    state[name] = torch.cat([state[name][:, :1], resized.flatten(2).mT], dim=1)
    if "num_classes" in changes:
        state["classifier.weight"], state["classifier.bias"] = torch.zeros(num_classes, 32), torch.zeros(num_classes)
    larger.load_state_dict(state)

    video = clip_for(larger.config)
    with torch.no_grad():
        assert difference(ours.features(video), larger.vivit(video).last_hidden_state[:, 0]) <= 1e-5
        torch.testing.assert_close(our_logits(ours, video), their_logits(larger, video), rtol=1e-5, atol=1e-5)


def test_changes_that_the_weights_do_not_bear_name_the_folder(tmp_path: Path) -> None:
    partner().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path))}: num_layers: you gave 4, but the weights have 2"):
        vivit.load(tmp_path, num_layers=4)
    with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path))}: num_frames: 5"):
        vivit.load(tmp_path, num_frames=5)
