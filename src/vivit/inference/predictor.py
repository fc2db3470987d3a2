"""From a video file to labels: `Predictor(folder).predict("clip.mp4")`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivit.errors import UserError
from vivit.inference.views import NOT_FINITE, Views, are_finite, clip_spec, mean_logits
from vivit.labels import ONLY_HEAD
from vivit.runtime import pick_device
from vivit.video.clips import read_views
from vivit.video.decode import ReadOptions
from vivit.video.source import VideoError
from vivit.weights.store import load


@dataclass(frozen=True)
class ScoredLabel:
    label: str
    score: float
    """Its probability: the softmax of the logits averaged over the views, or their sigmoid if multi_label."""


@dataclass(frozen=True)
class Prediction:
    """The labels that a model gives a video."""

    video: Path
    heads: dict[str, tuple[ScoredLabel, ...]]
    """head → its labels, the most probable first."""

    @property
    def labels(self) -> tuple[ScoredLabel, ...]:
        """The labels of a model with one head."""
        (labels,) = self.heads.values()
        return labels

    def to_json(self, top: int) -> dict[str, Any]:
        """{"video": …, "predictions": [{"label": …, "score": …}, …]}; named heads give head → such a list."""
        lists = {
            head: [{"label": scored.label, "score": scored.score} for scored in labels[:top]]
            for head, labels in self.heads.items()
        }
        return {"video": str(self.video), "predictions": lists.get(ONLY_HEAD, lists)}


class Predictor:
    """A model that labels video files."""

    def __init__(self, model: str | Path, device: str = "auto", read: ReadOptions = ReadOptions()) -> None:
        """Load a model folder or Hub id.

        Args:
            read: with a timeout, videos are read in another process, whose crashes and memory do no harm to this one.

        Raises:
            UserError: there is no such model, or it has no class names.
        """
        read.check()
        self.model = load(model)
        if self.model.labels is None:
            raise UserError(f"{model}: has no class names in its config.json, so nothing can be named")
        self.labels = self.model.labels
        self.model.to(pick_device(device))
        self._read, self._decoder = read.reader(), read.decoder

    def predict(self, video: str | Path, views: str = "1x1") -> Prediction:
        """Label a video by the mean over views, given as clips x crops.

        Raises:
            VideoError: the video cannot be read, or the model's answer is not finite.
        """
        wanted = Views.parse(views)
        spec = clip_spec(self.model)
        views_of_video = self._read(read_views, Path(video), spec, wanted.clips, wanted.crops, None, self._decoder)
        logits = mean_logits(self.model, [views_of_video.frames])
        if not are_finite(logits):
            raise VideoError(video, NOT_FINITE)
        heads = {
            head: tuple(ScoredLabel(*scored) for scored in self.labels.ranked(head, values[0]))
            for head, values in logits.items()
        }
        return Prediction(Path(video), heads)
