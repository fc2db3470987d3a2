"""The model that training starts from: new, or with the weights of a video model or an image ViT."""

from dataclasses import replace
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from vivit.config import SIZES, SUFFIXES, ModelConfig
from vivit.data.datasets import VideoSet
from vivit.data.names import shortened
from vivit.errors import UserError, one_line
from vivit.inference.features import AttentiveProbe, LinearProbe, TemporalPart, TrainedPart, factorised_encoder_of
from vivit.model.vivit import FactorisedEncoder, ViViT
from vivit.training.optim import Schedule
from vivit.training.recipe import Recipe
from vivit.training.recipes import RECIPES, default_recipe, recipes_like
from vivit.weights.adapt import Wishes, fit
from vivit.weights.fill import Loaded
from vivit.weights.image_sources import read_image_vit
from vivit.weights.image_vit import new_video_model
from vivit.weights.source import Source
from vivit.weights.store import load_video_model

SIZE = ("hidden_size", "num_layers", "num_heads", "mlp_dim")
CLIP = ("num_frames", "frame_stride", "image_size", "resize")
# Fields without effect on a probe; values other than these are reported.
WITHOUT_EFFECT = {"layer_decay": 1.0, "stochastic_depth": 0.0, "position_std": 0.02}
# Model fields that some Scenic checkpoints do not store.
TOLD_TO_SCENIC = ("variant", "num_frames", "image_size", "tubelet_size", "attention_order", "sampled_frames")
# With fewer videos than this, a model with more parameters than this should not be trained from scratch.
FEW_VIDEOS, SMALL_MODEL = 10_000, 5_000_000


def build_model(recipe: Recipe, train_set: VideoSet, init: str | None, data_name: str) -> Loaded:
    """The model of a run before its first step, on the CPU, in train mode; random weights use torch's generator.

    A video model sets the variant and sizes, and the clip and preprocessing unless the recipe sets them; positions are
    resized for another clip. A head is kept if it has the data's classes, in any order; otherwise it is new.

    An image ViT (paper, section 3.4) becomes a factorised encoder, or the variant that the recipe names. Its tubelets
    have two frames by default, with the image kernel at the central one. If the spatial encoder is frozen, the temporal
    encoder starts as a copy of its last layers. A probe has no temporal encoder, which would stay random.

    Regularisation rates and the adapter always come from the recipe.

    Args:
        init: any source that `vivit.load` or `vivit.from_image_vit` takes; None trains from scratch.
        data_name: the name of the data in the model's `origin`.

    Returns:
        The model, and one line for each assumption or change.

    Raises:
        UserError: the source is unreadable or does not fit the recipe, or the recipe contradicts itself.
    """
    if init is None:
        if recipe.freeze_spatial:
            raise UserError(
                "freeze_spatial: from scratch, the spatial encoder would stay random; give --init an image ViT or a "
                "factorised encoder (docs/weights.md says where to find them)"
            )
        if recipe.probe:
            raise UserError(
                "probe: from scratch, the encoder would stay random; give --init a ViViT or an image ViT "
                "(docs/weights.md says where to find them)"
            )
        model, notes = _from_scratch(recipe, train_set)
    else:
        fields = recipe.config_fields(train_set.labels.multi_label)
        source = Source.find(init, sampled=fields.get("sampled_frames") is not None)
        start = _from_image_vit if source.kind == "image ViT" else _from_video_model
        model, notes = start(recipe, source, Wishes.of(fields, train_set.labels.classes))
    num_videos = len(train_set.videos)
    epochs = Schedule.planned(recipe, num_videos).epochs
    how_long = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    labelled = f"trained on {num_videos} videos of {train_set.labels}"
    what = (
        labelled if train_set.labels.heads else f"pretrained on {num_videos} videos without labels, so without a head"
    )
    model.origin = (*model.origin, f"{what} ({data_name}), in a run of {how_long}")
    return Loaded(model.train(), notes)


