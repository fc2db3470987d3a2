"""Image ViTs of Google, Scenic, transformers and timm, each read as a ViViT of one frame."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from vivit.config import ModelConfig
from vivit.errors import UserError, one_line
from vivit.model.vivit import ViViT
from vivit.weights import flax_keys, huggingface
from vivit.weights.fill import build
from vivit.weights.keymap import ROW, Block, Layout, Rule, absent, module, position_grid, torch_block
from vivit.weights.processors import pixel_scaling, read_processor
from vivit.weights.scenic import count_layers
from vivit.weights.source import CONFIG_FILE, Source
from vivit.weights.weight_file import OnnxViT, Shape, WeightFile, by

# Google's public ViT files number the parts of a block differently from Scenic's checkpoints.
GOOGLE_BLOCK: dict[str, tuple[str, flax_keys.Part]] = {
    "LayerNorm_0": ("norm1", flax_keys.norm),
    "MultiHeadDotProductAttention_1": ("attn", flax_keys.attention),
    "LayerNorm_2": ("norm2", flax_keys.norm),
    "MlpBlock_3/Dense_0": ("mlp.fc1", flax_keys.dense),
    "MlpBlock_3/Dense_1": ("mlp.fc2", flax_keys.dense),
}
# timm's names, which DeiT's and DINO's own files use too; ours are the same.
TIMM_BLOCK: Block = tuple((name, name) for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"))
TIMM_SEPARATE_BLOCK: Block = tuple(
    (("attn.q_proj", "attn.k_proj", "attn.v_proj"), ours) if theirs == "attn.qkv" else (theirs, ours)
    for theirs, ours in TIMM_BLOCK
)
TIMM_SCALES = {"attn.proj": "ls1.gamma", "mlp.fc2": "ls2.gamma"}
# (D, C, h, w) ↔ (D, C, 1, h, w)
IMAGE_KERNEL = Layout(lambda x: (x[:, :, None],), lambda x: (x[:, :, 0],))

# Parts of image models that a video model does not use: classifiers and parts for other tasks.
NOT_TAKEN = (
    *("head/*", "output_projection/*", "head.*", "head_dist.*", "classifier.*", "cls_classifier.*"),
    *("distillation_classifier.*", "decoder.*", "*embeddings.mask_token", "mask_token"),
    *("*embeddings.distillation_token", "dist_token", "*pooler.dense.*"),
)
DISTILLED = "the distillation token is left out: features differ from the image model's"
UNKNOWN_SCALING = "the source does not say how its pixels were normalised; [-1, 1] assumed"
FOLDED = "LayerScale is folded into the layers before it, which gives the same outputs"
REGISTERS = "has register tokens, which video models here do not have; take the same model without registers"
SWIGLU = "has SwiGLU MLPs, which video models here do not have; DINOv2's small, base and large models have none"
# Models with LayerScale, DINOv2 above all, were trained with ImageNet's mean and deviation.
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
IMAGENET_ASSUMED = "the source does not say how its pixels were normalised; ImageNet's mean and deviation assumed"
# DINOv2's positions are for 518 × 518 pixels, as in its last training steps; most of its training and use is at 224².
LARGEST_BY_DEFAULT, USUAL = 448, 224
# Heads of timm's models of each size, which their weights do not determine.
TIMM_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16}


@dataclass(frozen=True)
class ImageViT:
    """An image ViT as a ViViT of one frame."""

    source: Source
    model: ViViT
    notes: tuple[str, ...]
    """What was assumed or left out in reading it, one line each."""
    picture: tuple[int, int]
    """Height and width that a video model has by default."""
    normalises: bool = False
    """Whether the first layer took over the image model's own normalisation of pixels."""

    def first_layers(self, count: Any) -> "ImageViT":
        """The image model's first layers and its last LayerNorm; all of it if it has no more layers than `count`."""
        config = self.model.config
        if not isinstance(count, int) or not 0 < count < config.num_layers:
            return self
        with torch.device("meta"):
            model = ViViT(config.model_copy(update={"num_layers": count}))
        state = self.model.state_dict()
        model.load_state_dict({name: state[name] for name in model.state_dict()}, assign=True)
        note = f"the first {count} of the image model's {config.num_layers} layers"
        return replace(self, model=model.eval(), notes=(*self.notes, note))


