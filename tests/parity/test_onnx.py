"""An image ViT read from its ONNX file sees pictures as onnxruntime does."""

import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support import random_weights, refused
from vivit.errors import UserError
from vivit.experiments.focus_vit import focus_vit
from vivit.model.vivit import FactorisedEncoder, ViViT
from vivit.weights.image_vit import from_image_vit

WIDTH, HEADS, LAYERS, PATCH, SIZE = 24, 3, 2, 8, 24
IMAGENET_MEAN, IMAGENET_STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


class Attention(nn.Module):
    """Queries, keys and values fused as in timm, or apart as in transformers."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, width) for width in ([3 * WIDTH] if fused else [WIDTH] * 3))
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.fused = fused
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        if self.fused:
            rows = self.layers[0](x).reshape(batch, count, 3, HEADS, width // HEADS)
            q, k, v = rows.permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (y(x).view(batch, count, HEADS, width // HEADS).transpose(1, 2) for y in self.layers)
        shares = (q @ k.transpose(-2, -1) * (width // HEADS) ** -0.5).softmax(dim=-1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask) if self.fused else shares @ v
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, width))


class Block(nn.Module):
    def __init__(self, fused: bool, scaled: bool, tanh: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn, self.tanh = Attention(fused), tanh
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.scales = nn.Parameter(torch.empty(2, WIDTH)) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attn(self.norm1(x))
        x = x + (attended if self.scales is None else attended * self.scales[0])
        y = self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate="tanh" if self.tanh else "none"))
        return x + (y if self.scales is None else y * self.scales[1])


class PlainViT(nn.Module):
    """An image ViT: (B, 3, H, W) → normalised tokens, (B, 1 + S, D)."""

    def __init__(self, fused: bool = True, scaled: bool = True, tanh: bool = False, tokens: int = 1) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.empty(1, tokens, WIDTH))
        self.places = nn.Parameter(torch.empty(1, tokens + (SIZE // PATCH) ** 2, WIDTH))
        self.blocks = nn.Sequential(*(Block(fused, scaled, tanh) for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        random_weights(self, std=0.3, seed=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        return self.norm(self.blocks(x))


def exported(model: nn.Module, path: Path, *, half: bool = False, **options: Any) -> Path:
    """Export by tracing, PyTorch's old way, which takes less than a second."""
    picture = torch.zeros(1, 3, SIZE, SIZE)
    if half:
        model, picture = model.half(), picture.half()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), (picture,), str(path), input_names=["picture"], dynamo=False, verbose=False, **options
        )
    return path


def frames_seen(model: ViViT, pixels: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 1] → the spatial encoder's tokens, (N, 1 + S, D)."""
    encoder = model.encoder
    assert isinstance(encoder, FactorisedEncoder)
    with torch.no_grad():
        tokens = model.embedding((pixels * 2 - 1)[:, None]).flatten(0, 1)
        return encoder.spatial.encode(encoder.spatial.positions(tokens), len(pixels))


def seen_by_onnx(path: Path | bytes, pixels: Tensor, output: str | None = None) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    (tokens,) = session.run(None if output is None else [output], {name: pixels.numpy()})
    return torch.from_numpy(tokens)


def normalised(pixels: Tensor) -> Tensor:
    return (pixels - IMAGENET_MEAN.view(3, 1, 1)) / IMAGENET_STD.view(3, 1, 1)


def video_model(path: Path, **fields: Any) -> ViViT:
    """A factorised encoder whose temporal indices are single frames."""
    return from_image_vit(
        path, variant="factorised_encoder", num_frames=1, **{"tubelet_size": (1, PATCH, PATCH), **fields}
    )


@pytest.mark.parametrize("opset", [14, 17])  # LayerNorms in parts, and whole
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("scaled", "tanh"), [(True, False), (False, True)])
def test_tokens_are_those_of_onnxruntime(scaled: bool, tanh: bool, fused: bool, opset: int, tmp_path: Path) -> None:
    path = exported(PlainViT(fused, scaled, tanh), tmp_path / "vit.onnx", opset_version=opset)
    model = video_model(path)
    assert (model.config.num_heads, model.config.norm_eps) == (HEADS, 1e-6)
    assert model.config.activation == ("gelu_tanh" if tanh else "gelu")
    pixels = torch.rand(1, 3, SIZE, SIZE)
    wanted = normalised(pixels) if scaled else pixels * 2 - 1
    torch.testing.assert_close(frames_seen(model, pixels), seen_by_onnx(path, wanted), rtol=0, atol=1e-5)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    path = exported(PlainViT(), tmp_path / "vit.onnx", half=True, opset_version=17)
    model = video_model(path)
    assert model.embedding.weight.dtype == torch.float32
    assert any("converted from float16" in line for line in model.origin)
    pixels = torch.rand(1, 3, SIZE, SIZE)
    expected = seen_by_onnx(path, normalised(pixels).half()).float()
    torch.testing.assert_close(frames_seen(model, pixels), expected, rtol=0, atol=0.02)


def test_the_image_model_of_the_experiments_sees_as_onnxruntime_does() -> None:
    try:
        path = focus_vit()
    except UserError as error:
        pytest.skip(str(error))
    model = video_model(path, image_size=518, tubelet_size=(1, 14, 14))
    proto = onnx.load(path)
    for axis in (2, 3):  # a size at which it takes positions as they are stored
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 518
    last = "/backbone/layernorm/Add_1_output_0"
    proto.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    pixels = F.interpolate(torch.rand(1, 3, 70, 70), (518, 518), mode="bilinear")
    expected = seen_by_onnx(proto.SerializeToString(), normalised(pixels), last)
    torch.testing.assert_close(frames_seen(model, pixels), expected, rtol=0, atol=1e-4)


