"""Model folders: `config.json` (architecture, classes, preprocessing) and `model.safetensors`. Never a pickle."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vivit.config import ModelConfig, Preprocessing
from vivit.errors import UserError, one_line
from vivit.model.vivit import ViViT
from vivit.weights.scenic import fill

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class FolderConfig(BaseModel):
    """What `config.json` holds."""

    model_config = ConfigDict(extra="forbid")

    architecture: ModelConfig
    classes: dict[str, tuple[str, ...]] | None
    """Head → its labels in order."""
    preprocessing: Preprocessing


def save(model: ViViT, folder: str | Path) -> None:
    """Write the model folder; what stood there under the two names is replaced whole or not at all.

    Raises:
        UserError: the weights cannot be written, as on a full disk.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = FolderConfig(architecture=model.config, classes=model.classes, preprocessing=model.preprocessing)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    weights = folder / f"{WEIGHTS_FILE}.unfinished"
    try:
        save_file(state, weights, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:  # a full disk is the latter
        weights.unlink(missing_ok=True)
        raise UserError(f"{folder / WEIGHTS_FILE}: not written ({error})") from None
    os.replace(weights, folder / WEIGHTS_FILE)
    write_json(folder / CONFIG_FILE, config.model_dump(mode="json"))


def write_json(path: Path, value: Any) -> None:
    """Write the file whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    os.replace(unfinished, path)


def load(source: str | Path) -> ViViT:
    """Load a model, in eval mode, from a folder or a Hub id such as `name/model`.

    Raises:
        UserError: no such folder or id, or its files are not a whole model of this kind; the message names the file.
    """
    folder = _find(source)
    path = folder / CONFIG_FILE
    try:
        config = FolderConfig.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder}: no {CONFIG_FILE}; not a model folder") from None
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error)}") from None
    weights = folder / WEIGHTS_FILE
    try:
        state = load_file(weights)
    except FileNotFoundError:
        raise UserError(f"{folder}: no {WEIGHTS_FILE}; not a whole model folder") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{weights}: not readable ({str(error).splitlines()[0]})") from None
    with torch.device("meta"):
        try:
            model = ViViT(config.architecture, classes=config.classes, preprocessing=config.preprocessing)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
    fill(model, state, str(weights))
    return model.eval()


def _find(source: str | Path) -> Path:
    """The local folder, or the Hub's in its cache."""
    if Path(source).is_dir():
        return Path(source)
    if isinstance(source, Path) or source.count("/") != 1 or source.startswith((".", "/")):
        raise UserError(f"{source}: no such model folder")
    try:
        return Path(snapshot_download(source, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE]))
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(f"{source}: neither a folder nor a model on the Hub") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        raise UserError(f"{source}: no such folder, and the Hub cannot be reached") from None
