import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Literal, NoReturn

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.multiprocessing.spawn import start_processes

from vivit.errors import UserError
from vivit.training import checkpoint
from vivit.training.checkpoint import Checkpoints, checkpoints
from vivit.training.optim import WeightAverage, build_optimiser
from vivit.training.recipe import Recipe
from vivit.training.tensors import kept_weights, training_tensors

# The files of the first and the second process; so few tensors fit into one file each.
FIRST, SECOND = (f"shard-0000{number}-model-00001-of-00001.safetensors" for number in (1, 2))
Trained = tuple[nn.Sequential, torch.optim.Optimizer, WeightAverage]


def trained(
    recipe: Recipe,
    optimiser: Literal["sgd", "adamw"],
    seed: int,
    steps: int = 3,
    mesh: tuple[int, ...] = (),
) -> Trained:
    """A small network after a few steps, with a buffer and a frozen parameter.

    With a mesh of processes it is sharded over the last dimension, and replicated over the one before.
    """
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))
    model[0].bias.requires_grad_(False)
    if mesh:
        devices = init_device_mesh("cpu", mesh, mesh_dim_names=("copies", "shards")[-len(mesh) :])
        fully_shard(model[0], mesh=devices)
        fully_shard(model, mesh=devices)
    new = model, build_optimiser(model, recipe.model_copy(update={"optimiser": optimiser})), WeightAverage(model, 0.9)
    take_steps(new, 0, steps)
    return new


def take_steps(run: Trained, first: int, number: int) -> None:
    model, optimiser, average = run
    for step in range(first, first + number):
        optimiser.zero_grad()
        model(torch.arange(10.0).reshape(2, 5)).square().sum().backward()
        optimiser.step()
        average.update(step)


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in tensors.items()}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different


def filled(value: float, names: int = 3) -> dict[str, Tensor]:
    return {f"model/{number}": torch.full((4, 3), value) for number in range(names)}


def load(saved: Path, tensors: dict[str, Tensor]) -> dict[str, Any] | None:
    """Load this checkpoint as if it were the only one."""
    with TemporaryDirectory() as alone:
        (Path(alone) / saved.name).symlink_to(saved)
        return Checkpoints(Path(alone)).load_latest(lambda: tensors, pytest.fail)


def save_all(folder: Path, *steps: int, keep: int = 2) -> None:
    """Checkpoints whose tensors are all filled with the number of their step."""
    saver = Checkpoints(folder, keep)
    for number in steps:
        saver.save(number, filled(number), {"losses": [0.5] * number})
    saver.wait()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_resumed_run_takes_the_very_same_steps(
    tmp_path: Path, tiny_recipe: Recipe, optimiser: Literal["sgd", "adamw"]
) -> None:
    first = trained(tiny_recipe, optimiser, seed=0)
    saver = Checkpoints(tmp_path)
    losses = [0.1, 1 / 3, float("inf")]
    saver.save(3, training_tensors(*first), {"losses": losses, "unreadable": {"7": "n\udc80 é"}})
    saver.wait()

    other = trained(tiny_recipe, optimiser, seed=1, steps=0)
    state = Checkpoints(tmp_path).load_latest(lambda: training_tensors(*other), pytest.fail)
    assert state == {"step": 3, "losses": losses, "unreadable": {"7": "n\udc80 é"}}
    assert_same(training_tensors(*first), training_tensors(*other))
    for run in (first, other):
        take_steps(run, 3, 2)
    assert_same(training_tensors(*first), training_tensors(*other))


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_making_the_optimisers_state_changes_nothing(tiny_recipe: Recipe, optimiser: Literal["sgd", "adamw"]) -> None:
    asked, plain = (trained(tiny_recipe, optimiser, seed=0, steps=0) for _ in range(2))
    before = copied(dict(asked[0].state_dict()))
    tensors = training_tensors(*asked)
    kinds = {"sgd": {"momentum_buffer"}, "adamw": {"exp_avg", "exp_avg_sq", "step"}}[optimiser]
    assert {name.rsplit("/", 1)[1] for name in tensors if name.startswith("optimiser/")} == kinds
    assert_same(dict(asked[0].state_dict()), before)
    assert all(parameter.grad is None for parameter in asked[0].parameters())
    for run in (asked, plain):
        take_steps(run, 0, 3)
    assert_same(training_tensors(*asked), training_tensors(*plain))


