"""On-disk features of a model's frozen part: computed once per clip, then read instead of the videos.

They are stored in parts: safetensors files of a few videos each. The name of a part has a hash of the frozen part, the
clip sampling, and the paths, sizes and times of its videos' files; if any of these changes, a new part is computed. A
part is whole or absent, and its values do not depend on which process computes it, or when.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from vivit.data.datasets import VideoSet
from vivit.data.file_state import file_states
from vivit.data.loader import Batch, Clip, EvaluationViews, TrainingClips, collate, label_tensors
from vivit.data.order import Order, clip_rng
from vivit.data.workers import load_items
from vivit.errors import Interrupted
from vivit.files import make_folder, write_files
from vivit.inference.features import TemporalPart, TrainedPart, clip_features, feature_shape
from vivit.labels import by_head
from vivit.model.vivit import ViViT
from vivit.runtime import Ranks
from vivit.video.augment import draw_geometry
from vivit.video.clips import ClipSpec
from vivit.video.decode import ReadOptions
from vivit.video.source import InShard, VideoError

# Videos per part; a killed process loses the work on at most this many.
PART_SIZE = 16
# As in MAE's linear probe; keeps a constant channel finite.
VARIANCE_EPS = 1e-6
# Parts mapped into memory at once; by default, Linux allows a process 65,530 mappings.
OPEN_PARTS = 4096


class _Content(NamedTuple):
    features: Tensor
    """(videos, …), memory-mapped; NaN for unreadable videos."""
    problems: list[str | None]
    """Why each video is unreadable, or None."""


class Features:
    """The features of one clip of each video in a set."""

    def __init__(self, paths: list[Path], load: Callable[[Path], _Content]) -> None:
        self.paths, self.load = paths, load

    def of(self, video: int) -> Tensor | str:
        """The features (…) as stored, or why the video is unreadable."""
        number, row = divmod(video, PART_SIZE)
        content = self.load(self.paths[number])
        return content.problems[row] or content.features[row]

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over the readable videos, for features (D,): 2 × (D,) float32.

        Parts are summed one by one in float64, so the bits do not depend on the number of threads.
        """

        def mean_of(rows: Callable[[Tensor], Tensor]) -> Tensor:
            total, count = torch.zeros(()), 0
            for path in self.paths:
                content = self.load(path)
                readable = [row for row, problem in enumerate(content.problems) if problem is None]
                total = total + rows(content.features[readable].double()).sum(dim=0)
                count += len(readable)
            return total / max(count, 1)

        mean = mean_of(lambda rows: rows)
        variance = mean_of(lambda rows: (rows - mean).square())
        return mean.float(), (variance + VARIANCE_EPS).sqrt().float()

    def logits(self, model: TrainedPart) -> tuple[dict[str, Tensor], dict[int, str]]:
        """Run the rest of the model, in eval mode, on all features.

        Returns:
            head → (videos, K) float32, NaN for unreadable videos; and index of unreadable video → why.
        """
        model.eval()
        device = next(model.parameters()).device
        answers: dict[str, list[Tensor]] = {}
        problems: list[str | None] = []
        with torch.inference_mode():
            for path in self.paths:
                content = self.load(path)
                problems += content.problems
                for head, values in by_head(model(content.features.to(device))).items():
                    answers.setdefault(head, []).append(values.float().cpu())
        failures = {video: problem for video, problem in enumerate(problems) if problem is not None}
        return {head: torch.cat(values) for head, values in answers.items()}, failures