def start_lines(start: Loaded, recipe: Recipe, init: str | None, num_videos: int) -> list[str]:
    """Sentences that say what training starts from and why, including the notes of `start`.

    Args:
        start: the result of `build_model`.
        num_videos: the number of videos to train on.
    """
    model = start.model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = f"{parameters / 1e6:.1f} M parameters" if parameters >= 100_000 else f"{parameters:,} parameters"
    origin = "from scratch" if init is None else f"starting from {init}"
    lines = [
        _recipe_in_words(recipe, init),
        f"{model.config.variant.replace('_', ' ')} of {size}, {origin}",
        *start.notes,
    ]
    if part := part_of(recipe):
        count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        lines.append(f"{recipe.frozen} trains {part.called}, {count:,} parameters; {parameters - count:,} are frozen")
    if recipe.probe and (idle := [name for name, value in WITHOUT_EFFECT.items() if getattr(recipe, name) != value]):
        lines.append(f"without effect on a probe: {', '.join(idle)}")
    labelled = bool(model.config.class_counts)
    if labelled and init is None and num_videos < FEW_VIDEOS and parameters > SMALL_MODEL:
        lines.append(
            f"from scratch on {num_videos} videos a model of {size} learns little: give --init a pretrained ViViT or "
            "image ViT (docs/weights.md says where to find them), or use --recipe demo, which is small"
        )
    return lines


def part_of(recipe: Recipe) -> type[TrainedPart] | None:
    """The part of the model that the recipe trains on features; None if it trains the whole model."""
    if recipe.freeze_spatial:
        return TemporalPart
    return {None: None, "linear": LinearProbe, "attentive": AttentiveProbe}[recipe.probe]


def freeze(model: ViViT, part: type[TrainedPart]) -> TrainedPart:
    """Freeze everything that features depend on, in place, and return the rest of the model, to be trained.

    Gowda et al. 2023 (arXiv 2306.04822) lose no accuracy by freezing a spatial encoder if the temporal encoder starts
    well (`start_temporal_as_spatial`) and follows an adapter (`ModelConfig.adapter_size`).

    Raises:
        UserError: the part follows the spatial encoder, and the model is not a factorised encoder with temporal layers.
    """
    try:
        for frozen in part.frozen(model):
            frozen.requires_grad_(False)
        return part(model)
    except UserError as error:
        raise UserError(f"freeze_spatial: {error}") from None


@torch.no_grad()
def _start_probe(model: ViViT, recipe: Recipe) -> str:
    """Reinitialise a probe's heads and attentive pooling, in place; return a sentence that says so."""
    for parameter in model.heads.parameters():
        nn.init.zeros_(parameter)
    if recipe.probe == "attentive" and model.pooler is not None:
        model.pooler.initialise()
        return "the probe starts anew: attentive pooling and heads"
    return "the probe starts anew: heads of zeros"


def start_temporal_as_spatial(model: ViViT) -> str:
    """Initialise a new temporal encoder, in place, as a copy of the spatial encoder's last layers.

    Temporal blocks copy spatial ones, the last from the last and so on; if there are more temporal than spatial blocks,
    the first temporal ones stay as they are.

    Returns:
        What was done, in words.

    Raises:
        UserError: the model is not a factorised encoder with temporal layers.
    """
    try:
        encoder = factorised_encoder_of(model)
    except UserError as error:
        raise UserError(f"freeze_spatial: {error}") from None
    assert encoder.temporal is not None
    pairs = list(zip(reversed(encoder.temporal.blocks), reversed(encoder.spatial.blocks), strict=False))
    for block, source in pairs:
        block.load_state_dict(source.state_dict())
    encoder.temporal.norm.load_state_dict(encoder.spatial.norm.state_dict())
    return f"the last {len(pairs)} temporal layers start as copies of the last spatial ones"


def _from_scratch(recipe: Recipe, train_set: VideoSet) -> Loaded:
    heads = train_set.labels.counts
    try:
        config = recipe.build_config(heads, train_set.labels.multi_label)
        model = ViViT(config, classes=train_set.labels.classes, preprocessing=recipe.build_preprocessing())
    except ValidationError as error:
        raise UserError(one_line(error)) from None
    except ValueError as error:
        raise UserError(str(error)) from None
    model.initialise(position_std=recipe.position_std)
    return Loaded(model, (_clip_in_words(model, recipe),))


