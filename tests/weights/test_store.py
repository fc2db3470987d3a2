import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support import random_weights, refused
from vivit import files as writing
from vivit.config import ModelConfig, Preprocessing
from vivit.errors import UserError
from vivit.labels import LabelSpace
from vivit.model.vivit import ViViT
from vivit.weights.adapt import adapt
from vivit.weights.store import load, new_model, save

CONFIG: dict[str, Any] = {
    "variant": "factorised_encoder",
    "num_frames": 4,
    "image_size": (32, 48),
    "hidden_size": 16,
    "num_layers": 1,
    "num_heads": 2,
    "mlp_dim": 24,
    "temporal_layers": 1,
}


def build(**fields: Any) -> ViViT:
    torch.manual_seed(0)
    model = ViViT(
        ModelConfig(**CONFIG, **fields),
        classes={head: tuple(f"{head} {i} ü" for i in range(n)) for head, n in fields["heads"].items()}
        if "heads" in fields
        else {"classes": ("wave", "jump")},
        preprocessing=Preprocessing(frame_stride=3, resize=56, short_clips="pad"),
    )
    return random_weights(model, std=1.0)


@pytest.mark.parametrize("fields", [{"num_classes": 2}, {"heads": {"verb": 3, "noun": 4}}])
def test_round_trip(tmp_path: Path, fields: dict[str, Any]) -> None:
    model = build(**fields)
    save(model, tmp_path / "new" / "model")
    loaded = load(tmp_path / "new" / "model")
    files = {path.name for path in (tmp_path / "new" / "model").iterdir()}
    assert files == {"README.md", "config.json", "model.safetensors"}
    assert (loaded.config, loaded.classes, loaded.preprocessing) == (model.config, model.classes, model.preprocessing)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    video = torch.randint(0, 256, (1, 4, 3, 32, 48), dtype=torch.uint8)
    # A copy: products of mapped memory, which may be unaligned, can differ in the last bit.
    torch.testing.assert_close(copy.deepcopy(loaded)(video), model.eval()(video), rtol=0, atol=0)