class FeatureCache:
    """A folder with the features of a model's frozen part."""

    def __init__(
        self,
        model: ViViT,
        folder: Path,
        part: type[TrainedPart] = TemporalPart,
        *,
        dtype: torch.dtype = torch.float32,
        read: ReadOptions = ReadOptions(),
        ranks: Ranks = Ranks(),
        report: Callable[[int, int], None] = lambda done, total: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            model: its frozen part runs on its own device, and must not change.
            folder: made if missing; several runs may share it. Old parts stay; delete the folder when no run uses it.
            part: the part to train on the features; it decides where the model is cut.
            dtype: the precision of most of the frozen part's arithmetic.
            read: how to read videos.
            ranks: the processes that share the work.
            report: called before each clip with the number of clips this process has encoded, and the number all
                processes together must encode.
            stopping: checked before each clip; once true in any process, all raise `Interrupted` after their current
                clip.

        Raises:
            UserError: the model cannot be cut for this part, or the folder cannot be made.
        """
        self.part = part
        self.model, self.folder, self.dtype, self.read, self.ranks = model, folder, dtype, read, ranks
        self.report, self.stopping = report, stopping
        self.encoder = [frozen_hash(model, part), str(dtype), read.decoder]
        self.shape = feature_shape(model.config, part)
        self.load = lru_cache(OPEN_PARTS)(_load)
        make_folder(folder)

    def training_batches(self, clips: TrainingClips, order: Order) -> Iterator[Batch]:
        """The batches of the loader's `training_batches`, with features in place of clips.

        `Batch.clips` is (B, …), the features as stored. Before an epoch with new clips, the missing features of all
        videos are computed, including videos that its batches skip; otherwise no video is opened.

        Args:
            clips: must apply colour augmentation while reading.
            order: `clips_of_each` is the number of clips to encode per video.

        Raises:
            UserError: a part cannot be written.
            VideoError: neither a video nor its replacements can be read.
            Interrupted: `stopping` returned true.
        """
        videos, seed, augmentation = clips.videos, clips.seed, clips.augmentation
        passes: dict[int, Features] = {}

        def cached(number: int, video: int) -> Clip:
            row = passes[number].of(video)
            if isinstance(row, str):
                raise VideoError(row, "")
            mirrored = draw_geometry(augmentation, clip_rng(seed, number, video)).mirrored
            return Clip(row, label_tensors(videos, video, clips.mirrors if mirrored else None), video)

        for keys in order.keys(len(videos.videos), seed, self.ranks):
            for number in {number for number, _ in keys} - passes.keys():
                passes[number] = self.training(clips, number)
            batch = collate([clips.or_replacement(*key, cached) for key in keys])
            if isinstance(batch, VideoError):
                raise batch
            yield batch

    def training(self, clips: TrainingClips, number: int) -> Features:
        """The features of one clip of each training video.

        Args:
            number: which of each video's clips.

        Raises:
            UserError: a part cannot be written.
            Interrupted: `stopping` returned true.
        """
        sampling = [number, clips.seed, asdict(clips.spec), asdict(clips.augmentation)]
        return self._computed(f"training-{number}", clips.videos, sampling, _OwnClips(clips, number))

    def validation(self, videos: VideoSet, spec: ClipSpec) -> Features:
        """The features of each video's central view, the one `evaluate` takes with one clip and one crop.

        Raises:
            UserError: a part cannot be written.
            Interrupted: `stopping` returned true.
        """
        views = EvaluationViews(videos.videos, spec, 1, 1, self.read)
        return self._computed("validation", videos, [asdict(spec)], views)

    def _computed(self, name: str, videos: VideoSet, sampling: list[Any], clips: Dataset[Tensor | str]) -> Features:
        """The features of all the videos, after computing missing ones.

        Args:
            name: the first part of the file names.
            sampling: everything that determines a video's clip.
            clips: video → (1, T, C, H, W) uint8, or why it is unreadable.
        """
        identities = _identities(videos)
        parts: dict[Path, range] = {}
        for start in range(0, len(identities), PART_SIZE):
            some = identities[start : start + PART_SIZE]
            key = hashlib.sha256(json.dumps([self.encoder, sampling, some]).encode()).hexdigest()[:32]
            parts[self.folder / f"{name}-{start:06d}-{key}.safetensors"] = range(start, start + len(some))
        # Each process computes its own slice first, then works backwards through the others' slices: none waits for a
        # slow one, and two rarely write the same part.
        rank, world_size = self.ranks.rank, self.ranks.world_size
        paths = list(parts)
        first, last = (len(paths) * number // world_size for number in (rank, rank + 1))
        turns = paths[first:last] + (paths[last:] + paths[:first])[::-1]
        to_do = sum(len(numbers) for path, numbers in parts.items() if not _is_whole(path))
        asked: deque[Path] = deque()

        def missing() -> Iterator[int]:
            for path in turns:
                if not _is_whole(path):
                    asked.append(path)
                    yield from parts[path]

        coming = load_items(
            clips,
            self.read.workers,
            lambda index: videos.videos[index].source,
            batch_size=None,
            sampler=missing(),
        )
        stopping, rows = False, list[Tensor | str]()
        for done, clip in enumerate(coming):
            if stopping := self.stopping():
                coming.close()
                break
            self.report(done, to_do)
            rows.append(clip if isinstance(clip, str) else clip_features(self.model, clip, self.part, self.dtype)[0])
            if len(rows) == len(parts[asked[0]]):
                self._write(asked.popleft(), rows)
                rows = []
        if self.ranks.any(stopping):
            raise Interrupted
        return Features(paths, self.load)

    def _write(self, path: Path, rows: list[Tensor | str]) -> None:
        nothing = torch.full(self.shape, torch.nan, dtype=self.part.stored)
        features = torch.stack([nothing if isinstance(row, str) else row for row in rows])
        problems = json.dumps([row if isinstance(row, str) else None for row in rows])
        # One name per rank: processes that write the same part on two machines may have the same process id.
        own = path.with_name(f"{path.name}.{self.ranks.rank}")
        write_files({own: lambda path: save_file({"features": features}, path, {"problems": problems})})
        os.replace(own, path)


@dataclass
class _OwnClips(Dataset[Tensor | str]):
    """Training clips of the videos, without replacements."""

    clips: TrainingClips
    number: int
    """Which of each video's clips."""

    def __getitem__(self, video: int) -> Tensor | str:
        try:
            return self.clips.read_own(self.number, video).frames[None]
        except VideoError as error:
            return str(error)


def frozen_hash(model: ViViT, part: type[TrainedPart]) -> str:
    """The SHA-256, in hexadecimal, of everything that determines a clip's features.

    Raises:
        UserError: the model cannot be cut for this part.
    """
    config = model.config.model_dump_json(exclude=set(part.not_of_features))
    found = hashlib.sha256(f"{part.__name__} {config}".encode())
    for module in part.frozen(model):
        for name, value in module.state_dict().items():
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
    return found.hexdigest()


def _load(path: Path) -> _Content:
    """Raises OSError, SafetensorError, KeyError or ValueError if the file is missing or damaged."""
    with safe_open(path, framework="pt") as file:
        return _Content(file.get_tensor("features"), json.loads(file.metadata()["problems"]))


def _is_whole(path: Path) -> bool:
    try:
        _load(path)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return False
    return True


def _identities(videos: VideoSet) -> list[list[Any]]:
    """The path, span, size and modification time of each video."""
    states = file_states(video.source for video in videos.videos)
    return [
        [
            _place(video.source),
            video.span and list(video.span),
            states[video.source].size,
            states[video.source].modified,
        ]
        for video in videos.videos
    ]


def _place(source: Path | InShard) -> str:
    return f"{source} at {source.offset}" if isinstance(source, InShard) else os.path.abspath(source)
