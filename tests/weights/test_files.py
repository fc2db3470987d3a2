"""Honest files are read as written; hostile files are refused in one line, in bounded time and memory.

Each attack runs in a process of its own, whose memory and time are limited.
"""

import io
import json
import math
import multiprocessing
import os
import pickle
import resource
import shutil
import struct
import time
import traceback
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vivit.config import ModelConfig
from vivit.errors import UserError
from vivit.model.vivit import ViViT
from vivit.weights.files import open_folder, open_weights
from vivit.weights.huggingface import from_huggingface, to_huggingface
from vivit.weights.image_sources import ImageViT, read_image_vit
from vivit.weights.scenic import from_scenic
from vivit.weights.source import Source
from vivit.weights.store import load, save

SECONDS = 10.0  # of the processor
HUNG = 300.0  # seconds on the clock, however busy the machine
GROWTH = 300 << 20  # more than any honest file of these sizes needs; the attacks ask for a gigabyte and more
ADDRESS_SPACE = 2 << 30  # on top of what Python and PyTorch use, so that a failure here harms no machine
LINE = 1000  # characters; people do not read longer lines

MODEL = ModelConfig(
    num_frames=2,
    image_size=(8, 8),
    tubelet_size=(2, 4, 4),
    hidden_size=8,
    num_layers=1,
    num_heads=2,
    mlp_dim=16,
    num_classes=3,
)
WIDTH = MODEL.hidden_size


# The bounds


def read_image(path: Path, num_heads: int | None = None) -> ImageViT:
    return read_image_vit(Source.find(path), num_heads)


def bounded(*actions: Callable[[], object]) -> list[str | None]:
    """Run actions in another process; return the message of each UserError, or None. Fail on other errors or excess."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_report, args=(actions, sender))
    child.start()
    sender.close()
    try:
        if not receiver.poll(HUNG):
            pytest.fail(f"still not done after {HUNG:g} seconds")
        messages, failure, growth, seconds = receiver.recv()
    except EOFError:
        child.join()
        pytest.fail(f"the process died with {child.exitcode}")
    finally:
        child.kill()
        child.join()
    assert failure is None, failure
    assert seconds <= SECONDS, f"took {seconds:.1f} seconds; {str(messages)[:LINE]}"
    assert growth <= GROWTH, f"took {growth >> 20} MiB; {str(messages)[:LINE]}"
    return messages


def _report(actions: tuple[Callable[[], object], ...], sender: Connection) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESS_SPACE,) * 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    messages: list[str | None] = []
    failure = None
    for action in actions:
        try:
            action()
            messages.append(None)
        except UserError as error:
            messages.append(str(error))
        except BaseException:
            failure = traceback.format_exc()[-5 * LINE :]
            break
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    sender.send((messages, failure, growth, time.process_time() - begun))


def assert_refused(path: Path, *actions: Callable[[], object]) -> None:
    """Check that each action is refused within bounds, in one line that begins with the path or its folder."""
    for number, message in enumerate(bounded(*actions)):
        assert message is not None, f"the one of number {number} was loaded"
        assert_line(message, path)


def assert_line(message: str, path: Path) -> None:
    assert message.startswith(str(path))
    assert message.splitlines() == [message]
    assert len(message) <= LINE, f"{len(message)} characters: {message[:LINE]}"


def assert_loaded_or_refused(path: Path, action: Callable[[], object]) -> None:
    (message,) = bounded(action)
    if message is not None:
        assert_line(message, path)


def read_all(path: Path) -> dict[str, Tensor]:
    file = open_weights(path)
    return {name: file.read(name) for name in list(file.shapes)}


# Files made by hand, which the libraries would not write


def array(shape: tuple[int, ...], kind: str = "float32", buffer: bytes | None = None) -> msgpack.ExtType:
    """An array as flax serialises it; zeros by default."""
    return msgpack.ExtType(1, msgpack.packb((shape, kind, bytes(4 * math.prod(shape)) if buffer is None else buffer)))


def flax_bytes(weights: Mapping[str, Tensor]) -> bytes:
    """Names with slashes as nested maps under optimizer/target."""
    target: dict[str, Any] = {}
    for name, value in weights.items():
        *folders, last = name.split("/")
        inner = target
        for folder in folders:
            inner = inner.setdefault(folder, {})
        buffer = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        inner[last] = array(tuple(value.shape), str(value.dtype).removeprefix("torch."), buffer)
    return msgpack.packb({"optimizer": {"state": {"step": 3}, "target": target}, "rng": [1, 2]})


def npy(shape: str, data: bytes = b"", descr: str = "<f4", version: tuple[int, int] = (1, 0)) -> bytes:
    """A .npy file with any header."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + data


def npz(path: Path, *entries: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def deflated(head: bytes, zeros: int) -> bytes:
    """The output of Deflate for a head and very many zeros, without compressing them all."""
    part = 1 << 24
    assert zeros % part == 0
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = compressor.compress(head) + compressor.flush(zlib.Z_FULL_FLUSH)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    chunk = compressor.compress(bytes(part)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return start + chunk * (zeros // part) + zlib.compressobj(9, zlib.DEFLATED, -15).flush()


def write_claiming(path: Path, entries: dict[str, tuple[bytes, int, int]], compress_size: int | None = None) -> Path:
    """A zip file of deflated entries; name → (compressed bytes, claimed size, claimed checksum)."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, (content, file_size, checksum) in entries.items():
            archive.writestr(name, content)
            entry = archive.getinfo(name)
            entry.compress_type, entry.file_size, entry.CRC = zipfile.ZIP_DEFLATED, file_size, checksum
            entry.compress_size = compress_size or len(content)
    return path


class Call:
    """Pickles to a call, which careless unpickling executes."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


# Honest files

WEIGHTS: dict[str, Tensor] = {
    "single": torch.linspace(-1, 1, 12).view(3, 4),
    "half": torch.linspace(-1, 1, 5).half(),
    "brain": torch.linspace(-3, 3, 6).bfloat16().view(2, 3),
    "double": torch.linspace(-1, 1, 4, dtype=torch.float64).view(2, 1, 2),
    "whole": torch.tensor([-1, 2, 3], dtype=torch.int64),
    "deep/down/here": torch.eye(3),
    "nothing": torch.empty(0, 3),
    "one": torch.tensor(2.5),
}


def write_safetensors(path: Path) -> dict[str, Tensor]:
    save_file(WEIGHTS, path, metadata={"format": "pt"})
    return WEIGHTS


def write_npz(path: Path, write: Callable[..., None] = np.savez) -> dict[str, Tensor]:
    weights = {name: value for name, value in WEIGHTS.items() if value.dtype != torch.bfloat16}  # NumPy lacks it
    arrays: dict[str, np.ndarray] = {name: value.numpy() for name, value in weights.items()}
    with path.open("wb") as file:
        write(file, **arrays)
    return weights


def write_compressed_npz(path: Path) -> dict[str, Tensor]:
    return write_npz(path, np.savez_compressed)


def write_msgpack(path: Path) -> dict[str, Tensor]:
    path.write_bytes(flax_bytes(WEIGHTS))
    return WEIGHTS


def write_pytorch(path: Path) -> dict[str, Tensor]:
    torch.save({**WEIGHTS, "turned": WEIGHTS["single"].T, "parameter": torch.nn.Parameter(torch.ones(2))}, path)
    return {**WEIGHTS, "turned": WEIGHTS["single"].T, "parameter": torch.ones(2)}


WRITERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    "safetensors": write_safetensors,
    "npz": write_npz,
    "npz compressed": write_compressed_npz,
    "flax msgpack": write_msgpack,
    "PyTorch": write_pytorch,
}


def assert_holds(path: Path, weights: Mapping[str, Tensor]) -> None:
    file = open_weights(path)
    assert file.source == str(path)
    assert file.shapes == {name: tuple(value.shape) for name, value in weights.items()}
    for name, value in weights.items():
        found = file.read(name)
        assert (found.dtype, found.shape) == (value.dtype, value.shape), name
        assert torch.equal(found, value), name


@pytest.mark.parametrize("suffix", ["", ".safetensors", ".npz", ".msgpack", ".pt", ".bin", ".tar"])
@pytest.mark.parametrize("kind", WRITERS)
def test_what_was_written_is_read_under_any_suffix(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    weights = WRITERS[kind](path)
    assert_holds(path, weights)


def test_params_at_the_top_of_a_msgpack_file_are_weights(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(msgpack.packb({"step": 1, "params": {"a": array((2,), buffer=struct.pack("<2f", 1, 2))}}))
    assert_holds(path, {"a": torch.tensor([1.0, 2.0])})


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_a_state_dict_inside_a_pytorch_checkpoint_is_found(tmp_path: Path, key: str) -> None:
    linear = torch.nn.Linear(2, 3)
    torch.save({key: linear.state_dict(), "epoch": 3}, tmp_path / "checkpoint.pth")
    assert_holds(tmp_path / "checkpoint.pth", linear.state_dict())


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)), id="Fortran order"),
        pytest.param(np.arange(12, dtype=np.float32).reshape(3, 4)[::-1, ::2], id="strided"),
        pytest.param(np.arange(5, dtype=">f4"), id="big-endian"),
        pytest.param(np.array(3.5), id="a single number"),
        pytest.param(np.array([True, False]), id="truth values"),
    ],
)
def test_npy_layouts_give_the_same_numbers(tmp_path: Path, values: np.ndarray) -> None:
    np.savez(tmp_path / "weights.npz", a=values)
    file = open_weights(tmp_path / "weights.npz")
    assert file.shapes == {"a": values.shape}
    found = file.read("a")
    assert found.shape == values.shape
    assert found.tolist() == values.tolist()


