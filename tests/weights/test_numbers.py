"""Numbers that no weight can be are refused in every source; mixed precision becomes one precision."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import vivit
from tests.support import random_clips, refused, tiny_model
from tests.weights.test_fuzz import Target, rewritten, targets, write

State = dict[str, Tensor]
KINDS = (
    *("vivit", "transformers", "transformers in shards", "transformers in PyTorch", "Scenic", "npz"),
    *("transformers' image ViT", "timm"),
)


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    made = {target.name: target for target in targets(tmp_path_factory.mktemp("targets"))}
    assert made.keys() == set(KINDS)
    return made


def change(target: Target, folder: Path, spoil: Callable[[State], None]) -> Path:
    """Write the files of a target to a folder, with all weights of each file changed; return what is loaded."""
    folder.mkdir(exist_ok=True)
    for name, content in target.files.items():
        write(folder / name, content if name.endswith(".json") else rewritten(content, spoil))
    return folder if target.of_folder else folder / next(iter(target.files))


def kernel_in(state: State) -> str | None:
    """The name of the first kernel of an MLP, if the file has it."""
    parts = ("mlp.fc1.weight", "intermediate.dense.weight", "Dense_0/kernel")
    return next((name for name in sorted(state) if name.endswith(parts)), None)


def put(value: float) -> Callable[[State], None]:
    def spoil(state: State) -> None:
        if (name := kernel_in(state)) is not None:
            state[name].flatten()[-3:-1] = value

    return spoil


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_that_no_weight_can_be_is_refused_by_name(every: dict[str, Target], kind: str, tmp_path: Path) -> None:
    """In any source; large weights that may be real are loaded."""
    target, named = every[kind], r"(fc1|intermediate\.dense|Dense_0).*: "
    said = {
        float("nan"): "2 of \\d+ numbers are NaN or infinite",
        float("-inf"): "2 of \\d+ numbers are NaN or infinite",
        1e30: r"a number is 1\.0e\+30",
        -4e15: r"a number is 4\.0e\+15",
    }
    for value, words in said.items():
        path = change(target, tmp_path / "work", put(value))
        refused(partial(target.load, path), str(tmp_path), named + words, "damaged")
    target.load(change(target, tmp_path / "work", put(-7e9)))


def as_16_and_32_bits(state: State) -> None:
    state |= {name: value.bfloat16() for name, value in state.items() if value.ndim > 1}


def as_32_and_64_bits(state: State) -> None:
    state |= {name: value.double() for name, value in state.items() if value.ndim == 1}


def as_8_bits(state: State) -> None:
    for name in state:
        state[name] = state[name].to(torch.float8_e5m2 if len(name) % 2 else torch.float8_e4m3fn)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mix", [as_16_and_32_bits, as_32_and_64_bits, as_8_bits])
def test_mixed_precision_becomes_float32(
    every: dict[str, Target], kind: str, mix: Callable[[State], None], tmp_path: Path
) -> None:
    target = every[kind]
    lacking = {"npz": (as_16_and_32_bits, as_8_bits), "transformers in PyTorch": (as_8_bits,)}
    if mix in lacking.get(kind, ()):
        pytest.skip("the format has no such numbers")

    def rounded(state: State) -> None:
        """The same numbers in float32."""
        mix(state)
        state |= {name: value.float() for name, value in state.items()}

    model = target.load(change(target, tmp_path / "mixed", mix))
    expected = target.load(change(target, tmp_path / "single", rounded)).state_dict()
    state = model.state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_one_precision_of_a_model_folder_stays(dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny_model().to(dtype)
    vivit.save(model, tmp_path)
    loaded = vivit.load(tmp_path)
    assert {value.dtype for value in loaded.state_dict().values()} == {dtype}
    assert loaded.origin == ()
    # Clips of any floating type are taken.
    assert loaded(random_clips(model.config)).dtype == dtype


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.bool, torch.complex64, torch.int32, torch.float8_e8m0fnu]
)
@pytest.mark.parametrize("kind", ["vivit", "transformers in shards", "transformers in PyTorch", "Scenic", "npz"])
def test_numbers_that_are_no_floats_are_refused(
    every: dict[str, Target], kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    if dtype == torch.float8_e8m0fnu and kind in ("npz", "transformers in PyTorch"):
        pytest.skip("the format has no such numbers")

    def spoil(state: State) -> None:
        if (name := kernel_in(state)) is not None:
            state[name] = state[name].abs().to(dtype)

    path = change(every[kind], tmp_path / "work", spoil)
    refused(lambda: every[kind].load(path), f"holds {str(dtype).removeprefix('torch.')}, .*save them as float32")


def test_pickled_tensors_that_torch_rebuilds_in_another_way_say_what_to_do(
    every: dict[str, Target], tmp_path: Path
) -> None:
    target = every["transformers in PyTorch"]
    path = change(target, tmp_path / "work", as_8_bits)
    refused(lambda: target.load(path), "16, 32 or 64 bits.*save its state_dict as safetensors")


def test_an_array_of_a_type_that_numpy_lacks_is_named(every: dict[str, Target], tmp_path: Path) -> None:
    # As JAX's bfloat16 arrives in an .npz.
    target = every["npz"]
    path = change(target, tmp_path / "work", lambda state: None)
    arrays = dict(np.load(path))
    arrays["cls"] = arrays["cls"].astype(np.float16).view("V2")
    np.savez(path, **arrays)
    refused(lambda: target.load(path), r"cls holds NumPy's \|V2, .*float32")


@pytest.mark.parametrize("part", [0.0, 1e-300, 1e-30])
def test_pixels_scaled_beyond_any_weight_are_refused(every: dict[str, Target], part: float, tmp_path: Path) -> None:
    target = every["timm"]
    path = change(target, tmp_path / "work", lambda state: None)
    config = json.loads((path / "config.json").read_text())
    config["pretrained_cfg"]["std"] = [0.2, part, 0.2]
    (path / "config.json").write_text(json.dumps(config))
    refused(lambda: target.load(path), "config.json: how it scales")
