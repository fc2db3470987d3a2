"""Check batches against the numbers in the frames, and against each other: workers and the like do not matter."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import encode, numbered, read_numbers
from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.data.loader import Batch, TrainingClips, evaluation_views, training_batches
from vivit.data.order import Order, colour_rng, epoch_order, steps_per_epoch
from vivit.errors import UserError
from vivit.labels import LabelSpace
from vivit.runtime import Ranks
from vivit.video.augment import Augmentation, augment_batch
from vivit.video.clips import ClipSpec, read_views
from vivit.video.decode import ReadOptions, open_video
from vivit.video.source import VideoError

COUNT, LENGTH = 7, 20
NAMES = "abcdefghijk"
CROPPED = ClipSpec(num_frames=3, stride=2, size=(24, 24), resize=28)
UNMIRRORED = Augmentation(flip=0.0)
WHOLE = ClipSpec(num_frames=3, stride=2, size=(32, 64), resize=32)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> VideoSet:
    """Frame k of video i carries the number 20 · i + k; the number of its label is 10 − i."""
    folder = tmp_path_factory.mktemp("videos")
    paths = [
        encode(folder / f"{i}.mp4", [numbered(LENGTH * i + k) for k in range(LENGTH)], options={"g": "10"})
        for i in range(COUNT)
    ]
    labelled = tuple(LabelledVideo(path, {"classes": (NAMES[10 - i],)}) for i, path in enumerate(paths))
    return VideoSet(labelled, LabelSpace({"classes": tuple(NAMES)}), "a test")


@pytest.fixture
def broken(videos: VideoSet, tmp_path: Path) -> VideoSet:
    """The same videos, but video 4 is a text file."""
    path = tmp_path / "broken.mp4"
    path.write_text("This is not a video.\n" * 50)
    changed = list(videos.videos)
    changed[4] = LabelledVideo(path, {"classes": (NAMES[6],)})
    return replace(videos, videos=tuple(changed))


def batches_of(
    videos: VideoSet,
    spec: ClipSpec,
    batch_size: int,
    steps: range,
    *,
    seed: int = 0,
    ranks: Ranks = Ranks(),
    **how: Any,
) -> Iterator[Batch]:
    return training_batches(TrainingClips(videos, spec, seed, **how), Order(batch_size, steps), ranks)


def assert_same(some: list[Batch], others: list[Batch]) -> None:
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.labels["classes"], other.labels["classes"])
        assert torch.equal(one.clips, other.clips)


def test_clips_are_of_their_videos(videos: VideoSet) -> None:
    starts = set()
    for batch in batches_of(videos, WHOLE, 3, range(8), seed=1, augmentation=Augmentation(flip=0.0)):
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
        return list(batches_of(videos, WHOLE, 7, range(3), augmentation=Augmentation(flip=probability)))

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
    plain = list(batches_of(videos, CROPPED, 3, range(6), seed=5))
    again = list(batches_of(videos, CROPPED, 3, range(6), seed=5, keep_decoded=keep, read=ReadOptions(workers=workers)))
    assert_same(plain, again)


@pytest.mark.parametrize("batch_size", [3, 4])
def test_processes_share_each_batch(batch_size: int, videos: VideoSet) -> None:
    alone = list(batches_of(videos, CROPPED, batch_size, range(4), seed=5))
    ranks = [batches_of(videos, CROPPED, batch_size, range(4), seed=5, ranks=Ranks(rank, 2)) for rank in range(2)]
    together = []
    for first, second in zip(*ranks, strict=True):
        assert len(first.indices) - len(second.indices) == batch_size % 2
        labels = torch.cat([first.labels["classes"], second.labels["classes"]])
        clips, indices = (torch.cat([first[i], second[i]]) for i in (0, 2))
        together.append(Batch(clips, {"classes": labels}, indices))
    # It does not matter which rank has a clip; each video is in a batch only once.
    assert_same(*([in_order(batch) for batch in batches] for batches in (alone, together)))


def in_order(batch: Batch) -> Batch:
    order = batch.indices.argsort()
    return Batch(batch.clips[order], {"classes": batch.labels["classes"][order]}, batch.indices[order])


@pytest.mark.parametrize("start", [1, 2, 3])
def test_resumed_run_is_the_tail(start: int, videos: VideoSet) -> None:
    # An epoch has two steps: the tails start within an epoch, at its end, and after it.
    whole = list(batches_of(videos, CROPPED, 3, range(6), seed=2))
    assert_same(list(batches_of(videos, CROPPED, 3, range(start, 6), seed=2)), whole[start:])


def test_epochs(videos: VideoSet) -> None:
    assert steps_per_epoch(COUNT, 3) == 2
    batches = list(batches_of(videos, CROPPED, 3, range(12)))
    epochs = [torch.cat([b.indices for b in batches[i : i + 2]]).tolist() for i in range(0, 12, 2)]
    assert all(len(set(epoch)) == 6 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    # Videos that one epoch leaves out are in another.
    assert {index for epoch in epochs for index in epoch} == set(range(COUNT))


def test_clips_differ_between_epochs_and_seeds(videos: VideoSet) -> None:
    def clips(seed: int, epoch: int) -> dict[int, Tensor]:
        (batch,) = batches_of(videos, CROPPED, 7, range(epoch, epoch + 1), seed=seed, augmentation=Augmentation(flip=0))
        return dict(zip(batch.indices.tolist(), batch.clips, strict=True))

    first = clips(0, 0)
    for other in (clips(0, 1), clips(1, 0)):
        assert sum(torch.equal(first[index], other[index]) for index in range(COUNT)) <= 1


def test_set_smaller_than_a_batch(videos: VideoSet) -> None:
    few = replace(videos, videos=videos.videos[:2])
    batches = list(batches_of(few, CROPPED, 8, range(3)))
    assert [sorted(batch.indices.tolist()) for batch in batches] == [[0, 1]] * 3


@pytest.mark.parametrize(("batch_size", "count"), [(2, 7), (8, 2), (8, 0)])
def test_batch_too_small_to_share(batch_size: int, count: int, videos: VideoSet) -> None:
    few = replace(videos, videos=videos.videos[:count])
    with pytest.raises(UserError, match=f"^batch_size: 3 processes cannot share a batch of {min(batch_size, count)} "):
        batches_of(few, CROPPED, batch_size, range(1), ranks=Ranks(0, 3))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_another_video_is_seen_in_place_of_an_unreadable_one(workers: int, keep: bool, broken: VideoSet) -> None:
    once = list(batches_of(broken, CROPPED, COUNT, range(3)))
    batches = list(batches_of(broken, CROPPED, COUNT, range(3), keep_decoded=keep, read=ReadOptions(workers=workers)))
    assert_same(batches, once)
    replacements = set()
    for epoch, batch in enumerate(batches):
        ((index, failure),) = batch.failures
        assert index == 4
        message = str(failure)
        assert message.startswith(f"{broken.videos[4].source}: not a readable video")
        assert "\n" not in message
        assert 4 not in batch.indices
        assert batch.labels["classes"].tolist() == [10 - i for i in batch.indices.tolist()]
        order = epoch_order(COUNT, 0, epoch).tolist()
        assert [i for i in order if i != 4] == [
            index for index, wanted in zip(batch.indices.tolist(), order, strict=True) if wanted != 4
        ]
        replacements.add(batch.indices[order.index(4)].item())
    assert len(replacements) > 1


def test_when_nothing_can_be_read_it_ends_with_one_line(broken: VideoSet) -> None:
    nothing = replace(broken, videos=(broken.videos[4],) * 5)
    with pytest.raises(VideoError) as caught:
        next(batches_of(nothing, CROPPED, 2, range(1)))
    message = str(caught.value)
    assert message.startswith(f"{broken.videos[4].source}: not a readable video")
    assert "\n" not in message


def test_views_are_crops_of_single_frames(videos: VideoSet) -> None:
    """The clips start at 0, 8 and 15, the last possible start; 28 × 56 pixels have 4 and 32 to spare."""
    path = videos.videos[3].source
    views = read_views(path, CROPPED, 3, 3).frames
    assert views.shape == (9, 3, 3, 24, 24)
    with open_video(path) as video:
        for clip, start in enumerate([0, 8, 15]):
            for position, left in enumerate([0, 16, 32]):
                for time in range(3):
                    (frame,) = video.frames([start + 2 * time], short_side=28)
                    expected = frame[:, 2:26, left : left + 24]
                    assert torch.equal(views[3 * clip + position, time], expected), (clip, position, time)


def test_one_view_is_the_middle(videos: VideoSet) -> None:
    (view,) = read_views(videos.videos[2].source, WHOLE, 1, 1).frames
    assert read_numbers(view) == [47, 49, 51]


@pytest.mark.parametrize(("short", "expected"), [("loop", [20, 29, 38, 27]), ("pad", [20, 29, 38, 39])])
def test_short_video(short: str, expected: list[int], videos: VideoSet) -> None:
    spec = ClipSpec(num_frames=4, stride=9, size=(32, 64), resize=32, short="loop" if short == "loop" else "pad")
    (view,) = read_views(videos.videos[1].source, spec, 1, 1).frames
    assert read_numbers(view) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_goes_on_after_a_broken_file(workers: int, broken: VideoSet) -> None:
    found = list(evaluation_views(broken.videos, CROPPED, 2, 3, read=ReadOptions(workers=workers)))
    assert len(found) == COUNT
    for index, (views, video) in enumerate(zip(found, broken.videos, strict=True)):
        if index == 4:
            assert isinstance(views, str)
            assert views.startswith(f"{video.source}: not a readable video")
            assert "\n" not in views
        else:
            assert isinstance(views, Tensor)
            assert torch.equal(views, read_views(video.source, CROPPED, 2, 3).frames)


@pytest.mark.parametrize("workers", [0, 2])
def test_colours_changed_here_or_later_are_the_same(workers: int, videos: VideoSet) -> None:
    augmentation = Augmentation(scale_jitter=(0.9, 1.33), colour_jitter=0.8, grey_scale=0.3, randaugment=(2, 15))
    here, plain = (
        list(
            batches_of(
                videos,
                CROPPED,
                3,
                range(4),
                seed=5,
                augmentation=augmentation,
                colours=colours,
                read=ReadOptions(workers=workers),
            )
        )
        for colours in (True, False)
    )
    per_epoch = COUNT // 3
    later = []
    for step, batch in enumerate(plain):
        rngs = [colour_rng(5, step // per_epoch, index) for index in batch.indices.tolist()]
        later.append(batch._replace(clips=augment_batch(batch.clips, augmentation, rngs)))
    assert_same(here, later)
    assert any(not torch.equal(one.clips, other.clips) for one, other in zip(here, plain, strict=True))


def test_mirrored_clips_have_the_labels_of_their_mirrors(videos: VideoSet) -> None:
    swapped = {number: number for number in range(11)} | {9: 8, 8: 9}

    def labels(flip: float, mirrors: Mapping[str, Mapping[int, int]] | None = None) -> dict[int, int]:
        found: dict[int, int] = {}
        for batch in batches_of(videos, WHOLE, 7, range(1), augmentation=Augmentation(flip=flip), mirrors=mirrors):
            found |= dict(zip(batch.indices.tolist(), batch.labels["classes"].tolist(), strict=True))
        return found

    plain = {i: 10 - i for i in range(COUNT)}
    assert labels(0.0, mirrors={"classes": swapped}) == plain
    assert labels(1.0) == plain
    assert labels(1.0, mirrors={"classes": swapped}) == plain | {1: 8, 2: 9}


def test_many_labels_are_ones_in_a_row(videos: VideoSet) -> None:
    some = tuple(LabelledVideo(videos.videos[i].source, {"classes": names}) for i, names in enumerate([("a", "c"), ()]))
    data = VideoSet(some, LabelSpace({"classes": ("a", "b", "c")}, multi_label=True), "a test")
    (batch,) = batches_of(data, WHOLE, 2, range(1))
    rows = dict(zip(batch.indices.tolist(), batch.labels["classes"].tolist(), strict=True))
    assert rows == {0: [1.0, 0.0, 1.0], 1: [0.0, 0.0, 0.0]}


@pytest.mark.parametrize("keep", [False, True])
def test_clips_stay_within_their_span(keep: bool, videos: VideoSet) -> None:
    """At 25 frames per second, 0.2 to 0.56 s are frames 5 to 13."""
    part = LabelledVideo(videos.videos[0].source, {"classes": ("a",)}, span=(0.2, 0.56))
    data = VideoSet((part,), LabelSpace({"classes": ("a", "b")}), "a test")
    starts = set()
    for batch in batches_of(data, WHOLE, 1, range(40), augmentation=UNMIRRORED, keep_decoded=keep):
        first, *rest = read_numbers(batch.clips[0])
        assert rest == [first + 2, first + 4]
        starts.add(first)
    assert starts == {5, 6, 7, 8, 9}
    (views,) = evaluation_views([part], WHOLE, 2, 1)
    assert isinstance(views, Tensor)
    assert [read_numbers(view) for view in views] == [[5, 7, 9], [9, 11, 13]]


def test_a_video_without_its_span_is_unreadable(videos: VideoSet) -> None:
    """As with milliseconds for seconds."""
    good = videos.videos[1]
    bad = replace(videos.videos[0], span=(100.0, 200.0))
    data = replace(videos, videos=(bad, good))
    for keep in (False, True):
        (batch,) = batches_of(data, WHOLE, 2, range(1), keep_decoded=keep)
        ((index, error),) = batch.failures
        assert index == 0
        assert batch.indices.tolist() == [1, 1]
        assert str(error).startswith(f"{bad.source}: the span 100 to 200 s starts after")
    answers = list(evaluation_views(data.videos, WHOLE, 2, 1))
    assert answers[0] == str(error)
    assert isinstance(answers[1], Tensor)


def test_reading_in_another_process_is_the_same(videos: VideoSet) -> None:
    plain = list(batches_of(videos, CROPPED, 3, range(2), seed=5))
    assert_same(list(batches_of(videos, CROPPED, 3, range(2), seed=5, read=ReadOptions(timeout=60))), plain)
    (views,) = evaluation_views(videos.videos[:1], CROPPED, 2, 3, ReadOptions(timeout=60))
    assert isinstance(views, Tensor)
    assert torch.equal(views, read_views(videos.videos[0].source, CROPPED, 2, 3).frames)


def test_a_video_that_takes_too_long_is_unreadable(videos: VideoSet) -> None:
    single = replace(videos, videos=videos.videos[:1])  # without others to try in its place
    with pytest.raises(VideoError, match=r"took longer than 0\.0001 s"):
        next(batches_of(single, CROPPED, 2, range(1), read=ReadOptions(timeout=1e-4)))
    (reason,) = evaluation_views(videos.videos[:1], CROPPED, 1, 1, ReadOptions(timeout=1e-4))
    assert reason == f"{videos.videos[0].source}: took longer than 0.0001 s to read"
