"""An image ViT in an ONNX file, found by walking its graph from the picture to the last LayerNorm.

Names in such files depend on the exporter: matrices have none, and old exporters take a LayerNorm or GELU apart. So
this module ignores names, and finds out what a part of the graph does by evaluating it: numbered inputs show where an
attention takes its queries, keys and values from, and the form of GELU is the one whose values the graph gives.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vivit.errors import UserError
from vivit.weights.onnx_graph import SAME_NUMBERS, Graph, Node, UnlikeViT
from vivit.weights.weight_file import OnnxViT

# What moves numbers, and what scales them, between a layer and the attention.
MOVES = {*SAME_NUMBERS, "Transpose", "Split", "Gather", "Slice"}
# What a LayerNorm consists of where the exporter takes it apart.
OF_NORMS = {*SAME_NUMBERS, "ReduceMean", "Sub", "Mul", "Pow", "Add", "Sqrt", "Div", "Reciprocal"}
MOST_LAYERS = 1024
# With weights in half precision, the constants of GELU and the scale of attention are this inexact.
TOLERANCE = 2e-3


class Linear(NamedTuple):
    weight: Tensor  # (out, in)
    bias: Tensor | None
    input: str
    output: str


class Norm(NamedTuple):
    weight: Tensor
    bias: Tensor
    eps: float
    output: str


def open_onnx(path: Path) -> OnnxViT:
    """Open an ONNX file of an image ViT; its queries, keys and values are separate.

    Raises:
        UserError: the file is damaged, or does not hold a supported image ViT; the message says why.
    """
    try:
        return _Walk(Graph(path)).read()
    except UnlikeViT as error:
        raise UserError(f"{path}: not a supported image ViT: {error}") from None
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError):
        # Nodes without the inputs, options or shapes that their kind has; PyTorch's exporters write none.
        raise UserError(f"{path}: not a supported image ViT: its graph is damaged") from None


class _Walk:
    """A walk along the tokens, from the embedding of patches through one layer after the other."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.patches = self._patches()
        self.width, _, *patch = self.graph.constant(self.patches.inputs[1]).shape
        self.patch = (patch[0], patch[1])
        declared = graph.picture_shape
        self.batch = declared[0] or 1 if declared else 1
        self.weights: dict[str, Tensor] = {}

    def read(self) -> OnnxViT:
        tokens = self._first_tokens()
        picture, rows = self._positions(tokens)
        grid = (picture[0] // self.patch[0], picture[1] // self.patch[1])
        extra = len(rows) - math.prod(grid)
        try:  # on the smallest picture, which is much faster, unless the file takes pictures of one size only
            read = self._layers(tokens, (2 * self.patch[0], 2 * self.patch[1]), extra)
        except UnlikeViT:
            read = self._layers(tokens, picture, extra)
        weight, *bias = (self.graph.constant(name) for name in self.patches.inputs[1:] if name)
        self._add("patch_embed.proj", weight, bias[0] if bias else None)
        if extra:
            self.weights["cls_token"] = rows[None, :1].float()  # its position is added already
        self.weights["pos_embed"] = rows[None, extra:].float()
        declared = self.graph.picture_shape[2:]
        return OnnxViT(
            source=str(self.graph.path),
            shapes={name: tuple(value.shape) for name, value in self.weights.items()},
            read=self.weights.__getitem__,
            grid=grid,
            num_heads=read[0],
            activation=read[1],
            norm_eps=read[2],
            picture=(declared[0], declared[1]) if len(declared) == 2 and declared[0] and declared[1] else None,
        )

    def _layers(
        self, tokens: str, picture: tuple[int, int], extra: int
    ) -> tuple[int, Literal["gelu", "gelu_tanh"], float]:
        """Read all layers and the last LayerNorm, as they treat this picture; return heads, activation and epsilon."""
        self.given = self._given(picture)
        self.count = math.prod(self.given[self.patches.outputs[0]].shape[2:]) + extra
        self.given[tokens] = self._zeros()
        heads, activations, eps = set(), set(), set()
        layer = 0
        while (end := self._residual(tokens)) is not None:
            if layer == MOST_LAYERS:
                raise UnlikeViT(f"it has more than {MOST_LAYERS} layers")
            block = f"blocks.{layer}"
            out = self._branch(end[1], f"{block}.attn.proj", f"{block}.ls1.gamma")
            norm = self._norm_before(tokens, f"{block}.norm1")
            heads.add(self._attention(out.input, norm.output, f"{block}.attn"))
            middle = end[0]
            end = self._residual(middle)
            if end is None:
                raise UnlikeViT(f"layer {layer + 1} has no MLP")
            out = self._branch(end[1], f"{block}.mlp.fc2", f"{block}.ls2.gamma")
            other = self._norm_before(middle, f"{block}.norm2")
            activations.add(self._mlp(out, other.output, f"{block}.mlp.fc1"))
            eps |= {norm.eps, other.eps}
            tokens = end[0]
            layer += 1
        eps.add(self._norm_before(tokens, "norm").eps)
        if len(heads) != 1 or len(activations) != 1 or len(eps) != 1:
            raise UnlikeViT("its layers differ in heads, activation or epsilon")
        return heads.pop(), activations.pop(), eps.pop()

    def _zeros(self) -> Tensor:
        """Tokens, of which only the shape matters."""
        return torch.zeros(self.batch, self.count, self.width).double()

    def _add(self, name: str, weight: Tensor, bias: Tensor | None) -> None:
        self.weights[f"{name}.weight"] = _stored(weight)
        self.weights[f"{name}.bias"] = _stored(torch.zeros(len(weight), dtype=weight.dtype) if bias is None else bias)

    def _patches(self) -> Node:
        """The convolution that embeds patches."""
        graph = self.graph
        node = next((node for node in graph.nodes if node.kind == "Conv" and graph.varying_inputs(node)), None)
        if node is None:
            raise UnlikeViT("it has no convolution over patches")
        if graph.root(node.inputs[0]) != graph.picture:
            raise UnlikeViT(f"a {graph.maker(node.inputs[0]).kind} changes the picture before its first layer")
        kernel = graph.constant(node.inputs[1])
        options = node.options
        if kernel.ndim != 4 or kernel.shape[1] != 3:
            raise UnlikeViT(f"its first layer's kernel has the shape {tuple(kernel.shape)}")
        whole = {"strides": list(kernel.shape[2:]), "group": 1}
        if any(options.get(name, value) != value for name, value in whole.items()) or any(options.get("pads", ())):
            raise UnlikeViT("its first layer does not embed adjacent patches")
        return node

    def _given(self, picture: tuple[int, int]) -> dict[str, Tensor]:
        """The picture and its embedded patches, all zero, so that shapes are known."""
        height, width = (length // patch for length, patch in zip(picture, self.patch, strict=True))
        return {
            self.graph.picture: torch.zeros(self.batch, 3, *picture).double(),
            self.patches.outputs[0]: torch.zeros(self.batch, self.width, height, width).double(),
        }

    def _first_tokens(self) -> str:
        """The value that enters the first layer: it is normalised, and the layer's attention is added to it."""
        graph = self.graph
        reached = graph.after(self.patches.outputs)
        for node in graph.nodes:
            for name in node.outputs:
                used_twice = name in reached and graph.root(name) == name and len(graph.users.get(name, ())) > 1
                if used_twice and self._residual(name) and next(self._norms(name), None):
                    return name
        raise UnlikeViT("it has no layer of attention")

    def _positions(self, tokens: str) -> tuple[tuple[int, int], Tensor]:
        """The picture that positions are stored for, and what is added to its tokens: the class token, positions."""
        for picture in self._pictures(tokens):
            given = self._given(picture)
            try:
                rows = self.graph.value(tokens, given)
            except UnlikeViT:
                continue
            patches = self.patches.outputs[0]
            places = math.prod(given[patches].shape[2:])
            if rows.ndim != 3 or rows.shape[2] != self.width:
                continue
            extra = rows.shape[1] - places
            if extra not in (0, 1):
                raise UnlikeViT(f"it has {extra} tokens besides the patches (registers?), and at most one is read")
            numbered = torch.arange(given[patches].numel()).view(given[patches].shape).double()
            moved = (self.graph.value(tokens, given | {patches: numbered}) - rows)[:, extra:]
            if not torch.allclose(moved, numbered.flatten(2).mT, rtol=0, atol=0.1):
                raise UnlikeViT("something other than positions comes before its first layer, such as a norm (CLIP)")
            return picture, rows[0]
        raise UnlikeViT("its positions are not understood")

    def _pictures(self, tokens: str) -> Iterator[tuple[int, int]]:
        """Sizes of pictures to try: a square for as many positions as are stored, and the one that the file takes."""
        graph = self.graph
        before, waiting = set(), [tokens]
        while waiting:
            name = waiting.pop()
            if name not in before:
                before.add(name)
                waiting += graph.makers[name].inputs if name in graph.makers else ()
        for name in sorted(before & graph.initialisers.keys()):
            shape = tuple(graph.initialisers[name].dims)
            for count in (shape[-2], shape[-2] - 1) if len(shape) > 1 and shape[-1] == self.width else ():
                side = math.isqrt(max(count, 0))
                if side > 1 and side**2 == count and side * max(self.patch) <= 1 << 12:
                    yield (side * self.patch[0], side * self.patch[1])
        declared = graph.picture_shape[2:]
        if len(declared) == 2 and declared[0] and declared[1] and max(declared[0], declared[1]) <= 1 << 12:
            yield (declared[0], declared[1])

    def _residual(self, tokens: str) -> tuple[str, str] | None:
        """The sum of tokens and a branch that comes from them, and the branch; None after the last layer."""
        after = None
        for node in self.graph.users.get(tokens, ()):
            if node.kind == "Add":
                after = self.graph.after([tokens]) - {tokens} if after is None else after
                for branch, other in (node.inputs, node.inputs[::-1]):
                    if self.graph.root(other) == tokens and self.graph.root(branch) != tokens and branch in after:
                        return node.outputs[0], branch
        return None

    def _branch(self, name: str, layer: str, scales: str) -> Linear:
        """The layer at a branch's end, and its LayerScale, if there is one."""
        factors: Tensor | None = None
        node = self.graph.maker(name)
        while node.kind == "Mul" and (parts := self._with_constant(node)) is not None:
            name, factor = parts
            factors = factor if factors is None else factors * factor
            node = self.graph.maker(name)
        linear = self._linear(name)
        if linear is None:
            raise UnlikeViT(f"a {node.kind} ends a branch of {layer.partition('.attn')[0].partition('.mlp')[0]}")
        self._add(layer, linear.weight, linear.bias)
        if factors is not None:
            self.weights[scales] = _stored(factors.flatten().expand(len(linear.weight)).clone())
        return linear

    def _with_constant(self, node: Node) -> tuple[str, Tensor] | None:
        """The varying one of two inputs, and the constant other one; None if both vary."""
        varying = self.graph.varying_inputs(node)
        if len(node.inputs) != 2 or len(varying) != 1:
            return None
        (other,) = (name for name in node.inputs if name not in self.graph.varying)
        try:
            return varying[0], self.graph.constant(other)
        except UnlikeViT:  # its shape depends on the picture's
            return None

    def _linear(self, name: str) -> Linear | None:
        """The layer that makes a value; None if something else does."""
        graph = self.graph
        name = graph.root(name)
        node = graph.makers.get(name)
        if node is None or node.kind not in ("Add", "MatMul", "Gemm"):
            return None
        if node.kind == "Add":
            parts = self._with_constant(node)
            inner = None if parts is None else self._linear(parts[0])
            if parts is None or inner is None or inner.bias is not None or parts[1].numel() != len(inner.weight):
                return None
            return inner._replace(bias=parts[1].flatten(), output=name)
        if node.inputs[0] not in graph.varying or any(part in graph.varying for part in node.inputs[1:]):
            return None
        try:
            weight, *bias = (graph.constant(part) for part in node.inputs[1:] if part)
        except UnlikeViT:
            return None
        options = node.options
        if weight.ndim != 2 or options.get("transA") or any(options.get(x, 1.0) != 1.0 for x in ("alpha", "beta")):
            return None
        weight = weight if options.get("transB") else weight.T
        return Linear(weight, bias[0].flatten() if bias else None, node.inputs[0], name)

    def _norm_before(self, tokens: str, name: str) -> Norm:
        """The LayerNorm of these tokens."""
        norm = next(self._norms(tokens), None)
        if norm is None:
            raise UnlikeViT(f"it has no LayerNorm where {name} would be")
        random = torch.randn(self.batch, self.count, self.width, generator=torch.Generator().manual_seed(0)).double()
        random = random * 10 * math.sqrt(norm.eps) + 1  # so small that epsilon matters
        theirs = self.graph.value(norm.output, {**self.given, tokens: random})
        ours = F.layer_norm(random, random.shape[-1:], norm.weight.double(), norm.bias.double(), norm.eps)
        limit = TOLERANCE * float(ours.abs().max().nan_to_num())
        if not torch.allclose(theirs.view_as(ours), ours, rtol=0, atol=limit, equal_nan=True):
            raise UnlikeViT(f"something other than a LayerNorm is where {name} would be")
        self._add(name, norm.weight, norm.bias)
        return norm

    def _norms(self, tokens: str) -> Iterator[Norm]:
        """Candidates for a LayerNorm of these tokens, whole or in parts."""
        graph = self.graph
        for node in graph.users.get(tokens, ()):
            if node.kind == "LayerNormalization" and graph.root(node.inputs[0]) == tokens:
                weight = graph.constant(node.inputs[1])
                bias = graph.constant(node.inputs[2]) if len(node.inputs) > 2 else torch.zeros_like(weight)
                yield Norm(weight, bias, _rounded(node.options.get("epsilon", 1e-5)), node.outputs[0])
        inside, eps = {tokens}, None
        for node in graph.nodes:
            varying = graph.varying_inputs(node)
            if node.kind not in OF_NORMS or not varying or not inside.issuperset(varying):
                continue
            inside.update(node.outputs)
            parts = self._with_constant(node) if node.kind == "Add" else None
            if parts is None:
                continue
            name, bias = parts
            if bias.numel() == 1:
                eps = float(bias)
            elif eps is not None and bias.numel() == self.width:
                scaled = graph.makers.get(graph.root(name))
                factors = self._with_constant(scaled) if scaled is not None and scaled.kind == "Mul" else None
                if factors is not None and factors[1].numel() == self.width:
                    yield Norm(factors[1].flatten(), bias.flatten(), _rounded(eps), node.outputs[0])

    def _numbered(self, linear: Linear, given: dict[str, Tensor]) -> Tensor:
        """Numbers in place of a layer's outputs, in their shape."""
        rows = self.graph.value(linear.input, given).shape[:-1]
        shape = (*rows, len(linear.weight))
        return torch.arange(1, math.prod(shape) + 1).view(shape).double()

    def _attention(self, merged: str, norm: str, block: str) -> int:
        """Read the queries, keys and values of an attention; return the number of its heads.

        merged: the heads' outputs, side by side; norm: the input of their layers.
        """
        graph = self.graph
        mixed = graph.maker(merged)
        while mixed.kind == "Transpose":
            mixed = graph.maker(mixed.inputs[0])
        scale = 1.0
        if mixed.kind == "Attention":  # of operator set 23
            mask, *cache = mixed.inputs[3:] or [""]
            if any(cache) or mixed.options.get("is_causal") or (mask and not self._hides_nothing(mask)):
                raise UnlikeViT(f"{block} has a mask")
            names = dict(zip("qkv", mixed.inputs[:3], strict=True))
            own_scale = mixed.options.get("scale")
        elif mixed.kind == "MatMul":
            scores, values = mixed.inputs
            softmax = graph.maker(scores)
            while softmax.kind == "Where":  # PyTorch's guard against fully masked rows
                makers = [graph.maker(name) for name in graph.varying_inputs(softmax)]
                softmax = next((x for x in makers if x.kind == "Softmax"), makers[0])
            if softmax.kind != "Softmax":
                raise UnlikeViT(f"{block} has a {softmax.kind} where its softmax would be")
            product = graph.maker(softmax.inputs[0])
            while product.kind in ("Mul", "Div", "Add") and len(varying := graph.varying_inputs(product)) == 1:
                (other,) = (name for name in product.inputs if name not in graph.varying)
                if product.kind == "Add":
                    if not self._hides_nothing(other):
                        raise UnlikeViT(f"{block} has a mask or relative positions")
                else:
                    factor = float(graph.value(other, self.given).flatten()[0])
                    scale *= factor if product.kind == "Mul" else 1 / factor
                product = graph.maker(varying[0])
            if product.kind != "MatMul":
                raise UnlikeViT(f"{block} has a {product.kind} before its softmax")
            names = {"q": product.inputs[0], "k": product.inputs[1], "v": values}
            own_scale = None
        else:
            raise UnlikeViT(f"{block} has a {mixed.kind} where its heads' outputs would be")

        layers = {part: self._layer_of(name, norm, f"{block} ({part})") for part, name in names.items()}
        given = {**self.given, norm: self._zeros()}
        numbers = {layer.output: self._numbered(layer, given) for layer in layers.values()}
        found = {}
        for part, name in names.items():
            numbered = graph.value(name, given | numbers)
            ones = graph.value(name, given | {key: torch.ones_like(value) for key, value in numbers.items()})
            if part == "k" and mixed.kind == "MatMul":
                numbered, ones = numbered.mT, ones.mT
            factor = float(ones.flatten()[0])
            places = (numbered / ones).round().long() - 1
            if not torch.allclose(ones, ones.new_tensor(factor)):
                raise UnlikeViT(f"{block} scales its channels by different factors")
            scale *= factor if part != "v" else 1.0
            if part == "v" and not math.isclose(factor, 1.0):
                raise UnlikeViT(f"{block} scales its values")
            found[part] = self._columns(places, len(layers[part].weight), mixed, f"{block} ({part})")
        heads, size = found["q"].shape
        usual = size**-0.5
        if mixed.kind == "Attention":
            scale *= usual if own_scale is None else own_scale
        if any(columns.shape != (heads, size) for columns in found.values()) or heads * size != self.width:
            raise UnlikeViT(f"{block} has other heads for keys or values than for queries")
        if not math.isclose(scale, usual, rel_tol=TOLERANCE):
            raise UnlikeViT(f"{block} scales its scores by {scale:.4g}, not by {usual:.4g}")
        self._check_merge(mixed, merged, heads, size, given | numbers, block)
        for part, columns in found.items():
            rows = columns.flatten()
            bias = layers[part].bias
            self._add(f"{block}.{part}_proj", layers[part].weight[rows], None if bias is None else bias[rows])
        return heads

    def _hides_nothing(self, mask: str) -> bool:
        """Whether a mask lets every token attend to every other: all true, or zeros that are added."""
        if mask in self.graph.varying:
            return False
        value = self.graph.value(mask, self.given)
        return bool(value.all() if value.dtype == torch.bool else not value.any())

    def _columns(self, places: Tensor, width: int, mixed: Node, what: str) -> Tensor:
        """Which of a layer's outputs each head takes, (H, d), from their numbers, (B, H, N, d) or (B · H, N, d)."""
        if mixed.kind == "Attention" and places.ndim == 3:  # (B, N, H · d)
            heads = mixed.options.get("q_num_heads", 1)
            places = places.unflatten(-1, (heads, -1)).transpose(1, 2)
        if places.ndim not in (3, 4) or places.shape[-2] != self.count:
            raise UnlikeViT(f"{what} has the shape {tuple(places.shape)}")
        places = places.reshape(self.batch, -1, *places.shape[-2:])[0]  # of the first picture
        columns = places[:, 0]
        expected = columns[:, None] + width * torch.arange(self.count)[:, None]
        if not torch.equal(places, expected) or columns.min() < 0 or columns.max() >= width:
            raise UnlikeViT(f"{what} does not take each token for itself")
        return columns

    def _check_merge(
        self, mixed: Node, merged: str, heads: int, size: int, given: dict[str, Tensor], block: str
    ) -> None:
        """Check that the heads' outputs stand side by side, head by head."""
        shape = (self.batch, heads, self.count, size)
        numbers = torch.arange(math.prod(shape)).view(shape).double()
        expected = numbers.transpose(1, 2).flatten(2)
        given = {name: value for name, value in given.items() if name not in mixed.outputs}
        for own in (numbers, numbers.flatten(0, 1), expected):
            try:
                theirs = self.graph.value(merged, given | {mixed.outputs[0]: own})
            except UnlikeViT:
                continue
            if theirs.numel() == expected.numel() and torch.equal(theirs.reshape(expected.shape), expected):
                return
        raise UnlikeViT(f"{block} does not put its heads side by side")

    def _layer_of(self, name: str, norm: str, what: str) -> Linear:
        """The layer on the norm's output from which queries, keys or values are taken."""
        while (linear := self._linear(name)) is None:
            node = self.graph.maker(name)
            varying = self.graph.varying_inputs(node)
            scaled = node.kind in ("Mul", "Div") and len(varying) == 1
            if not (scaled or node.kind in MOVES):
                raise UnlikeViT(f"a {node.kind} changes {what} after its layer, such as a norm or rotated positions")
            name = varying[0]
        if self.graph.root(linear.input) != self.graph.root(norm):
            raise UnlikeViT(f"{what} is not computed from the layer's LayerNorm")
        return linear

    def _mlp(self, out: Linear, norm: str, layer: str) -> Literal["gelu", "gelu_tanh"]:
        """Read the first layer of an MLP; return the form of GELU between it and `out`."""
        graph = self.graph
        found: dict[str, Linear] = {}
        waiting, seen = [out.input], set()
        while waiting:
            name = graph.root(waiting.pop())
            if name in seen:
                continue
            seen.add(name)
            if (linear := self._linear(name)) is not None:
                found[name] = linear
            else:
                waiting += graph.varying_inputs(graph.maker(name))
        if len(found) != 1 or (first := next(iter(found.values()))).weight.shape != out.weight.T.shape:
            raise UnlikeViT(f"{layer.removesuffix('.fc1')} is not two layers of one width (SwiGLU?)")
        if graph.root(first.input) != graph.root(norm):
            raise UnlikeViT(f"{layer} does not take the layer's LayerNorm")
        self._add(layer, first.weight, first.bias)
        given = {**self.given, norm: self._zeros()}
        numbers = self._numbered(first, given)
        x = torch.linspace(-6, 6, numbers.numel()).double().view_as(numbers)
        try:
            theirs = graph.value(out.input, given | {first.output: x}).reshape(x.shape)
        except UnlikeViT:  # not an operator of a GELU
            theirs = torch.full_like(x, math.inf)
        errors = {
            "gelu": float((theirs - F.gelu(x)).abs().max()),
            "gelu_tanh": float((theirs - F.gelu(x, approximate="tanh")).abs().max()),
        }
        if min(errors.values()) > TOLERANCE:
            raise UnlikeViT(f"{layer.removesuffix('.fc1')} has another activation than GELU")
        return "gelu" if errors["gelu"] < errors["gelu_tanh"] else "gelu_tanh"


def _stored(value: Tensor) -> Tensor:
    """Evaluated numbers are in double precision, whatever the file's are."""
    return value.float() if value.dtype == torch.double else value


def _rounded(eps: float) -> float:
    """Epsilon as it was written: 1e-6 is stored as 9.99999997e-7, and in half precision as 9.54e-7."""
    return float(f"{eps:.3g}")
