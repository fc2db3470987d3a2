"""ViViT, a video vision transformer: the four models of the paper, from video files to labels."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vivit.config import ModelConfig as ModelConfig
    from vivit.config import Preprocessing as Preprocessing
    from vivit.errors import UserError as UserError
    from vivit.inference.attention import ClipAttention as ClipAttention
    from vivit.inference.attention import attention as attention
    from vivit.inference.export import export as export
    from vivit.inference.extract import extract as extract
    from vivit.inference.index import Index as Index
    from vivit.inference.live import stream as stream
    from vivit.inference.predictor import Prediction as Prediction
    from vivit.inference.predictor import Predictor as Predictor
    from vivit.inference.streaming import Stream as Stream
    from vivit.inference.timeline import Rule as Rule
    from vivit.inference.timeline import Timeline as Timeline
    from vivit.inference.timeline import timeline as timeline
    from vivit.model.vivit import ViViT as ViViT
    from vivit.weights.adapt import adapt as adapt
    from vivit.weights.huggingface import from_huggingface as from_huggingface
    from vivit.weights.huggingface import to_huggingface as to_huggingface
    from vivit.weights.image_vit import from_image_vit as from_image_vit
    from vivit.weights.image_vit import init_from_image_vit as init_from_image_vit
    from vivit.weights.scenic import from_scenic as from_scenic
    from vivit.weights.store import load as load
    from vivit.weights.store import push_to_hub as push_to_hub
    from vivit.weights.store import save as save

_HOME = {
    name: f"vivit.{module}"
    for module, names in {
        "config": ("ModelConfig", "Preprocessing"),
        "errors": ("UserError",),
        "inference.attention": ("ClipAttention", "attention"),
        "inference.export": ("export",),
        "inference.extract": ("extract",),
        "inference.index": ("Index",),
        "inference.live": ("stream",),
        "inference.predictor": ("Prediction", "Predictor"),
        "inference.streaming": ("Stream",),
        "inference.timeline": ("Rule", "Timeline", "timeline"),
        "model.vivit": ("ViViT",),
        "weights.adapt": ("adapt",),
        "weights.huggingface": ("from_huggingface", "to_huggingface"),
        "weights.image_vit": ("from_image_vit", "init_from_image_vit"),
        "weights.scenic": ("from_scenic",),
        "weights.store": ("load", "push_to_hub", "save"),
    }.items()
    for name in names
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    # Import a name when it is first used: torch takes seconds, and `vivit --help` must not wait for it.
    if name not in _HOME:
        raise AttributeError(f"module 'vivit' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