def edit_config(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        edit(config)
        (folder / "config.json").write_text(json.dumps(config))

    return spoil


def edit_weights(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        edit(weights)
        save_file(weights, folder / "model.safetensors")

    return spoil


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"model: no config\.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model: no model\.safetensors"),
        (truncate, r"model\.safetensors: not readable"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), r"model\.safetensors: not readable"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json: "),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), r"config\.json: "),
        (edit_config(lambda c: c["architecture"].update(colour="red")), r"config\.json: architecture\.colour"),
        (edit_config(lambda c: c.update(model_type="vivit")), r"config\.json: model_type"),
        (edit_config(lambda c: c["architecture"].update(num_heads=3)), r"config\.json: .*num_heads: 3 heads"),
        (edit_config(lambda c: c["classes"].update(classes=["wave"])), r"config\.json: classes"),
        (
            edit_weights(lambda w: w.update({"heads.classes.weight": torch.zeros(2, 8)})),
            r"model\.safetensors: heads\.classes\.weight has the shape \(2, 8\).*\(2, 16\)",
        ),
        (edit_weights(lambda w: w.pop("embedding.bias")), r"model\.safetensors: missing: embedding\.bias"),
        (
            edit_weights(lambda w: w.update(extra=torch.zeros(1))),
            r"model\.safetensors: not expected: extra",
        ),
    ],
)
def test_spoilt_folder_is_one_line_that_names_the_file(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "model"
    save(build(num_classes=2), folder)
    spoil(folder)
    refused(lambda: load(folder), message)


@pytest.mark.parametrize("source", ["nowhere", "./no/where", Path("no/where")])
def test_missing_folder(source: str | Path) -> None:
    with pytest.raises(UserError, match=r"nowhere|no/where"):
        load(source)


def test_failed_write_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(build(num_classes=2), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def failing(_: Any, path: Path, **__: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "save_file", failing)
    model = build(num_classes=2)
    torch.nn.init.zeros_(model.get_parameter("heads.classes.weight"))
    with pytest.raises(UserError, match=r"model\.safetensors: not written \(.*No space left"):
        save(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(UserError):
        save(model, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("failing", ["config.json", "README.md"])
def test_full_disk_at_a_later_file_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    save(build(num_classes=2), tmp_path)
    before = files_of(tmp_path)
    write_text = Path.write_text

    def full(path: Path, text: str, **keywords: Any) -> int:
        if not path.name.startswith(failing):
            return write_text(path, text, **keywords)
        write_text(path, text[: len(text) // 2], **keywords)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    refused(lambda: save(build(num_classes=2), tmp_path, licence="mit"), rf"{failing}: not written \(.*No space left")
    after = files_of(tmp_path)
    assert after.keys() == before.keys()
    assert after[failing] == before[failing]
    monkeypatch.undo()
    load(tmp_path)


def test_full_disk_leaves_a_model_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = build(num_classes=2)
    save(old, tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    # Of another size, so that weights and config of different models do not match.
    new = adapt(old, num_frames=8, classes=["run", "sit", "lie"])
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="No space left"):
        save(new, tmp_path)
    monkeypatch.undo()
    loaded = load(tmp_path)
    assert loaded.config in (old.config, new.config)


def test_writing_that_is_interrupted_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(build(num_classes=2), tmp_path)
    before = files_of(tmp_path)

    def interrupted(_: Any, path: Path, **__: Any) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(build(num_classes=2), tmp_path)
    assert files_of(tmp_path) == before


def test_class_names_that_no_file_can_hold_are_one_line(tmp_path: Path) -> None:
    # Half a UTF-16 pair, as \ud800 in JSON gives it.
    model = build(num_classes=2)
    model.labels = LabelSpace({"classes": ("wave", "\ud800")})
    with pytest.raises(UserError) as error:
        save(model, tmp_path)
    assert "\n" not in str(error.value)
    assert not [path.name for path in tmp_path.iterdir() if "unfinished" in path.name]


@pytest.mark.parametrize(
    ("number", "hint"), [(None, "format 1, .*convert or train it anew"), (99, "format 99, .*update")]
)
def test_a_folder_of_another_format_says_what_to_do(number: int | None, hint: str, tmp_path: Path) -> None:
    save(build(num_classes=2), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("format") == 2
    (tmp_path / "config.json").write_text(json.dumps(config if number is None else {**config, "format": number}))
    refused(lambda: load(tmp_path), hint, "config.json")
    refused(lambda: new_model(tmp_path, 1 << 20), hint, "config.json")


@pytest.mark.parametrize("place", ["file", "file/model"])
def test_where_no_folder_can_be(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("stays")
    refused(lambda: save(build(num_classes=2), tmp_path / place), "cannot create this folder")
    assert files_of(tmp_path) == {"file": b"stays"}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "README.md"])
def test_a_folder_where_a_file_should_be(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "inner").mkdir(parents=True)
    refused(lambda: save(build(num_classes=2), tmp_path), f"{name}: not written")
    assert (tmp_path / name / "inner").is_dir()
    assert not [path.name for path in tmp_path.iterdir() if "unfinished" in path.name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_folder_that_is_not_ours_to_write(tmp_path: Path) -> None:
    save(build(num_classes=2), tmp_path / "model")
    before = files_of(tmp_path / "model")
    (tmp_path / "model").chmod(0o555)
    try:
        refused(lambda: save(build(num_classes=2), tmp_path / "model"), "not written")
        assert files_of(tmp_path / "model") == before
    finally:
        (tmp_path / "model").chmod(0o755)


def test_whoever_may_read_the_config_may_read_the_weights(tmp_path: Path) -> None:
    save(build(num_classes=2), tmp_path)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


def test_a_model_is_saved_over_the_one_it_was_loaded_from(tmp_path: Path) -> None:
    model = build(num_classes=2)
    save(model, tmp_path)
    loaded = load(tmp_path)
    save(loaded, tmp_path)
    video = torch.randint(0, 256, (1, 4, 3, 32, 48), dtype=torch.uint8)
    for other in (loaded, load(tmp_path)):
        torch.testing.assert_close(other(video), model.eval()(video), rtol=0, atol=0)
