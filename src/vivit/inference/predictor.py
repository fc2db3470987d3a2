"""From a video file to labels: `Predictor(folder).predict("clip.mp4")`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vivit.errors import UserError
from vivit.inference.views import clip_spec, mean_logits
from vivit.runtime import pick_device
from vivit.video.clips import read_views
from vivit.video.decode import Decoder
from vivit.video.isolated import IsolatedReader
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

    def __init__(
        self, model: str | Path, device: str = "auto", decoder: Decoder = "pyav", timeout: float | None = None
    ) -> None:
        """Load a model folder or Hub id.

        Args:
            decoder: see `open_video`.
            timeout: seconds that reading a video may take; it is then read in a process of its own, which may also
                crash or run out of memory without harm to this one.

        Raises:
            UserError: there is no such model, or it has no class names.
        """
        self.model = load(model)
        if self.model.classes is None:
            raise UserError(f"{model}: has no class names in its config.json, so nothing can be named")
        self.classes = self.model.classes
        self.model.to(pick_device(device))
        self.decoder, self.isolated = decoder, IsolatedReader(timeout) if timeout is not None else None

    def predict(self, video: str | Path, views: str = "1x1") -> Prediction:
        """Label a video, from `views` clips x crops of it. Raises VideoError where it cannot be read."""
        num_clips, num_crops = parse_views(views)
        wanted = Path(video), clip_spec(self.model), num_clips, num_crops, None, self.decoder
        clips = read_views(*wanted) if self.isolated is None else self.isolated(read_views, *wanted)
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