def _from_video_model(recipe: Recipe, source: Source, wishes: Wishes) -> Loaded:
    init, wanted = source.name, wishes.fields
    named = _fields_of_name(recipe.model)
    told: dict[str, Any] = {}
    if source.kind == "file":  # a Scenic checkpoint; folders describe their model completely
        told = {field: wanted.get(field) for field in TOLD_TO_SCENIC}
        told["variant"] = wanted.get("variant", named.get("variant"))
    start, notes = load_video_model(source, Wishes.of(told))
    theirs, labels, dtype = start.config, start.classes or {}, start.embedding.weight.dtype
    expected = {field: getattr(theirs, field) for field in ("variant", "tubelet_size", *SIZE)}
    if theirs.embedding == "uniform_frames" and named:  # names cannot express it
        expected["tubelet_size"] = (named["tubelet_size"][0], *theirs.tubelet_size[1:])
    tubelet = "tubelets of {} × {} × {}".format(*theirs.tubelet_size)
    _refuse_another_name(recipe, named, expected, f"{init} is a {theirs.variant.replace('_', ' ')} model", tubelet)
    start.origin = start.origin or (f"ViViT {source.called}",)
    try:
        model, changes = fit(start.float(), wishes)
    except UserError as error:
        raise UserError(f"{init}: {error}") from None

    lines, kept = [], []
    if dtype != torch.float32:
        lines.append(f"weights converted from {str(dtype).removeprefix('torch.')} to float32")
    for head, names in (wishes.classes or {}).items():
        parameters = list(model.heads[head].parameters())
        if recipe.probe:
            continue  # they are reinitialised
        if labels.get(head) == names:
            kept.append(f"{_head(head)} kept: its {len(names)} classes are those of the data")
        elif head not in labels and theirs.class_counts.get(head) == len(names) and any(map(torch.any, parameters)):
            for parameter in parameters:
                nn.init.zeros_(parameter)
            lines.append(
                f"new {_head(head)}: the weights have {len(names)} classes too, but without names "
                "(vivit convert SOURCE OUT --classes NAMES adds names)"
            )
    if recipe.probe:
        lines.append(_start_probe(model, recipe))
    _set_preprocessing(model, recipe)
    model.origin = (*model.origin, *lines)
    clip = _clip_in_words(model, recipe, from_start=CLIP)
    return Loaded(model, (*notes, *changes, *lines, *kept, clip))


def _from_image_vit(recipe: Recipe, source: Source, wishes: Wishes) -> Loaded:
    init, wanted = source.name, wishes.fields
    named = _fields_of_name(recipe.model)
    image = read_image_vit(source, wanted.get("num_heads", named.get("num_heads")))
    image = image.first_layers(wanted.get("num_layers"))
    theirs = image.model.config
    tubelet = (named.get("tubelet_size", (2,))[0], *theirs.tubelet_size[1:])
    decided = {field: getattr(theirs, field) for field in (*SIZE, "activation", "norm_eps")}
    expected = {"variant": named.get("variant", "factorised_encoder"), "tubelet_size": tubelet, **decided}
    patch = f"patches of {tubelet[1]} × {tubelet[2]}"
    _refuse_another_name(recipe, named, expected, f"{init} is an image ViT", patch)
    shape = wanted.get("tubelet_size")
    if isinstance(shape, list | tuple) and tuple(shape[1:]) != tubelet[1:]:
        raise UserError(f"{init}: tubelet_size: you gave {shape}, but the image model's patches are {tubelet[1:]}")
    for field, value in decided.items():
        if wanted.get(field) not in (None, value):
            raise UserError(f"{init}: {field}: you gave {wanted[field]}, but the image model has {value}")
    fields = {"variant": expected["variant"], "tubelet_size": tubelet, **wanted}
    if recipe.probe and fields["variant"] == "factorised_encoder" and fields.setdefault("temporal_layers", 0):
        raise UserError("temporal_layers: an image ViT has none, so a probe would see random ones; leave it out")
    model, notes = new_video_model(image, replace(wishes, fields=fields))
    if isinstance(model.encoder, FactorisedEncoder) and (temporal := model.encoder.temporal) is not None:
        for fresh in (temporal.positions.embedding, temporal.positions.class_position):
            if fresh is not None:
                nn.init.normal_(fresh, std=recipe.position_std)
    if recipe.freeze_spatial:
        notes = (*notes, start_temporal_as_spatial(model))
    _set_preprocessing(model, recipe)
    return Loaded(model, (*notes, _clip_in_words(model, recipe, from_start=("image_size",))))