def test_tensors_go_by_the_names_of_their_parameters(tiny_recipe: Recipe) -> None:
    model, optimiser, average = trained(tiny_recipe, "adamw", seed=0)
    tensors = training_tensors(model, optimiser, average)
    weight = model.get_parameter("2.weight")
    assert tensors["model/2.weight"].data_ptr() == weight.data_ptr()
    assert tensors["optimiser/2.weight/exp_avg"] is optimiser.state[weight]["exp_avg"]
    assert tensors["average/2.weight"] is average.state["2.weight"]
    assert "model/1.running_mean" in tensors and "average/0.bias" not in tensors
    assert not any(name.startswith("optimiser/0.bias/") for name in tensors)


def test_kept_weights_are_averages_where_there_are_some(tiny_recipe: Recipe) -> None:
    model, _, average = trained(tiny_recipe, "sgd", seed=0)
    kept = kept_weights(model, average)
    assert_same(kept, {**model.state_dict(), **average.state})
    assert not torch.equal(kept["2.weight"], model.get_parameter("2.weight"))
    plain = kept_weights(model, None)
    assert_same(plain, dict(model.state_dict()))
    model.get_parameter("2.weight").data.zero_()
    assert plain["2.weight"].any()


def test_what_changes_after_save_is_not_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = dcp.save

    def late(*args: Any, **kwargs: Any) -> None:
        time.sleep(0.1)
        write(*args, **kwargs)

    monkeypatch.setattr(dcp, "save", late)
    saver, tensors, losses = Checkpoints(tmp_path), filled(1.0), [0.5]
    saver.save(1, tensors, {"losses": losses})
    assert checkpoints(tmp_path) == []
    for value in tensors.values():
        value.zero_()
    losses.clear()
    saver.wait()
    found = filled(0.0)
    assert load(checkpoints(tmp_path)[-1], found) == {"step": 1, "losses": [0.5]}
    assert_same(found, filled(1.0))


def test_every_kind_of_tensor_comes_back(tmp_path: Path) -> None:
    tensors = {
        "number": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "a/b.c/d": torch.randn(3, 4, 5).transpose(0, 2),
        "whole numbers": torch.tensor([1 << 40, -1]),
        "flags": torch.tensor([True, False]),
        "half": torch.randn(3).bfloat16(),
    }
    tensors["shared"] = tensors["half"]
    saver = Checkpoints(tmp_path)
    saver.save(1, tensors, {})
    saver.wait()
    found = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in tensors.items()}
    load(checkpoints(tmp_path)[-1], found)
    assert_same(found, tensors)


def test_the_files_are_what_other_tools_read(tmp_path: Path) -> None:
    save_all(tmp_path, 7)
    (saved,) = checkpoints(tmp_path)
    assert names_in(saved) == ["SHA256SUMS", FIRST, "state.json"]
    assert_same(load_file(saved / FIRST), filled(7.0))
    assert json.loads((saved / "state.json").read_text())["step"] == 7
    sums = [line.split() for line in (saved / "SHA256SUMS").read_text().splitlines()]
    assert sums == [[hashlib.sha256((saved / name).read_bytes()).hexdigest(), name] for name in (FIRST, "state.json")]
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=saved, check=True, capture_output=True)
    assert {oct(path.stat().st_mode) for path in saved.iterdir()} == {oct((saved / "state.json").stat().st_mode)}


def test_many_tensors_come_in_several_files(tmp_path: Path) -> None:
    tensors = {f"model/{number}": torch.tensor([float(number)]) for number in range(130)}
    saver = Checkpoints(tmp_path)
    saver.save(1, tensors, {})
    saver.wait()
    files = [load_file(file) for file in sorted((tmp_path / "step-00000001").glob("*.safetensors"))]
    assert [len(file) for file in files] == [64, 64, 2]
    found = {name: torch.zeros(1) for name in tensors}
    load(tmp_path / "step-00000001", found)
    assert_same(found, tensors)


