"""Exported models answer as PyTorch does, each run by its own runtime."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch._inductor import config
from torch.onnx._internal.exporter import _onnx_program

import vivit
from tests.support import encode, noisy, random_clips, refused, tiny_model
from vivit.inference import export as module
from vivit.inference import exported
from vivit.inference.export import compare, export
from vivit.inference.exported import ExportedModel
from vivit.labels import by_head
from vivit.weights.describe import describe_source
from vivit.weights.exported import Format, Input, Parity

NAMES: dict[str, Sequence[str]] = {"classes": ["a", "b", "c", "d", "e"]}
VARIANTS: dict[str, dict[str, Any]] = {
    "spatiotemporal": {"variant": "spatiotemporal"},
    "factorised_encoder": {"variant": "factorised_encoder", "temporal_layers": 1},
    "factorised_self_attention": {"variant": "factorised_self_attention"},
    "factorised_dot_product": {
        "variant": "factorised_dot_product",
        "heads": {"verb": 3, "noun": 4},
    },
}
TWO_HEADS: dict[str, Sequence[str]] = {"verb": ["open", "close", "cut"], "noun": ["door", "box", "jar", "lid"]}


def saved(folder: Path, name: str) -> vivit.ViViT:
    fields = VARIANTS[name]
    model = tiny_model(TWO_HEADS if "heads" in fields else NAMES, num_layers=1, **fields)
    vivit.save(model, folder)
    return model


def check(model: vivit.ViViT, folder: Path) -> None:
    """The folder's file, run by its runtime on one clip and on three, gives the model's logits."""
    found = ExportedModel(folder)
    for number in (1, 3):
        clips = ((random_clips(model.config, number, seed=number) + 1) * 127.5).to(torch.uint8)
        expected, logits = by_head(model(clips)), found(clips)
        assert list(logits) == list(expected)
        for head, values in expected.items():
            torch.testing.assert_close(logits[head], values, rtol=1e-4, atol=1e-4)


def take_onnx_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let OpenVINO's models be made of this folder's ONNX file, as they would be: writing it again takes seconds."""

    def copy(model: object, about: object, path: Path, clips: object) -> None:
        for file in folder.glob("model.onnx*"):
            shutil.copy(file, path.parent)

    monkeypatch.setattr(module, "_write_onnx", copy)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_in_onnx_and_openvino(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(tmp_path / "model", name)
    input: Input = "float32" if name == "factorised_self_attention" else "uint8"
    formats: tuple[Format, ...] = ("onnx", "openvino")
    for format in formats:
        parity = export(tmp_path / "model", tmp_path / format, format, input=input)
        assert parity.max_difference < 1e-4 < parity.max_logit
        assert set(parity.same_top1.values()) == {parity.clips}
        assert parity.taken_from == "random noise"
        assert Parity.of(tmp_path / format) == parity
        check(model, tmp_path / format)
        take_onnx_of(tmp_path / "onnx", monkeypatch)
    assert not list(tmp_path.glob("*unfinished*"))


# tests/model/test_export.py has every variant in torch.export.
@pytest.mark.parametrize("format", ["torch-export", "aotinductor"])
def test_formats_that_pytorch_runs(format: Format, tmp_path: Path) -> None:
    if format == "aotinductor" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("there is no C++ compiler")
    model = saved(tmp_path / "model", "factorised_encoder")
    with config.patch({"aot_inductor.compile_wrapper_opt_level": "O0"}):  # compiled sooner
        export(tmp_path / "model", tmp_path / "out", format)
    check(model, tmp_path / "out")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in model/, the same in onnx/, and clip.mp4. Tests must not write to it."""
    folder = tmp_path_factory.mktemp("exported")
    saved(folder / "model", "factorised_encoder")
    (folder / "model" / "answers.json").write_text('{"about": "letters", "unsure_below": 0.999}')
    encode(folder / "clip.mp4", noisy(90))
    export(folder / "model", folder / "onnx", clips=[folder / "clip.mp4"])
    return folder


def test_the_predictor_labels_as_with_the_model_itself(folder: Path) -> None:
    expected = vivit.Predictor(folder / "model", "cpu").predict(folder / "clip.mp4", "2x3")
    found = vivit.Predictor(folder / "onnx").predict(folder / "clip.mp4", "2x3")
    assert [scored.label for scored in found.labels] == [scored.label for scored in expected.labels]
    assert [scored.score for scored in found.labels] == pytest.approx(
        [each.score for each in expected.labels], abs=1e-4
    )
    assert (found.note, found.frames) == (expected.note, expected.frames) and "not sure" in found.note
    assert Parity.of(folder / "onnx").taken_from == "your clips"
    refused(lambda: vivit.Predictor(folder / "onnx", "cuda"), "device: .* CPU")


def test_parity_sees_what_differs(folder: Path) -> None:
    """A report that is always good would be worth nothing."""
    other = vivit.load(folder / "model")
    with torch.no_grad():
        other.get_parameter("heads.classes.bias")[2] += 50
    clips = ((random_clips(other.config, 5) + 1) * 127.5).to(torch.uint8)
    parity = compare(other, ExportedModel(folder / "onnx"), clips, "noise")
    assert parity.max_difference == pytest.approx(50, rel=1e-4)
    right = vivit.load(folder / "model")(clips).argmax(dim=1)
    assert parity.same_top1 == {"classes": int((right == 2).sum())}


def test_the_model_is_described_and_its_fingerprint_is_that_of_the_file(folder: Path, tmp_path: Path) -> None:
    about = dict(describe_source(folder / "onnx"))
    assert about["kind"] == "exported: onnx, takes uint8"
    assert about["parity"] == str(Parity.of(folder / "onnx"))
    assert {"variant", "parameters", "preprocessing", "answers"} <= set(about)
    copy = Path(shutil.copytree(folder / "onnx", tmp_path / "copy"))
    (copy / "parity.json").write_text("{}")
    before = ExportedModel(folder / "onnx").fingerprint()
    assert ExportedModel(copy).fingerprint() == before
    network = onnx.load(copy / "model.onnx")
    network.doc_string = "another"
    onnx.save(network, copy / "model.onnx")
    assert ExportedModel(copy).fingerprint() != before


def test_only_an_exported_model_is_replaced_and_only_on_request(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder / "onnx", tmp_path / "copy"))
    refused(lambda: export(folder / "model", copy), "copy: exists; --overwrite")
    export(folder / "model", copy, "torch-export", overwrite=True)
    assert {path.name for path in copy.iterdir()} == {
        *("answers.json", "config.json", "export.json", "model.pt2", "parity.json")
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "weights").touch()
    refused(lambda: export(folder / "model", tmp_path / "run", overwrite=True), "run: exists, and is not an exported")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "run"]


def test_mistakes_are_one_line_and_leave_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = folder / "model", tmp_path / "out"
    refused(lambda: export(folder / "onnx", out), "onnx: an exported model", "vivit predict")
    refused(lambda: vivit.load(folder / "onnx"), "onnx: an exported model")
    refused(lambda: export(model, out, int8=True), "int8: is for OpenVINO")
    refused(lambda: export(model, out, "openvino", int8=True), "int8: .* --clips")
    refused(lambda: export(model, out, clips=[tmp_path / "none.mp4"]), r"clips: none of .*none\.mp4")
    for damage, pattern in (
        ({"model.onnx": b"nothing"}, r"model\.onnx: cannot be run by onnxruntime"),
        ({"model.onnx": None}, r"no model\.onnx"),
        ({"export.json": b'{"format": "tflite"}'}, r"export\.json: format: "),
        ({"config.json": b"{}"}, r"config\.json: "),
    ):
        copy = Path(shutil.copytree(folder / "onnx", tmp_path / "copy"))
        for name, content in damage.items():
            (copy / name).unlink()
            if content is not None:
                (copy / name).write_bytes(content)
        refused(lambda copy=copy: vivit.Predictor(copy), pattern)  # type: ignore[misc]
        shutil.rmtree(copy)

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(exported.importlib, "import_module", missing)
    refused(lambda: export(model, out), r"onnx needs onnx: pip install 'vivit\[export\]'")
    refused(lambda: vivit.Predictor(folder / "onnx"), r"onnx: .* onnxruntime: pip install 'vivit\[export\]'")
    assert list(tmp_path.iterdir()) == []


def test_weights_above_two_gigabytes_lie_beside_the_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_onnx_program, "_LARGE_MODEL_THRESHOLD", 1000)
    formats: tuple[Format, ...] = ("onnx", "openvino")
    for format in formats:
        export(folder / "model", tmp_path / format, format)
        check(vivit.load(folder / "model"), tmp_path / format)
        take_onnx_of(tmp_path / "onnx", monkeypatch)
    assert (tmp_path / "onnx" / "model.onnx.data").stat().st_size > 1000
    assert {path.name for path in (tmp_path / "openvino").iterdir() if path.stem == "model"} == {
        "model.xml",
        "model.bin",
    }


def test_int8_is_near_float(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_onnx_of(folder / "onnx", monkeypatch)
    parity = export(folder / "model", tmp_path / "int8", "openvino", int8=True, clips=[folder / "clip.mp4"])
    assert 0 < parity.max_difference < 0.1 * parity.max_logit
    assert json.loads((tmp_path / "int8" / "export.json").read_text())["int8"] is True
    assert parity.precision.startswith("int8 (run by openvino")
    assert sys.modules["openvino_telemetry"] is None  # NNCF and OpenVINO send usage data with it
    network = (tmp_path / "int8" / "model.xml").read_text()
    assert network.count('element_type="i8"') >= 6  # the weights of each linear layer of two blocks