def _fields_of_name(model: str | None) -> dict[str, Any]:
    """Variant, tubelet and sizes from a model's name; empty without a name."""
    if model is None:
        return {}
    try:
        # The name's own tubelet might not divide the default image size, which does not matter here.
        config = ModelConfig.named(model, tubelet_size=(1, 1, 1))
    except ValueError as error:
        raise UserError(f"model: {error}") from None
    patch, frames = map(int, model.split("-")[2].split("x"))
    return {"tubelet_size": (frames, patch, patch), **{field: getattr(config, field) for field in ("variant", *SIZE)}}


def _refuse_another_name(
    recipe: Recipe, named: dict[str, Any], expected: dict[str, Any], source: str, what: str
) -> None:
    """Raise UserError if the source has another model than the recipe names; the message says which."""
    if all(value == expected[field] for field, value in named.items() if field not in recipe.architecture):
        return
    frames, height, width = expected["tubelet_size"]
    size = next((name for name, fields in SIZES.items() if all(expected[x] == fields[x] for x in SIZE)), None)
    suffix = next(suffix for suffix, variant in SUFFIXES.items() if variant == expected["variant"])
    or_give = ""
    if size is not None and height == width and not recipe.architecture.keys() & expected.keys():
        or_give = f", or give {'-'.join(filter(None, ('vivit', size, f'{height}x{frames}', suffix)))}"
    raise UserError(
        f"model: you gave {recipe.model}, but {source} with {expected['num_layers']} layers, {expected['num_heads']} "
        f"heads, width {expected['hidden_size']}, MLP {expected['mlp_dim']}, {what}: leave --model out "
        f"(--recipe finetune has none){or_give}"
    )


def _set_preprocessing(model: ViViT, recipe: Recipe) -> None:
    given = {name: getattr(recipe, name) for name in ("frame_stride", "frame_rate", "resize")}
    model.preprocessing = model.preprocessing.model_copy(
        update={field: value for field, value in given.items() if value is not None}
    )


def _clip_in_words(model: ViViT, recipe: Recipe, from_start: tuple[str, ...] = ()) -> str:
    """Describe a clip and what decided it; the weights may decide the fields of CLIP in `from_start`."""
    sources: dict[str, list[str]] = {}
    for field in CLIP:
        if getattr(recipe, field) is not None or field in recipe.architecture:
            source = "from the recipe"
        elif field == "resize" and (field not in from_start or recipe.image_size is not None):
            source = "in proportion to the crop"
        else:
            source = "from the weights" if field in from_start else "by default"
        sources.setdefault(source, []).append(field)
    config, preprocessing = model.config, model.preprocessing
    height, width = config.image_size
    rate = f"{preprocessing.frame_rate:g} frames a second and " if preprocessing.frame_rate else ""
    origins = "; ".join(f"{', '.join(fields)} {source}" for source, fields in sources.items())
    return (
        f"clips of {config.num_frames} frames at {rate}a stride of {preprocessing.frame_stride}, {height} × {width} "
        f"pixels, cropped from a shorter side of {preprocessing.resize}: {origins}"
    )


def _head(name: str) -> str:
    return "head" if name == "classes" else f"head {name}"


def _recipe_in_words(recipe: Recipe, init: str | None) -> str:
    """Describe the recipe by the named one that it equals or differs from in the fewest fields."""
    named = recipes_like(recipe)
    default = default_recipe(init, recipe.probe) if named is RECIPES else next(iter(named))
    changes = {
        name: [field for field in type(recipe).model_fields if getattr(recipe, field) != getattr(other, field)]
        for name, other in named.items()
    }
    name = min(changes, key=lambda name: (len(changes[name]), name != default))
    with_what = "with --probe" if recipe.probe else "without --init" if init is None else "with --init"
    why = f", the default{f' {with_what}' if named is RECIPES else ''}" if name == default else ""
    changed = [
        field if isinstance(value := getattr(recipe, field), dict) else f"{field} {value}" for field in changes[name]
    ]
    return f"recipe {name}{why}{f'; changed: {shortened(changed)}' if changed else ''}"
