"""The graph of an ONNX file: opened safely, and evaluated in parts. Needs the package onnx.

Only plain operators of PyTorch's exports are known here. Floats are evaluated in double precision, whatever the graph's
own types are.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from vivit.errors import UserError
from vivit.weights.weight_file import size_of

# Far above any ViT, so that a hostile file cannot claim all time or memory.
MOST_NODES, MOST_NUMBERS = 50_000, 1 << 28
# Operators that leave each number as it is, and the order of the numbers.
SAME_NUMBERS = {"Identity", "Cast", "CastLike", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
# Operators whose inputs after the first give a shape or places; all other inputs carry the numbers themselves.
FIRST_INPUT_ALONE = {
    *("Reshape", "Expand", "Slice", "Gather", "Split", "Squeeze", "Unsqueeze", "Resize", "ReduceMean", "CastLike"),
    *("Dropout", "Tile", "Pad"),
}
NO_INPUT = {"Shape", "Size", "ConstantOfShape", "Range"}
# How the names of quantised and fused operators begin.
QUANTISED = ("Quantize", "Dequantize", "QLinear", "MatMulInteger", "ConvInteger", "DynamicQuantize", "MatMulNBits")


class UnlikeViT(Exception):
    """The graph is not that of a supported image ViT; the message says why."""


class Node(NamedTuple):
    kind: str
    """ONNX's name of the operator."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: Mapping[str, Any]


class Graph:
    """The nodes in order, the node that makes each value, and the constants."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            UserError: it is damaged.
            UnlikeViT: its graph does not consist of plain operators on one picture.
        """
        self.path = path
        model = _parse(path)
        graph = model.graph
        self.initialisers = {tensor.name: tensor for tensor in graph.initializer}
        self._constants: dict[str, Tensor] = {}
        self.nodes = [
            Node(node.op_type, tuple(node.input), tuple(node.output), _options(node))
            for node in graph.node
            if _is_plain(node)
        ]
        pictures = [value for value in graph.input if value.name not in self.initialisers]
        if len(pictures) != 1:
            raise UnlikeViT(f"it has {len(pictures)} inputs, not one picture")
        self.picture = pictures[0].name
        self.picture_shape = tuple(
            length.dim_value if length.HasField("dim_value") else None
            for length in pictures[0].type.tensor_type.shape.dim
        )
        self.makers: dict[str, Node] = {}
        known = {"", self.picture, *self.initialisers}
        for node in self.nodes:
            if not known.issuperset(node.inputs) or not known.isdisjoint(node.outputs):
                raise UnlikeViT("its nodes are not in order")
            known.update(name for name in node.outputs if name)
            self.makers |= {name: node for name in node.outputs if name}
        self.users: dict[str, list[Node]] = {}
        for node in self.nodes:
            if node.kind not in SAME_NUMBERS:
                for name in {self.root(name) for name in carriers(node)}:
                    self.users.setdefault(name, []).append(node)
        self.varying = self.after([self.picture])
        """Values whose numbers, not only whose shape, depend on the picture."""

    def root(self, name: str) -> str:
        """The value that has the same numbers in the same order, before any change of shape or type."""
        while (node := self.makers.get(name)) is not None and node.kind in SAME_NUMBERS:
            name = node.inputs[0]
        return name

    def maker(self, name: str) -> Node:
        """The node that makes the root of a value. Raises UnlikeViT if it is an input or a constant."""
        node = self.makers.get(self.root(name))
        if node is None:
            raise UnlikeViT(f"{name} is not computed from the picture")
        return node

    def after(self, names: Iterable[str]) -> set[str]:
        """These values, and all others whose numbers depend on theirs."""
        reached = set(names)
        for node in self.nodes:
            if not reached.isdisjoint(carriers(node)):
                reached.update(node.outputs)
        return reached

    def varying_inputs(self, node: Node) -> list[str]:
        return [name for name in carriers(node) if name in self.varying]

    def constant(self, name: str) -> Tensor:
        """The numbers of a value that does not depend on the picture, in the file's own type if they are stored so."""
        if name in self.varying:
            raise UnlikeViT(f"{name} is not constant")
        root = name
        while root not in self.initialisers and self.makers[root].kind == "Identity":
            root = self.makers[root].inputs[0]
        return self._stored(root) if root in self.initialisers else self.value(name, {})

    def value(self, name: str, given: Mapping[str, Tensor]) -> Tensor:
        """Evaluate a value, given others.

        Raises:
            UnlikeViT: it depends on the picture in another way, or on an unknown operator.
        """
        values = dict(given)
        waiting = [name]
        while waiting:
            wanted = waiting[-1]
            if wanted in values:
                waiting.pop()
                continue
            if wanted in self.initialisers:
                stored = self._stored(wanted)
                values[wanted] = stored.double() if stored.is_floating_point() else stored
                continue
            node = self.makers.get(wanted)
            if node is None:
                raise UnlikeViT(f"{name} depends on the picture")
            missing = [name for name in node.inputs if name and name not in values]
            if missing:
                waiting += missing
                continue
            results = _run(node, [values[name] if name else None for name in node.inputs])
            values |= dict(zip(node.outputs, results, strict=False))
            if wanted not in values:
                raise UnlikeViT(f"{node.kind} makes no {wanted}")
        return values[name]

    def _stored(self, name: str) -> Tensor:
        if name not in self._constants:
            self._constants[name] = _numbers(self.initialisers[name], self.path)
        return self._constants[name]