def test_no_pickle_is_read(tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = (trained(tiny_recipe, "adamw", seed) for seed in (0, 1))
    saver = Checkpoints(tmp_path)
    saver.save(3, training_tensors(*first), {})
    saver.wait()

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        pytest.fail("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    Checkpoints(tmp_path).load_latest(lambda: training_tensors(*other), pytest.fail)
    assert_same(training_tensors(*first), training_tensors(*other))


def test_the_last_two_stay(tmp_path: Path) -> None:
    save_all(tmp_path, 8, 9, 10, 100)
    assert names_in(tmp_path) == ["step-00000010", "step-00000100"]


def test_the_same_step_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    saver, found = Checkpoints(tmp_path), filled(0.0)
    saver.save(1, filled(1.0), {})
    saver.save(1, filled(2.0), {})
    saver.wait()
    assert names_in(tmp_path) == ["step-00000001"]
    load(tmp_path / "step-00000001", found)
    assert_same(found, filled(2.0))


def test_leftovers_are_cleared_at_the_start(tmp_path: Path) -> None:
    save_all(tmp_path, 1)
    (tmp_path / ".unfinished-step-00000002").mkdir()
    (tmp_path / ".unfinished-step-00000002" / FIRST).write_bytes(b"half")
    Checkpoints(tmp_path)
    assert names_in(tmp_path) == ["step-00000001"]


@pytest.mark.parametrize(
    ("module", "failing"), [(safetensors.torch, "save"), (checkpoint, "sync"), (checkpoint, "_sha256")]
)
def test_a_failed_write_is_told_at_the_next_call_and_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, failing: str
) -> None:
    saver = Checkpoints(tmp_path, keep=1)
    saver.save(1, filled(1.0), {})
    saver.wait()
    before = contents(tmp_path)

    def full(*args: object, **kwargs: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module, failing, full)
        saver.save(2, filled(2.0), {})
        with pytest.raises(UserError) as error:
            saver.save(3, filled(3.0), {})
    assert str(error.value) == (
        f"{tmp_path}: checkpoint not written ([Errno 28] No space left on device); the one before it is whole"
    )
    saver.wait()
    assert contents(tmp_path) == before
    saver.save(3, filled(3.0), {})
    saver.wait()
    assert names_in(tmp_path) == ["step-00000003"]


def test_all_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, rename = os.fsync, Path.rename
    before: set[int] = set()
    synced: set[int] = set()

    def noting_sync(descriptor: int) -> None:
        sync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def noting_rename(path: Path, target: Path) -> Path:
        before.update(synced)
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(Path, "rename", noting_rename)
    save_all(tmp_path, 1)
    (saved,) = checkpoints(tmp_path)
    assert before == {path.stat().st_ino for path in (saved, *saved.iterdir())}
    assert synced - before == {tmp_path.stat().st_ino}


def test_a_file_system_that_cannot_sync_a_folder_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, refused = os.fsync, []

    def of_files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            refused.append(descriptor)
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files_only)
    save_all(tmp_path, 1)
    assert refused and names_in(tmp_path) == ["step-00000001"]


