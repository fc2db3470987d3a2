"""Batches against the numbers drawn into the frames, and against each other: what must not matter does not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.data.loader import Batch, clip_rng, epoch_order, evaluation_views, steps_per_epoch, training_batches
from vivit.errors import UserError
from vivit.video.augment import Augmentation
from vivit.video.clips import ClipSpec, read_views
from vivit.video.decode import open_video
from vivit.video.source import VideoError

Encode = Callable[..., Path]
ReadNumbers = Callable[[Tensor], list[int]]

COUNT, LENGTH = 7, 20
CROPPED = ClipSpec(num_frames=3, stride=2, size=(24, 24), resize=28)
UNMIRRORED = Augmentation(flip=0.0)
WHOLE = ClipSpec(num_frames=3, stride=2, size=(32, 64), resize=32)


@pytest.fixture(scope="module")
def videos(encode: Encode, numbered: Callable[[int], np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> VideoSet:
    """Frame k of video i carries the number 20 · i + k; the label is 10 − i."""
    folder = tmp_path_factory.mktemp("videos")
    paths = [
        encode(folder / f"{i}.mp4", [numbered(LENGTH * i + k) for k in range(LENGTH)], options={"g": "10"})
        for i in range(COUNT)
    ]
    labelled = tuple(LabelledVideo(path, {"classes": 10 - i}) for i, path in enumerate(paths))
    return VideoSet(labelled, {"classes": tuple("abcdefghijk")}, "a test")


@pytest.fixture
def broken(videos: VideoSet, tmp_path: Path) -> VideoSet:
    """The same with a text in the place of video 4."""
    path = tmp_path / "broken.mp4"
    path.write_text("This is not a video.\n" * 50)
    changed = list(videos.videos)
    changed[4] = LabelledVideo(path, {"classes": 6})
    return VideoSet(tuple(changed), videos.classes, videos.source)


def assert_same(some: list[Batch], others: list[Batch]) -> None:
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.labels["classes"], other.labels["classes"])
        assert torch.equal(one.clips, other.clips)


def test_clips_are_of_their_videos(videos: VideoSet, read_numbers: ReadNumbers) -> None:
    starts = set()
    for batch in training_batches(
        videos, WHOLE, batch_size=3, seed=1, num_steps=8, augmentation=Augmentation(flip=0.0)
    ):
        assert batch.clips.shape == (3, 3, 3, 32, 64)
        assert batch.clips.dtype == torch.uint8
        assert batch.labels["classes"].tolist() == [10 - i for i in batch.indices.tolist()]
        for clip, index in zip(batch.clips, batch.indices.tolist(), strict=True):
            first, *rest = read_numbers(clip)
            assert rest == [first + 2, first + 4]
            assert 0 <= first - LENGTH * index <= LENGTH - 5
            starts.add(first - LENGTH * index)
    assert len(starts) > 5


def test_flips(videos: VideoSet) -> None:
    def batches(probability: float) -> list[Batch]:
        return list(
            training_batches(
                videos, WHOLE, batch_size=7, seed=0, num_steps=3, augmentation=Augmentation(flip=probability)
            )
        )

    never, sometimes, always = batches(0.0), batches(0.5), batches(1.0)
    flipped = []
    for plain, mixed, mirrored in zip(never, sometimes, always, strict=True):
        assert torch.equal(mirrored.clips, plain.clips.flip(-1))
        for a, b, c in zip(plain.clips, mixed.clips, mirrored.clips, strict=True):
            assert torch.equal(b, a) or torch.equal(b, c)
            flipped.append(torch.equal(b, c))
    assert 4 < sum(flipped) < 17


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_memory_do_not_matter(workers: int, keep: bool, videos: VideoSet) -> None:
    plain = list(training_batches(videos, CROPPED, batch_size=3, seed=5, num_steps=6))
    again = list(training_batches(videos, CROPPED, batch_size=3, seed=5, num_steps=6, workers=workers, keep=keep))
    assert_same(plain, again)


@pytest.mark.parametrize("batch_size", [3, 4])
def test_processes_share_each_batch(batch_size: int, videos: VideoSet) -> None:
    alone = list(training_batches(videos, CROPPED, batch_size=batch_size, seed=5, num_steps=4))
    ranks = [
        training_batches(videos, CROPPED, batch_size=batch_size, seed=5, num_steps=4, rank=rank, world_size=2)
        for rank in range(2)
    ]
    together = []
    for first, second in zip(*ranks, strict=True):
        assert len(first.indices) - len(second.indices) == batch_size % 2
        labels = torch.cat([first.labels["classes"], second.labels["classes"]])
        clips, indices = (torch.cat([first[i], second[i]]) for i in (0, 2))
        together.append(Batch(clips, {"classes": labels}, indices))
    assert_same(alone, together)


@pytest.mark.parametrize("start", [1, 2, 3])
def test_resumed_run_is_the_tail(start: int, videos: VideoSet) -> None:
    # Two steps to an epoch: the tails begin within one, at its border, and after it.
    whole = list(training_batches(videos, CROPPED, batch_size=3, seed=2, num_steps=6))
    assert_same(
        list(training_batches(videos, CROPPED, batch_size=3, seed=2, num_steps=6, start_step=start)), whole[start:]
    )


def test_epochs(videos: VideoSet) -> None:
    assert steps_per_epoch(COUNT, 3) == 2
    batches = list(training_batches(videos, CROPPED, batch_size=3, seed=0, num_steps=12))
    epochs = [torch.cat([b.indices for b in batches[i : i + 2]]).tolist() for i in range(0, 12, 2)]
    assert all(len(set(epoch)) == 6 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    # What one epoch leaves out comes in another.
    assert {index for epoch in epochs for index in epoch} == set(range(COUNT))


def test_clips_differ_between_epochs_and_seeds(videos: VideoSet) -> None:
    def clips(seed: int, epoch: int) -> dict[int, Tensor]:
        (batch,) = training_batches(
            videos,
            CROPPED,
            batch_size=7,
            seed=seed,
            num_steps=epoch + 1,
            start_step=epoch,
            augmentation=Augmentation(flip=0),
        )
        return dict(zip(batch.indices.tolist(), batch.clips, strict=True))

    first = clips(0, 0)
    for other in (clips(0, 1), clips(1, 0)):
        assert sum(torch.equal(first[index], other[index]) for index in range(COUNT)) <= 1


def test_random_streams_have_nothing_in_common() -> None:
    drawn = [clip_rng(*key).random() for key in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (3, 2, 0), (2, 3, 0)]]
    assert len(set(drawn)) == 6
    for seed, epoch in [(0, 0), (3, 2)]:
        order = epoch_order(1000, seed, epoch)
        assert sorted(order.tolist()) == list(range(1000))
        assert (order == clip_rng(seed, epoch, 0).permutation(1000)).sum() < 20


def test_set_smaller_than_a_batch(videos: VideoSet) -> None:
    few = VideoSet(videos.videos[:2], videos.classes, videos.source)
    batches = list(training_batches(few, CROPPED, batch_size=8, seed=0, num_steps=3))
    assert [sorted(batch.indices.tolist()) for batch in batches] == [[0, 1]] * 3


@pytest.mark.parametrize(("batch_size", "count"), [(2, 7), (8, 2), (8, 0)])
def test_batch_too_small_to_share(batch_size: int, count: int, videos: VideoSet) -> None:
    few = VideoSet(videos.videos[:count], videos.classes, videos.source)
    with pytest.raises(UserError, match=f"^batch_size: 3 processes cannot share a batch of {min(batch_size, count)} "):
        training_batches(few, CROPPED, batch_size=batch_size, seed=0, num_steps=1, rank=0, world_size=3)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_another_video_is_seen_in_place_of_an_unreadable_one(workers: int, keep: bool, broken: VideoSet) -> None:
    once = list(training_batches(broken, CROPPED, batch_size=COUNT, seed=0, num_steps=3))
    batches = list(training_batches(broken, CROPPED, batch_size=COUNT, seed=0, num_steps=3, workers=workers, keep=keep))
    assert_same(batches, once)
    replacements = set()
    for epoch, batch in enumerate(batches):
        (failure,) = batch.failures
        message = str(failure)
        assert message.startswith(f"{broken.videos[4].source}: not a readable video")
        assert "\n" not in message
        assert 4 not in batch.indices
        assert batch.labels["classes"].tolist() == [broken.videos[i].labels["classes"] for i in batch.indices.tolist()]
        order = epoch_order(COUNT, 0, epoch).tolist()
        assert [i for i in order if i != 4] == [
            index for index, wanted in zip(batch.indices.tolist(), order, strict=True) if wanted != 4
        ]
        replacements.add(batch.indices[order.index(4)].item())
    assert len(replacements) > 1


def test_when_nothing_can_be_read_it_ends_with_one_line(broken: VideoSet) -> None:
    nothing = VideoSet((broken.videos[4],) * 5, broken.classes, broken.source)
    with pytest.raises(VideoError) as caught:
        next(training_batches(nothing, CROPPED, batch_size=2, seed=0, num_steps=1))
    message = str(caught.value)
    assert message.startswith(f"{broken.videos[4].source}: not a readable video")
    assert "\n" not in message


def test_views_are_crops_of_single_frames(videos: VideoSet) -> None:
    """Starts 0, 8 and 15 of the 15 possible; 28 × 56 pixels leave 4 and 32 to spare."""
    path = videos.videos[3].source
    views = read_views(path, CROPPED, 3, 3)
    assert views.shape == (9, 3, 3, 24, 24)
    with open_video(path) as video:
        for clip, start in enumerate([0, 8, 15]):
            for position, left in enumerate([0, 16, 32]):
                for time in range(3):
                    (frame,) = video.frames([start + 2 * time], short_side=28)
                    expected = frame[:, 2:26, left : left + 24]
                    assert torch.equal(views[3 * clip + position, time], expected), (clip, position, time)


def test_one_view_is_the_middle(videos: VideoSet, read_numbers: ReadNumbers) -> None:
    (view,) = read_views(videos.videos[2].source, WHOLE, 1, 1)
    assert read_numbers(view) == [47, 49, 51]


@pytest.mark.parametrize(("short", "expected"), [("loop", [20, 29, 38, 27]), ("pad", [20, 29, 38, 39])])
def test_short_video(short: str, expected: list[int], videos: VideoSet, read_numbers: ReadNumbers) -> None:
    spec = ClipSpec(num_frames=4, stride=9, size=(32, 64), resize=32, short="loop" if short == "loop" else "pad")
    (view,) = read_views(videos.videos[1].source, spec, 1, 1)
    assert read_numbers(view) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_goes_on_after_a_broken_file(workers: int, broken: VideoSet) -> None:
    found = list(evaluation_views(broken.videos, CROPPED, 2, 3, workers=workers))
    assert len(found) == COUNT
    for index, (views, video) in enumerate(zip(found, broken.videos, strict=True)):
        if index == 4:
            assert isinstance(views, str)
            assert views.startswith(f"{video.source}: not a readable video")
            assert "\n" not in views
        else:
            assert isinstance(views, Tensor)
            assert torch.equal(views, read_views(video.source, CROPPED, 2, 3))
