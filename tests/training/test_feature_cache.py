"""Cached features against the loader's clips, and the changes that make the cache compute them again."""

import dataclasses
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import random_weights
from vivit.config import ModelConfig
from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.data.loader import Batch, TrainingClips, label_tensors, training_batches
from vivit.data.order import Order
from vivit.data.readers.listing import open_data
from vivit.errors import UserError
from vivit.evaluation.evaluate import evaluate
from vivit.inference.features import TemporalPart, clip_features
from vivit.inference.views import clip_spec
from vivit.labels import LabelSpace
from vivit.model.vivit import ViViT
from vivit.runtime import Ranks
from vivit.training import feature_cache
from vivit.training.feature_cache import FeatureCache, frozen_hash
from vivit.training.initialise import freeze
from vivit.video.augment import Augmentation
from vivit.video.decode import ReadOptions
from vivit.video.source import InShard, VideoError

COUNT = 12  # videos of bright_dark
SWAPPED = {"classes": {0: 1, 1: 0}}
AUGMENTATION = Augmentation(scale_jitter=(0.9, 1.3), flip=0.5, colour_jitter=0.8)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "PART_SIZE", 5)  # 5, 5 and 2 videos


@pytest.fixture
def videos(bright_dark: Path, tmp_path: Path) -> VideoSet:
    """A copy that tests may change."""
    return open_data(shutil.copytree(bright_dark, tmp_path / "videos")).split("all")