def read_image_vit(source: Source, num_heads: int | None = None) -> ImageViT:
    """Read an image ViT of any known kind.

    Args:
        num_heads: the video model's number of heads, if timm's weights leave theirs open. None: 64-wide heads.

    Raises:
        UserError: there is none, or an incomplete one.
    """
    file = source.weights
    names = file.shapes
    try:
        if "embedding/kernel" in names:
            return _from_flax(source)
        if isinstance(file, OnnxViT):
            return _from_onnx(source, file)
        if "patch_embed.proj.weight" in names:
            return _from_timm(source, num_heads)
        if any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in names):
            return _from_transformers(source)
    except ValidationError as error:
        raise UserError(f"{file.source}: not an image ViT: {one_line(error)}") from None
    except KeyError as error:
        raise UserError(f"{file.source}: not an image ViT: {error.args[0]} missing") from None
    except (ValueError, IndexError, ArithmeticError):
        raise UserError(f"{file.source}: not an image ViT: its arrays have other shapes") from None
    raise UserError(f"{file.source}: not an image ViT: no patch embedding under a known name")


def _from_flax(source: Source) -> ImageViT:
    file, shapes = source.weights, source.weights.shapes
    kernel = _kernel(file, "embedding/kernel")
    google = any("MlpBlock_3" in name for name in shapes)
    block = GOOGLE_BLOCK if google else flax_keys.BLOCK
    first = {ours: f"Transformer/encoderblock_0/{theirs}" for theirs, (ours, _) in block.items()}
    width, heads, _ = shapes[f"{first['attn']}/query/kernel"]
    _, mlp_dim = shapes[f"{first['mlp.fc1']}/kernel"]
    token = "cls" in shapes
    _, positions, _ = shapes["Transformer/posembed_input/pos_embedding"]
    config = ModelConfig(
        **_one_frame(kernel[:2], _square(positions - token, file)),
        pooling="token" if token else "mean",
        hidden_size=width,
        num_layers=count_layers(shapes, "Transformer"),
        num_heads=heads,
        mlp_dim=mlp_dim,
        representation_size=shapes["pre_logits/kernel"][1] if "pre_logits/kernel" in shapes else None,
    )
    rules = [
        *flax_keys.embedding(single_frames=True),
        *flax_keys.encoder("Transformer", "cls", "encoder.", config.grid, config, block),
        *flax_keys.dense("pre_logits", "representation"),
    ]
    ambiguous = "taken as an image ViT; for a video model of uniformly sampled frames give sampled_frames"
    return _image_vit(source, config, rules, [] if google else [ambiguous])


def _from_transformers(source: Source) -> ImageViT:
    file, shapes, path = source.weights, source.weights.shapes, source.folder / CONFIG_FILE
    if not source.has_config:
        raise UserError(f"{path}: No such file, and {file.source} does not determine the heads, GELU and epsilon")
    theirs = source.config
    prefix, todays = huggingface.names_of(file)
    dinov2 = f"{prefix}encoder.layer.0.layer_scale1.lambda1" in shapes
    if theirs.get("model_type") == "dinov2_with_registers" or f"{prefix}embeddings.register_tokens" in shapes:
        raise UserError(f"{file.source}: {REGISTERS}")
    if theirs.get("use_swiglu_ffn"):
        raise UserError(f"{file.source}: {SWIGLU}")
    kernel = _kernel(file, f"{prefix}embeddings.patch_embeddings.projection.weight")
    _, positions, _ = shapes[f"{prefix}embeddings.position_embeddings"]
    distilled = f"{prefix}embeddings.distillation_token" in shapes
    grid = _grid(theirs.get("image_size"), kernel[2:], path) or _square(positions - 1 - distilled, file)
    pooler = shapes.get(f"{prefix}pooler.dense.weight") if theirs.get("pooler_act", "tanh") == "tanh" else None
    fields = huggingface.encoder_fields(theirs, path)
    if dinov2:  # its config has a ratio in place of the MLP's width
        fields["mlp_dim"] = shapes[f"{prefix}encoder.layer.0.mlp.fc1.weight"][0]
    config = ModelConfig(
        **_one_frame(kernel[2:], grid),
        **fields,
        representation_size=pooler[0] if pooler else None,
    )
    rules = huggingface.key_map(
        config,
        prefix,
        todays=todays,
        dinov2=dinov2,
        qkv_bias=theirs.get("qkv_bias", True),
        left_out=int(distilled),
        kernel=IMAGE_KERNEL,
    )
    notes = [DISTILLED] if distilled else []
    return _image_vit(source, config, rules, notes, read_processor(source.folder), layer_scale=dinov2)


