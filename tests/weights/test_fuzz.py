"""Damaged files are loaded, or refused in one line that names the file, within bounds of time and memory.

A model that is loaded gives finite logits, or logits of which `vivit predict` says that they are not finite.

Every case is a small change, drawn from its seed and number, to one of a few honest files. They run in a process of
their own; by hand, with more cases or one that failed:

    python tests/weights/test_fuzz.py --count 20000 --seed 1
    python tests/weights/test_fuzz.py --seed 1 --first 4711 --count 1
"""

import argparse
import copy
import faulthandler
import io
import json
import math
import random
import re
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vivit.config import ModelConfig
from vivit.errors import UserError
from vivit.inference.views import are_finite, mean_logits
from vivit.labels import fault_in
from vivit.model.vivit import ViViT
from vivit.weights.huggingface import to_huggingface
from vivit.weights.image_sources import read_image_vit
from vivit.weights.source import Source
from vivit.weights.store import load, save

REFERENCE = Path(__file__).parents[1] / "parity" / "reference"
COUNT, SEED = 2000, 0
MEMORY = 2 << 30  # address space, on top of what is in use after everything has been loaded once
GROWTH = 300 << 20  # resident, likewise
SECONDS = 2.0  # CPU seconds for one case
CLIP = 1 << 20  # bytes; a larger one, of a changed config, is not run
HUNG, ALL = 120.0, 240.0  # wall-clock seconds for one case, and for all of them on a busy machine
LINE = 1000  # characters; people do not read longer lines
SHOWN = 20  # failures


def test_damaged_files_are_loaded_or_refused_in_bounds(tmp_path: Path) -> None:
    progress = tmp_path / "case"
    command = [sys.executable, __file__, "--count", str(COUNT), "--seed", str(SEED), "--progress", str(progress)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ALL)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"not done after {ALL:g} seconds, at case {progress.read_text()}") from None
    at = progress.read_text() if progress.exists() else "none"
    assert done.returncode == 0, f"at case {at} of seed {SEED}:\n{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    loaded, refused = (int(number) for number in re.findall(r"(\d+) (?:loaded|refused)", done.stdout))
    # Changes that are never noticed, or always at once, would prove little.
    assert loaded + refused == COUNT
    assert min(loaded, refused) > COUNT // 20


# What is changed


@dataclass(frozen=True)
class Target:
    """Honest files and their loader."""

    name: str
    files: dict[str, bytes]
    """The files that are changed; the first is the path in messages."""
    load: Callable[[Path], Any]
    of_folder: bool = True