@pytest.fixture
def broken(videos: VideoSet) -> VideoSet:
    """Video 4 is a text file."""
    Path(str(videos.videos[4].source)).write_text("This is not a video.\n" * 50)
    return videos


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for each clip that went through the spatial encoder."""
    calls: list[int] = []

    def counted(model: ViViT, clips: Tensor, *how: Any) -> Tensor:
        assert len(clips) == 1
        calls.append(1)
        return clip_features(model, clips, *how)

    monkeypatch.setattr(feature_cache, "clip_features", counted)
    return calls


def build(**fields: Any) -> ViViT:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "mlp_dim": 64, "temporal_layers": 1}
    config = {"variant": "factorised_encoder", "num_frames": 4, "image_size": 32, "num_classes": 2, "adapter_size": 4}
    model = ViViT(ModelConfig(**{**sizes, **config, **fields}))
    return random_weights(model, std=0.2)


def asked(model: ViViT, videos: VideoSet, changes: dict[str, Any]) -> tuple[TrainingClips, Order]:
    """Six steps of five clips, two clips of each video, with these changes."""
    how: dict[str, Any] = {
        "augmentation": AUGMENTATION,
        "mirrors": SWAPPED,
        "seed": 3,
        "spec": clip_spec(model),
    } | changes
    order: dict[str, Any] = {"batch_size": 5, "steps": range(6), "clips_of_each": 2}
    order |= {name: how.pop(name) for name in order.keys() & how.keys()}
    return TrainingClips(videos, **how), Order(**order)


def features(model: ViViT, videos: VideoSet, folder: Path, **changes: Any) -> list[Batch]:
    of_cache = {name: changes.pop(name) for name in ("read", "ranks", "dtype", "report") & changes.keys()}
    return list(FeatureCache(model, folder, **of_cache).training_batches(*asked(model, videos, changes)))


def validation_logits(model: ViViT, videos: VideoSet, folder: Path, **of_cache: Any) -> dict[str, Tensor]:
    return FeatureCache(model, folder, **of_cache).validation(videos, clip_spec(model)).logits(TemporalPart(model))[0]


def clips_of(model: ViViT, videos: VideoSet, **changes: Any) -> list[Batch]:
    """The same steps by the loader."""
    ranks = changes.pop("ranks", Ranks())
    return list(training_batches(*asked(model, videos, changes), ranks))


def assert_same_labels(one: Batch, other: Batch) -> None:
    assert torch.equal(one.indices, other.indices)
    assert one.labels.keys() == other.labels.keys()
    for head, values in one.labels.items():
        assert values.dtype == other.labels[head].dtype
        assert torch.equal(values, other.labels[head])
    assert [(index, str(error)) for index, error in one.failures] == [(i, str(error)) for i, error in other.failures]


def assert_same(some: Sequence[Batch], others: Sequence[Batch]) -> None:
    for one, other in zip(some, others, strict=True):
        assert_same_labels(one, other)
        assert torch.equal(one.clips, other.clips)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_loader_with_features_in_place_of_clips(
    workers: int, videos: VideoSet, tmp_path: Path
) -> None:
    model = build()
    cached = features(model, videos, tmp_path / "features", read=ReadOptions(workers=workers))
    mirrored = 0
    for one, clips in zip(cached, clips_of(model, videos), strict=True):
        assert_same_labels(one, clips)
        torch.testing.assert_close(one.clips, clip_features(model, clips.clips), rtol=0, atol=1e-5)
        truth = [int(label_tensors(videos, index)["classes"]) for index in one.indices.tolist()]
        mirrored += sum(a != b for a, b in zip(truth, one.labels["classes"].tolist(), strict=True))
    assert 5 < mirrored < 25  # of 30


def test_cached_features_are_fresh_ones_bit_for_bit(videos: VideoSet, tmp_path: Path) -> None:
    model = build()
    for one, clips in zip(features(model, videos, tmp_path / "features"), clips_of(model, videos), strict=True):
        fresh = [clip_features(model, clip[None])[0] for clip in clips.clips]
        assert torch.equal(one.clips, torch.stack(fresh))


def test_many_labels_for_each_video(videos: VideoSet, tmp_path: Path) -> None:
    names = videos.labels.classes["classes"]
    labels = [{"classes": names[:1] if i % 3 else names} for i in range(len(videos.videos))]
    labelled = [LabelledVideo(video.source, has) for video, has in zip(videos.videos, labels, strict=True)]
    many = VideoSet(tuple(labelled), LabelSpace({"classes": names}, multi_label=True), "a test")
    model = build()
    for one, clips in zip(features(model, many, tmp_path / "features"), clips_of(model, many), strict=True):
        assert_same_labels(one, clips)


def test_later_epochs_and_calls_open_no_video_and_encode_nothing(
    videos: VideoSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    model = build()
    clips, order = asked(model, videos, {"steps": range(12)})
    steps = FeatureCache(model, tmp_path / "features").training_batches(clips, order)
    first = [next(steps) for _ in range(4)]
    logits = validation_logits(model, videos, tmp_path / "features")
    assert len(encoded) == 3 * COUNT

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a video was opened")

    for name in ("read_training_clip", "read_whole", "read_views"):
        monkeypatch.setattr(f"vivit.data.loader.{name}", refuse)
    monkeypatch.setattr(feature_cache, "clip_features", refuse)
    later = list(steps)
    again = list(FeatureCache(model, tmp_path / "features").training_batches(clips, order))
    assert_same(again, first + later)
    torch.testing.assert_close(validation_logits(model, videos, tmp_path / "features"), logits, rtol=0, atol=0)


def test_a_later_start_is_the_rest(videos: VideoSet, tmp_path: Path, encoded: list[int]) -> None:
    model = build()
    whole = features(model, videos, tmp_path / "features")
    assert_same(features(model, videos, tmp_path / "others", steps=range(3, 6)), whole[3:])
    # Steps 3 to 5 take the second clip and then the first one again.
    assert len(encoded) == 4 * COUNT


def test_a_change_of_what_is_trained_computes_nothing_again(
    videos: VideoSet, tmp_path: Path, encoded: list[int]
) -> None:
    model = build()
    before = features(model, videos, tmp_path)
    encoded.clear()
    with torch.no_grad():
        for parameter in TemporalPart(model).parameters():
            parameter.add_(1.0)
    assert_same(features(model, videos, tmp_path), before)
    other = build(temporal_layers=2, adapter_size=None, dropout=0.5, num_classes=None, heads={"a": 2, "b": 3})
    spatial = {k: v for k, v in model.state_dict().items() if k.startswith(("embedding.", "encoder.spatial."))}
    other.load_state_dict(spatial, strict=False)
    relabelled = dataclasses.replace(
        videos, videos=tuple(LabelledVideo(video.source, {"classes": ("dark",)}) for video in videos.videos)
    )
    after = features(other, relabelled, tmp_path, mirrors=None, batch_size=4, steps=range(3))
    assert not encoded
    assert all(batch.labels["classes"].tolist() == [1, 1, 1, 1] for batch in after)


def _change_embedding(model: ViViT, videos: VideoSet) -> dict[str, Any]:
    with torch.no_grad():
        model.embedding.bias[0] += 1e-3
    return {}


def _change_last_norm(model: ViViT, videos: VideoSet) -> dict[str, Any]:
    with torch.no_grad():
        model.get_parameter("encoder.spatial.norm.weight")[-1] += 1e-3
    return {}


def _change_config(model: ViViT, videos: VideoSet) -> dict[str, Any]:
    model.config = model.config.model_copy(update={"norm_eps": 1e-5})
    return {}


def _touch(model: ViViT, videos: VideoSet) -> dict[str, Any]:
    for video in videos.videos:
        os.utime(str(video.source), ns=(10**9, 10**9))
    return {}


def _other(**changes: Any) -> Callable[[ViViT, VideoSet], dict[str, Any]]:
    return lambda model, videos: changes


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_change_embedding, id="embedding"),
        pytest.param(_change_last_norm, id="last norm"),
        pytest.param(_change_config, id="epsilon"),
        pytest.param(_touch, id="files"),
        pytest.param(_other(seed=4), id="seed"),
        pytest.param(_other(augmentation=Augmentation(flip=0.25)), id="augmentation"),
        pytest.param(_other(dtype=torch.bfloat16), id="precision"),
    ],
)
def test_what_features_depend_on_makes_them_be_computed_again(
    change: Callable[[ViViT, VideoSet], dict[str, Any]], videos: VideoSet, tmp_path: Path, encoded: list[int]
) -> None:
    model = build()
    features(model, videos, tmp_path / "features", steps=range(2))
    encoded.clear()
    changes = {"steps": range(2), **change(model, videos)}
    after = features(model, videos, tmp_path / "features", **changes)
    assert len(encoded) == COUNT
    assert_same(after, features(model, videos, tmp_path / "others", **changes))


def test_another_sampling_of_frames_is_computed_again(videos: VideoSet, tmp_path: Path, encoded: list[int]) -> None:
    model = build()
    for stride in (2, 1):
        spec = dataclasses.replace(clip_spec(model), stride=stride)
        features(model, videos, tmp_path, spec=spec, steps=range(2))
        FeatureCache(model, tmp_path).validation(videos, spec)
    assert len(encoded) == 4 * COUNT


def test_spans_of_the_same_file_are_apart(videos: VideoSet, tmp_path: Path, encoded: list[int]) -> None:
    model = build()
    for span in (None, (0.0, 0.16), (0.16, 0.32)):
        spans = tuple(dataclasses.replace(video, span=span) for video in videos.videos)
        features(model, dataclasses.replace(videos, videos=spans), tmp_path, steps=range(1))
    assert len(encoded) == 3 * COUNT


def test_one_changed_file_costs_its_part_alone(videos: VideoSet, tmp_path: Path, encoded: list[int]) -> None:
    model = build()
    features(model, videos, tmp_path / "features", steps=range(2))
    encoded.clear()
    shutil.copy(str(videos.videos[0].source), str(videos.videos[7].source))
    after = features(model, videos, tmp_path / "features", steps=range(2))
    assert len(encoded) == 5
    assert_same(after, features(model, videos, tmp_path / "others", steps=range(2)))


def test_more_videos_cost_their_parts_alone(videos: VideoSet, tmp_path: Path, encoded: list[int]) -> None:
    model = build()
    fewer = dataclasses.replace(videos, videos=videos.videos[:7])
    for some, computed in ((fewer, 7), (videos, 7)):  # 5 and 2; then only the part of 2 is there
        encoded.clear()
        logits = validation_logits(model, some, tmp_path)
        assert len(encoded) == computed
        torch.testing.assert_close(logits, evaluate(model, some).logits, rtol=0, atol=1e-5)


def test_an_interrupted_call_leaves_whole_parts_and_the_next_one_does_the_rest(
    videos: VideoSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    model, folder = build(), tmp_path / "features"
    write = feature_cache.save_file

    def interrupted(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        write(tensors, path, metadata)
        if len(encoded) > 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(feature_cache, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        features(model, videos, folder, steps=range(2))
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(feature_cache, "save_file", write)
    after = features(model, videos, folder, steps=range(2))
    assert len(encoded) == 10 + 7
    assert_same(after, features(model, videos, tmp_path / "others", steps=range(2)))


def test_a_damaged_part_is_computed_again(videos: VideoSet, tmp_path: Path, encoded: list[int]) -> None:
    model = build()
    before = features(model, videos, tmp_path / "features", batch_size=COUNT, steps=range(1))
    first, _, last = sorted((tmp_path / "features").iterdir())
    content = first.read_bytes()
    os.truncate(first, len(content) - 10)
    last.write_bytes(b"")
    encoded.clear()
    assert_same(features(model, videos, tmp_path / "features", batch_size=COUNT, steps=range(1)), before)
    assert len(encoded) == 7
    assert first.read_bytes() == content


def test_two_processes_share_the_work_and_read_what_one_does(
    videos: VideoSet, tmp_path: Path, encoded: list[int]
) -> None:
    alone = features(build(), videos, tmp_path / "alone", steps=range(2))
    logits = validation_logits(build(), videos, tmp_path / "alone")
    models, shared = [build(), build()], tmp_path / "shared"

    def of_rank(rank: int) -> tuple[list[Batch], dict[str, Tensor]]:
        mine = {"ranks": Ranks(rank, 2)}
        batches = features(models[rank], videos, shared, steps=range(2), **mine)
        return batches, validation_logits(models[rank], videos, shared, **mine)

    encoded.clear()
    with ThreadPoolExecutor(2) as both:
        (first, one_logits), (second, other_logits) = both.map(of_rank, range(2))
    # Where the two meet, both may compute the last part.
    assert 2 * COUNT <= len(encoded) <= 2 * (COUNT + 5)
    for rank, batches in enumerate((first, second)):
        for clips, batch in zip(clips_of(build(), videos, steps=range(2), ranks=Ranks(rank, 2)), batches, strict=True):
            assert_same_labels(batch, clips)
    for whole, one, other in zip(alone, first, second, strict=True):
        assert sorted(torch.cat([one.indices, other.indices]).tolist()) == sorted(whole.indices.tolist())
        rows = dict(zip(whole.indices.tolist(), whole.clips, strict=True))
        for batch in (one, other):
            assert torch.equal(batch.clips, torch.stack([rows[index] for index in batch.indices.tolist()]))
    assert torch.equal(logits["classes"], one_logits["classes"])
    assert torch.equal(logits["classes"], other_logits["classes"])


def test_two_that_write_the_same_part_at_once_leave_it_whole(
    videos: VideoSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_there, save_file = threading.Barrier(2, timeout=20), feature_cache.save_file

    def together(*given: Any) -> None:
        save_file(*given)
        both_there.wait()

    monkeypatch.setattr(feature_cache, "PART_SIZE", COUNT)
    monkeypatch.setattr(feature_cache, "save_file", together)
    models = [build(), build()]
    with ThreadPoolExecutor(2) as both:  # threads have the same process id, as processes on two machines may
        runs = [both.submit(features, models[r], videos, tmp_path, steps=range(2), ranks=Ranks(r, 2)) for r in (0, 1)]
        indices = [torch.cat([batch.indices for batch in run.result()]).tolist() for run in runs]
    assert len({*indices[0], *indices[1]}) == 10
    assert [path.suffix for path in tmp_path.glob("training-*")] == [".safetensors"]


def test_a_process_begins_with_its_share_and_does_what_the_others_leave(
    videos: VideoSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "PART_SIZE", 2)
    written: list[str] = []
    save_file = feature_cache.save_file

    def noted(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        written.append(path.name.split("-")[2])
        save_file(tensors, path, metadata)

    monkeypatch.setattr(feature_cache, "save_file", noted)
    batches = features(build(), videos, tmp_path / "shared", steps=range(2), ranks=Ranks(1, 3))
    assert written == ["000004", "000006", "000002", "000000", "000010", "000008"]
    assert_same(batches, features(build(), videos, tmp_path / "others", steps=range(2), ranks=Ranks(1, 3)))


def test_a_report_tells_of_every_clip_and_may_stop_the_work(videos: VideoSet, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    def report(done: int, to_do: int) -> None:
        told.append((done, to_do))
        if len(told) == 8:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        features(build(), videos, tmp_path, steps=range(2), report=report)
    for _ in range(2):
        features(build(), videos, tmp_path, steps=range(2), report=report)
    # The first part is there; the work on the second is lost.
    assert told == [(done, 12) for done in range(8)] + [(done, 7) for done in range(7)]


def test_unreadable_videos_are_replaced_as_in_the_loader_until_they_are_mended(
    broken: VideoSet, tmp_path: Path, encoded: list[int]
) -> None:
    model, folder = build(), tmp_path / "features"
    many: dict[str, Any] = {"steps": range(16)}
    cached = features(model, broken, folder, clips_of_each=8, **many)
    read = clips_of(model, broken, clips_of_each=8, **many)
    for one, clips in zip(cached, read, strict=True):
        assert_same_labels(one, clips)
        torch.testing.assert_close(one.clips, clip_features(model, clips.clips), rtol=0, atol=1e-5)
    assert any(batch.failures for batch in cached)
    assert 4 not in torch.cat([batch.indices for batch in cached])
    encoded.clear()
    assert_same(features(model, broken, folder, clips_of_each=8, **many), cached)
    assert not encoded

    shutil.copy(str(broken.videos[5].source), str(broken.videos[4].source))
    for one, clips in zip(features(model, broken, folder), clips_of(model, broken), strict=True):
        assert_same_labels(one, clips)
        assert not one.failures


def test_a_change_of_the_video_that_is_seen_in_place_of_another_counts(broken: VideoSet, tmp_path: Path) -> None:
    model = build()
    asked = {"batch_size": COUNT, "steps": range(1)}
    (batch,) = features(model, broken, tmp_path / "features", **asked)
    (replacement,) = (batch.indices.bincount() == 2).nonzero().flatten().tolist()
    shutil.copy(str(broken.videos[0 if replacement > 5 else 11].source), str(broken.videos[replacement].source))
    after = features(model, broken, tmp_path / "features", **asked)
    assert_same(after, features(model, broken, tmp_path / "others", **asked))


def test_where_nothing_can_be_read_the_error_is_the_loaders(videos: VideoSet, tmp_path: Path) -> None:
    for video in videos.videos:
        Path(str(video.source)).write_text("This is not a video.\n" * 50)
    with pytest.raises(VideoError, match=r"\.mp4: "):
        features(build(), videos, tmp_path / "features")


@pytest.mark.parametrize("fields", [{}, {"num_classes": None, "heads": {"first": 2, "second": 2}}])
def test_validation_logits_are_those_of_evaluate(fields: dict[str, Any], broken: VideoSet, tmp_path: Path) -> None:
    model = build(**fields)
    part = freeze(model, TemporalPart).train()
    names = model.config.class_counts
    labelled = [
        dataclasses.replace(video, labels={head: video.labels["classes"] for head in names}) for video in broken.videos
    ]
    headed = VideoSet(tuple(labelled), LabelSpace({head: ("bright", "dark") for head in names}), "a test")
    logits, failures = FeatureCache(model, tmp_path / "features").validation(headed, clip_spec(model)).logits(part)
    expected = evaluate(model, headed)
    assert logits.keys() == names.keys()
    for head, values in logits.items():
        torch.testing.assert_close(values, expected.logits[head], rtol=0, atol=1e-5, equal_nan=True)
        assert values.isnan().all(dim=1).nonzero().tolist() == [[4]]
    (reason,) = failures.values()
    assert list(failures) == [4]
    assert reason.startswith(f"{headed.videos[4].source}: ")


def test_videos_in_shards_are_told_apart(videos: VideoSet, tmp_path: Path, encoded: list[int]) -> None:
    content = [Path(str(video.source)).read_bytes() for video in videos.videos]
    size = max(map(len, content)) + 8
    # A box that players ignore makes all of them equally long, so that only the offset tells them apart.
    content = [
        video + (size - len(video)).to_bytes(4, "big") + b"free" + bytes(size - len(video) - 8) for video in content
    ]
    shard = tmp_path / "videos.tar"
    shard.write_bytes(b"".join(content))

    def packed(order: list[int]) -> VideoSet:
        members = [InShard(str(shard), "video.mp4", number * size, size) for number in order]
        labelled = zip(videos.videos, members, strict=True)
        return dataclasses.replace(
            videos, videos=tuple(dataclasses.replace(video, source=member) for video, member in labelled)
        )

    model, forth = build(), list(range(COUNT))
    plain = features(model, videos, tmp_path / "features", steps=range(2))
    assert_same(features(model, packed(forth), tmp_path / "features", steps=range(2)), plain)
    features(model, packed(forth[::-1]), tmp_path / "features", steps=range(2))
    assert len(encoded) == 3 * COUNT


def test_a_model_that_cannot_be_frozen_is_refused(videos: VideoSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="without temporal layers"):
        features(build(temporal_layers=0, adapter_size=None), videos, tmp_path / "features")


def test_a_folder_that_cannot_be_made_is_named(videos: VideoSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/features"):
        features(build(), videos, tmp_path / "file" / "features")


def test_the_hash_is_of_the_spatial_encoder_alone() -> None:
    model = build()
    before = frozen_hash(model, TemporalPart)
    assert before == frozen_hash(build(temporal_layers=3, adapter_size=None, stochastic_depth=0.5), TemporalPart)
    spatial = [name for name, _ in model.named_parameters() if name.startswith(("embedding.", "encoder.spatial."))]
    for name in spatial:
        changed = build()
        with torch.no_grad():
            changed.get_parameter(name).view(-1)[-1] += 1e-3
        assert frozen_hash(changed, TemporalPart) != before, name
