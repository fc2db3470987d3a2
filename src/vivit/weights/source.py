"""The weights that a user named: found, opened and recognised once."""

import errno
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from vivit.errors import UserError
from vivit.weights.files import open_folder, open_weights, read_json
from vivit.weights.shipped import shipped_model
from vivit.weights.weight_file import Shape, WeightFile

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
SCENIC_FILE = "checkpoint"  # Scenic's name for it, in a folder named after the model
IMAGE_TYPES = (
    "vit",
    "deit",
    "vit_msn",
    "dinov2",
    "dinov2_with_registers",
)  # model types of transformers whose architecture is an image ViT
# Files that loading reads; pickled weights are fetched only if there are no safetensors.
HUB_FILES = ["*.json", "model*.safetensors"]
PICKLED = ["pytorch_model*.bin*"]
# The Hub's errors derive from those of its HTTP library, such as a lost connection; bad JSON is a ValueError.
HUB_FAILURES: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, OSError, ValueError)

Kind = Literal["model folder", "transformers", "image ViT", "file", "unknown"]


@dataclass(frozen=True)
class Source:
    """A file or folder of weights."""

    name: str
    """The name that the user gave, for messages."""
    path: Path
    sampled: bool = False
    """Whether the user said how single frames are sampled; weights that embed single frames are then a video model."""

    @classmethod
    def find(cls, source: str | Path, sampled: bool = False) -> Self:
        """Find a file, a folder, the model in the package, or one on the Hub, whose files are fetched if need be.

        Raises:
            UserError: there is no such thing, or the Hub cannot be reached.
        """
        path = Path(source)
        try:
            if not path.exists():
                path = shipped_model(str(source)) or _fetch(source)
        except OSError as error:  # not a valid file name
            raise UserError(f"{source}: {error.strerror}") from None
        if path.is_dir() and not (path / CONFIG_FILE).is_file() and (path / SCENIC_FILE).is_file():
            path = path / SCENIC_FILE
        return cls(str(source), path, sampled)

    @property
    def folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def has_config(self) -> bool:
        return (self.folder / CONFIG_FILE).is_file()

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json. Raises UserError if there is none."""
        return read_json(self.folder / CONFIG_FILE)

    @cached_property
    def weights(self) -> WeightFile:
        """The open weights. Raises UserError if they are missing, damaged or of no known format."""
        return open_folder(self.path) if self.path.is_dir() else open_weights(self.path)

    @cached_property
    def kind(self) -> Kind:
        """A model folder, a ViViT of transformers, an image ViT in a folder or file, or a file of other weights."""
        if not self.path.is_dir():
            return "image ViT" if self._has_image_shapes(self.weights.shapes) else "file"
        if not self.has_config:
            return "unknown"
        if isinstance(self.config.get("architecture"), dict):  # a name in the config of timm
            return "model folder"
        model_type = self.config.get("model_type")
        if model_type == "vivit":
            return "transformers"
        return "image ViT" if model_type in (None, *IMAGE_TYPES) else "unknown"  # timm writes no model_type

    @property
    def called(self) -> str:
        """A name to save with weights: a Hub id as it is, the last two parts of a path."""
        return "/".join(self.path.parts[-2:]) if Path(self.name).exists() else self.name

    def _has_image_shapes(self, shapes: dict[str, Shape]) -> bool:
        kernel = shapes.get("embedding/kernel")
        if kernel is None:
            theirs = [shape for name, shape in shapes.items() if name.endswith("patch_embeddings.projection.weight")]
            return "patch_embed.proj.weight" in shapes or any(len(shape) == 4 for shape in theirs)
        if any("/MlpBlock_3/" in name for name in shapes):  # Google's names, for images only
            return True
        if any(name.startswith("SpatialTransformer/") or "/LayerNorm_time/" in name for name in shapes):
            return False
        return len(kernel) == 4 and not self.sampled


def _fetch(source: str | Path) -> Path:
    """The cache folder of a Hub id such as `name/model`, fetched if need be."""
    if isinstance(source, Path) or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(f"{source}: no such file or folder, and no Hub id such as google/vivit-b-16x2-kinetics400")
    try:
        folder = Path(snapshot_download(source, allow_patterns=HUB_FILES))
        if not any(folder.glob("model*.safetensors")):
            folder = Path(snapshot_download(source, allow_patterns=[*HUB_FILES, *PICKLED]))
    except GatedRepoError:
        raise UserError(f"{source}: its owner grants access on request at the Hub; then: hf auth login") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(f"{source}: neither a file or folder nor a model on the Hub") from None
    except HUB_FAILURES as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise UserError(f"{source}: not fetched into the Hub's cache ({error.strerror})") from None
        raise UserError(
            f"{source}: no such file or folder, not in the Hub's cache, and the Hub cannot be reached"
        ) from None
    if not folder.is_dir():
        raise UserError(f"{source}: the repository has neither a config.json nor weights")
    return folder