def carriers(node: Node) -> Sequence[str]:
    """The inputs of a node whose numbers it uses."""
    if node.kind in NO_INPUT:
        return ()
    return node.inputs[:1] if node.kind in FIRST_INPUT_ALONE else node.inputs


def _parse(path: Path) -> onnx.ModelProto:
    size_of(path)
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except Exception:  # protobuf's errors have no common class
        raise UserError(f"{path}: not an ONNX file, or incomplete") from None
    if not model.graph.node:
        raise UserError(f"{path}: not an ONNX file: it has no graph")
    if len(model.graph.node) > MOST_NODES:
        raise UnlikeViT(f"it has {len(model.graph.node)} nodes")
    return model


def _is_plain(node: onnx.NodeProto) -> bool:
    if node.op_type.startswith(QUANTISED):
        raise UnlikeViT("it is quantised; export it in float32 or float16")
    if node.domain not in ("", "ai.onnx"):
        raise UnlikeViT(f"it has nodes of {node.domain}; take the file as PyTorch exported it, before optimisers")
    return True


def _options(node: onnx.NodeProto) -> dict[str, Any]:
    try:
        return {option.name: onnx.helper.get_attribute_value(option) for option in node.attribute}
    except ValueError:
        raise UnlikeViT(f"{node.op_type} has an option that is not understood") from None


def _numbers(tensor: onnx.TensorProto, path: Path) -> Tensor:
    """A stored array. Raises UserError if it is damaged, of an unknown type, or in a file elsewhere."""
    size = math.prod(tensor.dims)
    if any(length < 0 for length in tensor.dims) or size > MOST_NUMBERS:
        raise UserError(f"{path}: {tensor.name}: damaged")
    try:
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            array = _outside(tensor, path, size, kind)
        else:
            array = onnx.numpy_helper.to_array(tensor)
    except UserError:
        raise
    except Exception:  # onnx and NumPy raise many kinds on damaged arrays
        raise UserError(f"{path}: {tensor.name}: damaged") from None
    if array.dtype.name == "bfloat16":  # unknown to NumPy
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8 or array.dtype.kind == "u":
        raise UserError(f"{path}: {tensor.name} holds {array.dtype}, which is not read; export in float32 or float16")
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))


def _outside(tensor: onnx.TensorProto, path: Path, size: int, kind: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array from the file that holds the model's data, which must lie in the model's folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    file = path.parent / location
    folder = path.parent.resolve()
    if not location or not file.resolve().is_relative_to(folder):
        raise UserError(f"{path}: {tensor.name}: its data, in {location!r}, are outside the model's folder; not read")
    if not file.is_file():
        raise UserError(f"{path}: {file}, which holds its data, is missing")
    offset, length = int(entries.get("offset", 0)), size * kind.itemsize
    if int(entries.get("length", length)) != length or offset < 0 or offset + length > size_of(file):
        raise UserError(f"{path}: {tensor.name}: {file} does not hold it whole")
    return np.fromfile(file, kind, size, offset=offset).reshape(tuple(tensor.dims))


def _run(node: Node, inputs: list[Tensor | None]) -> tuple[Tensor, ...]:
    operator = OPERATORS.get(node.kind)
    if operator is None:
        raise UnlikeViT(f"its {node.kind} is not understood")
    try:
        if _size(node, inputs) > MOST_NUMBERS:
            raise UnlikeViT(f"a {node.kind} makes too many numbers")
        result = operator(node, *inputs)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError):
        raise UnlikeViT(f"a {node.kind} does not fit its inputs") from None
    return result if isinstance(result, tuple) else (result,)