def _from_timm(source: Source, num_heads: int | None) -> ImageViT:
    file, shapes = source.weights, source.weights.shapes
    kernel = _kernel(file, "patch_embed.proj.weight")
    _, positions, _ = shapes["pos_embed"]
    distilled = "dist_token" in shapes
    if "reg_token" in shapes or "register_tokens" in shapes:
        raise UserError(f"{file.source}: {REGISTERS}")
    if "blocks.0.mlp.w12.weight" in shapes or _halves(shapes):
        raise UserError(f"{file.source}: {SWIGLU}")
    token = "cls_token" in shapes
    # The class token of some models has no position.
    placed_token = token and math.isqrt(positions) ** 2 != positions
    grid = _square(positions - placed_token - distilled, file)
    about = source.config if source.has_config else {}
    name = str(about.get("architecture"))
    num_heads = next((heads for size, heads in TIMM_HEADS.items() if f"_{size}_" in name), num_heads)
    hidden_size = kernel[0]
    notes = []
    if num_heads is None:
        num_heads = max(hidden_size // 64, 1)
        notes.append(f"{num_heads} heads assumed, which the weights leave open; num_heads sets them")
    config = ModelConfig(
        **_one_frame(kernel[2:], grid),
        pooling="token" if token else "mean",
        hidden_size=hidden_size,
        num_layers=len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
        num_heads=num_heads,
        mlp_dim=shapes["blocks.0.mlp.fc1.weight"][0],
        activation=_timm_activation(about, source.folder / CONFIG_FILE),
        representation_size=shapes["pre_logits.fc.weight"][0] if "pre_logits.fc.weight" in shapes else None,
    )
    fused = "blocks.0.attn.qkv.weight" in shapes
    bias = f"blocks.0.attn.{'qkv' if fused else 'q_proj'}.bias" in shapes
    scales = TIMM_SCALES if "blocks.0.ls1.gamma" in shapes else None
    block = TIMM_BLOCK if fused else TIMM_SEPARATE_BLOCK
    rules = [
        *_timm_tokens(config, placed_token, int(distilled)),
        *_timm_layers(config, block, bias, scales),
        *module("pre_logits.fc", "representation"),
    ]
    wanted = about.get("pretrained_cfg", about)
    processor = None
    if isinstance(wanted, dict) and "mean" in wanted and "std" in wanted:
        processor = (source.folder / CONFIG_FILE, {"image_mean": wanted["mean"], "image_std": wanted["std"]})
    notes += [DISTILLED] if distilled else []
    return _image_vit(source, config, rules, notes, processor, layer_scale=scales is not None)


def _from_onnx(source: Source, file: OnnxViT) -> ImageViT:
    shapes = file.shapes
    kernel, token = shapes["patch_embed.proj.weight"], "cls_token" in shapes
    scales = TIMM_SCALES if "blocks.0.ls1.gamma" in shapes else None
    config = ModelConfig(
        **_one_frame(kernel[2:], file.grid),
        pooling="token" if token else "mean",
        hidden_size=kernel[0],
        num_layers=len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
        num_heads=file.num_heads,
        mlp_dim=shapes["blocks.0.mlp.fc1.weight"][0],
        activation=file.activation,
        norm_eps=file.norm_eps,
    )
    rules = [*_timm_tokens(config, placed_token=False), *_timm_layers(config, TIMM_SEPARATE_BLOCK, True, scales)]
    # The Hub's folders have the graph in onnx/, below the processor's config.
    processor = read_processor(source.folder) or read_processor(source.folder.parent)
    image = _image_vit(source, config, rules, [], processor, layer_scale=scales is not None)
    if file.picture is None or any(length % part for length, part in zip(file.picture, kernel[2:], strict=True)):
        return image
    return replace(image, picture=file.picture)


def _timm_tokens(config: ModelConfig, placed_token: bool, left_out: int = 0) -> list[Rule]:
    """placed_token: whether the class token has a position. left_out: positions of tokens that our models lack."""
    rules = [*module("patch_embed.proj", "embedding", layout=IMAGE_KERNEL)]
    places: tuple[str, ...] = ("encoder.positions.embedding",)
    if config.pooling == "token":
        rules.append(Rule(("cls_token",), ("encoder.positions.class_token",), ROW))
        class_position = ("encoder.positions.class_position",)
        if placed_token:
            places = (*class_position, *places)
        else:
            rules.append(Rule((), class_position, absent(config.hidden_size)))
    return [*rules, Rule(("pos_embed",), places, position_grid(config.grid, placed_token, left_out))]


def _timm_layers(config: ModelConfig, block: Block, bias: bool, scales: dict[str, str] | None) -> list[Rule]:
    layers = [
        rule
        for i in range(config.num_layers)
        for rule in torch_block(f"blocks.{i}", block, f"encoder.blocks.{i}", config, bias, scales)
    ]
    return [*layers, *module("norm", "encoder.norm")]


def _halves(shapes: dict[str, Shape]) -> bool:
    """Whether the first MLP's hidden units are two halves of a gated unit."""
    first, second = shapes["blocks.0.mlp.fc1.weight"], shapes.get("blocks.0.mlp.fc2.weight", (0, 0))
    return first[0] == 2 * second[-1]


def _timm_activation(about: dict[str, Any], config: Path) -> Any:
    arguments = about.get("model_args")
    layer = arguments.get("act_layer", "gelu") if isinstance(arguments, dict) else "gelu"
    if layer not in ("gelu", "gelu_tanh"):
        raise UserError(f"{config}: act_layer {layer!r} is not supported; gelu and gelu_tanh are")
    return layer


def _image_vit(
    source: Source,
    config: ModelConfig,
    rules: Sequence[Rule],
    notes: Sequence[str],
    processor: tuple[Path, dict[str, Any]] | None = None,
    layer_scale: bool = False,
) -> ImageViT:
    """Build the model.

    processor: file and content of the config that says how the image model normalises pixels; None if there is none.
    """
    model, changes = build(config, source.weights, rules, not_needed=NOT_TAKEN, fresh=huggingface.HEAD)
    notes = [*notes, *changes]
    if layer_scale:
        notes.append(FOLDED)
    if processor is None and layer_scale:
        processor = (source.path, IMAGENET)
        notes.append(IMAGENET_ASSUMED)
    elif processor is None and "embedding/kernel" not in source.weights.shapes:
        notes.append(UNKNOWN_SCALING)
    normalises = processor is not None and _take_over_scaling(model, *pixel_scaling(*processor))
    picture = config.image_size
    if max(picture) > LARGEST_BY_DEFAULT:
        height, width = (max(USUAL // length, 1) * length for length in config.tubelet_size[1:])
        picture = (height, width)
        notes.append(f"pictures of {by(picture)} by default, not {by(config.image_size)}; image_size sets others")
    return ImageViT(source, model, tuple(notes), picture, normalises)


@torch.no_grad()
def _take_over_scaling(model: ViViT, scales: list[float], offsets: list[float]) -> bool:
    """Fold the image model's normalisation, p · scale + offset for pixels p in [0, 255], into its first layer.

    Pixels of the video model are x = p / 127.5 − 1, so p = 127.5 (x + 1). Returns whether the layer changed.
    """
    scale = torch.tensor(scales, dtype=torch.float64) * 127.5
    offset = torch.tensor(offsets, dtype=torch.float64) + scale
    if torch.allclose(scale, torch.ones_like(scale), atol=1e-4) and offset.abs().max() < 1e-4:
        return False
    kernel = model.embedding.weight.double()  # (D, C, 1, h, w)
    model.embedding.bias.copy_(model.embedding.bias + torch.einsum("dcthw,c->d", kernel, offset))
    model.embedding.weight.copy_(kernel * scale.view(1, -1, 1, 1, 1))
    return True


def _kernel(file: WeightFile, name: str) -> Shape:
    """The shape of the kernel that embeds patches."""
    if len(file.shapes[name]) != 4:
        raise UserError(f"{file.source}: a video model, not an image ViT")
    return file.shapes[name]


def _one_frame(patch: Sequence[int], grid: tuple[int, int]) -> dict[str, Any]:
    """Fields of a ViViT of one frame; its head has one class and stays unused."""
    height, width = (number * length for number, length in zip(grid, patch, strict=True))
    return {"num_frames": 1, "tubelet_size": (1, *patch), "image_size": (height, width), "num_classes": 1}


def _grid(image_size: Any, patch: Shape, config: Path) -> tuple[int, int] | None:
    """The grid for an image_size of transformers, one number or two; None if there is none."""
    if image_size is None:
        return None
    sizes = [image_size] * 2 if isinstance(image_size, int) else image_size
    if not isinstance(sizes, list) or len(sizes) != 2 or not all(isinstance(length, int) for length in sizes):
        raise UserError(f"{config}: image_size {image_size!r} is neither a number nor a height and a width")
    return sizes[0] // patch[0], sizes[1] // patch[1]


def _square(positions: int, file: WeightFile) -> tuple[int, int]:
    side = math.isqrt(max(positions, 0))
    if side * side != positions or not side:
        raise UserError(f"{file.source}: its {positions} positions do not form a square picture")
    return side, side
