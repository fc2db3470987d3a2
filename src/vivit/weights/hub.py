"""The Hugging Face Hub: download a model into the cache, upload a folder to a repository."""

import errno
from pathlib import Path

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

# Files that loading reads; pickled weights are fetched only if there are no safetensors.
FILES = ["*.json", "model*.safetensors"]
PICKLED = ["pytorch_model*.bin*"]
# Base classes of the Hub's errors are those of its HTTP library, such as a lost connection; bad JSON is a ValueError.
FAILURES: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, OSError, ValueError)


def find(source: str | Path) -> Path:
    """Return an existing path as it is, or the cache folder of a Hub id such as `name/model`, fetched if need be.

    Raises:
        UserError: neither a path nor a model on the Hub, or the Hub cannot be reached.
    """
    path = Path(source)
    try:
        if path.exists():
            return path
    except OSError as error:  # a name that is not valid for a file
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
        raise UserError(f"{source}: the repository has neither a config.json nor weights")
    return folder


def upload(folder: Path, repo_id: str, *, private: bool, token: str | None) -> str:
    """Upload a folder to a repository in one commit and return its address; create the repository if need be.

    A model card written by hand in the repository stays.

    Raises:
        UserError: no access, or no connection.
    """
    api = HfApi(token=token)
    try:
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=address.repo_id,
            folder_path=folder,
            commit_message="Upload of a ViViT model",
            ignore_patterns=[CARD_FILE] if _has_card_by_hand(api, address.repo_id) else None,
        )
    except FAILURES as error:
        reason = getattr(error, "server_message", None) or str(error) or type(error).__name__
        raise UserError(f"{repo_id}: not pushed ({' '.join(reason.split())})") from None
    return str(address)


def check_repo_id(repo_id: str) -> None:
    """Raises UserError if this cannot be the id of a repository."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id}: no id of a repository ({str(error).splitlines()[0]})") from None


def _has_card_by_hand(api: HfApi, repo_id: str) -> bool:
    try:
        card = api.hf_hub_download(repo_id, CARD_FILE)
    except EntryNotFoundError:
        return False
    return is_written_by_hand(Path(card).parent)
