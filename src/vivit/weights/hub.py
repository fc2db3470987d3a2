"""The Hugging Face Hub: an id to a folder of its cache, and a model to a repository."""

import errno
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from vivit.errors import UserError
from vivit.weights.card import CARD_FILE, is_written_by_hand

if TYPE_CHECKING:
    from vivit.model.vivit import ViViT

# What loading looks at; where there are safetensors, the same weights as a pickle are not fetched.
FILES = ["*.json", "model*.safetensors"]
# Its HTTP library's own errors, whichever that is; a broken connection is one. What is no JSON is a ValueError.
FAILURES: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, OSError, ValueError)
PICKLED = ["pytorch_model*.bin*"]


def find(source: str | Path) -> Path:
    """A local path as it is; else an id such as `name/model` as a folder of the Hub's cache, fetched if need be.

    Raises:
        UserError: neither a path nor a model on the Hub, or the Hub cannot be reached.
    """
    path = Path(source)
    try:
        if path.exists():
            return path
    except OSError as error:  # a name that no file can have
        raise UserError(f"{source}: {error.strerror}") from None
    if isinstance(source, Path) or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(f"{source}: No such file or directory")
    try:
        folder = Path(snapshot_download(source, allow_patterns=FILES))
        if not any(folder.glob("model*.safetensors")):
            folder = Path(snapshot_download(source, allow_patterns=[*FILES, *PICKLED]))
    except GatedRepoError:
        raise UserError(f"{source}: its owner grants access on request at the Hub; then: hf auth login") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(f"{source}: neither a file or folder nor a model on the Hub") from None
    except FAILURES as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise UserError(f"{source}: not fetched into the Hub's cache ({error.strerror})") from None
        raise UserError(
            f"{source}: no such file or folder, not in the Hub's cache, and the Hub cannot be reached"
        ) from None
    if not folder.is_dir():
        raise UserError(f"{source}: no model that is known here: the repository has no config.json and no weights")
    return folder


def _has_card_by_hand(api: HfApi, repo_id: str) -> bool:
    try:
        card = api.hf_hub_download(repo_id, CARD_FILE)
    except EntryNotFoundError:
        return False
    return is_written_by_hand(Path(card).parent)


def called(source: str | Path) -> str:
    """What to call a source in words that are kept: a Hub id whole, of a path the last two parts."""
    return "/".join(Path(source).parts[-2:]) if Path(source).exists() else str(source)


def push(model: "ViViT", repo_id: str, *, private: bool, token: str | None, **card: Any) -> str:
    """Save a model to a repository, made if need be, in one commit; returns its address.

    `card` is what `save_pretrained` takes for the model card, which is named as the repository is; one that was written
    by hand there stays.

    Raises:
        UserError: no access, or no connection.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id}: no id of a repository ({str(error).splitlines()[0]})") from None
    from vivit.weights.store import save

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / repo_id.rsplit("/", 1)[-1]
        save(model, folder, name=repo_id, **card)
        try:
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=address.repo_id,
                folder_path=folder,
                commit_message="Upload of a ViViT model",
                ignore_patterns=[CARD_FILE] if _has_card_by_hand(api, address.repo_id) else None,
            )
        except FAILURES as error:
            said = getattr(error, "server_message", None) or str(error) or type(error).__name__
            raise UserError(f"{repo_id}: not pushed ({' '.join(said.split())})") from None
    return str(address)
