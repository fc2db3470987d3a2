"""Model folders: `config.json` (architecture, classes, preprocessing, origin), `model.safetensors` and a card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, FailFast, ValidationError, model_validator

from vivit.config import ModelConfig, Preprocessing
from vivit.errors import UserError, one_line
from vivit.model.vivit import ViViT
from vivit.weights import huggingface
from vivit.weights.adapt import Classes, KernelInit, fit
from vivit.weights.card import CARD_FILE, card, is_written_by_hand
from vivit.weights.files import open_weights, read_json
from vivit.weights.fill import build
from vivit.weights.hub import find
from vivit.weights.scenic import load_scenic
from vivit.weights.writing import as_json, make_folder, text, weights, write_files

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


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
    scores: Mapping[str, float] | None = None,
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
    config = FolderConfig(
        architecture=model.config, classes=model.classes, preprocessing=model.preprocessing, origin=model.origin
    )
    files = {
        folder / WEIGHTS_FILE: weights(model.state_dict()),
        folder / CONFIG_FILE: as_json(config.model_dump(mode="json")),
    }
    if not is_written_by_hand(folder):
        name = name or folder.resolve().name
        files[folder / CARD_FILE] = text(card(model, name, licence=licence, data=data, scores=scores))
    write_files(files)


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
    path = find(source)
    if path.is_dir():
        config = path / CONFIG_FILE
        if not config.is_file():
            raise UserError(f"{path}: no {CONFIG_FILE}; not a model folder")
        content = read_json(config)
        if "model_type" in content and "architecture" not in content:
            if content["model_type"] != "vivit":
                raise UserError(
                    f"{path}: a {content['model_type']} model, no video model; "
                    "vivit.from_image_vit and vivit convert make one of an image ViT"
                )
            model = huggingface.load_folder(path, str(source))
        else:
            model = _load_folder(path, content)
    elif path.name == WEIGHTS_FILE and (path.parent / CONFIG_FILE).is_file():
        raise UserError(f"{path}: give the folder, {path.parent}; the weights alone do not tell the model")
    else:
        model, changes = load_scenic(path, changes)
    try:
        return fit(model, tubelet_init=tubelet_init, classes=classes, **changes)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _load_folder(folder: Path, content: dict[str, Any]) -> ViViT:
    path = folder / CONFIG_FILE
    try:
        config = FolderConfig.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error)}") from None
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
