"""A frozen spatial encoder's features on disk: computed once for each clip, then read in place of the videos.

They lie in shards, safetensors files of some clips each. A shard's name hashes how its clips are sampled and encoded,
and within it stand the files that were read, with size and time; where anything differs it is made anew. It is there
whole or not at all, and whichever process computes it, whenever it does, its values are the same.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vivit.data.datasets import VideoSet
from vivit.data.loader import (
    PLAIN,
    Batch,
    _StepKeys,
    clip_rng,
    epoch_order,
    evaluation_views,
    label_tensors,
    training_batches,
)
from vivit.data.manifest import stat_all
from vivit.model.vivit import ViViT
from vivit.training.frozen import TemporalPart, factorised_encoder_of, frame_features
from vivit.video.augment import Augmentation, draw_geometry
from vivit.video.clips import ClipSpec
from vivit.video.decode import Decoder
from vivit.video.source import InShard, VideoError
from vivit.writing import make_folder, write_files

# Clips of a shard, which go through the spatial encoder together; the work on so many is lost with a killed process.
SHARD_SIZE = 16
# Shards kept open, of which the system allows each process some ten thousand.
OPEN_SHARDS = 4096
# Seconds without a new shard of the other processes, after which one computes theirs too.
PATIENCE = 300.0
# Seconds between two looks for them.
LOOK_EVERY = 0.2
# Fields of ModelConfig that embedding and spatial encoder do not depend on in eval mode.
NOT_SPATIAL = {
    *("temporal_layers", "adapter_size", "representation_size", "num_classes", "heads", "multi_label"),
    *("dropout", "attention_dropout", "stochastic_depth", "token_dropping"),
}

Progress = Callable[[int, int], None]
"""Called with how many clips of this process's share are there, and how many it has; may raise, to stop the work."""


class _Seen(NamedTuple):
    """What was read where a video was asked for."""

    clip: Tensor | None
    """(T, C, H, W) uint8, or None where nothing can be read."""
    video: int
    """Which of the set it is."""
    failures: list[tuple[int, str]]
    """Which videos of the set could not be read before it, and why."""


@dataclass(frozen=True)
class _Shard:
    path: Path
    positions: range
    """Which clips it has, of those of its pass over the videos."""


class _Stored(NamedTuple):
    features: Tensor
    """(clips, T, D) float32, in memory that is mapped from the file; NaN where nothing could be read."""
    videos: list[int]
    failures: list[list[tuple[int, str]]]
    tried: dict[str, list[Any]]
    """Which videos were read, or could not be, and what they were then, as `_Cache.identities` has it."""


Read = Callable[[Sequence[_Shard]], Iterator[list[_Seen]]]
"""Reads the clips of shards that follow one another."""