@pytest.mark.parametrize("size", [100, 3000])
def test_a_full_disk_is_one_line(tmp_path: Path, size: int) -> None:
    """The operating system refuses larger files: first that of the tensors, then that of the state."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    save_all(tmp_path, 1)
    before = contents(tmp_path)
    saver = Checkpoints(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        saver.save(2, filled(2.0), {"losses": [0.5] * 3000})
        with pytest.raises(UserError, match=r"checkpoint not written \(.*File too large") as error:
            saver.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(file: Path) -> None:
    """Change a byte near the end: of a tensor's values, a number in the state, or a checksum."""
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("name", [FIRST, "state.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", [cut, flip_a_bit, empty, Path.unlink])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_loaded(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    save_all(tmp_path, 3, 4)
    damage(tmp_path / "step-00000004" / name)
    found = filled(0.0)
    said: list[str] = []
    state = Checkpoints(tmp_path).load_latest(lambda: found, said.append)
    assert state is not None and state["step"] == 3
    assert_same(found, filled(3.0))
    (line,) = said
    assert line.startswith(f"{tmp_path}/step-00000004: damaged (")
    assert line.endswith("), renamed to damaged-step-00000004; resuming from step-00000003")
    assert names_in(tmp_path) == ["damaged-step-00000004", "step-00000003"]
    # The damaged checkpoint is no longer in the way.
    save_all(tmp_path, 4, keep=1)
    assert names_in(tmp_path) == ["damaged-step-00000004", "step-00000004"]
    assert Checkpoints(tmp_path).load_latest(lambda: found, pytest.fail) == {"step": 4, "losses": [0.5] * 4}


def test_a_run_without_a_whole_checkpoint_does_not_begin_again_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    assert Checkpoints(folder).load_latest(pytest.fail, pytest.fail) is None
    save_all(folder, 3, 4)
    for saved in checkpoints(folder):
        cut(saved / FIRST)
    found = filled(0.0)
    with pytest.raises(
        UserError, match=f"checkpoints are damaged .*; give another --out, .*--init {tmp_path}/run"
    ) as error:
        Checkpoints(folder).load_latest(lambda: found, pytest.fail)
    assert "\n" not in str(error.value)
    assert_same(found, filled(0.0))
    assert names_in(folder) == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("model/1"), "model/1 is in it, but not in this run"),
        (lambda tensors: tensors.update({"average/1": torch.zeros(1)}), "average/1 is not in it"),
        (lambda tensors: tensors.update({"model/1": torch.zeros(4, 2)}), "model/1 is 4 × 3 in it and 4 × 2 in this"),
    ],
)
def test_a_checkpoint_of_another_model_is_one_line_and_stays(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    save_all(tmp_path, 3)
    tensors = filled(0.0)
    change(tensors)
    before = copied(tensors)
    with pytest.raises(UserError, match=f"step-00000003: .*{message}"):
        Checkpoints(tmp_path).load_latest(lambda: tensors, pytest.fail)
    assert_same(tensors, before)
    assert names_in(tmp_path) == ["step-00000003"]


def forked(work: Callable[[], object]) -> int:
    """Do the work in a process of its own, and return its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def latest_step(folder: Path) -> int:
    """The step of the latest checkpoint; fails if any checkpoint is damaged."""
    for saved in checkpoints(folder):
        found, step = filled(0.0), int(saved.name.removeprefix("step-"))
        assert load(saved, found) == {"step": step, "losses": [0.5] * step}
        assert_same(found, filled(step))
    return step


def test_a_run_killed_at_any_moment_goes_on_from_the_latest(tmp_path: Path) -> None:
    moments = random.Random(0)
    reached = 0
    for _ in range(12):
        ahead = range(reached + 1, reached + 1000)
        child = forked(partial(save_all, tmp_path, *ahead))
        while not (tmp_path / f"step-{ahead[0]:08d}").exists():
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(moments.uniform(0.0, 0.08))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        now = latest_step(tmp_path)
        assert now > reached
        reached = now
    Checkpoints(tmp_path)
    assert all(name.startswith("step-") for name in names_in(tmp_path))


def test_a_save_killed_before_any_of_its_file_operations_leaves_the_one_before(tmp_path: Path) -> None:
    """Each `open`, `mkdir`, `rename`, `remove` … that Python does, in turn, until one is let through."""
    save_all(tmp_path / "before", 1, 2)
    for number in range(1, 100):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "before", folder)

        def save_third(folder: Path = folder, number: int = number) -> None:
            seen = 0
            saver = Checkpoints(folder)

            def audit(event: str, args: tuple[object, ...]) -> None:
                nonlocal seen
                if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"):
                    seen += 1
                    if seen == number:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(audit)
            saver.save(3, filled(3.0), {"losses": [0.5] * 3})
            saver.wait()

        _, status = os.waitpid(forked(save_third), 0)
        assert latest_step(folder) in (2, 3)
        # The checkpoint before stays whole until the new one is in place.
        assert len(checkpoints(folder)) >= 2
        if not os.WIFSIGNALED(status):
            break
    assert number > 10
    assert names_in(folder) == ["step-00000002", "step-00000003"]


def in_processes(number: int, folder: Path, work: Callable[..., None], *args: object) -> None:
    """Call the function in several processes of one group; fail if it fails in any of them."""
    # Forked from a process that has done the slow imports, not from this one, where autograd has run.
    preloaded = [
        "pytest",
        "torch._dynamo",
        "torch.distributed.fsdp",
        "vivit.training.optim",
        "vivit.training.checkpoint",
    ]
    multiprocessing.set_forkserver_preload([*preloaded, "vivit.training.checkpoint"])
    meeting = folder / f"meeting-{random.randrange(1 << 60)}"
    start_processes(_one_of_them, (number, meeting, work, args), nprocs=number, start_method="forkserver")


def _one_of_them(rank: int, number: int, meeting: Path, work: Callable[..., None], args: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=number)
    work(*args)
    dist.destroy_process_group()


def known(name: str, shape: torch.Size) -> Tensor:
    """Values that identify the tensor and the position in it."""
    return torch.arange(shape.numel()).reshape(shape) + zlib.crc32(name.encode()) % 1000 * 100.0


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def save_known(folders: dict[Path, tuple[int, ...]], recipe: Recipe) -> None:
    """Write a checkpoint into each folder, sharded over a mesh of this shape, or unsharded."""
    for folder, mesh in folders.items():
        tensors = training_tensors(*trained(recipe, "adamw", seed=0, steps=0, mesh=mesh))
        with torch.no_grad():
            for name, tensor in tensors.items():
                value = known(name, tensor.shape).to(tensor.dtype)
                if isinstance(tensor, DTensor):
                    value = distribute_tensor(value, tensor.device_mesh, tensor.placements)
                tensor.copy_(value)
        saver = Checkpoints(folder)
        saver.save(3, tensors, {"losses": [0.5]})
        saver.wait()


def load_known(folders: list[Path], recipe: Recipe, meshes: list[tuple[int, ...]]) -> None:
    for mesh in meshes:
        for folder in folders:
            model, optimiser, average = trained(recipe, "adamw", seed=1, steps=0, mesh=mesh)
            tensors = training_tensors(model, optimiser, average)
            assert any(isinstance(tensor, DTensor) for tensor in tensors.values()) == bool(mesh)
            state = load(folder / "step-00000003", tensors)
            assert state == {"step": 3, "losses": [0.5]}
            for name, tensor in tensors.items():
                assert torch.equal(whole(tensor), known(name, tensor.shape).to(tensor.dtype)), (folder, name)
            kept = kept_weights(model, average)
            assert kept.keys() == model.state_dict().keys()
            assert torch.equal(kept["2.weight"], known("average/2.weight", torch.Size((3, 7))))
            assert torch.equal(kept["0.bias"], known("model/0.bias", torch.Size((7,))))


@pytest.fixture(scope="module")
def of_many(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Checkpoints of the same values by 1 to 4 processes, sharded and unsharded."""
    folder = tmp_path_factory.mktemp("of_many")
    recipe = Recipe()
    save_known({folder / "one": ()}, recipe)
    in_processes(2, folder, save_known, {folder / "two alike": (), folder / "two": (2,)}, recipe)
    # Three rows over four processes leave one without any.
    in_processes(4, folder, save_known, {folder / "four": (4,), folder / "two times two": (2, 2)}, recipe)
    return [folder / name for name in ("one", "two alike", "two", "four", "two times two")]


def test_each_process_writes_its_shards_and_the_first_the_rest(of_many: list[Path]) -> None:
    for folder, processes in zip(of_many, (1, 1, 2, 4, 4), strict=True):
        written = [load_file(file) for file in sorted((folder / "step-00000003").glob("*.safetensors"))]
        assert len(written) == processes
        assert "optimiser/2.weight/step" in written[0]
        # No value is written twice, though two processes have each row of the "two times two" mesh.
        names = {name for tensors in written for name in tensors}
        for name in names:
            values = torch.cat([tensors[name].flatten() for tensors in written if name in tensors])
            assert values.unique().numel() == values.numel(), name
    half = load_file(of_many[2] / "step-00000003" / SECOND)
    assert "optimiser/2.weight/step" not in half
    # Seven rows are split into four and three.
    assert torch.equal(half["model/0.weight"], known("model/0.weight", torch.Size((7, 5)))[4:])


def test_what_many_processes_saved_one_loads(of_many: list[Path]) -> None:
    load_known(of_many, Recipe(), [()])


@pytest.mark.parametrize(("processes", "meshes"), [(2, [(), (2,)]), (3, [(3,)]), (4, [(4,), (2, 2)])])
def test_any_number_of_processes_loads_what_another_saved(
    tmp_path: Path, of_many: list[Path], processes: int, meshes: list[tuple[int, ...]]
) -> None:
    in_processes(processes, tmp_path, load_known, of_many, Recipe(), meshes)


def resume_sharded(folder: Path, recipe: Recipe) -> None:
    first = trained(recipe, "adamw", seed=0, mesh=(2,))
    saver = Checkpoints(folder)
    for step in (3, 4):
        saver.save(step, training_tensors(*first), {})
        # Meanwhile the processes all-reduce gradients.
        take_steps(first, step, 1)
    saver.wait()

    other = trained(recipe, "adamw", seed=1, steps=0, mesh=(2,))
    state = Checkpoints(folder).load_latest(lambda: training_tensors(*other), pytest.fail)
    assert state == {"step": 4}
    take_steps(other, 4, 1)
    left, right = (training_tensors(*run) for run in (first, other))
    assert_same(*({name: whole(value) for name, value in side.items()} for side in (left, right)))

    # After a forward pass without a backward pass, the parameters are unsharded and not those of the optimiser.
    with torch.no_grad():
        first[0](torch.zeros(2, 5))
    assert training_tensors(*first).keys() == left.keys()


def test_a_resumed_sharded_run_takes_the_very_same_steps(tmp_path: Path, tiny_recipe: Recipe) -> None:
    in_processes(2, tmp_path, resume_sharded, tmp_path / "checkpoints", tiny_recipe)


def trouble_in_one_of_two(folder: Path, recipe: Recipe) -> None:
    run = trained(recipe, "adamw", seed=0, mesh=(2,))
    saver, second = Checkpoints(folder), dist.get_rank() == 1
    saver.save(3, training_tensors(*run), {})
    saver.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if second:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    saver.save(4, training_tensors(*run), {})
    with pytest.raises(UserError, match=r"checkpoint not written \(.*File too large.*the one before it is whole"):
        saver.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    dist.barrier()
    assert names_in(folder) == ["step-00000003"]
    dist.barrier()

    saver.save(5, training_tensors(*run), {})
    saver.wait()
    if second:
        flip_a_bit(folder / "step-00000005" / SECOND)
    dist.barrier()
    said: list[str] = []
    state = Checkpoints(folder).load_latest(lambda: training_tensors(*run), said.append)
    assert state == {"step": 3}
    assert [f"{SECOND} has changed since it was written" in line for line in said] == [True]
    dist.barrier()
    assert names_in(folder) == ["damaged-step-00000005", "step-00000003"]

    more = {**training_tensors(*run), "model/new": torch.zeros(1)}
    with pytest.raises(UserError, match="model/new is not in it"):
        Checkpoints(folder).load_latest(lambda: more, pytest.fail)

    # The two processes have different folders.
    apart = Checkpoints(folder / str(dist.get_rank()))
    apart.save(1, training_tensors(*run), {})
    with pytest.raises(UserError, match="is missing; all processes must share the folder"):
        apart.wait()


def test_trouble_in_one_process_is_told_in_all(tmp_path: Path, tiny_recipe: Recipe) -> None:
    in_processes(2, tmp_path, trouble_in_one_of_two, tmp_path / "checkpoints", tiny_recipe)
