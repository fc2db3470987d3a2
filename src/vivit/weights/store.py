"""Model folders: `config.json` (architecture, classes, preprocessing, origin), `model.safetensors` and a card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, FailFast, ValidationError, model_validator

from vivit.config import ModelConfig, Preprocessing
from vivit.errors import UserError, one_line
from vivit.files import Content, as_json, as_text, as_weights, make_folder, write_files
from vivit.labels import Metric
from vivit.model.vivit import ViViT
from vivit.weights import huggingface
from vivit.weights.adapt import Classes, KernelInit, fit, named
from vivit.weights.card import CARD_FILE, card, is_written_by_hand
from vivit.weights.files import open_weights, read_json
from vivit.weights.fill import build
from vivit.weights.hub import find
from vivit.weights.scenic import load_scenic
from vivit.weights.weight_file import WeightFile

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
SCENIC_FILE = "checkpoint"  # as Scenic calls it, in a folder of the model's name
# Of transformers: those whose architecture is an image ViT's.
IMAGE_TYPES = ("vit", "deit", "vit_msn")


class FolderConfig(BaseModel):
    """What `config.json` holds."""

    model_config = ConfigDict(extra="forbid")

    architecture: ModelConfig
    classes: dict[str, Annotated[tuple[str, ...], FailFast()]] | None
    """Head → its labels in order."""
    preprocessing: Preprocessing
    origin: Annotated[tuple[str, ...], FailFast()] = ()
    """Where the weights come from, a line for each step."""

    @model_validator(mode="after")
    def _names_for_every_class(self) -> Self:
        counts = None if self.classes is None else {head: len(names) for head, names in self.classes.items()}
        if counts not in (None, self.architecture.class_counts):
            raise ValueError(f"classes: names for {counts}, but the architecture has {self.architecture.class_counts}")
        return self


def save(
    model: ViViT,
    folder: str | Path,
    *,
    licence: str | None = None,
    data: str | None = None,
    scores: Mapping[Metric, float] | None = None,
    name: str | None = None,
) -> None:
    """Write the model folder; what stood there is replaced whole or not at all, but for a card written by hand.

    Args:
        licence: of the weights, as the Hub names licences, for the model card.
        data: what the model was trained on, for the card.
        scores: metric → value between 0 and 1, for the card.
        name: of the model in the card; the folder's by default.

    Raises:
        UserError: the folder or a file cannot be written, as on a full disk.
    """
    folder = Path(folder)
    make_folder(folder)
    files = {folder / WEIGHTS_FILE: as_weights(model.state_dict()), folder / CONFIG_FILE: config_content(model)}
    if not is_written_by_hand(folder):
        name = name or folder.resolve().name
        files[folder / CARD_FILE] = as_text(card(model, name, licence=licence, data=data, scores=scores))
    write_files(files)


def config_content(model: ViViT) -> Content:
    """The model's config.json."""
    config = FolderConfig(
        architecture=model.config, classes=model.classes, preprocessing=model.preprocessing, origin=model.origin
    )
    return as_json(config.model_dump(mode="json"))


def new_model(folder: Path) -> ViViT:
    """A model as config.json in the folder describes it, with random weights."""
    path = folder / CONFIG_FILE
    config = _folder_config(read_json(path), path)
    model = ViViT(config.architecture, classes=config.classes, preprocessing=config.preprocessing)
    model.origin = config.origin
    return model


def load(
    source: str | Path,
    *,
    tubelet_init: KernelInit = "filter_inflation",
    classes: Classes | None = None,
    **changes: Any,
) -> ViViT:
    """Load a video model of any kind, and fit it to other sizes or classes on request.

    Args:
        source: a model folder or run, a folder of transformers' ViViT, a Scenic checkpoint, or a Hub id.
        tubelet_init, classes, changes: as `vivit.adapt` takes them; for a Scenic checkpoint also what `from_scenic`
            wants to be told.

    Returns:
        The model, in eval mode; `model.report` has a line for each thing that was assumed or changed.

    Raises:
        UserError: nothing there, or not a whole model, or it cannot be changed so; the message names the file.
    """
    path, file = opened(source)
    return load_found(path, file, source, tubelet_init, classes, changes)


def opened(source: str | Path) -> tuple[Path, WeightFile | None]:
    """Where the source is, and its weights where it is one file."""
    path = find(source)
    if path.is_dir() and not (path / CONFIG_FILE).is_file() and (path / SCENIC_FILE).is_file():
        path = path / SCENIC_FILE
    return path, None if path.is_dir() else open_weights(path)


def load_found(
    path: Path,
    file: WeightFile | None,
    source: str | Path,
    tubelet_init: KernelInit,
    classes: Classes | None,
    changes: dict[str, Any],
) -> ViViT:
    """As `load`, of a folder or an open file; `source` is what the user called it."""
    if file is None:
        model = _load_folder(path, source)
    elif path.name == WEIGHTS_FILE and (path.parent / CONFIG_FILE).is_file():
        raise UserError(f"{path}: give the folder, {path.parent}; the weights alone do not tell the model")
    else:
        names = named(classes) or {}
        if len(names) > 1 and changes.get("heads") is None:
            changes = {**changes, "heads": {head: len(labels) for head, labels in names.items()}}
        model, changes = load_scenic(file, changes)
    try:
        return fit(model, tubelet_init=tubelet_init, classes=classes, **changes)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _load_folder(folder: Path, source: str | Path) -> ViViT:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{folder}: no {CONFIG_FILE}; not a model folder")
    content = read_json(path)
    if "model_type" in content and "architecture" not in content:
        if content["model_type"] == "vivit":
            return huggingface.load_folder(folder, source)
        hint = "vivit.from_image_vit and vivit convert make a video model of it"
        if content["model_type"] not in IMAGE_TYPES:
            hint = "of transformers' models only vivit is read, and image ViTs to start from"
        raise UserError(f"{folder}: a {content['model_type']} model; {hint}")
    config = _folder_config(content, path)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise UserError(f"{folder}: no {WEIGHTS_FILE}; not a whole model folder")
    file = open_weights(weights)
    if file.kind != "safetensors":
        raise UserError(f"{weights}: not readable (no safetensors file)")
    return build(
        config.architecture,
        file,
        classes=config.classes,
        preprocessing=config.preprocessing,
        origin=config.origin,
    )


def _folder_config(content: dict[str, Any], path: Path) -> FolderConfig:
    try:
        return FolderConfig.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error)}") from None
