"""Scenic's checkpoints: the official weights of ViViT, in flax msgpack.

The architecture is read from the shapes of the weights; keywords give what the shapes leave open.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vivit.config import ModelConfig, Preprocessing
from vivit.errors import UserError, one_line
from vivit.labels import in_words
from vivit.model.vivit import ViViT
from vivit.weights.adapt import Wishes
from vivit.weights.fill import Loaded, build
from vivit.weights.flax_keys import key_map
from vivit.weights.source import Source
from vivit.weights.weight_file import Shape, WeightFile, by

# The clip of all released checkpoints; the number of positions alone does not determine it.
RELEASED_CLIP = (32, 224, 224)  # frames, height, width
# No other released checkpoint has this many classes; configs/epic_kitchens/vivit_large_factorised_encoder.py.
EPIC_HEADS = {"noun": 300, "verb": 97}


def from_scenic(path: str | Path, **overrides: Any) -> ViViT:
    """Load an official checkpoint; the model gives the official code's logits.

    The weights determine most of the architecture. Keywords, fields of `ModelConfig`, give the rest: `image_size`,
    `num_frames` if no temporal encoder of known length determines it, `variant` if there is no class token,
    `attention_order` for factorised self-attention, `heads` to name the parts of one output. The released checkpoints
    need no keyword: their clip of 32 frames of 224 × 224 is known, and so are the verbs and nouns of EPIC-Kitchens.

    Args:
        path: the checkpoint file.
        overrides: fields of `ModelConfig`; those that contradict the weights are refused. `vivit.adapt` changes sizes.

    Raises:
        UserError: the file is not such a checkpoint, a needed keyword is missing (the message names it), or weights and
            keywords contradict each other.
    """
    source = Source.find(Path(path))
    if source.path.is_dir():
        raise UserError(f"{path}: Is a directory; give the checkpoint file")
    fields = {key: value for key, value in overrides.items() if value is not None}
    return _build(source, *_config_of(source.weights, fields)).log()


# Keywords that may ask for a change after loading, instead of describing the weights.
CLASSES = ("num_classes", "heads")
CLIP = ("num_frames", "tubelet_size")
# Which keywords to take as wishes: the first of these where the weights agree with the rest.
WISHES = (
    # Without a size, the weights give a model only if they have the released clip; then every size is a wish.
    ("image_size", *CLIP),
    ("image_size", *CLIP, *CLASSES),
    # Otherwise image_size describes the weights, and as many other keywords do as can.
    (),
    CLASSES,
    CLIP,
    (*CLIP, *CLASSES),
)


def load_file(source: Source, wishes: Wishes) -> tuple[Loaded, Wishes]:
    """As `from_scenic`, but a keyword that contradicts the weights may be a wish, if the weights determine enough.

    Returns:
        The model, and the wishes that remain to be followed.
    """
    keywords = dict(wishes.fields)
    if wishes.counts is not None and len(wishes.counts) > 1:
        keywords.setdefault("heads", wishes.counts)
    refusals: list[UserError] = []
    for names in WISHES:
        try:
            config, notes = _config_of(
                source.weights, {key: value for key, value in keywords.items() if key not in names}
            )
        except UserError as error:
            refusals.append(error)
            continue
        left = {key: value for key, value in keywords.items() if key in names}
        return _build(source, config, notes), replace(wishes, fields=left)
    raise refusals[WISHES.index(())]


def _config_of(file: WeightFile, overrides: dict[str, Any]) -> tuple[ModelConfig, list[str]]:
    """The architecture and notes on what was assumed. Raises UserError if weights and keywords do not give one."""
    if "embedding/kernel" not in file.shapes:
        raise UserError(
            f"{file.source}: no weights of a ViViT under Scenic's names; "
            "other video models are loaded by their folder, and image ViTs by vivit.from_image_vit"
        )
    if unknown := overrides.keys() - ModelConfig.model_fields.keys():
        raise UserError(f"{file.source}: there is no field {sorted(unknown)[0]}")
    try:
        return _read_config(file.shapes, overrides)
    except KeyError as error:
        raise UserError(f"{file.source}: missing: {error.args[0]}") from None
    except (ValidationError, UserError) as error:
        raise UserError(f"{file.source}: {one_line(error)}") from None
    except (ValueError, IndexError, ArithmeticError):
        raise UserError(f"{file.source}: its arrays do not have the shapes of a ViViT") from None


def _build(source: Source, config: ModelConfig, notes: list[str]) -> Loaded:
    preprocessing = Preprocessing.of_crop(config.image_size)
    if config.heads == EPIC_HEADS:
        preprocessing = preprocessing.model_copy(update={"frame_stride": 1})
        notes.append("every frame taken, as EPIC-Kitchens' config has it")
    model, changes = build(config, source.weights, key_map(config), preprocessing=preprocessing)
    notes = [*notes, *changes]
    model.origin = (f"Scenic's {source.called}", *notes)
    return Loaded(model, tuple(notes))


def _read_config(shapes: dict[str, Shape], overrides: dict[str, Any]) -> tuple[ModelConfig, list[str]]:
    """The architecture that shapes and keywords give together, and notes on what was assumed."""
    factorised_encoder = any(name.startswith("SpatialTransformer/") for name in shapes)
    stem = "SpatialTransformer" if factorised_encoder else "Transformer"
    first = f"{stem}/encoderblock_0"
    class_token = "cls" in shapes or "cls_SpatialTransformer" in shapes
    told: dict[str, Any] = {}

    factorised_attention = f"{first}/LayerNorm_time/scale" in shapes
    if factorised_encoder:
        told["variant"] = "factorised_encoder"
        told["temporal_layers"] = count_layers(shapes, "TemporalTransformer")
    elif factorised_attention:
        told["variant"] = "factorised_self_attention"
    elif class_token:
        told["variant"] = "spatiotemporal"
    elif "variant" not in overrides:
        raise UserError(
            "weights without a class token may be of either model: "
            'give variant="spatiotemporal" or variant="factorised_dot_product"'
        )
    elif overrides["variant"] in ("factorised_encoder", "factorised_self_attention"):
        raise UserError(f"variant: the weights are not of a {overrides['variant']} model")
    # Checked first, or a message would name a field of the other variant.
    if "variant" in told and overrides.get("variant", told["variant"]) != told["variant"]:
        raise UserError(f"variant: you gave {overrides['variant']}, but the weights are {told['variant']}")
    if factorised_attention and "attention_order" not in overrides:
        raise UserError('the weights do not determine which attention comes first: give attention_order="time_space"')
    told["pooling"] = "token" if class_token else "mean"

    attention_name = "MultiHeadDotProductAttention_space" if factorised_attention else "MultiHeadDotProductAttention_0"
    told["num_layers"] = count_layers(shapes, stem)
    told["hidden_size"], told["num_heads"], _ = shapes[f"{first}/{attention_name}/query/kernel"]
    _, told["mlp_dim"] = shapes[f"{first}/{'MlpBlock' if factorised_attention else 'MlpBlock_0'}/Dense_0/kernel"]
    _, told["representation_size"] = shapes.get("pre_logits/kernel", (None, None))

    notes = []
    (classes,) = shapes["output_projection/bias"]
    if not classes:
        raise UserError("output_projection/bias: it is empty, so the model has no classes")
    heads = overrides.get("heads")
    if heads is None and "num_classes" not in overrides and classes == sum(EPIC_HEADS.values()):
        told["heads"] = EPIC_HEADS
        notes.append(f"{classes} outputs taken as EPIC-Kitchens' {in_words(EPIC_HEADS)} classes")
    elif heads is None:
        told["num_classes"] = classes
    elif not isinstance(heads, dict) or not all(isinstance(count, int) for count in heads.values()):
        raise UserError(f'heads: give names and class counts, as in {{"noun": 300, "verb": 97}}, not {heads!r}')
    elif heads == EPIC_HEADS and classes == sum(EPIC_HEADS.values()):
        overrides = {**overrides, "heads": EPIC_HEADS}  # in the order of the outputs, whatever order was given
    elif sum(heads.values()) != classes:
        raise UserError(f"heads: {heads} are {sum(heads.values())} classes, but the weights have {classes}")

    *size, _, _ = shapes["embedding/kernel"]  # (t, h, w, C, D), or (h, w, C, D) for single frames
    told["embedding"] = "uniform_frames" if len(size) == 2 else "tubelet"
    told["tubelet_size"] = (1, *size) if len(size) == 2 else tuple(size)
    told.update(_clip_size(shapes, told, overrides, stem, notes))

    config = ModelConfig(**{**told, **overrides})
    for name, value in told.items():
        if name in overrides and getattr(config, name) != value:
            raise UserError(f"{name}: you gave {overrides[name]}, but the weights have {value or 'none'}")
    return config, notes


def _clip_size(
    shapes: dict[str, Shape], told: dict[str, Any], overrides: dict[str, Any], stem: str, notes: list[str]
) -> dict[str, Any]:
    """The clip's frames and picture size, from the number of positions and the keywords."""
    token = told["pooling"] == "token"
    _, positions, _ = shapes[f"{stem}/posembed_input/pos_embedding"]
    positions -= token
    t, h, w = told["tubelet_size"]
    temporal = None
    if told.get("temporal_layers"):
        _, temporal, _ = shapes["TemporalTransformer/posembed_input/pos_embedding"]
        temporal -= token

    image_size = overrides.get("image_size")
    if image_size is None:
        frames, height, width = RELEASED_CLIP
        tubelets = (frames // t, height // h, width // w)
        expected = (tubelets[1] * tubelets[2], tubelets[0]) if temporal else (math.prod(tubelets), None)
        if told["embedding"] == "uniform_frames" or (positions, temporal) != expected:
            raise UserError(
                f"the weights do not determine the picture's height and width ({positions} positions): give image_size"
            )
        image_size = height, width
        notes.append(f"clip taken as {frames} frames of {height} × {width}, as all released checkpoints have")
    image_size = ModelConfig(image_size=image_size, tubelet_size=(1, h, w)).image_size
    places = math.prod(length // part for length, part in zip(image_size, (h, w), strict=True))

    times = temporal
    if stem == "SpatialTransformer":
        if positions != places:
            raise UserError(f"image_size: {by(image_size)} gives {places} positions, but the weights have {positions}")
    else:
        if positions % places:
            raise UserError(
                f"image_size: {by(image_size)} gives {places} positions a frame; the weights have {positions} in all"
            )
        times = positions // places
        if told["embedding"] == "tubelet" and "num_frames" not in overrides and times * t != RELEASED_CLIP[0]:
            notes.append(f"clip of {times * t} frames, from {positions} positions and the picture's size")

    found: dict[str, Any] = {"image_size": image_size}
    if told["embedding"] == "uniform_frames":
        for name in ("num_frames", "sampled_frames"):
            if name not in overrides:
                raise UserError(f"the weights embed single frames but do not determine how to sample them: give {name}")
    elif times is not None:
        found["num_frames"] = times * t
    elif "num_frames" not in overrides:
        raise UserError("the weights have no temporal positions: give num_frames")
    if told["embedding"] == "uniform_frames" and times is not None:
        sampled, *_ = ModelConfig(**{**told, **found, **overrides}).grid
        if sampled != times:
            raise UserError(
                f"sampled_frames: {overrides['sampled_frames']} of {overrides['num_frames']} frames give {sampled} "
                f"temporal positions, but the weights have {times}"
            )
    return found


def count_layers(shapes: dict[str, Shape], stem: str) -> int:
    """Number of blocks in the encoder of this name."""
    return len({name.split("/")[1] for name in shapes if name.startswith(f"{stem}/encoderblock_")})
