"""From a video file to labels: `Predictor(folder).predict("clip.mp4")`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vivit.errors import UserError
from vivit.inference.views import clip_spec, mean_logits
from vivit.runtime import pick_device
from vivit.video.clips import read_views
from vivit.video.options import ReadOptions
from vivit.video.sampling import parse_views
from vivit.weights.store import load


@dataclass(frozen=True)
class ScoredLabel:
    label: str
    score: float
    """Of the logits averaged over the views: their softmax, or each one's sigmoid where labels are many."""


@dataclass(frozen=True)
class Prediction:
    """What a model sees in a video."""

    video: Path
    heads: dict[str, tuple[ScoredLabel, ...]]
    """head → its labels, the most probable first; the one head of a model without named heads is "classes"."""

    @property
    def labels(self) -> tuple[ScoredLabel, ...]:
        """The labels of a model with one head."""
        (labels,) = self.heads.values()
        return labels

    def to_json(self, top: int) -> dict[str, Any]:
        """{"video": …, "predictions": [{"label": …, "score": …}, …]}; several named heads are head → such a list."""
        lists = {
            head: [{"label": scored.label, "score": scored.score} for scored in labels[:top]]
            for head, labels in self.heads.items()
        }
        return {"video": str(self.video), "predictions": lists.get("classes", lists)}


class Predictor:
    """A model, ready for video files."""

    def __init__(self, model: str | Path, device: str = "auto", options: ReadOptions = ReadOptions()) -> None:
        """Load a model folder or Hub id.

        Args:
            options: how videos are read; with a timeout, a file that crashes the decoder does no harm to this process.

        Raises:
            UserError: there is no such model, or it has no class names.
        """
        self.model = load(model)
        if self.model.classes is None:
            raise UserError(f"{model}: has no class names in its config.json, so nothing can be named")
        self.classes = self.model.classes
        self.model.to(pick_device(device))
        self.read, self.decoder = options.reader(), options.decoder

    def predict(self, video: str | Path, views: str = "1x1") -> Prediction:
        """Label a video, from `views` clips x crops of it. Raises VideoError where it cannot be read."""
        num_clips, num_crops = parse_views(views)
        clips = self.read(read_views, Path(video), clip_spec(self.model), num_clips, num_crops, None, self.decoder)
        multi_label = self.model.config.multi_label
        heads = {
            head: _rank(values[0], self.classes[head], multi_label)
            for head, values in mean_logits(self.model, [clips]).items()
        }
        return Prediction(Path(video), heads)


def _rank(logits: Tensor, names: tuple[str, ...], multi_label: bool) -> tuple[ScoredLabel, ...]:
    probabilities = logits.sigmoid() if multi_label else logits.softmax(dim=0)
    scores, order = probabilities.sort(descending=True, stable=True)
    return tuple(ScoredLabel(names[i], score) for i, score in zip(order.tolist(), scores.tolist(), strict=True))