def targets(place: Path) -> list[Target]:
    """Models in every format, as small as possible."""
    torch.manual_seed(0)
    config = ModelConfig(
        num_frames=2,
        image_size=(8, 8),
        tubelet_size=(2, 4, 4),
        hidden_size=8,
        num_layers=1,
        num_heads=2,
        mlp_dim=8,
        num_classes=2,
    )
    model = ViViT(config, classes={"classes": ("wave", "jump")}, origin=["somewhere"])
    ours, theirs = place / "vivit", place / "transformers"
    save(model, ours)
    to_huggingface(model, theirs)
    weights = load_file(theirs / "model.safetensors")
    published = {name: (theirs / name).read_bytes() for name in ("config.json", "preprocessor_config.json")}

    names = sorted(weights)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: weights[name] for name in part}, place / shard)
    index = {"metadata": {"total_size": 1}, "weight_map": {name: shard for shard in shards for name in shards[shard]}}
    pickled = io.BytesIO()
    torch.save(weights, pickled)

    image = {name.replace("vivit.", "vit.", 1): value for name, value in weights.items()}
    image["vit.embeddings.patch_embeddings.projection.weight"] = torch.ones(8, 3, 4, 4)
    save_file(image, place / "image")
    image_config = json.loads(published["config.json"]) | {"model_type": "vit", "hidden_act": "gelu"}
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.4],
    }
    save_file(timm_weights(), place / "timm")
    pretrained = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "input_size": [3, 8, 8]}

    def image_vit(path: Path) -> Any:
        return read_image_vit(Source.find(path), 2).model

    return [
        Target("vivit", {name: (ours / name).read_bytes() for name in ("config.json", "model.safetensors")}, load),
        Target("transformers", {**published, "model.safetensors": (theirs / "model.safetensors").read_bytes()}, load),
        Target(
            "transformers in shards",
            {
                "model.safetensors.index.json": json.dumps(index).encode(),
                **{shard: (place / shard).read_bytes() for shard in shards},
                "config.json": published["config.json"],
            },
            load,
        ),
        Target("transformers in PyTorch", {"pytorch_model.bin": pickled.getvalue(), **published}, load),
        Target(
            "Scenic",
            {"checkpoint": (REFERENCE / "scenic" / "joint" / "checkpoint").read_bytes()},
            lambda path: load(path, image_size=32),
            of_folder=False,
        ),
        Target(
            "npz",
            {"vit.npz": (REFERENCE / "image_init" / "vit32" / "vit.npz").read_bytes()},
            image_vit,
            of_folder=False,
        ),
        Target(
            "transformers' image ViT",
            {
                "config.json": json.dumps(image_config).encode(),
                "preprocessor_config.json": json.dumps(processor).encode(),
                "model.safetensors": (place / "image").read_bytes(),
            },
            image_vit,
        ),
        Target(
            "timm",
            {
                "config.json": json.dumps({"architecture": "vit_odd_8", "pretrained_cfg": pretrained}).encode(),
                "model.safetensors": (place / "timm").read_bytes(),
            },
            image_vit,
        ),
    ]


def timm_weights() -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (8, 3, 4, 4),
        "patch_embed.proj.bias": (8,),
        "cls_token": (1, 1, 8),
        "pos_embed": (1, 5, 8),
        "norm.weight": (8,),
        "norm.bias": (8,),
        "head.weight": (3, 8),
    }
    matrices = {"attn.qkv": (24, 8), "attn.proj": (8, 8), "mlp.fc1": (16, 8), "mlp.fc2": (8, 16)}
    for name, shape in {"norm1": (8,), "norm2": (8,), **matrices}.items():
        shapes |= {f"blocks.0.{name}.weight": shape, f"blocks.0.{name}.bias": shape[:1]}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


# Changes of bytes


def flip_a_bit(rng: random.Random, content: bytearray, at: int) -> None:
    content[at] ^= 1 << rng.randrange(8)


def set_a_byte(rng: random.Random, content: bytearray, at: int) -> None:
    content[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256), *b'"{}[],:09-'))


def truncate(_: random.Random, content: bytearray, at: int) -> None:
    del content[at:]


def delete_bytes(rng: random.Random, content: bytearray, at: int) -> None:
    del content[at : at + rng.choice((1, 2, 4, 8, 100))]


def insert_bytes(rng: random.Random, content: bytearray, at: int) -> None:
    start = rng.randrange(len(content))
    content[at:at] = rng.choice((rng.randbytes(rng.randint(1, 8)), content[start : start + rng.randint(1, 200)]))


def make_huge(rng: random.Random, content: bytearray, at: int) -> None:
    """Write a huge or zero number where a length may be."""
    size = rng.choice((1, 2, 4, 8))
    content[at : at + size] = rng.choice((b"\xff", b"\x7f", b"\x00")) * size


BYTES = (flip_a_bit, set_a_byte, truncate, delete_bytes, insert_bytes, make_huge)


