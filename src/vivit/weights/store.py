"""Model folders: `config.json` (architecture, classes, preprocessing, origin), `model.safetensors` and a model card."""

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, ValidationError, model_validator

from vivit.config import ModelConfig, Preprocessing
from vivit.errors import UserError, one_line
from vivit.files import Content, as_json, as_text, as_weights, make_folder, write_files
from vivit.labels import LabelSpace, Metric, fault_in
from vivit.model.vivit import ViViT
from vivit.text import printable
from vivit.weights import huggingface, scenic
from vivit.weights.adapt import Classes, KernelInit, Wishes, fit
from vivit.weights.card import CARD_FILE, card, is_written_by_hand
from vivit.weights.exported import Export
from vivit.weights.files import read_json
from vivit.weights.fill import Loaded, build
from vivit.weights.source import CONFIG_FILE, HUB_FAILURES, IMAGE_TYPES, WEIGHTS_FILE, Source

FORMAT = 2  # of model folders; 1 had other parameter names and no number


class FolderConfig(BaseModel):
    """The content of `config.json`."""

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    architecture: ModelConfig
    classes: dict[str, Annotated[tuple[str, ...], FailFast()]] | None
    """head → its class names in order."""
    preprocessing: Preprocessing
    origin: Annotated[tuple[Annotated[str, AfterValidator(printable)], ...], FailFast()] = ()
    """Where the weights come from, one line per step."""

    @model_validator(mode="after")
    def _names_for_every_class(self) -> Self:
        counts = self.architecture.class_counts
        for names in (self.classes or {}).values():
            if fault := fault_in(names):
                raise ValueError(f"classes: {fault}")
        if self.classes is not None and (named := LabelSpace(self.classes).counts) != counts:
            raise ValueError(f"classes: names for {named}, but the architecture has {counts}")
        return self


def save(
    model: ViViT,
    folder: str | Path,
    *,
    licence: str | None = None,
    data: str | None = None,
    scores: Mapping[Metric, float] | None = None,
    name: str | None = None,
    more: Mapping[str, Content] = MappingProxyType({}),
) -> None:
    """Write a model folder: config.json and model.safetensors, which `vivit.load` reads, and a model card.

    Existing files are replaced all together or not at all; a card written by hand stays.

    Args:
        licence: licence of the weights, as the Hub names licences; this and the following are for the card.
        data: what the model was trained on.
        scores: metric → value between 0 and 1.
        name: the model's name; by default the folder's.
        more: name → content of other files that belong to these weights.

    Raises:
        UserError: the folder or a file cannot be written, as on a full disk.
    """
    folder = Path(folder)
    make_folder(folder)
    files = {folder / WEIGHTS_FILE: as_weights(model.state_dict()), folder / CONFIG_FILE: config_content(model)}
    files |= {folder / file: content for file, content in more.items()}
    if not is_written_by_hand(folder):
        name = name or folder.resolve().name
        files[folder / CARD_FILE] = as_text(card(model, name, licence=licence, data=data, scores=scores))
    write_files(files)


def config_content(model: ViViT) -> Content:
    """The model's config.json. Raises UserError if the class names could not be read back."""
    try:
        config = FolderConfig(
            architecture=model.config,
            classes=None if model.classes is None else dict(model.classes),
            preprocessing=model.preprocessing,
            origin=model.origin,
        )
    except ValidationError as error:
        raise UserError(f"{CONFIG_FILE}: {one_line(error)}") from None
    return as_json(config.model_dump(mode="json"))


def new_model(folder: Path, most: int) -> ViViT:
    """A model as config.json in the folder describes it, with random weights.

    Args:
        most: the most parameters that it may have.

    Raises:
        UserError: config.json is missing or damaged, or describes a larger model.
    """
    path = folder / CONFIG_FILE
    config = folder_config(folder)
    size = config.architecture

    def make() -> ViViT:
        return ViViT(size, classes=config.classes, preprocessing=config.preprocessing, origin=config.origin)

    # Each layer has more parameters than the width, and takes time to make even on the meta device.
    if (size.num_layers + (size.temporal_layers or 0)) * size.hidden_size <= most:
        with suppress(RuntimeError):  # sizes beyond any tensor
            with torch.device("meta"):
                parameters = sum(parameter.numel() for parameter in make().parameters())
            if parameters <= most:
                return make()
    raise UserError(f"{path}: describes a model of more than {most:,} parameters")


def folder_config(folder: Path) -> FolderConfig:
    """The config.json of a model folder. Raises UserError if it is missing or damaged."""
    path = folder / CONFIG_FILE
    return _folder_config(read_json(path), path)


