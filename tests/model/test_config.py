import re
from typing import Any

import pytest
from pydantic import ValidationError

from vivit.config import SIZES, SUFFIXES, ModelConfig, Preprocessing, uniform_frame_indices
from vivit.errors import one_line


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 100}, "image_size: the height 100 is not a multiple of the tubelet's 16; use 96 or 112"),
        ({"image_size": (96, 100)}, "image_size: the width 100 .* use 96 or 112"),
        ({"image_size": 8}, "image_size: the height 8 .*; use 16"),
        ({"num_frames": 31}, "num_frames: 31 is not a multiple of the tubelet's 2; use 30 or 32"),
        ({"num_frames": 1}, "num_frames: 1 .*; use 2"),
        ({"sampled_frames": 4}, 'sampled_frames goes with embedding="uniform_frames"; leave it out'),
        ({"embedding": "uniform_frames"}, "sampled_frames: .* needs the number of frames to take"),
        (
            {"embedding": "uniform_frames", "num_frames": 8, "sampled_frames": 9},
            "sampled_frames: cannot take 9 frames from a clip of 8; lower it or raise num_frames",
        ),
        ({"num_heads": 7}, "num_heads: 7 heads do not divide hidden_size 768"),
        (
            {"variant": "factorised_dot_product", "num_heads": 3},
            "num_heads: .* half its heads to space and half to time; use an even number, not 3",
        ),
        (
            {"variant": "factorised_self_attention", "pooling": "token"},
            'pooling: factorised_self_attention has no class token; use pooling="mean"',
        ),
        ({"variant": "factorised_dot_product", "pooling": "token"}, 'pooling: .* use pooling="mean"'),
        (
            {"temporal_layers": 4},
            "temporal_layers goes with the factorised_encoder model; .* for spatiotemporal",
        ),
        (
            {"variant": "factorised_encoder", "attention_order": "time_space"},
            "attention_order goes with the factorised_self_attention model; leave it out for factorised_encoder",
        ),
        ({"num_classes": 3, "heads": {"verb": 3}}, "num_classes and heads: give one of them, not both"),
        ({"heads": {}}, "heads: name at least one, as in "),
        ({"heads": {"a verb": 3}}, "heads: 'a verb' is not a valid name; use letters, digits and underscores"),
        ({"heads": {"verb": 0}}, "heads.verb: .* greater than or equal to 1"),
        ({"variant": "video_swin"}, "variant: .*'spatiotemporal', 'factorised_encoder'"),
        ({"pooling": "max"}, "pooling: .*'token' or 'mean'"),
        ({"image_size": (1, 2, 3)}, "image_size: "),
        ({"image_size": "224"}, "image_size: "),
        ({"tubelet_size": 16}, "tubelet_size: "),
        ({"tubelet_size": 16, "embedding": "uniform_frames", "sampled_frames": 4}, "tubelet_size: "),
        ({"tubelet_size": (0, 16, 16)}, r"tubelet_size\.0: .* greater than or equal to 1"),
        ({"num_layers": 0}, "num_layers: .* greater than or equal to 1"),
        ({"attentive_pooling": True, "token_dropping": 0.5}, "token_dropping: .* leave it at 0"),
        ({"variant": "factorised_encoder", "temporal_layers": -1}, "temporal_layers: .* greater than or equal to 0"),
        ({"dropout": 1.0}, "dropout: .* less than 1"),
        ({"attention_dropout": -0.1}, "attention_dropout: .* greater than or equal to 0"),
        ({"stochastic_depth": 1.1}, "stochastic_depth: .* less than or equal to 1"),
        ({"depth": 12}, "depth: Extra inputs are not permitted"),
    ],
)
def test_contradictions_name_the_field_and_the_mend(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        ModelConfig(**fields)
    line = one_line(error.value)
    assert re.match(message, line), line
    assert "\n" not in line


def test_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ModelConfig().num_frames = 16


@pytest.mark.parametrize(
    ("variant", "pooling", "temporal_layers", "attention_order"),
    [
        ("spatiotemporal", "token", None, None),
        ("factorised_encoder", "token", 4, None),
        ("factorised_self_attention", "mean", None, "space_time"),
        ("factorised_dot_product", "mean", None, None),
    ],
)
def test_defaults_of_the_variants(
    variant: Any, pooling: str, temporal_layers: int | None, attention_order: str | None
) -> None:
    config = ModelConfig(variant=variant)
    assert (config.pooling, config.temporal_layers, config.attention_order) == (
        pooling,
        temporal_layers,
        attention_order,
    )
    assert (config.num_frames, config.image_size, config.tubelet_size) == (32, (224, 224), (2, 16, 16))
    assert (config.hidden_size, config.num_layers, config.num_heads, config.mlp_dim) == (768, 12, 12, 3072)
    assert (config.num_classes, config.heads) == (400, None)
    assert config.grid == (16, 14, 14)


def test_an_image_size_is_a_square_or_height_and_width() -> None:
    assert ModelConfig(image_size=96).image_size == (96, 96)  # type: ignore[arg-type]
    wide = ModelConfig(image_size=(64, 96))
    assert wide.grid == (16, 4, 6)


def test_uniform_frames_are_embedded_one_by_one() -> None:
    config = ModelConfig(embedding="uniform_frames", sampled_frames=8, tubelet_size=(4, 16, 8))
    assert config.tubelet_size == (1, 16, 8)
    assert config.grid == (8, 14, 28)
    assert ModelConfig(embedding="uniform_frames", sampled_frames=8).tubelet_size == (1, 16, 16)
    odd = ModelConfig(embedding="uniform_frames", sampled_frames=3, num_frames=7)
    assert odd.grid[0] == 3


def test_the_grid_counts_the_frames_that_are_really_taken() -> None:
    """The official sampling takes one frame more than asked for here, and positions match that number."""
    assert uniform_frame_indices(8, 2) == [3, 5, 7]
    assert ModelConfig(embedding="uniform_frames", num_frames=8, sampled_frames=2).grid[0] == 3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_named(size: str, suffix: str) -> None:
    published = {  # hidden size, layers, heads, MLP
        "ti": (192, 12, 3, 768),
        "s": (384, 12, 6, 1536),
        "b": (768, 12, 12, 3072),
        "l": (1024, 24, 16, 4096),
        "h": (1280, 32, 16, 5120),
    }
    variants = {
        "": "spatiotemporal",
        "fe": "factorised_encoder",
        "fsa": "factorised_self_attention",
        "fdp": "factorised_dot_product",
    }
    name = f"vivit-{size}-14x4" + (f"-{suffix}" if suffix else "")
    overrides: dict[str, Any] = {"num_classes": 174}
    if (size, suffix) == ("ti", "fdp"):  # three heads have no half
        with pytest.raises(ValidationError, match=r"num_heads.*even number, not 3"):
            ModelConfig.named(name)
        overrides["num_heads"] = 6
    config = ModelConfig.named(name, **overrides)
    hidden_size, num_layers, num_heads, mlp_dim = published[size]
    assert config.variant == variants[suffix]
    assert config.tubelet_size == (4, 14, 14)
    assert (config.hidden_size, config.num_layers, config.mlp_dim) == (hidden_size, num_layers, mlp_dim)
    assert config.num_heads == overrides.get("num_heads", num_heads)
    assert config.num_classes == 174


@pytest.mark.parametrize(
    "name",
    ["", "vit-b-16x2", "vivit-b", "vivit-x-16x2", "vivit-b-16", "vivit-b-16x2-", "vivit-b-16x2-ae", "vivit-B-16x2"],
)
def test_unknown_names_list_what_is_known(name: str) -> None:
    with pytest.raises(ValueError, match=r"ti, s, b, l, h .* fe, fsa, fdp") as error:
        ModelConfig.named(name)
    assert repr(name) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_that_is_nearly_right_is_corrected() -> None:
    with pytest.raises(ValueError, match=r"did you mean vivit-b-14x4-fe\?"):
        ModelConfig.named("vivit-b-14x4-ef")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"variant": "factorised_encoder", "temporal_layers": 0, "pooling": "mean", "image_size": (32, 48)},
        {"variant": "factorised_self_attention", "attention_order": "time_space", "dropout": 0.1},
        {"variant": "factorised_dot_product", "representation_size": 24, "stochastic_depth": 0.3},
        {"embedding": "uniform_frames", "sampled_frames": 4, "heads": {"verb": 97, "noun": 300}},
    ],
)
def test_json_and_back(fields: dict[str, Any]) -> None:
    config = ModelConfig(**fields)
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config
    assert ModelConfig(**config.model_dump()) == config
    heads = config.heads or {}
    assert list(ModelConfig.model_validate_json(config.model_dump_json()).heads or {}) == list(heads)


@pytest.mark.parametrize(
    ("image_size", "resize"), [((224, 224), 256), ((320, 320), 366), ((112, 112), 128), ((224, 400), 400)]
)
def test_preprocessing_in_proportion_to_the_crop(image_size: tuple[int, int], resize: int) -> None:
    preprocessing = Preprocessing.of_crop(image_size)
    assert (preprocessing.resize, preprocessing.frame_stride, preprocessing.short_clips) == (resize, 2, "loop")


def test_a_model_without_a_head_has_no_classes() -> None:
    assert ModelConfig(num_classes=0).class_counts == {}