def change_bytes(rng: random.Random, content: bytes, spots: list[int]) -> bytes:
    """Make one to three changes, mostly in the file's metadata."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.choice(spots) if spots and rng.random() < 0.9 else rng.randrange(len(content))
        if changed:
            rng.choice(BYTES)(rng, changed, min(at, len(changed) - 1))
    return bytes(changed)


def metadata_offsets(content: bytes) -> list[int]:
    """Offsets of a file's metadata: headers, names and lengths, not numbers."""
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            spots = list(range(archive.start_dir, len(content)))
            for entry in archive.infolist():
                size = 1 << 12 if entry.filename.endswith(".pkl") else 160
                spots += range(entry.header_offset, min(entry.header_offset + size, archive.start_dir))
        return spots
    if content.startswith(b"{"):
        return list(range(len(content)))
    if content[8:9] == b"{":
        return list(range(8 + struct.unpack("<Q", content[:8])[0]))
    numbers: list[bytes] = []
    msgpack.unpackb(content, strict_map_key=False, ext_hook=lambda _, data: numbers.append(msgpack.unpackb(data)[-1]))
    spots, end = [], 0
    for buffer in numbers:
        start = content.index(buffer, end)
        spots += range(end, start)
        end = start + len(buffer)
    return spots


# Changes of the decoded content

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 1.5, 4096, 10**5, 2**24, 10**9, 2**63, 10**18, 10**30),
    *(1e308, float("nan"), float("inf"), float("-inf")),
    *("", "x", "a\nb", "\ud800", "\0", "..", "/", "x" * 5000, " ", "\x1b[2J", "\u2028"),
    *("gelu", "F16", "I32", "BF16", "vit"),
    *([], {}, [0], [0, 0, 0], [1, 2], [None] * 3, ["a"] * 3, [1e308] * 3, [2**62, 0], [[[]]], {"a\nb": 1}, {"": {}}),
)


def change_value(rng: random.Random, tree: Any) -> Any:
    """A JSON value with one part replaced, renamed, removed or duplicated."""
    tree = copy.deepcopy(tree)
    places = list(_places(tree))
    if not places:
        return rng.choice(VALUES)
    holder, key = rng.choice(places)
    how = rng.randrange(6)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[rng.choice(("", "x", "a\nb", "y" * 5000, *holder))] = holder.pop(key)
    elif how == 2:
        other, other_key = rng.choice(places)
        holder[key] = copy.deepcopy(other[other_key])
    elif how == 3 and isinstance(holder[key], int | float):
        holder[key] = rng.choice((holder[key] + 1, holder[key] - 1, -holder[key], holder[key] * 2, holder[key] / 2))
    else:
        holder[key] = copy.deepcopy(rng.choice(VALUES))
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(value)


def change_meaning(rng: random.Random, content: bytes) -> bytes:
    """A change that keeps lengths and checksums valid, so that the code behind these checks runs."""
    if content.startswith(b"{"):
        return json.dumps(change_value(rng, json.loads(content))).encode()
    if content.startswith(b"PK"):
        return change_entry(rng, content)
    if content[8:9] == b"{":
        end = 8 + struct.unpack("<Q", content[:8])[0]
        text = json.dumps(change_value(rng, json.loads(content[8:end]))).encode()
        return struct.pack("<Q", len(text)) + text + content[end:]
    return change_array(rng, content)