def training_features(
    model: ViViT,
    videos: VideoSet,
    spec: ClipSpec,
    *,
    folder: Path,
    batch_size: int,
    seed: int,
    num_steps: int,
    start_step: int = 0,
    cached_clips: int = 1,
    augmentation: Augmentation = PLAIN,
    mirrors: Mapping[str, Mapping[int, int]] | None = None,
    workers: int = 0,
    decoder: Decoder = "pyav",
    timeout: float | None = None,
    rank: int = 0,
    world_size: int = 1,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> Iterator[Batch]:
    """The batches of `training_batches` with `clips_of_each=cached_clips`, with features in place of clips.

    `Batch.clips` is (B, T, D) float32: what the spatial encoder makes of each temporal index. Before an epoch whose
    clips are new, all of them that are not in the folder are computed, with those that its batches leave out; after
    that no video is opened. Several processes share this work over one folder, each with its own `rank`.

    Args:
        model: its embedding and spatial encoder are used on the device that they are on, and must not change meanwhile.
        folder: of the shards; made where missing. Shards of no more use stay in it; it may be deleted at any time.
        cached_clips: how many clips of each video are seen, in turn, over the epochs.
        dtype: of most of the spatial encoder's arithmetic.
        progress: called after each shard that is computed, and while the other processes are waited for.

    The other arguments are those of `training_batches`; the colours of clips are changed before they are encoded.

    Raises:
        UserError: the model is no factorised encoder with temporal layers, or a shard cannot be written.
        VideoError: neither a video nor those drawn in its place can be read.
    """
    count = len(videos.videos)
    cache = _Cache(model, videos, folder, dtype, rank, world_size, progress)
    sampling = [seed, asdict(spec), asdict(augmentation), decoder]

    def reader(number: int) -> Read:
        def read(shards: Sequence[_Shard]) -> Iterator[list[_Seen]]:
            batches = training_batches(
                videos,
                spec,
                batch_size=1,  # so that none is left out
                seed=seed,
                num_steps=number * count + shards[-1].positions.stop,
                start_step=number * count + shards[0].positions.start,
                augmentation=augmentation,
                workers=workers,
                decoder=decoder,
                timeout=timeout,
            )
            for shard in shards:
                yield [_seen(next(batches)) for _ in shard.positions]

        return read

    passes: dict[int, tuple[list[_Shard], np.ndarray]] = {}  # the second is the position of each video in it
    for keys in _StepKeys(count, batch_size, seed, range(start_step, num_steps), cached_clips, rank, world_size):
        number = keys[0][0]
        if number not in passes:
            shards = cache.filled(f"training-{number}", sampling, count, reader(number))
            passes[number] = shards, epoch_order(count, seed, number).argsort()
        shards, positions = passes[number]
        rows, labels, seen, failures = [], [], [], []
        for _, index in keys:
            shard, row = divmod(positions[index], SHARD_SIZE)
            stored = cache.open(shards[shard].path)
            video = stored.videos[row]
            mirrored = draw_geometry(augmentation, clip_rng(seed, number, video)).mirrored
            rows.append(stored.features[row])
            labels.append(label_tensors(videos, video, mirrors if mirrored else None))
            seen.append(video)
            failures += [(failed, VideoError(reason, "")) for failed, reason in stored.failures[row]]
        by_head = {head: torch.stack([of_clip[head] for of_clip in labels]) for head in labels[0]}
        yield Batch(torch.stack(rows), by_head, torch.tensor(seen), tuple(failures))


def validation_logits(
    model: ViViT,
    part: TemporalPart,
    videos: VideoSet,
    spec: ClipSpec,
    *,
    folder: Path,
    workers: int = 0,
    decoder: Decoder = "pyav",
    timeout: float | None = None,
    rank: int = 0,
    world_size: int = 1,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> tuple[dict[str, Tensor], dict[int, str]]:
    """The logits of one view of each video, its middle, as `evaluate` has them with one clip and one crop.

    The features come out of the folder; those that are not there are computed first, by all processes together.

    Args:
        part: put into eval mode; of `model`, or of one with the same spatial encoder.

    The other arguments are those of `training_features`.

    Returns:
        head → (videos, K) float32, with rows of NaN for videos that cannot be read; and which these are, and why.
    """
    cache = _Cache(model, videos, folder, dtype, rank, world_size, progress)

    def read(shards: Sequence[_Shard]) -> Iterator[list[_Seen]]:
        asked = range(shards[0].positions.start, shards[-1].positions.stop)
        views = evaluation_views([videos.videos[index] for index in asked], spec, 1, 1, workers, decoder, timeout)
        for shard in shards:
            yield [_seen_view(next(views), index) for index in shard.positions]

    shards = cache.filled("validation", [asdict(spec), decoder], len(videos.videos), read)
    part.eval()
    device = next(part.parameters()).device
    answers: dict[str, list[Tensor]] = {}
    failures: dict[int, str] = {}
    with torch.inference_mode():
        for shard in shards:
            stored = cache.open(shard.path)
            failures |= dict(failed for of_clip in stored.failures for failed in of_clip)
            logits = part(stored.features.to(device))  # of features that are NaN, NaN
            for head, values in (logits if isinstance(logits, dict) else {"classes": logits}).items():
                answers.setdefault(head, []).append(values.float().cpu())
    return {head: torch.cat(values) for head, values in answers.items()}, failures


class _Cache:
    """The shards of one set of videos and one spatial encoder."""

    def __init__(
        self,
        model: ViViT,
        videos: VideoSet,
        folder: Path,
        dtype: torch.dtype,
        rank: int,
        world_size: int,
        progress: Progress | None,
    ) -> None:
        self.model, self.folder, self.dtype = model, folder, dtype
        self.rank, self.world_size = rank, world_size
        self.report = progress or (lambda done, total: None)
        self.encoder = [encoder_hash(model), str(dtype)]
        states = stat_all([video.source for video in videos.videos])
        self.identities = [
            [_place(video.source), video.span and list(video.span), *states[video.source]] for video in videos.videos
        ]
        """Of each video: where it lies, its span, its size and when it was modified."""
        self.open = lru_cache(OPEN_SHARDS)(_load)
        make_folder(folder)

    def filled(self, name: str, sampling: Sequence[Any], count: int, read: Read) -> list[_Shard]:
        """The shards of a pass over so many clips, after those that are not there have been made.

        Args:
            name: of the pass.
            sampling: all else that decides what is seen of each video.
        """
        key = hashlib.sha256(json.dumps([self.encoder, sampling, count, SHARD_SIZE]).encode()).hexdigest()[:32]
        shards = [
            _Shard(self.folder / f"{name}-{key}-{start:06d}.safetensors", range(start, min(start + SHARD_SIZE, count)))
            for start in range(0, count, SHARD_SIZE)
        ]
        # A share does not depend on what is there already: that differs with when a process looks.
        first, last = (len(shards) * number // self.world_size for number in (self.rank, self.rank + 1))
        share = shards[first:last]
        missing = [shard for shard in share if not self._is_there(shard)]
        clips, done = (sum(len(shard.positions) for shard in some) for some in (share, set(share) - set(missing)))
        for run in _runs(missing):
            self.report(done, clips)
            for shard, seen in zip(run, read(run), strict=True):
                self._write(shard, seen)
                done += len(seen)
                self.report(done, clips)
        self._wait_for(shards, read, clips)
        return shards

    def _wait_for(self, shards: list[_Shard], read: Read, clips: int) -> None:
        """Return when all shards are there, the other processes' too."""
        missing, changed = [shard for shard in shards if not self._is_there(shard)], time.monotonic()
        while missing:
            if time.monotonic() - changed > PATIENCE:
                # The other process may be at an end, or write to another disk.
                for seen in read(missing[:1]):
                    self._write(missing[0], seen)
            else:
                time.sleep(LOOK_EVERY)
                self.report(clips, clips)
            if len(left := [shard for shard in missing if not self._is_there(shard)]) < len(missing):
                missing, changed = left, time.monotonic()

    def _is_there(self, shard: _Shard) -> bool:
        try:
            tried = _load(shard.path).tried
        except (OSError, SafetensorError, ValueError):
            return False
        return all(self.identities[int(index)] == was for index, was in tried.items())

    def _write(self, shard: _Shard, seen: list[_Seen]) -> None:
        clips = [one.clip for one in seen if one.clip is not None]
        times, width = self.model.config.grid[0], self.model.config.hidden_size
        features = torch.full((len(seen), times, width), torch.nan)
        if clips:
            readable = torch.tensor([one.clip is not None for one in seen])
            features[readable] = frame_features(self.model, torch.stack(clips), self.dtype)
        tried = {video for one in seen for video in (one.video, *(failed for failed, _ in one.failures))}
        said = {
            "videos": [one.video for one in seen],
            "failures": [one.failures for one in seen],
            "tried": {str(video): self.identities[video] for video in sorted(tried)},
        }
        write_files({shard.path: lambda path: save_file({"features": features}, path, {"said": json.dumps(said)})})


def _load(path: Path) -> _Stored:
    """Raises OSError, SafetensorError or ValueError where it is not there, or damaged."""
    with safe_open(path, framework="pt") as file:
        said = json.loads((file.metadata() or {}).get("said", ""))
        features = file.get_tensor("features")
    failures = [[(index, reason) for index, reason in of_clip] for of_clip in said["failures"]]
    return _Stored(features, said["videos"], failures, said["tried"])


def encoder_hash(model: ViViT) -> str:
    """SHA-256, in hexadecimal, of all that decides what the spatial encoder makes of a clip."""
    encoder = factorised_encoder_of(model)
    found = hashlib.sha256(model.config.model_dump_json(exclude=NOT_SPATIAL).encode())
    for module in (model.embedding, encoder.spatial_positions, encoder.spatial_encoder):
        for name, value in module.state_dict().items():
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
    return found.hexdigest()


def _seen(batch: Batch) -> _Seen:
    """Of a batch of one."""
    return _Seen(batch.clips[0], int(batch.indices), [(index, str(error)) for index, error in batch.failures])


def _seen_view(views: Tensor | str, index: int) -> _Seen:
    """Of the one view of a video, or why it cannot be read."""
    return _Seen(None, index, [(index, views)]) if isinstance(views, str) else _Seen(views[0], index, [])


def _runs(shards: Sequence[_Shard]) -> list[list[_Shard]]:
    """Those that follow one another together, so that their clips are read in one go."""
    runs: list[list[_Shard]] = []
    for shard in shards:
        if runs and runs[-1][-1].positions.stop == shard.positions.start:
            runs[-1].append(shard)
        else:
            runs.append([shard])
    return runs


def _place(source: Path | InShard) -> str:
    return f"{source} at {source.offset}" if isinstance(source, InShard) else os.path.abspath(source)