def _size(node: Node, inputs: Sequence[Tensor | None]) -> int:
    """An upper bound on how many numbers a node makes."""
    # Shapes are broadcast by NumPy: PyTorch would import SymPy for it, which takes a second.
    if node.kind == "ConstantOfShape":
        return math.prod(_ints(inputs[0]))
    if node.kind == "Expand":
        assert inputs[0] is not None
        return math.prod(np.broadcast_shapes(inputs[0].shape, _ints(inputs[1])))
    if node.kind == "Range":
        start, end, step = (_number(value) for value in inputs)
        return math.ceil(abs((end - start) / step))
    if node.kind == "Resize":
        return math.prod(_target(node, *inputs))
    if node.kind == "Gather":
        assert inputs[0] is not None and inputs[1] is not None
        return inputs[0].numel() * inputs[1].numel()
    shapes = [value.shape for value in inputs if value is not None]
    if node.kind in ELEMENTWISE or node.kind == "Div":
        return math.prod(np.broadcast_shapes(*shapes))
    return sum(math.prod(shape) for shape in shapes)


def _ints(values: Tensor | Sequence[int] | None) -> list[int]:
    if isinstance(values, Tensor):
        return [int(value) for value in values.flatten().tolist()]
    return [int(value) for value in values or ()]


def _number(value: Tensor | None) -> float:
    assert value is not None
    return float(value.flatten()[0])


def _axes(node: Node, given: Tensor | None) -> list[int]:
    """Axes are an option in older operator sets and an input in newer ones."""
    return _ints(node.options.get("axes") if given is None else given)


def _reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    lengths = _ints(shape)
    if not node.options.get("allowzero"):
        lengths = [x.shape[i] if length == 0 else length for i, length in enumerate(lengths)]
    return x.reshape(lengths)


def _squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    lengths = _axes(node, axes)
    return x.squeeze(tuple(lengths)) if lengths else x.squeeze()


def _unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    places = _axes(node, axes)
    rank = x.ndim + len(places)
    for axis in sorted(axis % rank for axis in places):
        x = x.unsqueeze(axis)
    return x


