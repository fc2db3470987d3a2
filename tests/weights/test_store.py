import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vivit.config import ModelConfig, Preprocessing
from vivit.errors import UserError
from vivit.model.vivit import ViViT
from vivit.weights import writing
from vivit.weights.store import load, save

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
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


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
    torch.testing.assert_close(loaded(video), model.eval()(video), rtol=0, atol=0)


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
    with pytest.raises(UserError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value)


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
