"""A frozen spatial encoder's features on disk: computed once for each clip, then read in place of the videos.

They lie in shards, safetensors files of some videos each. A shard's name hashes the spatial encoder, how clips are
sampled, and the files of its videos with size and time: where any of these differs, there is no such shard, and it is
made. It is there whole or not at all, and whichever process makes it, whenever it does, its values are the same.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from vivit.data.datasets import VideoSet
from vivit.data.loader import (
    Batch,
    EvaluationViews,
    TrainingClips,
    label_tensors,
)
from vivit.data.manifest import stat_all
from vivit.data.order import Order, clip_rng
from vivit.data.workers import load_items
from vivit.errors import Interrupted
from vivit.files import make_folder, write_files
from vivit.inference.features import TemporalPart, factorised_encoder_of, frame_features
from vivit.model.vivit import ViViT
from vivit.runtime import Ranks
from vivit.video.augment import draw_geometry
from vivit.video.clips import ClipSpec
from vivit.video.options import ReadOptions
from vivit.video.source import InShard, VideoError

# Videos of a shard; the work on so many is lost with a killed process.
SHARD_SIZE = 16
# Shards mapped into memory at a time, of which Linux allows each process 65,530 by default.
OPEN_SHARDS = 4096
# Fields of ModelConfig that embedding and spatial encoder do not depend on in eval mode.
NOT_SPATIAL = {
    *("temporal_layers", "adapter_size", "representation_size", "num_classes", "heads", "multi_label"),
    *("dropout", "attention_dropout", "stochastic_depth", "token_dropping"),
}


class _Shard(NamedTuple):
    path: Path
    videos: range


class _Content(NamedTuple):
    features: Tensor
    """(videos, T, D) float32, in memory that is mapped from the file; NaN where a video could not be read."""
    problems: list[str | None]
    """Why not."""


class Features:
    """Those of one clip of each video of a set."""

    def __init__(self, shards: list[Path], load: Callable[[Path], _Content]) -> None:
        self.shards, self.load = shards, load

    def of(self, video: int) -> Tensor | str:
        """(T, D) float32, or why the video could not be read."""
        number, row = divmod(video, SHARD_SIZE)
        content = self.load(self.shards[number])
        return content.problems[row] or content.features[row]

    def logits(self, part: TemporalPart) -> tuple[dict[str, Tensor], dict[int, str]]:
        """What the rest of the model makes of them; it is put into eval mode.

        Returns:
            head → (videos, K) float32, with rows of NaN for videos that could not be read; and which they are, and why.
        """
        part.eval()
        device = next(part.parameters()).device
        answers: dict[str, list[Tensor]] = {}
        problems: list[str | None] = []
        with torch.inference_mode():
            for path in self.shards:
                content = self.load(path)
                problems += content.problems
                logits = part(content.features.to(device))  # of features that are NaN, NaN
                for head, values in (logits if isinstance(logits, dict) else {"classes": logits}).items():
                    answers.setdefault(head, []).append(values.float().cpu())
        failures = {video: problem for video, problem in enumerate(problems) if problem is not None}
        return {head: torch.cat(values) for head, values in answers.items()}, failures


class FeatureCache:
    """A folder with the features of a model's spatial encoder."""

    def __init__(
        self,
        model: ViViT,
        folder: Path,
        *,
        dtype: torch.dtype = torch.float32,
        options: ReadOptions = ReadOptions(),
        ranks: Ranks = Ranks(),
        report: Callable[[int, int], None] | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            model: its embedding and spatial encoder are used on the device that they are on, and must not change.
            folder: made where missing; several runs may share it. What is no longer of use stays, and all of it may be
                deleted when no run uses it.
            dtype: of most of the spatial encoder's arithmetic.
            options: how videos are read.
            ranks: the processes that share the work.
            report: called before a clip is encoded with how many this process has done, and how many there were to do
                for all processes together.
            stopping: asked before each clip; once it says so in any process, `Interrupted` is raised in all, when each
                has computed what it was at.

        Raises:
            UserError: the model is no factorised encoder with temporal layers, or the folder cannot be made.
        """
        self.model, self.folder, self.dtype, self.options, self.ranks = model, folder, dtype, options, ranks
        self.report, self.stopping = report or (lambda done, total: None), stopping
        self.encoder = [encoder_hash(model), str(dtype), options.decoder]
        self.load = lru_cache(OPEN_SHARDS)(_load)
        make_folder(folder)

    def training_batches(self, clips: TrainingClips, order: Order) -> Iterator[Batch]:
        """The batches of the loader's `training_batches`, with features for clips.

        `Batch.clips` is (B, T, D) float32: what the spatial encoder makes of each temporal index. Before an epoch whose
        clips are new, all that are missing are computed, with those that its batches leave out; after that no video is
        opened.

        Args:
            clips: with their colours changed.
            order: its `clips_of_each` is how many clips of each video are computed.

        Raises:
            UserError: a shard cannot be written.
            VideoError: neither a video nor those drawn in its place can be read.
            Interrupted: `stopping` said so.
        """
        videos, seed, augmentation = clips.videos, clips.seed, clips.augmentation
        passes: dict[int, Features] = {}
        for keys in order.keys(len(videos.videos), seed, self.ranks):
            rows, labels, seen, failures = [], [], [], []
            for number, index in keys:
                if number not in passes:
                    sampling = [number, seed, asdict(clips.spec), asdict(augmentation)]
                    own = _OwnClips(clips, number)
                    passes[number] = self._computed(f"training-{number}", videos, sampling, own)
                # In place of a video that cannot be read the loader takes the same clip of another.
                tried: list[tuple[int, VideoError]] = []
                candidates = [index]
                for video in candidates:
                    row = passes[number].of(video)
                    if not isinstance(row, str):
                        break
                    if not tried:
                        candidates += clips.replacements(number, index)
                    tried.append((video, VideoError(row, "")))
                else:
                    raise tried[0][1]
                mirrored = draw_geometry(augmentation, clip_rng(seed, number, video)).mirrored
                rows.append(row)
                labels.append(label_tensors(videos, video, clips.mirrors if mirrored else None))
                seen.append(video)
                failures += tried
            by_head = {head: torch.stack([of_clip[head] for of_clip in labels]) for head in labels[0]}
            yield Batch(torch.stack(rows), by_head, torch.tensor(seen), tuple(failures))

    def validation(self, videos: VideoSet, spec: ClipSpec) -> Features:
        """Those of one view of each video, its middle, as `evaluate` has them with one clip and one crop.

        Raises UserError where a shard cannot be written, and Interrupted where `stopping` says so.
        """
        views = EvaluationViews(videos.videos, spec, 1, 1, self.options)
        return self._computed("validation", videos, [asdict(spec)], views)

    def _computed(self, name: str, videos: VideoSet, sampling: list[Any], clips: Dataset[Tensor | str]) -> Features:
        """Features of all the videos, after those that are missing have been computed.

        Args:
            name: how the names of shards begin.
            sampling: all that decides what is seen of a video.
            clips: video → (1, T, C, H, W) uint8, or why it cannot be read.
        """
        identities = _identities(videos)
        shards = []
        for start in range(0, len(identities), SHARD_SIZE):
            some = identities[start : start + SHARD_SIZE]
            key = hashlib.sha256(json.dumps([self.encoder, sampling, some]).encode()).hexdigest()[:32]
            path = self.folder / f"{name}-{start:06d}-{key}.safetensors"
            shards.append(_Shard(path, range(start, start + len(some))))
        # Each process begins with a share of its own and then goes on to what the others have left, from its end on: so
        # none waits for another, which may be slow, at an end, or write to another disk.
        first, last = (
            len(shards) * number // self.ranks.world_size for number in (self.ranks.rank, self.ranks.rank + 1)
        )
        turns = shards[first:last] + (shards[last:] + shards[:first])[::-1]
        to_do = sum(len(shard.videos) for shard in shards if not _is_whole(shard.path))
        asked: deque[_Shard] = deque()

        def missing() -> Iterator[int]:
            for shard in turns:
                if not _is_whole(shard.path):
                    asked.append(shard)
                    yield from shard.videos

        done = 0
        coming = load_items(clips, self.options.workers, batch_size=None, sampler=missing())
        stopping = False
        for clip in coming:
            shard = asked.popleft()
            rows: list[Tensor | str] = []
            for one in (clip, *islice(coming, len(shard.videos) - 1)):
                stopping = self.stopping()
                if stopping:
                    break
                self.report(done, to_do)
                rows.append(one if isinstance(one, str) else frame_features(self.model, one, self.dtype)[0])
                done += 1
            if stopping:
                coming.close()
                break
            self._write(shard.path, rows)
        if self.ranks.any(stopping):
            raise Interrupted
        return Features([shard.path for shard in shards], self.load)

    def _write(self, path: Path, rows: list[Tensor | str]) -> None:
        nothing = torch.full((self.model.config.grid[0], self.model.config.hidden_size), torch.nan)
        features = torch.stack([nothing if isinstance(row, str) else row for row in rows])
        problems = json.dumps([row if isinstance(row, str) else None for row in rows])
        # A name of its own: processes on two machines that write the same shard may have the same number.
        own = path.with_name(f"{path.name}.{self.ranks.rank}")
        write_files({own: lambda path: save_file({"features": features}, path, {"problems": problems})})
        os.replace(own, path)


@dataclass
class _OwnClips(Dataset[Tensor | str]):
    """Training clips of the videos themselves, without others in their place."""

    clips: TrainingClips
    number: int
    """Which clip of each."""

    def __getitem__(self, video: int) -> Tensor | str:
        try:
            return self.clips.read_own(self.number, video).frames[None]
        except VideoError as error:
            return str(error)


def encoder_hash(model: ViViT) -> str:
    """SHA-256, in hexadecimal, of all that decides what the spatial encoder makes of a clip.

    Raises UserError where the model is no factorised encoder with temporal layers.
    """
    encoder = factorised_encoder_of(model)
    found = hashlib.sha256(model.config.model_dump_json(exclude=NOT_SPATIAL).encode())
    for module in (model.embedding, encoder.spatial):
        for name, value in module.state_dict().items():
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
    return found.hexdigest()


def _load(path: Path) -> _Content:
    """Raises OSError, SafetensorError, KeyError or ValueError where it is not there, or damaged."""
    with safe_open(path, framework="pt") as file:
        return _Content(file.get_tensor("features"), json.loads(file.metadata()["problems"]))


def _is_whole(path: Path) -> bool:
    try:
        _load(path)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return False
    return True


def _identities(videos: VideoSet) -> list[list[Any]]:
    """Of each video: where it lies, its span, its size and when it was modified."""
    states = stat_all([video.source for video in videos.videos])
    return [[_place(video.source), video.span and list(video.span), *states[video.source]] for video in videos.videos]


def _place(source: Path | InShard) -> str:
    return f"{source} at {source.offset}" if isinstance(source, InShard) else os.path.abspath(source)
