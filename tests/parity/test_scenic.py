"""Official checkpoints give the official code's logits (see reference/README.md)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support import refused
from vivit.errors import UserError
from vivit.weights.scenic import from_scenic

REFERENCE = Path(__file__).parent / "reference"
CASES = sorted(folder.name for folder in (REFERENCE / "scenic").iterdir())
VARIANTS = {
    "joint": "spatiotemporal",
    "fe": "factorised_encoder",
    "fe_avg": "factorised_encoder",
    "fsa": "factorised_self_attention",
    "fdp": "factorised_dot_product",
}


def read_case(case: str) -> tuple[dict[str, Any], Tensor, np.ndarray]:
    """The official configuration, the video (B, T, C, H, W), and the official logits."""
    folder = REFERENCE / "scenic" / case
    with np.load(folder / "io.npz") as io:
        video, logits = torch.from_numpy(io["video"]), io["logits"]
    return json.loads((folder / "config.json").read_text()), video.permute(0, 1, 4, 2, 3), logits


def needed_keywords(official: dict[str, Any]) -> dict[str, Any]:
    """Keywords that the weights do not determine."""
    keywords: dict[str, Any] = {"image_size": official["image_size"]}
    if official["variant"] == "fdp" or (official["variant"] == "joint" and official["classifier"] == "gap"):
        keywords["variant"] = VARIANTS[official["variant"]]
    if official["variant"] == "fsa":
        keywords["attention_order"] = official["attention_order"]
    if official["variant"] == "fe_avg" or official["embedding"] == "uniform":
        keywords["num_frames"] = official["num_frames"]
    if official["embedding"] == "uniform":
        keywords["sampled_frames"] = official["n_sampled_frames"]
    return keywords


def load(case: str, **overrides: Any) -> Any:
    return from_scenic(REFERENCE / "scenic" / case / "checkpoint", **overrides)


def test_every_kind_of_model_has_a_case() -> None:
    assert {read_case(case)[0]["variant"] for case in CASES} == set(VARIANTS)


@pytest.mark.parametrize("case", CASES)
def test_official_logits(case: str) -> None:
    official, video, expected = read_case(case)
    model = load(case, **needed_keywords(official))
    assert not model.training
    with torch.no_grad():
        logits = model(video).numpy()
    assert logits.dtype == np.float32
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("case", CASES)
def test_keywords_that_only_repeat_the_weights_are_accepted(case: str) -> None:
    official, _, _ = read_case(case)
    height, width, frames = official["patch_size"]
    redundant = {
        "variant": VARIANTS[official["variant"]],
        "num_frames": official["num_frames"],
        "image_size": tuple(official["image_size"]),
        "tubelet_size": [frames, height, width],
        "embedding": "uniform_frames" if official["embedding"] == "uniform" else "tubelet",
        "sampled_frames": official["n_sampled_frames"],
        "pooling": "token" if official["classifier"] == "token" else "mean",
        "attention_order": official["attention_order"],
        "temporal_layers": 0 if official["variant"] == "fe_avg" else official["temporal_layers"],
        **{
            name: official[name]
            for name in ("hidden_size", "num_layers", "num_heads", "mlp_dim", "num_classes", "representation_size")
        },
    }
    assert load(case, **redundant).config == load(case, **needed_keywords(official)).config


def test_one_number_for_a_square_picture() -> None:
    assert load("joint", image_size=32).config == load("joint", image_size=(32, 32)).config


@pytest.mark.parametrize(
    ("case", "overrides", "named"),
    [
        ("joint", {"num_layers": 4}, "num_layers"),
        ("joint", {"num_classes": 8}, "num_classes"),
        ("joint", {"num_heads": 8}, "num_heads"),
        ("joint", {"hidden_size": 64}, "hidden_size"),
        ("joint", {"mlp_dim": 32}, "mlp_dim"),
        ("joint", {"num_frames": 16}, "num_frames"),
        ("joint", {"tubelet_size": (4, 8, 8)}, "tubelet_size"),
        ("joint", {"pooling": "mean"}, "pooling"),
        ("joint", {"variant": "factorised_encoder"}, "variant"),
        ("joint", {"variant": "factorised_dot_product"}, "variant"),
        ("joint", {"sampled_frames": 4}, "sampled_frames"),
        ("joint", {"attention_order": "time_space"}, "attention_order"),
        ("joint", {"image_size": (40, 32)}, "image_size"),
        ("joint", {"image_size": (32, 32, 3)}, "image_size"),
        ("joint", {"image_size": "32"}, "image_size"),
        ("joint", {"representation_size": 24}, "representation"),
        ("joint", {"heads": {"verb": 3, "noun": 3}}, "heads"),
        ("joint", {"depth": 3}, "depth"),
        ("joint", {"embedding": "uniform_frames", "sampled_frames": 4}, "embedding: "),
        ("fe", {"variant": "spatiotemporal"}, "variant"),
        ("fe", {"temporal_layers": 1}, "temporal_layers"),
        ("fe", {"temporal_layers": 0}, "temporal_layers"),
        ("fe", {"image_size": (64, 32)}, "image_size"),
        ("fe_avg", {"temporal_layers": 2}, "temporal_layers"),
        ("fsa", {"variant": "factorised_dot_product"}, "variant"),
        ("fsa", {"pooling": "token"}, "pooling"),
        ("fdp", {"variant": "factorised_encoder"}, "variant"),
        ("fe_representation", {"representation_size": 32}, "representation_size"),
        ("joint_uniform", {"sampled_frames": 5}, "sampled_frames"),
        ("joint_uniform", {"sampled_frames": 11}, "sampled_frames"),
        ("joint_uniform", {"embedding": "tubelet"}, "sampled_frames"),
    ],
)
def test_keywords_that_contradict_the_weights_are_refused(case: str, overrides: dict[str, Any], named: str) -> None:
    keywords = needed_keywords(read_case(case)[0]) | overrides
    refused(lambda: load(case, **keywords), named)


@pytest.mark.parametrize(
    ("case", "keyword"),
    [(case, keyword) for case in CASES for keyword in needed_keywords(read_case(case)[0])],
)
def test_a_missing_keyword_is_named(case: str, keyword: str) -> None:
    keywords = needed_keywords(read_case(case)[0])
    del keywords[keyword]
    with pytest.raises(UserError, match=f"give {keyword}") as error:
        load(case, **keywords)
    assert "\n" not in str(error.value)
    assert "checkpoint" in str(error.value)


def test_named_heads_are_columns_of_the_official_logits() -> None:
    official, video, expected = read_case("fe_epic")
    model = load("fe_epic", image_size=official["image_size"], heads={"noun": 5, "verb": 3})
    with torch.no_grad():
        logits = model(video)
    assert list(logits) == ["noun", "verb"]
    atol = 1e-5 * float(np.abs(expected).max())
    np.testing.assert_allclose(logits["noun"], expected[:, :5], rtol=0, atol=atol)
    np.testing.assert_allclose(logits["verb"], expected[:, 5:], rtol=0, atol=atol)


def hostile_files() -> dict[str, bytes]:
    whole = (REFERENCE / "scenic" / "joint" / "checkpoint").read_bytes()
    noise = np.random.default_rng(0)
    files = {
        "empty": b"",
        "text": b"These are not weights.\n" * 100,
        "number": b"\x01",
        "list": b"\x93\x01\x02\x03",
        "other map": b"\x81\xa1a\x01",
        "string params": b"\x81\xa6params\xa1a",
        "unhashable keys": b"\x81\x90\x01",
        "no utf-8": b"\x81\xa2\xff\xfe\x01",
        "nested too deeply": b"\x91" * 100_000,
        "huge array announced": b"\xdd\xff\xff\xff\xff",
        "trailing bytes": whole + b"\x00",
        "unknown dtype": b"\x81\xa6params\xc7\x0c\x01\x93\x91\x01\xa6float9\xc4\x00",
    }
    files |= {f"truncated at {part}/8": whole[: len(whole) * part // 8] for part in range(1, 8)}
    files |= {f"truncated after {size}": whole[:size] for size in (1, 20, 100, len(whole) - 1)}
    files |= {f"random {i}": noise.bytes(1000) for i in range(20)}
    return files


@pytest.mark.parametrize("name", hostile_files())
def test_a_file_that_is_no_checkpoint_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(hostile_files()[name])
    refused(lambda: from_scenic(path, image_size=32), r"weights\.bin: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such file"):
        from_scenic(tmp_path / "nowhere", image_size=32)
    with pytest.raises(UserError, match="directory"):
        from_scenic(tmp_path, image_size=32)


@pytest.mark.parametrize(
    "lost",
    [
        b"LayerNorm_0",
        b"encoder_norm",
        b"posembed_input",
        b"output_projection",
        b"query",
        b"Dense_1",
        b"encoderblock_1",
    ],
)
def test_a_lost_parameter_is_named(lost: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    whole = (REFERENCE / "scenic" / "joint" / "checkpoint").read_bytes()
    path.write_bytes(whole.replace(lost, b"x" * len(lost)))
    refused(lambda: from_scenic(path, image_size=32), r"weights\.bin: .*(missing|not expected).*")
