import resource
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

from vivit.errors import UserError
from vivit.training import checkpoint
from vivit.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from vivit.training.optim import build_optimiser
from vivit.training.recipe import Recipe


def trained(recipe: Recipe, optimiser: Literal["sgd", "adamw"], seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small network after three steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3))
    chosen = build_optimiser(model, recipe.model_copy(update={"optimiser": optimiser}))
    for _ in range(3):
        step(model, chosen)
    return model, chosen


def step(model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad()
    model(torch.ones(2, 5)).square().sum().backward()
    optimiser.step()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_round_trip_is_exact(tmp_path: Path, tiny_recipe: Recipe, optimiser: Literal["sgd", "adamw"]) -> None:
    model, chosen = trained(tiny_recipe, optimiser, seed=0)
    save_checkpoint(tmp_path, 3, model, chosen, {"losses": [0.1, 1 / 3]})
    other_model, other = trained(tiny_recipe, optimiser, seed=1)
    assert load_checkpoint(checkpoints(tmp_path)[-1], other_model, other) == {"step": 3, "losses": [0.1, 1 / 3]}

    there = chosen.state_dict()["state"]
    found = other.state_dict()["state"]
    assert there.keys() == found.keys()
    for number, values in there.items():
        assert values.keys() == found[number].keys()
        assert all(torch.equal(values[key], found[number][key]) for key in values)
    step(model, chosen)
    step(other_model, other)
    for left, right in zip(model.parameters(), other_model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_the_last_two_stay(tmp_path: Path, tiny_recipe: Recipe) -> None:
    model, optimiser = trained(tiny_recipe, "sgd", seed=0)
    for number in (8, 9, 10, 100):
        save_checkpoint(tmp_path, number, model, optimiser, {})
    assert [path.name for path in tmp_path.iterdir() if path != checkpoints(tmp_path)[-1]] == ["step-00000010"]
    assert checkpoints(tmp_path)[-1].name == "step-00000100"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("written", [0, 1])
def test_failed_write_leaves_the_previous_one(
    tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, error: BaseException, written: int
) -> None:
    """The disk is full, or the user has had enough, at the first or at the second file."""
    model, optimiser = trained(tiny_recipe, "adamw", seed=0)
    save_checkpoint(tmp_path, 1, model, optimiser, {})
    before = contents(tmp_path / "step-00000001")
    save, calls = checkpoint.save_file, 0

    def failing(tensors: Any, path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls > written:
            path.write_bytes(b"half")
            raise error
        save(tensors, path)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", failing)
        with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt) as raised:
            save_checkpoint(tmp_path, 2, model, optimiser, {})
    if isinstance(error, OSError):
        assert str(raised.value).startswith(f"{tmp_path}: checkpoint not written ([Errno 28] No space left on device)")
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000001"]
    assert contents(tmp_path / "step-00000001") == before

    save_checkpoint(tmp_path, 2, model, optimiser, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_full_disk_is_one_line(tmp_path: Path, tiny_recipe: Recipe) -> None:
    """The operating system itself refuses: no file may have more than 100 bytes."""
    model, optimiser = trained(tiny_recipe, "sgd", seed=0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(UserError, match=r"checkpoint not written \(.*File too large"):
            save_checkpoint(tmp_path, 1, model, optimiser, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "optimiser.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_checkpoint_is_one_line_and_leaves_the_model(
    tmp_path: Path, tiny_recipe: Recipe, name: str, damage: str
) -> None:
    model, chosen = trained(tiny_recipe, "adamw", seed=0)
    save_checkpoint(tmp_path, 3, model, chosen, {})
    (saved,) = checkpoints(tmp_path)
    file = saved / name
    if damage == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.unlink()
    other, other_chosen = trained(tiny_recipe, "adamw", seed=1)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(UserError, match=rf"{saved.name}: damaged .*delete it to go on") as error:
        load_checkpoint(saved, other, other_chosen)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