def change_entry(rng: random.Random, content: bytes) -> bytes:
    """Change an entry of a zip file with a valid checksum, or rename or remove it."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, "w") as new:
        entries = old.infolist()
        pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
        chosen = pickles[0] if pickles and rng.random() < 0.8 else rng.choice(entries)
        how = rng.randrange(12)
        for entry in entries:
            inside, name = old.read(entry), entry.filename
            if entry is chosen:
                if how == 0:
                    continue
                if how == 1:
                    name = rng.choice(("x", "a\nb.npy", "x/../y.npy", rng.choice(entries).filename))
                elif inside:
                    inside = change_bytes(rng, inside, list(range(min(len(inside), 1 << 13 if pickles else 128))))
            new.writestr(name, inside)
    return changed.getvalue()


def change_array(rng: random.Random, content: bytes) -> bytes:
    """Give an array in a msgpack file another shape, type or bytes."""
    count = content.count(b"float32")
    chosen = rng.randrange(count)
    seen = -1

    def change(code: int, data: bytes) -> msgpack.ExtType:
        nonlocal seen
        array = msgpack.unpackb(data)
        seen += 1
        if seen == chosen:
            shape, _, buffer = array
            how = rng.randrange(6)
            if how == 0:
                array[0] = rng.choice(([], [0], [-1], [1] * 40, [0, 2**62], [2**62, 0], [True], [1.5], "x", None, {}))
            elif how == 1:
                array[1] = rng.choice(("float16", "bfloat16", "int32", "complex64", "", None, [], 3))
            elif how == 2:
                array[0] = rng.sample(shape, len(shape))
            elif how == 3:
                array[0], array[2] = [0, *shape[1:]], b""
            elif how == 4 and shape:
                axis = rng.randrange(len(shape))
                array[0] = [*shape[:axis], *shape[axis + 1 :]]
                array[2] = buffer[: len(buffer) // max(shape[axis], 1)]
            else:
                array[2] = rng.choice((None, "", [], buffer[1:], buffer * 2, buffer.hex()))
        return msgpack.ExtType(code, msgpack.packb(array))

    tree = msgpack.unpackb(content, strict_map_key=False, ext_hook=change)
    return msgpack.packb(tree)


# Changes of numbers

NO_WEIGHTS = (float("nan"), float("inf"), float("-inf"), 1e30, -3e38, 2e15, 1e15, -1e12, 65504.0, 1e-45, 0.0)
TYPES = (
    *(torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu),
    *(torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64),
)


def change_numbers(rng: random.Random, content: bytes) -> bytes:
    """Put numbers into weights that no weight has, or turn weights into other types."""

    def change(state: dict[str, Tensor]) -> None:
        names = sorted(state)
        for name in names if rng.random() < 0.2 else rng.sample(names, rng.choice((1, 1, 2, 5))):
            if rng.random() < 0.5:
                state[name] = state[name].to(rng.choice(TYPES[:4] if rng.random() < 0.6 else TYPES))
            elif state[name].is_floating_point() and state[name].numel():
                values = state[name].flatten()
                values[rng.randrange(values.numel())] = rng.choice(NO_WEIGHTS)
                state[name] = values.view(state[name].shape)

    return rewritten(content, change)


def rewritten(content: bytes, change: Callable[[dict[str, Tensor]], None]) -> bytes:
    """A file of weights of any kind, written anew with its arrays as `change` leaves them.

    What a format cannot hold stays float32: .npz has no bfloat16 and no float8.
    """
    new = io.BytesIO()
    if content[8:9] == b"{":
        state = safetensors.torch.load(content)
        change(state)
        return safetensors.torch.save(state)
    if content.startswith(b"PK") and b"data.pkl" in content:
        state = torch.load(io.BytesIO(content), weights_only=True)
        change(state)
        torch.save(state, new)
        return new.getvalue()
    if content.startswith(b"PK"):
        state = {name: torch.from_numpy(array) for name, array in np.load(io.BytesIO(content)).items()}
        change(state)
        lacking = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu)
        arrays: dict[str, Any] = {
            name: (value.float() if value.dtype in lacking else value).numpy() for name, value in state.items()
        }
        np.savez(new, **arrays)
        return new.getvalue()
    tree = msgpack.unpackb(content, strict_map_key=False, ext_hook=lambda _, data: _Array(data))
    places = {"/".join(path): (holder, path[-1]) for holder, path in _arrays(tree)}
    state = {name: holder[key].tensor for name, (holder, key) in places.items()}
    change(state)
    for name, (holder, key) in places.items():
        value = state[name].contiguous()
        numbers = value.flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b""
        kind = str(value.dtype).removeprefix("torch.")
        holder[key] = msgpack.ExtType(1, msgpack.packb((tuple(value.shape), kind, numbers)))
    return msgpack.packb(tree)


class _Array:
    """An array in a msgpack file."""

    def __init__(self, data: bytes) -> None:
        shape, kind, numbers = msgpack.unpackb(data)
        self.tensor = torch.frombuffer(bytearray(numbers), dtype=getattr(torch, kind)).view(shape)


def _arrays(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if isinstance(value, _Array):
            yield tree, (*path, key)
        else:
            yield from _arrays(value, (*path, key))


# The process that runs them


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--progress", type=Path, help="a file for the number of the case that is running")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        return run(Path(place), arguments)


def run(place: Path, arguments: argparse.Namespace) -> int:
    choices = targets(place)
    spots = {
        target.name: {name: metadata_offsets(content) for name, content in target.files.items()} for target in choices
    }
    for target in choices:
        folder = place / "work" / target.name
        folder.mkdir(parents=True)
        for name, content in target.files.items():
            write(folder / name, content)
        use(target, folder)

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    outcomes, failures = {"loaded": 0, "not finite": 0, "refused": 0}, 0
    started, first_memory = time.monotonic(), resident()
    for number in range(arguments.first, arguments.first + arguments.count):
        if arguments.progress is not None:
            arguments.progress.write_text(str(number))
        faulthandler.dump_traceback_later(HUNG, exit=True)
        rng = random.Random(f"{arguments.seed} {number}")
        target = choices[number % len(choices)]
        file = rng.choice(list(target.files))
        draw = rng.random()
        if draw < 0.2 and not file.endswith(".json"):
            content, how = change_numbers(rng, target.files[file]), "numbers"
        elif draw < 0.6:
            content, how = change_meaning(rng, target.files[file]), "meaning"
        else:
            content, how = change_bytes(rng, target.files[file], spots[target.name][file]), "bytes"
        folder = place / "work" / target.name
        write(folder / file, content)
        try:
            outcomes[attempt(target, folder)] += 1
        except Exception:
            failures += 1
            if failures <= SHOWN:
                print(
                    f"case {number} of seed {arguments.seed}: {target.name}, {file}, {how}:\n{traceback.format_exc()}"
                )
        write(folder / file, target.files[file])
    faulthandler.cancel_dump_traceback_later()
    loaded = outcomes["loaded"] + outcomes["not finite"]
    print(
        f"seed {arguments.seed}: {loaded} loaded ({outcomes['not finite']} with logits that are not finite), "
        f"{outcomes['refused']} refused, {failures} failed; {first_memory >> 20} MiB before, {resident() >> 20} MiB "
        f"after, {time.monotonic() - started:.0f} s"
    )
    return int(failures > 0)


def resident() -> int:
    """Bytes that this process has in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def write(path: Path, content: bytes) -> None:
    # A new file each time: a loaded model may still map the old one.
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def use(target: Target, folder: Path) -> str:
    """Load it, check that it is a model, and run it: "loaded", or "not finite" if its logits are not."""
    model = target.load(folder if target.of_folder else folder / next(iter(target.files)))
    assert all(parameter.is_floating_point() and not parameter.is_meta for parameter in model.parameters())
    state = model.state_dict()
    assert {name: value.shape for name, value in state.items()} == shapes_of(model.config.model_dump_json())
    assert len({value.dtype for value in state.values()}) == 1
    assert all(value.isfinite().all() for value in state.values())
    assert not any(fault_in(names) for names in (model.classes or {}).values())
    clip = (1, 1, model.config.num_frames, 3, *model.config.image_size)
    if math.prod(clip) > CLIP:
        return "loaded"
    video = torch.randint(0, 256, clip, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return "loaded" if are_finite(mean_logits(model, list(video))).all() else "not finite"


@lru_cache(maxsize=64)
def shapes_of(config: str) -> dict[str, torch.Size]:
    """Of the parameters of a model with this config, in JSON."""
    with torch.device("meta"):
        return {
            name: value.shape for name, value in ViViT(ModelConfig.model_validate_json(config)).state_dict().items()
        }


def attempt(target: Target, folder: Path) -> str:
    memory, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        outcome = use(target, folder)
    except UserError as error:
        outcome, message = "refused", str(error)
        assert message.splitlines() == [message], message
        assert len(message) <= LINE, f"{len(message)} characters: {message[:LINE]}"
        assert message.startswith(str(folder)), message
    seconds = time.process_time() - started
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) << 10
    assert seconds <= SECONDS, f"{outcome} in {seconds:.1f} seconds"
    assert growth <= GROWTH, f"{outcome} with {growth >> 20} MiB"
    return outcome


if __name__ == "__main__":
    sys.exit(main())