def push_to_hub(
    model: ViViT,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    licence: str | None = None,
    data: str | None = None,
    scores: Mapping[Metric, float] | None = None,
) -> str:
    """Save the model, as `save` does, to a repository on the Hub and return its URL.

    The repository is created if need be, and the upload is one commit. The card is named after the repository; a card
    written by hand there stays.

    Args:
        token: of the Hub; by default the one that `hf auth login` saved.

    Raises:
        UserError: no access, or no connection.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id}: not a valid id of a repository ({str(error).splitlines()[0]})") from None
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / repo_id.rsplit("/", 1)[-1]
        save(model, folder, licence=licence, data=data, scores=scores, name=repo_id)
        try:
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            kept = [CARD_FILE] if _has_card_by_hand(api, address.repo_id) else None
            message = "Upload of a ViViT model"
            api.upload_folder(repo_id=address.repo_id, folder_path=folder, commit_message=message, ignore_patterns=kept)
        except HUB_FAILURES as error:
            reason = getattr(error, "server_message", None) or str(error) or type(error).__name__
            raise UserError(f"{repo_id}: not pushed ({' '.join(reason.split())})") from None
    return str(address)


def _has_card_by_hand(api: HfApi, repo_id: str) -> bool:
    try:
        return is_written_by_hand(Path(api.hf_hub_download(repo_id, CARD_FILE)).parent)
    except EntryNotFoundError:
        return False


def load(
    source: str | Path,
    *,
    tubelet_init: KernelInit = "filter_inflation",
    classes: Classes | None = None,
    **changes: Any,
) -> ViViT:
    """Load a video model of any kind, and fit it to other sizes or classes on request.

    What was assumed or changed is logged at level INFO to the logger "vivit", and is part of the model's `origin`.

    Args:
        source: a model folder or run, a folder of transformers' ViViT, a Scenic checkpoint, or a Hub id.
        tubelet_init, classes, changes: as in `vivit.adapt`; for a Scenic checkpoint also the keywords of
            `vivit.from_scenic`.

    Returns:
        The model, in eval mode.

    Raises:
        UserError: no such source, an incomplete model, or a change that is not possible; the message names the file.
    """
    wishes = Wishes.of(changes, classes, tubelet_init)
    return load_video_model(Source.find(source), wishes).log()


def labels_of(model: ViViT, name: str | Path) -> LabelSpace:
    """The class names of a model that the user calls `name`. Raises UserError if it has none."""
    if not model.config.class_counts:
        raise UserError(f"{name}: has no classes yet: train it on labelled videos, vivit train DATA --init {name}")
    if model.labels is None:
        raise UserError(f"{name}: has no class names in its config.json, so nothing can be named")
    return model.labels


def load_video_model(source: Source, wishes: Wishes) -> Loaded:
    """As `load`."""
    if source.path.is_dir():
        loaded = huggingface.load_folder(source) if source.kind == "transformers" else _load_folder(source)
    elif source.path.name == WEIGHTS_FILE and source.has_config:
        raise UserError(f"{source.path}: give the folder, {source.folder}; the weights alone are not a whole model")
    else:
        loaded, wishes = scenic.load_file(source, wishes)
    try:
        model, notes = fit(loaded.model, wishes)
    except UserError as error:
        raise UserError(f"{source.name}: {error}") from None
    return Loaded(model, (*loaded.notes, *notes))


def _load_folder(source: Source) -> Loaded:
    folder = source.folder
    if not source.has_config:
        raise UserError(f"{folder}: no {CONFIG_FILE}; not a model folder")
    if "model_type" in source.config and source.kind != "model folder":
        hint = "vivit.from_image_vit and vivit convert make a video model of it"
        if source.config["model_type"] not in IMAGE_TYPES:
            hint = "of transformers' models only vivit is read, and image ViTs to start from"
        raise UserError(f"{folder}: a {source.config['model_type']} model; {hint}")
    config = _folder_config(source.config, folder / CONFIG_FILE)
    if (exported := Export.of(folder)) is not None:
        raise UserError(
            f"{folder}: an exported model ({exported}), which vivit predict, vivit evaluate and vivit.Predictor run; "
            "for anything else use the model that it was exported from"
        )
    if not (folder / WEIGHTS_FILE).is_file():
        raise UserError(f"{folder}: no {WEIGHTS_FILE}; not a complete model folder")
    loaded = build(config.architecture, source.weights, classes=config.classes, preprocessing=config.preprocessing)
    loaded.model.origin = (*config.origin, *loaded.notes)
    return loaded


def _folder_config(content: dict[str, Any], path: Path) -> FolderConfig:
    version = content.get("format", 1)
    if version != FORMAT and isinstance(content.get("architecture"), dict):
        newer = isinstance(version, int) and version > FORMAT
        hint = "update vivit" if newer else "convert or train it anew, or use the version of vivit that wrote it"
        raise UserError(f"{path}: format {version!r}, but this version of vivit reads format {FORMAT}: {hint}")
    try:
        return FolderConfig.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error)}") from None