def test_a_mask_that_hides_nothing_is_none_and_any_other_is_refused(tmp_path: Path) -> None:
    count = 1 + (SIZE // PATCH) ** 2
    model = PlainViT()
    pixels = torch.rand(1, 3, SIZE, SIZE)
    for mask in (torch.ones(count, count, dtype=torch.bool), torch.zeros(count, count), torch.eye(count)):
        for block in model.blocks:
            block.get_submodule("attn").mask = mask
        path = exported(model, tmp_path / "vit.onnx", opset_version=17)
        if mask.equal(torch.eye(count)):
            refused(lambda: video_model(path), f"{re.escape(str(path))}.*a mask")  # noqa: B023
        else:
            expected = seen_by_onnx(path, normalised(pixels))
            torch.testing.assert_close(frames_seen(video_model(path), pixels), expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(PlainViT(), tmp_path_factory.mktemp("onnx") / "vit.onnx", opset_version=17)


def test_data_beside_the_file_are_read_from_its_folder_only(honest: Path, tmp_path: Path) -> None:
    path = tmp_path / "model" / "vit.onnx"
    path.parent.mkdir()

    def saved(location: str) -> onnx.ModelProto:
        proto = onnx.load(honest)
        onnx.save(proto, path, save_as_external_data=True, location="vit.data", size_threshold=0)
        proto = onnx.load(path, load_external_data=False)
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                entry.value = location if entry.key == "location" else entry.value
        path.write_bytes(proto.SerializeToString())
        return proto

    saved("vit.data")
    expected = video_model(honest).state_dict()
    spatial = {name: value for name, value in video_model(path).state_dict().items() if "spatial" in name}
    assert spatial and all(torch.equal(value, expected[name]) for name, value in spatial.items())

    data = path.parent / "vit.data"
    (tmp_path / "elsewhere").write_bytes(data.read_bytes())
    for location in ("../elsewhere", str(tmp_path / "elsewhere")):
        saved(location)
        refused(lambda: video_model(path), f"{re.escape(str(path))}.*outside the model's folder")
    saved("vit.data")
    data.write_bytes(data.read_bytes()[:-4])
    refused(lambda: video_model(path), f"{re.escape(str(path))}.*does not hold it whole")
    data.unlink()
    refused(lambda: video_model(path), f"{re.escape(str(path))}.*missing")
    data.symlink_to(tmp_path / "elsewhere")
    refused(lambda: video_model(path), f"{re.escape(str(path))}.*outside the model's folder")


def test_a_file_is_recognised_by_its_content_and_damage_is_refused(honest: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "weights.bin"
    renamed.write_bytes(honest.read_bytes())
    video_model(renamed)
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(honest.read_bytes()[:-1000])
    refused(lambda: video_model(cut), f"{re.escape(str(cut))}: not an ONNX file, or incomplete")
    proto = onnx.load(honest)
    proto.graph.initializer[0].raw_data = b"\x00\x00\xc0\x7f" + proto.graph.initializer[0].raw_data[4:]
    cut.write_bytes(proto.SerializeToString())
    refused(lambda: video_model(cut), f"{re.escape(str(cut))}.*1 of .* numbers is NaN")


def first(graph: onnx.GraphProto, kind: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.op_type == kind)


def matrix(graph: onnx.GraphProto) -> onnx.TensorProto:
    return next(tensor for tensor in graph.initializer if len(tensor.dims) == 2)


DAMAGE: dict[str, tuple[Callable[[onnx.GraphProto], object], str]] = {
    "a node without its inputs": (lambda graph: first(graph, "MatMul").ClearField("input"), ""),
    "a node without its options": (lambda graph: first(graph, "Concat").ClearField("attribute"), ""),
    "nodes out of order": (lambda graph: graph.node.append(graph.node.pop(0)), "not in order"),
    "the same name twice": (lambda graph: graph.node.append(graph.node[0]), "not in order"),
    "an unknown operator": (lambda graph: setattr(first(graph, "LayerNormalization"), "op_type", "Loop"), ""),
    "an operator of another maker": (lambda graph: setattr(graph.node[-1], "domain", "com.microsoft"), "com.microsoft"),
    "quantised": (lambda graph: setattr(first(graph, "Conv"), "op_type", "QLinearConv"), "quantised"),
    "an array cut off": (lambda graph: setattr(matrix(graph), "raw_data", matrix(graph).raw_data[:-4]), "damaged"),
    "an array without end": (lambda graph: matrix(graph).dims.append(1 << 40), "damaged"),
    "another shape": (lambda graph: matrix(graph).dims.reverse(), ""),
    "two pictures": (lambda graph: graph.input.append(graph.output[0]), "2 inputs"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_graph_is_refused_in_one_line(case: str, honest: Path, tmp_path: Path) -> None:
    damage, message = DAMAGE[case]
    proto = onnx.load(honest)
    damage(proto.graph)
    path = tmp_path / "vit.onnx"
    path.write_bytes(proto.SerializeToString())
    refused(lambda: video_model(path), f"{re.escape(str(path))}.*{message}")


def test_without_onnx_a_line_names_the_package(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vivit.weights.onnx_vit", None)
    refused(lambda: video_model(honest), f"{re.escape(str(honest))}.*pip install onnx")


def test_registers_are_refused(tmp_path: Path) -> None:
    path = exported(PlainViT(tokens=3), tmp_path / "vit.onnx", opset_version=17)
    refused(lambda: video_model(path), f"{re.escape(str(path))}.*3 tokens besides the patches")
