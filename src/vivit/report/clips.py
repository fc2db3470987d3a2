"""Short clips of a run's worst mistakes, cut from the data."""

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.data.encode import Encoding, encode
from vivit.data.manifest import HASH_DIGITS, data_hash
from vivit.data.readers.listing import open_data
from vivit.errors import UserError
from vivit.report.mistakes import ScoredVideo
from vivit.report.page import data_uri
from vivit.report.run_files import RunFiles
from vivit.training.plan import few_batches
from vivit.training.recipe import Recipe
from vivit.video.decode import open_video
from vivit.video.source import VideoError

SECONDS = 4.0
MOST_CLIPS = 8
# The largest clip; smaller encodings are tried in turn.
CLIP_BYTES = 600_000
ENCODINGS = (Encoding(short_side=192, crf=28), Encoding(short_side=128, crf=36), Encoding(short_side=96, crf=46))


@dataclass(frozen=True)
class Mistake:
    scored: ScoredVideo
    clip: str = ""
    """A data URI, or ""."""
    problem: str = ""
    """Why there is no clip."""


def worst_mistakes(run: RunFiles, data: str | None = None, videos: Path | None = None) -> tuple[list[Mistake], str]:
    """The worst mistakes, and a remark if they have no clips or if the data has changed.

    Args:
        data, videos: where the user says the data is; None: where the run found it.

    Raises:
        UserError: the data is not where the user says.
    """
    worst = run.predictions.worst(MOST_CLIPS)
    if not worst:
        return [], ""
    try:
        try:
            found = _scored_videos(run, data, videos)
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{run.path / 'recipe.json'}: damaged") from None
    except (UserError, OSError) as error:
        if data or videos:
            raise
        return [Mistake(scored) for scored in worst], f"No clips: {error}."
    was, now = run.recipe.get("val_hash"), data_hash(found)
    remark = ""
    if was and was != now:
        remark = (
            "The validation videos are not those that were scored: "
            f"their hash was {str(was)[:HASH_DIGITS]} and is now {now[:HASH_DIGITS]}."
        )
    by_name = defaultdict(list)
    for video in found.videos:
        by_name[_parts(str(video.source))[-1]].append(video)
    return [_with_clip(scored, by_name[_parts(scored.video)[-1]]) for scored in worst], remark


def _scored_videos(run: RunFiles, data: str | None, videos: Path | None) -> VideoSet:
    recipe = run.recipe
    data = data or recipe.get("data")
    if not data:
        raise UserError("recipe.json does not name the data; give --data")
    videos = videos or (Path(str(recipe["videos"])) if recipe.get("videos") else None)
    overfit = recipe.get("overfit")
    found = open_data(data, videos).split("train" if overfit else "val", run.space)
    if overfit:
        found = few_batches(found, overfit, Recipe.model_validate({name: recipe[name] for name in Recipe.model_fields}))
    return found


def _with_clip(scored: ScoredVideo, candidates: Sequence[LabelledVideo]) -> Mistake:
    """Add a clip from one of the videos with the same file name."""
    video = _find(scored, candidates)
    if video is None:
        return Mistake(scored, problem="not in the data")
    try:
        return Mistake(scored, data_uri(_cut_clip(video), "video/mp4"))
    except VideoError as error:
        return Mistake(scored, problem=str(error))


def _find(scored: ScoredVideo, candidates: Sequence[LabelledVideo]) -> LabelledVideo | None:
    """The video whose path ends most like the scored one's (the data may have moved); None if two are equally close."""

    def common(video: LabelledVideo) -> int:
        pairs = zip(reversed(_parts(str(video.source))), reversed(_parts(scored.video)), strict=False)
        return next((i for i, (one, other) in enumerate(pairs) if one != other), 1 << 16)

    ranked = sorted((video for video in candidates if video.span == scored.span), key=common, reverse=True)
    if len(ranked) > 1 and common(ranked[0]) == common(ranked[1]):
        return None
    return ranked[0] if ranked else None


def _parts(path: str) -> list[str]:
    return path.replace("\\", "/").split("/")


def _cut_clip(video: LabelledVideo) -> bytes:
    """The middle of the video or its span, as a small MP4. Raises VideoError."""
    with open_video(video.source) as opened, tempfile.TemporaryDirectory() as folder:
        start, end = video.span or (0.0, opened.info.duration)
        middle = (start + min(end, max(opened.info.duration, start))) / 2
        span = (max(start, middle - SECONDS / 2), min(end, middle + SECONDS / 2))
        file = Path(folder) / "clip.mp4"
        for encoding in ENCODINGS:
            try:
                encode(opened, file, encoding, span)
            except OSError as error:
                raise VideoError(video.source, f"cannot be encoded: {error.strerror}") from None
            if file.stat().st_size <= CLIP_BYTES:
                return file.read_bytes()
    raise VideoError(video.source, f"{SECONDS:g} seconds of it are too large for the page")
