"""ViViT of `transformers`: read folders of `VivitForVideoClassification` and `VivitModel`, and write the former.

transformers has the spatio-temporal model with a class token, and none of the other variants.
"""

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vivit.config import ModelConfig, Preprocessing
from vivit.errors import UserError, one_line
from vivit.files import as_json, as_weights, make_folder, write_files
from vivit.labels import ONLY_HEAD, fault_in
from vivit.model.vivit import ViViT
from vivit.weights.card import CARD_FILE, is_written_by_hand
from vivit.weights.fill import Loaded, build
from vivit.weights.keymap import ROW, SAME, Block, Layout, Rule, module, position_grid, torch_block, write
from vivit.weights.processors import PROCESSOR_FILES, pixel_scaling, processor_of, read_processor, read_resize
from vivit.weights.source import CONFIG_FILE, WEIGHTS_FILE, Source
from vivit.weights.weight_file import WeightFile

HEAD = ("heads.classes.weight", "heads.classes.bias")
# transformers' names for the forms of GELU → ours; the first name of each form is the one we write.
ACTIVATIONS = {
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_python": "gelu",
}
# The names in a block of the published checkpoints, which transformers still writes → ours.
PUBLISHED_BLOCK: Block = (
    ("layernorm_before", "norm1"),
    (("attention.attention.query", "attention.attention.key", "attention.attention.value"), "attn.qkv"),
    ("attention.output.dense", "attn.proj"),
    ("layernorm_after", "norm2"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
)
# The names of its current modules → ours.
TODAYS_BLOCK: Block = (
    ("layernorm_before", "norm1"),
    (("attention.q_proj", "attention.k_proj", "attention.v_proj"), "attn.qkv"),
    ("attention.o_proj", "attn.proj"),
    ("layernorm_after", "norm2"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
)
# DINOv2 has other names; its attention has been renamed too.
DINOV2_BLOCK, DINOV2_TODAYS_BLOCK = (
    (
        ("norm1", "norm1"),
        *((theirs, ours) for theirs, ours in block if ours.startswith("attn")),
        ("norm2", "norm2"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
    )
    for block in (PUBLISHED_BLOCK, TODAYS_BLOCK)
)
DINOV2_SCALES = {"attn.proj": "layer_scale1.lambda1", "mlp.fc2": "layer_scale2.lambda1"}


def key_map(
    config: ModelConfig,
    prefix: str = "vivit.",
    *,
    todays: bool = False,
    dinov2: bool = False,
    qkv_bias: bool = True,
    left_out: int = 0,
    kernel: Layout = SAME,
) -> list[Rule]:
    """transformers' names ↔ ours, for its ViViT and its image ViTs, whose names differ only in the prefix.

    Args:
        prefix: prefix of all names except the head's.
        todays: use the names of its current modules, not those of the published checkpoints.
        dinov2: use the names of DINOv2, and fold its LayerScale into the layers before it.
        left_out: number of positions after the class token's that our models do not have.
        kernel: layout of the embedding's kernel.
    """
    layers, block = ("layers", TODAYS_BLOCK) if todays else ("encoder.layer", PUBLISHED_BLOCK)
    if dinov2:
        layers, block = "encoder.layer", DINOV2_TODAYS_BLOCK if todays else DINOV2_BLOCK
    scales = DINOV2_SCALES if dinov2 else None
    return [
        *module(f"{prefix}embeddings.patch_embeddings.projection", "embedding", layout=kernel),
        Rule((f"{prefix}embeddings.cls_token",), ("encoder.positions.class_token",), ROW),
        Rule(
            (f"{prefix}embeddings.position_embeddings",),
            ("encoder.positions.class_position", "encoder.positions.embedding"),
            position_grid(config.grid, True, left_out),
        ),
        *(
            rule
            for i in range(config.num_layers)
            for rule in torch_block(f"{prefix}{layers}.{i}", block, f"encoder.blocks.{i}", config, qkv_bias, scales)
        ),
        *module(f"{prefix}layernorm", "encoder.norm"),
        *module(f"{prefix}pooler.dense", "representation"),
        *module("classifier", "heads.classes"),
    ]


def from_huggingface(source: str | Path) -> ViViT:
    """Load a ViViT of transformers; the model gives the same logits for the same pixels.

    Reads the key names of the published checkpoints (google/vivit-b-16x2-kinetics400) and those of the current modules,
    in one file or in several. A `VivitModel` has no head and gets a fresh one, which is logged.

    Args:
        source: a folder, or an id on the Hub.

    Raises:
        UserError: no such folder or id, or not a complete ViViT of transformers; the message names the file.
    """
    return load_folder(Source.find(source)).log()


def load_folder(source: Source) -> Loaded:
    """As `from_huggingface`."""
    path, theirs = source.folder / CONFIG_FILE, source.config
    if theirs.get("model_type") != "vivit":
        raise UserError(f"{path}: model_type {theirs.get('model_type')!r}, not a ViViT of transformers")
    file = source.weights
    prefix, todays = names_of(file)
    id2label = theirs.get("id2label")
    head = file.shapes.get("classifier.weight")
    if head is None:
        num_classes = len(id2label) if isinstance(id2label, dict) and id2label else 2
    else:
        num_classes = head[0] if head else 0
    try:
        config = ModelConfig(
            num_frames=theirs.get("num_frames", 32),
            image_size=theirs.get("image_size", 224),
            tubelet_size=theirs.get("tubelet_size", (2, 16, 16)),
            num_classes=num_classes,
            **encoder_fields(theirs, path),
            dropout=theirs.get("hidden_dropout_prob", 0.0),
            attention_dropout=theirs.get("attention_probs_dropout_prob", 0.0),
        )
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error)}") from None
    notes: list[str] = []
    classes = _classes(id2label, num_classes, notes)
    if head is None:
        notes.append(f"no head in the weights: a fresh one of {num_classes} classes")
    preprocessing = _preprocessing(source.folder, config, notes)
    model, changes = build(
        config,
        file,
        key_map(config, prefix, todays=todays, qkv_bias=theirs.get("qkv_bias", True)),
        not_needed=["pooler.dense.*"] if head is None else [],
        fresh=HEAD if head is None else [],
        classes=None if classes is None else {ONLY_HEAD: classes},
        preprocessing=preprocessing,
    )
    notes += changes
    model.origin = (f"transformers' ViViT {source.called}", *notes)
    return Loaded(model, tuple(notes))


def to_huggingface(model: ViViT, folder: str | Path) -> None:
    """Write a folder that `VivitForVideoClassification.from_pretrained` and `VivitImageProcessor` load.

    The keys are those of the published checkpoints, which every version of transformers reads.

    Raises:
        UserError: transformers has no such model (the message names the missing feature), or the folder cannot be
            written.
    """
    config = model.config
    lacking = [
        (config.variant != "spatiotemporal", f"the {config.variant} variant: it has only the spatio-temporal model"),
        (config.embedding != "tubelet", "uniform frame sampling"),
        (config.pooling != "token", "mean pooling: it classifies the class token"),
        (config.attentive_pooling, "attentive pooling"),
        (config.representation_size is not None, "a representation layer before the head"),
        (config.heads is not None, "named heads"),
        (not config.class_counts, "a model without a head"),
    ]
    for lacks, what in lacking:
        if lacks:
            raise UserError(f"transformers' ViViT cannot express {what}; a vivit model folder can")
    names = model.classes[ONLY_HEAD] if model.classes else [f"LABEL_{i}" for i in range(config.num_classes or 0)]
    height, width = config.image_size
    activation = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation)
    folder = Path(folder)
    make_folder(folder)
    theirs = {
        "architectures": ["VivitForVideoClassification"],
        "model_type": "vivit",
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "image_size": height if height == width else [height, width],
        "num_frames": config.num_frames,
        "tubelet_size": list(config.tubelet_size),
        "num_channels": 3,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": activation,
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": True,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
    write_files(
        {
            folder / WEIGHTS_FILE: as_weights(write(model.state_dict(), key_map(config))),
            folder / CONFIG_FILE: as_json(theirs),
            folder / PROCESSOR_FILES[-1]: as_json(processor_of(model)),
        }
    )
    # If an earlier model left this file here, it would be read instead of the new one.
    (folder / PROCESSOR_FILES[0]).unlink(missing_ok=True)
    if not is_written_by_hand(folder):
        (folder / CARD_FILE).unlink(missing_ok=True)


def names_of(file: WeightFile) -> tuple[str, bool]:
    """The prefix of the names in the file, and whether they are the names of the current modules."""
    ends = "embeddings.cls_token"
    prefix = next((name.removesuffix(ends) for name in file.shapes if name.endswith(ends)), "")
    todays = (f"{prefix}layers.", f"{prefix}encoder.layer.0.attention.q_proj.")
    return prefix, any(name.startswith(todays) for name in file.shapes)


def encoder_fields(theirs: dict[str, Any], path: Path) -> dict[str, Any]:
    """The fields of `ModelConfig` in the config of a ViViT or an image ViT of transformers."""
    activation = theirs.get("hidden_act", "gelu_fast" if theirs.get("model_type") == "vivit" else "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise UserError(f"{path}: hidden_act {activation!r} is not supported; {', '.join(ACTIVATIONS)} are")
    return {
        "hidden_size": theirs.get("hidden_size", 768),
        "num_layers": theirs.get("num_hidden_layers", 12),
        "num_heads": theirs.get("num_attention_heads", 12),
        "mlp_dim": theirs.get("intermediate_size", 3072),
        "activation": ACTIVATIONS[activation],
        "norm_eps": theirs.get("layer_norm_eps", 1e-6 if theirs.get("model_type") in ("vivit", "dinov2") else 1e-12),
    }


def _preprocessing(folder: Path, config: ModelConfig, notes: list[str]) -> Preprocessing | None:
    """The preprocessing of the folder's processor; None if there is none."""
    found = read_processor(folder)
    if found is None:
        return None
    file, processor = found
    resize = read_resize(file, processor)
    scales, offsets = pixel_scaling(file, processor)
    ranges = [(offset, offset + 255 * scale) for scale, offset in zip(scales, offsets, strict=True)]
    low, high = max(ranges, key=lambda ends: abs(ends[0] + 1) + abs(ends[1] - 1))  # the channel furthest from [-1, 1]
    if abs(low + 1) > 1e-3 or abs(high - 1) > 1e-3:
        notes.append(
            f"its processor scales pixels to [{low:.3g}, {high:.3g}], ours to [-1, 1]; "
            "the weights are taken as they are, which is right for the official ones"
        )
    try:
        return Preprocessing(resize=max(resize, *config.image_size))
    except ValidationError as error:
        raise UserError(f"{file}: {one_line(error)}") from None


def _classes(id2label: Any, count: int, notes: list[str]) -> list[str] | None:
    """The class names in order; None if there are none, only transformers' LABEL_0, LABEL_1, …, or no usable ones."""
    if not isinstance(id2label, dict):
        return None
    names: list[Any] = [id2label.get(str(i)) for i in range(len(id2label))]
    if all(name == f"LABEL_{i}" for i, name in enumerate(names)):
        return None
    if not all(isinstance(name, str) for name in names):
        if not all(re.fullmatch(r"LABEL_\d+", str(name)) for name in id2label.values()):
            notes.append(f"class names left out: id2label in {CONFIG_FILE} does not number names 0, 1, 2 and so on")
        return None
    if len(names) != count:
        notes.append(f"class names left out: {len(names)} in {CONFIG_FILE}, but {count} classes in the weights")
        return None
    if fault := fault_in(names):
        notes.append(f"class names left out: id2label in {CONFIG_FILE}: {fault}")
        return None
    return names