def write_shards(folder: Path, shards: dict[str, dict[str, Tensor]], weight_map: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for file, weights in shards.items():
        save_file(weights, folder / file)
    if weight_map is None:
        weight_map = {name: file for file, weights in shards.items() for name in weights}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return index


SHARDS = {
    "model-00001-of-00002.safetensors": {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)},
    "model-00002-of-00002.safetensors": {"c": torch.full((3,), 7.0)},
}
FIRST, SECOND = SHARDS


def test_shards_are_read_as_one_file(tmp_path: Path) -> None:
    write_shards(tmp_path, SHARDS)
    file = open_folder(tmp_path)
    expected = SHARDS[FIRST] | SHARDS[SECOND]
    assert file.shapes == {name: tuple(value.shape) for name, value in expected.items()}
    for name, value in expected.items():
        assert torch.equal(file.read(name), value), name


def test_a_pytorch_file_in_a_folder_is_read_and_safetensors_go_first(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    assert open_folder(tmp_path).read("a").tolist() == [1, 1]
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert open_folder(tmp_path).read("a").tolist() == [0, 0]


# Files of no known format


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a FIFO": make_fifo,
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "nothing there": lambda path: None,
    "a link to itself": lambda path: path.symlink_to(path),
    "empty": Path.touch,
    "one byte": lambda path: path.write_bytes(b"\x81"),
    "the start of a zip file": lambda path: path.write_bytes(b"PK"),
    "text": lambda path: path.write_text("weights\n" * 100),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_weight_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights"
    SPECIAL[kind](path)
    assert_refused(path, lambda: open_weights(path))


@pytest.mark.parametrize("kind", [kind for kind in SPECIAL if kind != "nothing there"])
def test_what_is_no_file_in_a_model_folder_is_refused(tmp_path: Path, folders: dict[str, Path], kind: str) -> None:
    actions = []
    for format_ in ("vivit", "transformers", "transformers image ViT"):
        for name in ("config.json", "model.safetensors"):
            folder = shutil.copytree(folders[format_], tmp_path / f"{format_}, {name}")
            (folder / name).unlink()
            SPECIAL[kind](folder / name)
            actions.append(partial(LOADERS[format_], folder))
    assert_refused(tmp_path, *actions)


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("stem", ["model.safetensors", "pytorch_model.bin"])
def test_what_is_no_file_among_shards_is_refused(tmp_path: Path, stem: str, kind: str) -> None:
    index = write_shards(tmp_path, {}, {"a": "shard"})
    index.rename(tmp_path / f"{stem}.index.json")
    SPECIAL[kind](tmp_path / "shard")
    assert_refused(tmp_path, lambda: open_folder(tmp_path))


# Pickles


def pickle_in_pytorch(path: Path, evil: Call) -> None:
    torch.save(evil, path)


def pickle_deep_in_pytorch(path: Path, evil: Call) -> None:
    torch.save({"model": {"weight": torch.ones(2), "more": [{"deep": (1, evil)}]}}, path)


def pickle_in_old_pytorch(path: Path, evil: Call) -> None:
    torch.save({"weight": torch.ones(2), "more": evil}, path, _use_new_zipfile_serialization=False)


def pickle_alone(protocol: int) -> Callable[[Path, Call], object]:
    return lambda path, evil: path.write_bytes(pickle.dumps({"weight": 1, "more": evil}, protocol))


def pickle_in_object_array(path: Path, evil: Call) -> None:
    np.savez(path.with_suffix(".npz"), weight=np.ones(2), more=np.array([evil], dtype=object))
    path.with_suffix(".npz").rename(path)


def pickle_in_npy(path: Path, evil: Call) -> None:
    np.save(path.with_suffix(".npy"), np.array([evil], dtype=object))
    path.with_suffix(".npy").rename(path)


def pickle_as_npz_entry(path: Path, evil: Call) -> None:
    npz(path, ("weight.npy", pickle.dumps(evil)), ("more", pickle.dumps(evil)))


def pickle_behind_a_plain_header(path: Path, evil: Call) -> None:
    content = pickle.dumps(evil, 2)
    npz(path, ("weight.npy", npy("(1,)", content, f"|O{len(content)}")))


def pickle_as_second_pytorch_entry(path: Path, evil: Call) -> None:
    torch.save({"weight": torch.ones(2)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("data.pkl", "archive/data.pkl", f"{path.stem}/constants.pkl", f"{path.stem}/code/data.pkl"):
            archive.writestr(name, pickle.dumps(evil, 2))


def pickle_in_tar(path: Path, evil: Call) -> None:
    import tarfile

    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(evil, 2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


PICKLES: dict[str, Callable[[Path, Call], object]] = {
    "as a PyTorch file": pickle_in_pytorch,
    "deep in a PyTorch file": pickle_deep_in_pytorch,
    "in an old PyTorch file": pickle_in_old_pytorch,
    "in a tar file": pickle_in_tar,
    "in the text protocol": pickle_alone(0),
    "in protocol 2": pickle_alone(2),
    "in protocol 4": pickle_alone(4),
    "as an array of objects": pickle_in_object_array,
    "as a .npy file": pickle_in_npy,
    "as an entry of a .npz file": pickle_as_npz_entry,
    "behind a header of a plain array": pickle_behind_a_plain_header,
}


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("how", PICKLES)
def test_no_pickle_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, name: str) -> None:
    trace = tmp_path / "executed"
    evil = Call(os.mkdir, str(trace))
    pickle.loads(pickle.dumps(evil))  # the attack works on a careless reader
    trace.rmdir()
    # PyTorch's own way around `weights_only`.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = tmp_path / name
    PICKLES[how](path, evil)
    assert_refused(path, lambda: read_all(path), lambda: load(path), lambda: read_image(path))
    assert not trace.exists()


@pytest.mark.parametrize("how", PICKLES)
def test_no_pickle_in_a_folder_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path], how: str
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    actions = []
    for format_ in ("transformers", "transformers image ViT"):
        for name in ("pytorch_model.bin", "model.safetensors"):
            folder = shutil.copytree(folders[format_], tmp_path / f"{format_}, {name}")
            (folder / "model.safetensors").unlink()
            PICKLES[how](folder / name, Call(os.mkdir, str(tmp_path / "executed")))
            actions.append(partial(LOADERS[format_], folder))
    assert_refused(tmp_path, *actions)
    assert not (tmp_path / "executed").exists()


def test_pickles_beside_a_pytorch_files_own_are_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    pickle_as_second_pytorch_entry(path, Call(os.mkdir, str(tmp_path / "executed")))
    bounded(lambda: read_all(path))
    assert not (tmp_path / "executed").exists()


# Attacks on memory, time and the messages


def claimed_bomb(path: Path) -> None:
    head = npy(f"({1 << 28},)")
    content = deflated(head, 1 << 30)
    write_claiming(path, {"weight.npy": (content, len(head) + (1 << 30), 0)}, compress_size=100 << 20)


def honest_bomb(path: Path) -> None:
    head = npy(f"({1 << 29},)")
    content = deflated(head, 1 << 31)
    write_claiming(path, {"weight.npy": (content, len(head) + (1 << 31), 0)})


def entry_longer_than_claimed(path: Path) -> None:
    head = npy("(4,)")
    write_claiming(path, {"weight.npy": (deflated(head, 1 << 30), len(head) + 16, 0)})


def many_times_the_same_entry(path: Path) -> None:
    content = npz(path, ("weight.npy", npy("(0,)"))).read_bytes()
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entries, count = content[start:end], 60_000
    tail = struct.pack("<HHHHIIH", 0, 0, count, count, len(entries) * count, start, 0)
    path.write_bytes(content[:start] + entries * count + b"PK\x05\x06" + tail)


NPZ: dict[str, Callable[[Path], object]] = {
    "2 GB of zeros": honest_bomb,
    "1 GB of zeros, said to be deflated to 100 MB": claimed_bomb,
    "more zeros than said": entry_longer_than_claimed,
    "a huge shape": lambda path: npz(path, ("a.npy", npy("(1000000000, 1000000000)", bytes(8)))),
    "a huge shape of nothing": lambda path: npz(path, ("a.npy", npy(f"(0, {10**30})"))),
    "a negative shape": lambda path: npz(path, ("a.npy", npy("(-1, -2)", bytes(8)))),
    "a shape of text": lambda path: npz(path, ("a.npy", npy("('a', 2)", bytes(8)))),
    "a shape without end": lambda path: npz(path, ("a.npy", npy("(" + "1," * 3000 + ")", bytes(4)))),
    "a deeply nested header": lambda path: npz(path, ("a.npy", npy("(" * 9000))),
    "a header of many signs": lambda path: npz(path, ("a.npy", npy("(" + "-" * 9000 + "1,)"))),
    "a header of 4 GB": lambda path: npz(path, ("a.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100)),
    "an unknown version": lambda path: npz(path, ("a.npy", npy("(2,)", bytes(8), version=(9, 0)))),
    "other numbers than PyTorch has": lambda path: npz(path, ("a.npy", npy("(1,)", bytes(16), "<f16"))),
    "strings": lambda path: npz(path, ("a.npy", npy("(1,)", bytes(8), "<U2"))),
    "one name twice": lambda path: npz(path, ("a.npy", npy("(2,)", bytes(8))), ("a", npy("(3,)", bytes(12)))),
    "no .npy": lambda path: npz(path, ("a.txt", b"text")),
    "many times the same entry": many_times_the_same_entry,
    "a name of two lines": lambda path: npz(path, ("a\nb.npy", npy("(2,)", bytes(4)))),
    "a long name": lambda path: npz(path, ("a" * 60_000 + ".npy", npy("(2,)", bytes(4)))),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("how", NPZ)
def test_hostile_npz_is_refused(tmp_path: Path, how: str) -> None:
    NPZ[how](tmp_path / "weights")
    assert_refused(tmp_path / "weights", lambda: read_all(tmp_path / "weights"))


def test_many_entries_that_are_each_no_bomb_are_one_together(tmp_path: Path) -> None:
    width = 2048
    shapes = {
        "embedding/kernel": (4, 4, 3, width),
        "embedding/bias": (width,),
        "cls": (1, 1, width),
        "Transformer/posembed_input/pos_embedding": (1, 5, width),
        "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
    }
    for layer in range(6):
        block = f"Transformer/encoderblock_{layer}"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}/{norm}/scale": (width,), f"{block}/{norm}/bias": (width,)}
        for part in ("query", "key", "value"):
            shapes[f"{block}/MultiHeadDotProductAttention_1/{part}/kernel"] = (width, 16, width // 16)
            shapes[f"{block}/MultiHeadDotProductAttention_1/{part}/bias"] = (16, width // 16)
        shapes[f"{block}/MultiHeadDotProductAttention_1/out/kernel"] = (16, width // 16, width)
        shapes[f"{block}/MultiHeadDotProductAttention_1/out/bias"] = (width,)
        for part, shape in (("Dense_0", (width, 3 * width)), ("Dense_1", (3 * width, width))):
            shapes |= {f"{block}/MlpBlock_3/{part}/kernel": shape, f"{block}/MlpBlock_3/{part}/bias": shape[1:]}
    entries: dict[str, tuple[bytes, int, int]] = {}
    made: dict[tuple[int, ...], tuple[bytes, int, int]] = {}
    for name, lengths in shapes.items():
        if lengths not in made:
            content = npy(str(lengths), bytes(4 * math.prod(lengths)))
            compressor = zlib.compressobj(1, zlib.DEFLATED, -15)
            packed = compressor.compress(content) + compressor.flush()
            made[lengths] = (packed, len(content), zlib.crc32(content))
        entries[f"{name}.npy"] = made[lengths]
    path = write_claiming(tmp_path / "vit.npz", entries)
    assert path.stat().st_size < 1 << 24
    assert_refused(path, lambda: read_image(path))


def nested(depth: int, key: bytes = b"\xa1a", inside: bytes = b"\x80") -> bytes:
    return b"\x81\xa6params" + (b"\x81" + key) * depth + inside


def weight(shape: Any, kind: Any = "float32", buffer: Any = b"") -> bytes:
    return msgpack.packb({"params": {"a": msgpack.ExtType(1, msgpack.packb((shape, kind, buffer)))}})


MSGPACK: dict[str, bytes | Callable[[], bytes]] = {
    "a map of 4 G": b"\xdf\xff\xff\xff\xff" + b"\xa1a\x01" * 9,
    "a map of 4 G inside": b"\x81\xa6params\xdf\xff\xff\xff\xff" + b"\xa1a\x01" * 9,
    "a map of 4 G beside": b"\x82\xa3rng\xdf\xff\xff\xff\xff" + b"\xa1a\x01" * 9,
    "a list of 4 G": b"\x81\xa6params\xdd\xff\xff\xff\xff" + bytes(9),
    "lists of as many as the file has bytes": lambda: (
        b"\x81\xa6params" + (b"\xdd" + struct.pack(">I", 1 << 22)) * 1000 + bytes(1 << 22)
    ),
    "an extension of 4 GB": b"\x81\xa6params\x81\xa1a\xc9\xff\xff\xff\xff\x01" + bytes(9),
    "bytes of 4 GB": b"\x81\xa6params\x81\xa1a\xc6\xff\xff\xff\xff" + bytes(9),
    "a text of 4 GB": b"\x81\xa6params\x81\xa1a\xdb\xff\xff\xff\xff" + bytes(9),
    "an extension of a list of 4 G": msgpack.packb({"params": {"a": msgpack.ExtType(1, b"\xdd" + b"\xff" * 4)}}),
    "a negative shape": weight((-1, -2), buffer=bytes(8)),
    "a huge shape": weight((2**63, 2**63), buffer=bytes(8)),
    "a huge shape of nothing": weight((0, 2**63)),
    "a shape of fractions": weight((0.5, 4), buffer=bytes(8)),
    "a shape of text": weight("ab", buffer=bytes(8)),
    "no shape": weight(None, buffer=bytes(8)),
    "a text for numbers": weight((1,), buffer="abcd"),
    "an unknown type": weight((1,), "float9", bytes(8)),
    "a type that is a list": weight((1,), ["float32"], bytes(4)),
    "too few numbers": weight((3,), buffer=bytes(8)),
    "maps nested 100,000 deep": nested(100_000),
    "maps nested 1000 deep": nested(1000, inside=b"\x81\xa1a" + msgpack.packb(array((1,)))),
    "lists nested 100,000 deep": b"\x81\xa6params" + b"\x91" * 100_000,
    "lists beside nested 100,000 deep": b"\x81\xa3rng" + b"\x91" * 100_000,
    "long names nested": lambda: nested(600, msgpack.packb("k" * 8000), b"\x81\xa1a" + msgpack.packb(array((1,)))),
    "one long name of many": lambda: msgpack.packb(
        {"params": {"k" * (1 << 20): {str(i): array((0,)) for i in range(1500)}}}
    ),
    "a list as a name": b"\x81\xa6params\x81\x91\x01\x01",
    "trailing bytes": weight((1,), buffer=bytes(4)) + b"\x00",
    "a second file behind": weight((1,), buffer=bytes(4)) * 2,
    "no text": b"\x81\xa6par\xff\xffs\x80",
    "nothing": b"\x80",
    "no map of weights": msgpack.packb({"params": [1, 2]}),
    "numbers for weights": msgpack.packb({"params": {"a": 1}}),
    "empty lists": lambda: b"\x81\xa6params\xdd" + struct.pack(">I", 5 << 20) + b"\x90" * (5 << 20),
    "empty maps": lambda: b"\x81\xa6params\xdd" + struct.pack(">I", 5 << 20) + b"\x80" * (5 << 20),
}


@pytest.mark.parametrize("how", MSGPACK)
def test_hostile_msgpack_is_refused(tmp_path: Path, how: str) -> None:
    path = tmp_path / "checkpoint"
    content = MSGPACK[how]
    path.write_bytes(content() if callable(content) else content)
    assert_refused(path, lambda: read_all(path))


def test_a_name_twice_in_msgpack_is_one_weight(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    entry = b"\xa1a" + msgpack.packb(array((1,)))
    path.write_bytes(b"\x81\xa6params\x82" + entry * 2)
    bounded(lambda: read_all(path))  # refused or read: both are fine
    path.write_bytes(b"\x82" + (b"\xa6params\x81" + entry) * 2)
    bounded(lambda: read_all(path))


def header(tree: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: Any, start: int, end: int, kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


SAFETENSORS: dict[str, bytes | Callable[[], bytes]] = {
    "a header of 2⁶³ bytes": header({"a": tensor([1], 0, 4)}, bytes(4), 1 << 63),
    "a header of all that can be said": header({"a": tensor([1], 0, 4)}, bytes(4), (1 << 64) - 1),
    "a header longer than the file": header({"a": tensor([1], 0, 4)}, bytes(4), 1000),
    "a header too short": header({"a": tensor([1], 0, 4)}, bytes(4), 10),
    "overlapping weights": header({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)),
    "the same bytes twice": header({"a": tensor([2], 0, 8), "b": tensor([2], 0, 8)}, bytes(8)),
    "a gap": header({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, bytes(12)),
    "offsets behind the end": header({"a": tensor([3], 0, 12)}, bytes(4)),
    "offsets the wrong way round": header({"a": tensor([1], 4, 0)}, bytes(4)),
    "negative offsets": header({"a": tensor([1], -4, 0)}, bytes(4)),
    "bytes behind the end": header({"a": tensor([1], 0, 4)}, bytes(8)),
    "a huge shape": header({"a": tensor([10**9, 10**9], 0, 4)}, bytes(4)),
    "a shape that overflows to four bytes": header({"a": tensor([2**62 + 1, 4], 0, 16)}, bytes(16)),
    "a huge shape of nothing": header({"a": tensor([0, 2**63], 0, 0)}),
    "a negative shape": header({"a": tensor([-1, -1], 0, 4)}, bytes(4)),
    "an unknown type": header({"a": tensor([1], 0, 4, "F33")}, bytes(4)),
    "nested 10,000 deep": header(b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    "metadata nested": header({"__metadata__": {"a": {"b": 1}}, "a": tensor([1], 0, 4)}, bytes(4)),
    "a list": header([tensor([1], 0, 4)], bytes(4)),
    "no UTF-8": header(b'{"\xff\xfe":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "numbers without end": header(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}'),
}


@pytest.mark.parametrize("how", SAFETENSORS)
def test_hostile_safetensors_is_refused(tmp_path: Path, how: str) -> None:
    path = tmp_path / "model.safetensors"
    content = SAFETENSORS[how]
    path.write_bytes(content() if callable(content) else content)
    assert_refused(path, lambda: read_all(path), lambda: open_folder(tmp_path).read("a"))


def test_a_name_twice_in_safetensors_is_one_weight(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    one, two = (json.dumps(tensor([1], *offsets)).encode() for offsets in ((0, 4), (4, 8)))
    for first, second in ((one, one), (one, two)):
        path.write_bytes(header(b'{"a":' + first + b',"a":' + second + b"}", bytes(8)))
        bounded(lambda: read_all(path))  # refused or read: both are fine


@pytest.mark.parametrize("kind", ["F32", "I32", "U32", "BF16", "I64", "F64", "C64", "F8_E4M3", "F8_E8M0", "F4", "BOOL"])
def test_weights_of_any_type_are_loaded_as_floating_point_or_refused(
    tmp_path: Path, folders: dict[str, Path], kind: str
) -> None:
    bits = {"F4": 4, "BOOL": 8, "BF16": 16, "I64": 64, "F64": 64, "C64": 64, "F8_E4M3": 8, "F8_E8M0": 8}.get(kind, 32)

    def load_and_look(format_: str) -> None:
        model = LOADERS[format_](tmp_path / format_)
        model = model if isinstance(model, ViViT) else model.model
        assert all(parameter.is_floating_point() and not parameter.is_meta for parameter in model.parameters())
        model.float()(torch.zeros(1, model.config.num_frames, 3, 8, 8))

    formats = ("vivit", "transformers", "timm")
    for format_ in formats:
        path = shutil.copytree(folders[format_], tmp_path / format_) / "model.safetensors"
        tree, size = {}, 0
        for name, value in load_file(path).items():
            tree[name] = tensor(list(value.shape), size, size + value.numel() * bits // 8, kind)
            size += value.numel() * bits // 8
        path.write_bytes(header(tree, bytes(size)))
    for message in bounded(*(partial(load_and_look, format_) for format_ in formats)):
        if message is not None:
            assert kind not in ("F32", "BF16", "F64")
            assert_line(message, tmp_path)


def with_attribute(value: Any, **attributes: Any) -> Any:
    for name, attribute in attributes.items():
        setattr(value, name, attribute)
    return value


class Overshadowed(OrderedDict[str, Tensor]):
    """Pickles to an OrderedDict whose methods are numbers."""

    def __reduce__(self) -> Any:
        return OrderedDict, (list(self.items()),), {"items": 1, "get": 1, "keys": 1, "__getitem__": 1, "values": 1}


def doubled(depth: int) -> tuple[Any, ...]:
    """A tuple that is small in the file and in memory, but takes 2^depth steps to hash."""
    value: tuple[Any, ...] = ("a", "b")
    for _ in range(depth):
        value = (value, value)
    return value


def repacked(path: Path, only: str = "") -> None:
    """The same PyTorch file with deflated entries."""
    torch.save({"weight": torch.zeros(1 << 18)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            method = zipfile.ZIP_DEFLATED if name.endswith(only) else zipfile.ZIP_STORED
            archive.writestr(name, content, method)


def entries_of(tree: object, path: Path) -> tuple[bytes, bytes, int]:
    """A PyTorch file's entries, their directory and their number."""
    torch.save(tree, path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return content[: archive.start_dir], content[archive.start_dir :], len(archive.infolist())


def another_pickle_by_moving(path: Path) -> None:
    """Python reads the directory before the end, and takes the file as shifted; PyTorch the one pointed to."""
    evil, evil_directory, count = entries_of({"a": torch.zeros(1 << 14), "b": Call(bytearray, 1 << 30)}, path)
    honest, directory, _ = entries_of({"a": torch.zeros(1)}, path)
    evil_directory = directory_of(evil_directory, 0)
    # Python adds the supposed shift, the distance of the two directories, to each offset.
    directory = directory_of(directory, len(evil) - len(honest))
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(evil), 0)
    path.write_bytes(evil + evil_directory + honest + directory + end)


def another_pickle_by_zip64(path: Path) -> None:
    """Python reads the record just before the end; PyTorch reads the one pointed to."""

    def record(at: int, size: int) -> bytes:
        return struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, at)

    evil, evil_directory, count = entries_of({"a": torch.zeros(1), "b": Call(bytearray, 1 << 30)}, path)
    honest, directory, _ = entries_of({"a": torch.zeros(1)}, path)
    directory, evil_directory = directory_of(directory, 0), directory_of(evil_directory, len(honest))
    content = honest + evil
    evil_record = len(content) + len(evil_directory)
    content += evil_directory + record(len(content), len(evil_directory))
    content += directory + record(len(content), len(directory))
    content += struct.pack("<4sIQI", b"PK\x06\x07", 0, evil_record, 1)
    path.write_bytes(content + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, *[0xFFFF] * 2, *[0xFFFFFFFF] * 2, 0))


def directory_of(directory: bytes, moved: int) -> bytes:
    """The entries without extra fields, at shifted offsets."""
    made, at = b"", 0
    while directory.startswith(b"PK\x01\x02", at):
        fields = list(struct.unpack("<4s6H3I5H2I", directory[at : at + 46]))
        name, extra, comment = fields[10:13]
        fields[11], fields[16] = 0, fields[16] + moved
        made += struct.pack("<4s6H3I5H2I", *fields) + directory[at + 46 : at + 46 + name]
        at += 46 + name + extra + comment
    return made


def pytorch(tree: Callable[[], object]) -> Callable[[Path], None]:
    return lambda path: torch.save(tree(), path)


def deflated_pickle(path: Path) -> None:
    content = deflated(b"\x80\x02", 1 << 30)
    write_claiming(path, {"weights/data.pkl": (content, 2 + (1 << 30), 0)})


def pytorch_zip(path: Path, pickled: bytes, **records: bytes) -> None:
    npz(
        path,
        ("weights/data.pkl", pickled),
        ("weights/version", b"3\n"),
        ("weights/byteorder", b"little"),
        *((f"weights/data/{key}", content) for key, content in records.items()),
    )


def doubled_by_hand(kept: bytes) -> bytes:
    """A dictionary whose only key is like `doubled`; `kept` is the opcode that memoises a tuple as number 1."""
    return b"\x80\x02}X\x01\x00\x00\x00a" + (kept + b"h\x01\x86") * 60 + b"Ns."


PYTORCH: dict[str, Callable[[Path], object]] = {
    "a view of stride 0 of 10¹² numbers": pytorch(lambda: {"a": torch.zeros(1).expand(10**12)}),
    "deflated entries": repacked,
    "a deflated pickle": lambda path: repacked(path, "data.pkl"),
    "deflated numbers": lambda path: repacked(path, "data/0"),
    "a pickle of 1 GB of zeros": deflated_pickle,
    "1 GB asked for as bytes": pytorch(lambda: {"a": torch.zeros(1), "b": Call(bytearray, 1 << 30)}),
    "a set of very many numbers": pytorch(lambda: {"a": Call(set, torch.zeros(1).expand(10**12))}),
    "a hash without end": pytorch(lambda: {"a": torch.zeros(1), "b": Call(set, [doubled(60)])}),
    "a name without end": pytorch(lambda: Call(OrderedDict, [[doubled(60), torch.zeros(1)]])),
    "a parameter whose methods are numbers": pytorch(
        lambda: {"a": with_attribute(torch.nn.Parameter(torch.zeros(2)), numel=1, element_size=1, to=1, detach=1)}
    ),
    "another pickle for PyTorch than for Python": another_pickle_by_moving,
    "another pickle by the records of zip64": another_pickle_by_zip64,
    "a name without end, kept twice": lambda path: pytorch_zip(path, doubled_by_hand(b"q\x00q\x01")),
    "a name without end, kept later": lambda path: pytorch_zip(path, doubled_by_hand(b"\x80\x02q\x01")),
    "a list": pytorch(lambda: [torch.zeros(1)]),
    "a weight alone": pytorch(lambda: torch.zeros(1)),
    "numbers for names": pytorch(lambda: {1: torch.zeros(1)}),
    "an epoch beside the weights": pytorch(lambda: {"a": torch.zeros(1), "epoch": 3}),
    "a whole module": pytorch(lambda: torch.nn.Linear(2, 2)),
    "a pickle nested 100,000 deep": lambda path: pytorch_zip(path, b"\x80\x02" + b"(" * 100_000 + b"."),
    "lists nested 100,000 deep": lambda path: pytorch_zip(path, b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
    "a text of 4 GB": lambda path: pytorch_zip(path, b"\x80\x02X\xff\xff\xff\xff" + bytes(9)),
    "10 MB of empty dictionaries": lambda path: pytorch_zip(path, b"\x80\x02(" + b"}" * 10_000_000 + b"t."),
    "an empty pickle": lambda path: pytorch_zip(path, b""),
    "no zip file but its start": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(1000)),
}


@pytest.mark.parametrize("how", PYTORCH)
def test_hostile_pytorch_file_is_refused(tmp_path: Path, how: str) -> None:
    path = tmp_path / "weights.pt"
    PYTORCH[how](path)
    assert_refused(path, lambda: read_all(path))


def test_a_pickled_dictionary_whose_methods_are_numbers_is_read_or_refused(tmp_path: Path) -> None:
    torch.save(Overshadowed(a=torch.ones(2)), tmp_path / "weights.pt")
    assert_loaded_or_refused(tmp_path / "weights.pt", lambda: read_all(tmp_path / "weights.pt"))


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "parameters": torch.nn.Parameter,
    "half precision": Tensor.half,
    "whole numbers": Tensor.long,
    "complex numbers": lambda value: value.to(torch.complex64),
    "complex conjugates": lambda value: value.to(torch.complex64).conj(),
    "negatives": lambda value: torch._neg_view(value),
    "no values": lambda value: value.to("meta"),
    "very many without values": lambda value: torch.zeros(1, device="meta").expand(*value.shape, 10**12),
    "nested": lambda value: torch.nested.nested_tensor([value, value]),
    "sparse": Tensor.to_sparse,
    "quantised": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
    "bits": lambda value: value.to(torch.uint8).view(torch.bits8),
    "four bits": lambda value: value.to(torch.uint8).view(torch.float4_e2m1fn_x2),
    "with methods that are numbers": lambda value: with_attribute(value.clone(), numel=1, to=1, detach=1),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:.*[qQ]uantiz")
@pytest.mark.parametrize("kind", KINDS)
def test_pytorch_weights_of_any_kind_are_loaded_as_numbers_or_refused(
    tmp_path: Path, folders: dict[str, Path], kind: str
) -> None:
    path = tmp_path / "vit.pt"
    honest = load_file(folders["timm"] / "model.safetensors")
    torch.save({name: KINDS[kind](value) for name, value in honest.items()}, path)

    def load_and_look() -> None:
        model = read_image(path, 2).model
        assert all(type(parameter) is torch.nn.Parameter for parameter in model.parameters())
        assert all(
            parameter.dtype == torch.float32 and parameter.device.type == "cpu" for parameter in model.parameters()
        )
        model(torch.zeros(1, 1, 3, 8, 8))

    (message,) = bounded(load_and_look)
    if message is not None:
        assert kind not in ("parameters", "half precision")
        assert_line(message, path)


def test_views_of_few_numbers_are_no_large_model(tmp_path: Path) -> None:
    # In half precision each view is copied to become float32: 16 GB from 64 MB.
    numbers = torch.zeros(1 << 25, dtype=torch.float16)
    width = 2896
    shapes = {
        "patch_embed.proj.weight": (width, 3, 4, 4),
        "patch_embed.proj.bias": (width,),
        "cls_token": (1, 1, width),
        "pos_embed": (1, 5, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for layer in range(60):
        for name, shape in {
            "norm1": (width,),
            "norm2": (width,),
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (4 * width, width),
            "mlp.fc2": (width, 4 * width),
        }.items():
            shapes |= {f"blocks.{layer}.{name}.weight": shape, f"blocks.{layer}.{name}.bias": shape[:1]}
    torch.save({name: numbers[: math.prod(shape)].view(shape) for name, shape in shapes.items()}, tmp_path / "vit.pt")
    assert_refused(tmp_path / "vit.pt", lambda: read_image(tmp_path / "vit.pt", 16))


@pytest.mark.parametrize("name", ["two\nlines", "two\rlines", "two\u2028lines", "\x1b[2Jcleared", "x" * 60_000])
def test_a_strange_name_of_a_weight_leaves_the_message_one_line(
    tmp_path: Path, folders: dict[str, Path], name: str
) -> None:
    image = load_file(folders["timm"] / "model.safetensors") | {name: torch.zeros(2)}
    save_file(image, tmp_path / "a")
    torch.save(image, tmp_path / "b")
    entries = {f"{key}.npy": value.numpy() for key, value in image.items()}
    npz(tmp_path / "c", *((key, npy(str(value.shape), value.tobytes())) for key, value in entries.items()))
    video = read_all(SCENIC / "joint" / "checkpoint") | {name: torch.zeros(2)}
    (tmp_path / "d").write_bytes(flax_bytes(video))
    for file in ("a", "b", "c"):
        (message,) = bounded(partial(read_image, tmp_path / file, 2))
        assert message is not None
        assert_line(message, tmp_path / file)
        assert message.isprintable()
    (message,) = bounded(lambda: from_scenic(tmp_path / "d", image_size=32))
    assert message is not None
    assert_line(message, tmp_path / "d")
    assert message.isprintable()


SCENIC = Path(__file__).parents[1] / "parity" / "reference" / "scenic"


SHAPES: tuple[tuple[int, ...], ...] = (
    *((), (0,), (1,), (0, 0), (1, 0, 3), (8, 3), (2, 0, 8, 3), (0, 3, 4, 4), (8, 3, 0, 0), (0, 8, 8, 3, 32)),
    *((8, 3, 4, 4, 4, 4), (1,) * 1000),
)


@pytest.mark.parametrize(
    "name",
    [
        "embedding/kernel",
        "embedding/bias",
        "cls",
        "output_projection/bias",
        "Transformer/posembed_input/pos_embedding",
        "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel",
        "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel",
    ],
)
def test_a_scenic_weight_of_any_other_shape_is_refused(tmp_path: Path, name: str) -> None:
    weights = read_all(SCENIC / "joint" / "checkpoint")
    actions: list[Callable[[], object]] = []
    for number, shape in enumerate(SHAPES):
        path = tmp_path / f"checkpoint {number}"
        path.write_bytes(flax_bytes({**weights, name: torch.zeros(shape)}))
        actions += [partial(load, path), partial(load, path, image_size=32), partial(read_image, path)]
    assert_refused(tmp_path, *actions)


# Model folders


def write_timm(folder: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (WIDTH, 3, 4, 4),
        "patch_embed.proj.bias": (WIDTH,),
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 5, WIDTH),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "head.weight": (3, WIDTH),
        "head.bias": (3,),
    }
    matrices = {"attn.qkv": (24, WIDTH), "attn.proj": (WIDTH, WIDTH), "mlp.fc1": (16, WIDTH), "mlp.fc2": (WIDTH, 16)}
    for name, shape in {"norm1": (WIDTH,), "norm2": (WIDTH,), **matrices}.items():
        shapes |= {f"blocks.0.{name}.weight": shape, f"blocks.0.{name}.bias": shape[:1]}
    folder.mkdir()
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, folder / "model.safetensors")
    pretrained = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "input_size": [3, 8, 8]}
    (folder / "config.json").write_text(json.dumps({"architecture": "vit_odd_patch4_8", "pretrained_cfg": pretrained}))


def write_image_vit(folder: Path, video: Path) -> None:
    """transformers' ViT has the names of its ViViT with another prefix."""
    weights = {
        name.replace("vivit.", "vit.", 1): value for name, value in load_file(video / "model.safetensors").items()
    }
    weights["vit.embeddings.patch_embeddings.projection.weight"] = torch.ones(WIDTH, 3, 4, 4)
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    config = json.loads((video / "config.json").read_text()) | {"model_type": "vit"}
    (folder / "config.json").write_text(json.dumps(config))
    processor = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model in each format; read-only."""
    place = tmp_path_factory.mktemp("folders")
    model = ViViT(MODEL, classes={"classes": ("a", "b", "c")})
    save(model, place / "vivit")
    to_huggingface(model, place / "transformers")
    write_timm(place / "timm")
    write_image_vit(place / "transformers image ViT", place / "transformers")
    return {format_: place / format_ for format_ in LOADERS}


LOADERS: dict[str, Callable[[Path], Any]] = {
    "vivit": load,
    "transformers": from_huggingface,
    "timm": lambda folder: read_image(folder, 2),
    "transformers image ViT": lambda folder: read_image(folder, 2),
}


@pytest.mark.parametrize("format_", LOADERS)
def test_the_honest_folders_are_loaded(folders: dict[str, Path], format_: str) -> None:
    assert bounded(lambda: LOADERS[format_](folders[format_])) == [None]


def sparse(path: Path) -> None:
    path.write_bytes(b"{}")
    os.truncate(path, 100 << 20)


CONFIGS: dict[str, Callable[[Path], object]] = {
    "lists nested 100,000 deep": lambda path: path.write_text("[" * 100_000),
    "objects nested 100,000 deep": lambda path: path.write_text('{"a":' * 100_000 + "1" + "}" * 100_000),
    "100 MB": sparse,
    "no UTF-8": lambda path: path.write_bytes(b'{"architecture": "\xff\xfe\xfd"}'),
    "half of a UTF-16 character": lambda path: path.write_bytes(b"\xff\xfe{\x00\xd8"),
    "an array": lambda path: path.write_text("[1, 2]"),
    "a number": lambda path: path.write_text("1"),
    "null": lambda path: path.write_text("null"),
    "a number of 100,000 digits": lambda path: path.write_text('{"hidden_size": ' + "9" * 100_000 + "}"),
    "25 MB of empty objects": lambda path: path.write_text("[" + "{}," * 8_000_000 + "{}]"),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "zero bytes": lambda path: path.write_bytes(bytes(1000)),
}


@pytest.mark.parametrize("how", CONFIGS)
@pytest.mark.parametrize("format_", LOADERS)
def test_a_config_that_is_none_is_refused(tmp_path: Path, folders: dict[str, Path], format_: str, how: str) -> None:
    names = ["config.json"]
    if format_ != "vivit":
        names.append("model.safetensors.index.json")
    if format_.startswith("transformers"):
        names.append("preprocessor_config.json")
    actions = []
    for name in names:
        folder = shutil.copytree(folders[format_], tmp_path / name)
        if name.startswith("model"):
            (folder / "model.safetensors").unlink()
        (folder / name).touch()
        CONFIGS[how](folder / name)
        actions.append(partial(LOADERS[format_], folder))
    assert_refused(tmp_path, *actions)


NAN, INFINITY = float("nan"), float("inf")
LONG = "x" * 100_000


def many(count: int, value: Any) -> dict[str, Any]:
    return {f"h{i}": value for i in range(count)}


# Large ones are made on demand, not when this module is imported.
Edit = dict[str, Any] | Callable[[], dict[str, Any]]


def made(edit: Edit) -> dict[str, Any]:
    return edit() if callable(edit) else edit


ARCHITECTURES: dict[str, Edit] = {
    "num_layers 10⁹": {"num_layers": 10**9},
    "num_layers 1000": {"num_layers": 1000},
    "temporal_layers 10⁹": {"variant": "factorised_encoder", "temporal_layers": 10**9},
    "hidden_size 10¹⁵": {"hidden_size": 10**15},
    "hidden_size 2²⁴": {"hidden_size": 1 << 24, "mlp_dim": 1 << 24, "num_heads": 1 << 24},
    "hidden_size of text": {"hidden_size": LONG},
    "representation_size 2²⁴": {"representation_size": 1 << 24},
    "num_frames 10¹⁸": {"num_frames": 10**18},
    "num_frames and picture 2²⁴": {"num_frames": 1 << 24, "image_size": 1 << 24},
    "a tubelet of 2²⁴": {"num_frames": 1 << 24, "image_size": 1 << 24, "tubelet_size": [1 << 24] * 3},
    "sampled_frames 10⁹": {"embedding": "uniform_frames", "num_frames": 10**9, "sampled_frames": 10**9},
    "sampled_frames 2²⁴": {"embedding": "uniform_frames", "num_frames": 1 << 24, "sampled_frames": 1 << 24},
    "sampled_frames 2²⁴ - 1": {"embedding": "uniform_frames", "num_frames": 1 << 24, "sampled_frames": (1 << 24) - 1},
    "a million heads": lambda: {"num_classes": None, "heads": many(1_000_000, 2)},
    "20,000 heads of no class": lambda: {"num_classes": None, "heads": many(20_000, 0)},
    "a head of a long name": {"num_classes": None, "heads": {LONG: 0}},
    "a head of another long name": {"num_classes": None, "heads": {"-" + LONG: 3}},
    "a head of two lines": {"num_classes": None, "heads": {"a\nb": 0}},
    "a head of no name": {"num_classes": None, "heads": {"": 3}},
    "a head with the name of a method": {"num_classes": None, "heads": {"items": 3}},
    "a head of half a character": {"num_classes": None, "heads": {"\ud800": 3}},
    "image_size 400,000": lambda: {"image_size": [8] * 400_000},
    "norm_eps NaN": {"norm_eps": NAN},
    "norm_eps infinite": {"norm_eps": INFINITY},
    "dropout NaN": {"dropout": NAN},
    "stochastic_depth NaN": {"stochastic_depth": NAN},
    "num_heads infinite": {"num_heads": INFINITY},
    "an unknown field": {LONG: 1},
    "an unknown field of two lines": {"a\nb": 1},
    "400,000 unknown fields": lambda: many(400_000, 1),
    "an unhashable variant": {"variant": {"a": 1}},
    "a long variant": {"variant": LONG},
}


@pytest.mark.parametrize("how", ARCHITECTURES)
def test_a_hostile_architecture_is_refused(tmp_path: Path, folders: dict[str, Path], how: str) -> None:
    folder = shutil.copytree(folders["vivit"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["architecture"].update(made(ARCHITECTURES[how]))
    config["classes"] = None
    (folder / "config.json").write_text(json.dumps(config))
    assert_refused(folder, lambda: load(folder))


OURS: dict[str, Edit] = {
    "400,000 classes that are no text": lambda: {"classes": {"classes": [1] * 400_000}},
    "20,000 heads' classes": lambda: {"classes": many(20_000, ["a"])},
    "a head's classes, two lines": {"classes": {"a\nb": 1}},
    "400,000 lines of origin that are no text": lambda: {"origin": [1] * 400_000},
    "resize NaN": {"preprocessing": {"resize": NAN}},
    "resize 10¹⁸": {"preprocessing": {"resize": 10**18}},
    "an unknown field": {"a\nb": 1},
    "another model": {"model_type": "two\nlines"},
    "another model of a long name": {"model_type": LONG, "architecture": None},
    "an architecture that is none": {"architecture": [[1]]},
}


@pytest.mark.parametrize("how", OURS)
def test_a_hostile_config_is_refused(tmp_path: Path, folders: dict[str, Path], how: str) -> None:
    folder = shutil.copytree(folders["vivit"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | made(OURS[how])))
    assert_refused(folder, lambda: load(folder))


@pytest.mark.parametrize("model_type", ["two\nlines", LONG, None, {"a": 1}])
def test_a_model_of_another_kind_is_refused(tmp_path: Path, folders: dict[str, Path], model_type: Any) -> None:
    folder = shutil.copytree(folders["transformers"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": model_type}
    (folder / "config.json").write_text(json.dumps(config))
    assert_refused(folder, lambda: load(folder))
    assert_refused(folder, lambda: from_huggingface(folder))


THEIRS: dict[str, Edit] = {
    "num_hidden_layers 10⁹": {"num_hidden_layers": 10**9},
    "num_hidden_layers infinite": {"num_hidden_layers": INFINITY},
    "hidden_size 10¹⁵": {"hidden_size": 10**15},
    "hidden_size 2²⁴": {"hidden_size": 1 << 24, "num_attention_heads": 1},
    "intermediate_size 10¹⁵": {"intermediate_size": 10**15},
    "num_attention_heads 0": {"num_attention_heads": 0},
    "layer_norm_eps NaN": {"layer_norm_eps": NAN},
    "hidden_act of text": {"hidden_act": LONG},
    "hidden_act of two lines": {"hidden_act": "a\nb"},
    "hidden_act a list": {"hidden_act": ["gelu"]},
}
THEIR_VIDEO: dict[str, Edit] = {
    "num_frames 10¹⁸": {"num_frames": 10**18},
    "num_frames and picture 2²⁴": {"num_frames": 1 << 24, "image_size": 1 << 24},
    "tubelet_size 400,000": lambda: {"tubelet_size": [2] * 400_000},
    "tubelet_size of text": {"tubelet_size": LONG},
    "hidden_dropout_prob NaN": {"hidden_dropout_prob": NAN},
}


@pytest.mark.parametrize("how", [*THEIRS, *THEIR_VIDEO])
@pytest.mark.parametrize("format_", ["transformers", "transformers image ViT"])
def test_a_hostile_config_of_transformers_is_refused(
    tmp_path: Path, folders: dict[str, Path], format_: str, how: str
) -> None:
    if format_ == "transformers image ViT" and how in THEIR_VIDEO:
        pytest.skip("image models have no such field")
    folder = shutil.copytree(folders[format_], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | made((THEIRS | THEIR_VIDEO)[how])
    (folder / "config.json").write_text(json.dumps(config))
    assert_refused(folder, lambda: LOADERS[format_](folder))


LABELS: tuple[Any, ...] = (
    *(5, True, 1.5, NAN, LONG, "ab", [[]], lambda: [1] * 20_000, {"0": 1}, {"a\nb": "c"}),
    {str(i): f"label {i}" for i in range(100)},
)


@pytest.mark.parametrize("labels", LABELS)
def test_labels_that_are_none_are_left_out_or_refused(tmp_path: Path, folders: dict[str, Path], labels: Any) -> None:
    labels = labels() if callable(labels) else labels

    def write(name: str, headless: bool, hidden_size: int) -> Callable[[], object]:
        folder = shutil.copytree(folders["transformers"], tmp_path / name)
        config = json.loads((folder / "config.json").read_text()) | {"id2label": labels, "hidden_size": hidden_size}
        (folder / "config.json").write_text(json.dumps(config))
        weights = load_file(folder / "model.safetensors")
        if headless:
            weights = {key.removeprefix("vivit."): x for key, x in weights.items() if "classifier" not in key}
        save_file(weights, folder / "model.safetensors")
        return partial(from_huggingface, folder)

    for message in bounded(write("a", False, WIDTH), write("b", True, WIDTH)):
        if message is not None:
            assert_line(message, tmp_path)
    assert_refused(tmp_path, write("c", False, 1 << 23), write("d", True, 1 << 23))


PROCESSORS: dict[str, Edit] = {
    "image_mean of text": {"image_mean": "abc"},
    "image_mean NaN": {"image_mean": [NAN] * 3},
    "image_mean of four": {"image_mean": [0.5] * 4},
    "image_mean of four, and image_std": {"image_mean": [0.5] * 4, "image_std": [0.5] * 4},
    "image_mean of lists": {"image_mean": [[1.0]] * 3},
    "image_mean an object": {"image_mean": {"a": 1, "b": 2, "c": 3}},
    "image_mean of 20,000": lambda: {"image_mean": [0.5] * 20_000, "image_std": [0.5] * 20_000},
    "image_mean of 10⁴⁰⁰": {"image_mean": [10**400] * 3},
    "image_std zero": {"image_std": [0, 0, 0]},
    "image_std infinite": {"image_std": [INFINITY] * 3},
    "image_std of null": {"image_std": [None] * 3},
}


@pytest.mark.parametrize("how", PROCESSORS)
@pytest.mark.parametrize("format_", ["transformers image ViT", "timm"])
def test_hostile_pixel_scaling_of_an_image_model_is_refused(
    tmp_path: Path, folders: dict[str, Path], format_: str, how: str
) -> None:
    folder = shutil.copytree(folders[format_], tmp_path / "model")
    name, edit = "preprocessor_config.json", made(PROCESSORS[how])
    if format_ == "timm":
        name, edit = "config.json", {key.removeprefix("image_"): value for key, value in edit.items()}
    content = json.loads((folder / name).read_text())
    (content["pretrained_cfg"] if format_ == "timm" else content).update(edit)
    (folder / name).write_text(json.dumps(content))
    assert_refused(folder, lambda: LOADERS[format_](folder))


SIZES: dict[str, Any] = {
    "size of text": "abc",
    "size 10¹⁸": 10**18,
    "size NaN": {"shortest_edge": NAN},
    "size of text and a number": {"height": "a", "width": 1},
    "long size": LONG,
}


@pytest.mark.parametrize("how", [*PROCESSORS, *SIZES, "rescale_factor null"])
def test_hostile_pixel_scaling_of_a_video_model_is_known_or_refused(
    tmp_path: Path, folders: dict[str, Path], how: str
) -> None:
    edit = {"size": SIZES[how]} if how in SIZES else made(PROCESSORS.get(how, {"rescale_factor": None}))
    folder = shutil.copytree(folders["transformers"], tmp_path / "model")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_normalize": True} | edit))
    assert_loaded_or_refused(folder, lambda: from_huggingface(folder))


TIMM: dict[str, Edit] = {
    "an architecture that is a list": {"architecture": ["vit_tiny_"]},
    "a long architecture": {"architecture": LONG},
    "too many heads": {"architecture": "vit_huge_"},
    "a pretrained_cfg that is a list": {"pretrained_cfg": [1]},
    "a pretrained_cfg of 20,000": lambda: {"pretrained_cfg": many(20_000, 1)},
}


@pytest.mark.parametrize("how", TIMM)
def test_a_hostile_config_of_timm_is_ignored_or_refused(tmp_path: Path, folders: dict[str, Path], how: str) -> None:
    folder = shutil.copytree(folders["timm"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | made(TIMM[how])
    (folder / "config.json").write_text(json.dumps(config))
    assert_loaded_or_refused(folder, lambda: read_image(folder, 2))


@pytest.mark.parametrize("format_", ["transformers", "transformers image ViT", "timm"])
def test_a_weight_of_any_other_shape_is_refused(tmp_path: Path, folders: dict[str, Path], format_: str) -> None:
    honest = load_file(folders[format_] / "model.safetensors")
    folder = shutil.copytree(folders[format_], tmp_path / "model")
    for name, value in honest.items():
        # Other parameters have the same shape.
        if name.endswith((".bias", "key.weight", "value.weight", "norm.weight", "norm2.weight", "after.weight")):
            continue
        if format_ != "transformers" and name.startswith(("head.", "classifier.")):
            continue  # an image model's head is not taken
        for shape in SHAPES:
            if shape == tuple(value.shape):
                continue
            save_file({**honest, name: torch.zeros(shape)}, folder / "fresh")
            (folder / "fresh").replace(folder / "model.safetensors")
            with pytest.raises(UserError) as error:
                LOADERS[format_](folder)
            assert_line(str(error.value), folder)


INDICES: dict[str, Any] = {
    "a file above": {"a": "../x", "b": FIRST},
    "a file above, twice over": {"a": f"../model/{FIRST}"},
    "an absolute path": {"a": "/etc/passwd"},
    "the folder itself": {"a": "."},
    "the folder above": {"a": ".."},
    "a folder inside": {"a": f"inside/{FIRST}"},
    "an empty name": {"a": ""},
    "a zero byte": {"a": f"{FIRST}\0"},
    "half a character": {"a": "\ud800"},
    "two lines": {"a": "two\nlines"},
    "a long name": {"a": LONG},
    "a missing shard": {"a": FIRST, "c": "model-00003-of-00002.safetensors"},
    "a weight that is not in its shard": {"a": FIRST, "b": SECOND},
    "a weight of two lines that is not there": {"a\nb": FIRST},
    "a weight of a long name that is not there": {LONG: FIRST},
    "a number": {"a": 1},
    "a list": ["a", FIRST],
    "nothing": None,
}


@pytest.mark.parametrize("how", INDICES)
def test_a_hostile_index_of_shards_is_refused(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "model"
    index = write_shards(folder, SHARDS, {})
    index.write_text(json.dumps({"weight_map": INDICES[how]}))
    save_file({"a": torch.ones(1)}, tmp_path / "x")
    assert_refused(folder, lambda: open_folder(folder))


def test_an_index_that_names_a_weight_twice_is_refused_or_reads_the_one_it_names(tmp_path: Path) -> None:
    index = write_shards(tmp_path, SHARDS | {SECOND: {"a": torch.full((3,), 7.0)}})
    index.write_text(f'{{"weight_map": {{"a": "{FIRST}", "a": "{SECOND}"}}}}')
    file = open_folder(tmp_path)
    assert file.shapes == {"a": (3,)}
    assert torch.equal(file.read("a"), torch.full((3,), 7.0))