def _slice(
    node: Node, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    first, last = (_ints(bounds.clamp(-MOST_NUMBERS, MOST_NUMBERS)) for bounds in (starts, ends))  # "to the end"
    places, every = _ints(axes) or list(range(len(first))), _ints(steps) or [1] * len(first)
    for start, end, axis, step in zip(first, last, places, every, strict=True):
        x = x[(slice(None),) * (axis % x.ndim) + (slice(start, end, step),)]
    return x


def _gather(node: Node, x: Tensor, places: Tensor) -> Tensor:
    axis = node.options.get("axis", 0) % x.ndim
    chosen = x.index_select(axis, places.flatten() % x.shape[axis])
    return chosen.reshape((*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))


def _split(node: Node, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = node.options.get("axis", 0)
    sizes = _ints(lengths if lengths is not None else node.options.get("split"))
    return x.split(sizes or math.ceil(x.shape[axis] / len(node.outputs)), axis)


def _divide(node: Node, x: Tensor, y: Tensor) -> Tensor:
    whole = not x.is_floating_point() and not y.is_floating_point()
    return torch.div(x, y, rounding_mode="trunc" if whole else None)


def _cast(node: Node, x: Tensor) -> Tensor:
    kind = onnx.helper.tensor_dtype_to_np_dtype(node.options["to"])
    if kind.kind == "b":
        return x.bool()
    return x.long() if kind.kind in "iu" else x.double()


def _reduce_mean(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    places = _axes(node, axes) or list(range(x.ndim))
    return x.mean(dim=places, keepdim=bool(node.options.get("keepdims", 1)))


def _shape(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[node.options.get("start", 0) : node.options.get("end")], dtype=torch.long)


def _of_shape(node: Node, shape: Tensor) -> Tensor:
    value = node.options.get("value")
    number = 0.0 if value is None else onnx.numpy_helper.to_array(value).item()
    return torch.full(_ints(shape), number, dtype=torch.double if isinstance(number, float) else None)


def _constant(node: Node) -> Tensor:
    ((name, value),) = node.options.items()
    if name == "value":
        array = torch.from_numpy(np.array(onnx.numpy_helper.to_array(value)))
        return array.double() if array.is_floating_point() else array
    return torch.tensor(value, dtype=torch.double if "float" in name else torch.long)


def _layer_norm(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if node.options.get("axis", -1) not in (-1, x.ndim - 1):
        raise UnlikeViT("a norm over more than the channels")
    return F.layer_norm(x, x.shape[-1:], weight, bias, node.options.get("epsilon", 1e-5))


def _target(node: Node, x: Tensor | None, *others: Tensor | None) -> list[int]:
    assert x is not None
    if len(others) > 2 and others[2] is not None:
        return _ints(others[2])
    assert others[1] is not None
    return [math.floor(length * scale) for length, scale in zip(x.shape, others[1].tolist(), strict=True)]


def _resize(node: Node, x: Tensor, *others: Tensor | None) -> Tensor:
    target = _target(node, x, *others)
    if target == list(x.shape):
        return x
    way, place = node.options.get("mode", b"nearest"), node.options.get("coordinate_transformation_mode", b"half_pixel")
    mode = {b"cubic": "bicubic", b"linear": "bilinear"}[way]
    if way == b"cubic" and not math.isclose(node.options.get("cubic_coeff_a", -0.75), -0.75):
        raise UnlikeViT("its positions are resized in a way that PyTorch does not support")
    corners = {b"half_pixel": False, b"pytorch_half_pixel": False, b"align_corners": True}[place]
    if target[:2] != list(x.shape[:2]):
        raise UnlikeViT("its positions are resized over more than height and width")
    antialias = bool(node.options.get("antialias", 0))
    return F.interpolate(x, target[2:], mode=mode, align_corners=corners, antialias=antialias)


def _gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.options.get("approximate", b"none").decode())


def _same(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An operator without options."""
    return lambda node, *inputs: function(*inputs)


ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Pow": torch.pow,
    "Equal": torch.eq,
    "Where": torch.where,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Max": torch.maximum,
    "Min": torch.minimum,
}
OPERATORS: dict[str, Callable[..., Any]] = {
    **{kind: _same(function) for kind, function in ELEMENTWISE.items()},
    **{
        kind: _same(function)
        for kind, function in {
            "Sqrt": torch.sqrt,
            "Erf": torch.erf,
            "Tanh": torch.tanh,
            "Sigmoid": torch.sigmoid,
            "Reciprocal": torch.reciprocal,
            "Neg": torch.neg,
            "Floor": torch.floor,
            "Ceil": torch.ceil,
            "Not": torch.logical_not,
            "IsNaN": torch.isnan,
        }.items()
    },
    "Identity": lambda node, x: x,
    "Dropout": lambda node, x, *others: x,
    "CastLike": lambda node, x, like: x,
    "Cast": _cast,
    "Constant": _constant,
    "ConstantOfShape": _of_shape,
    "Concat": lambda node, *parts: torch.cat(parts, dim=node.options["axis"]),
    "Div": _divide,
    "Expand": lambda node, x, shape: x.expand(np.broadcast_shapes(x.shape, _ints(shape))),
    "Flatten": lambda node, x: x.reshape(math.prod(x.shape[: node.options.get("axis", 1)]), -1),
    "Gather": _gather,
    "Gelu": _gelu,
    "LayerNormalization": _layer_norm,
    "ReduceMean": _reduce_mean,
    "Range": lambda node, *bounds: torch.arange(*(bound.item() for bound in bounds)),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Size": lambda node, x: torch.tensor(x.numel()),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": lambda node, x: x.permute(node.options.get("perm", list(range(x.ndim))[::-1])),
    "Unsqueeze": _unsqueeze,
}
