"""Compare shards with the files they hold, with webdataset's own reader, and with an uninterrupted run."""

import json
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import webdataset

from tests.support import encode, numbered, read_numbers
from vivit.data import encode as encoding_module
from vivit.data import pack as packing
from vivit.data.datasets import DataSet, LabelledVideo, VideoSet
from vivit.data.encode import Encoding
from vivit.data.loader import TrainingClips, training_batches
from vivit.data.order import Order
from vivit.data.pack import Packed, pack
from vivit.data.readers.listing import open_data
from vivit.data.readers.shards import open_shards
from vivit.errors import UserError
from vivit.labels import LabelSpace
from vivit.runtime import Ranks
from vivit.video.clips import ClipSpec
from vivit.video.decode import ReadOptions, open_video
from vivit.video.source import InShard, VideoSource

COUNT, LENGTH = 7, 20
SPACE = LabelSpace({"classes": ("a", "b", "c")})
SPEC = ClipSpec(num_frames=3, stride=2, size=(24, 24), resize=28)
SMALL = 10240  # bytes of a shard with one or two of the videos


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frame k of video i carries the number 20 · i + k."""
    folder = tmp_path_factory.mktemp("videos")
    for i in range(COUNT):
        path = folder / "abc"[i % 3] / f"clip {i}.mp4"
        path.parent.mkdir(exist_ok=True)
        encode(path, [numbered(LENGTH * i + k) for k in range(LENGTH)], options={"g": "10"})
    return folder


def listing_of(folder: Path) -> DataSet:
    """The data set of a class folder; every third video is for validation."""
    entries = tuple(
        LabelledVideo(path, {"classes": (path.parent.name,)}, "train" if number % 3 else "val")
        for number, path in enumerate(sorted(folder.rglob("*.mp4")))
    )
    return DataSet(str(folder), entries, SPACE, "a test")


def video_set(listing: DataSet) -> VideoSet:
    return VideoSet(listing.videos, listing.labels, "a test")


def content(source: VideoSource) -> bytes:
    return source.read() if isinstance(source, InShard) else source.read_bytes()


def in_shard(entry: LabelledVideo) -> InShard:
    assert isinstance(entry.source, InShard)
    return entry.source


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def error_of(listing: DataSet, out: Path, encoding: Encoding | None = None) -> str:
    with pytest.raises(UserError) as caught:
        pack(listing, out, encoding=encoding, shard_size=SMALL, workers=0)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_file_is_there_with_its_labels(folder: Path, tmp_path: Path) -> None:
    listing = listing_of(folder)
    packed = pack(listing, tmp_path / "out", shard_size=SMALL, workers=0)
    assert (packed.files, packed.videos, packed.left_out) == (COUNT, COUNT, ())
    assert packed.shards == len(list((tmp_path / "out").glob("shard-*.tar"))) > 1
    assert packed.size == sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tar"))
    assert all(path.stat().st_size <= SMALL for path in (tmp_path / "out").glob("*.tar"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".tar") == ["shards.json"]
    again = open_shards(tmp_path / "out")
    assert again.labels == listing.labels
    for before, after in zip(listing.videos, again.videos, strict=True):
        assert (after.labels, after.split, after.span) == (before.labels, before.split, before.span)
        assert content(after.source) == content(before.source)
        assert in_shard(after).name == Path(str(before.source)).relative_to(folder).as_posix()
        with in_shard(after).open() as file:
            assert file.read() == content(before.source)
    # Their order is random: neither that of the list nor by class.
    placed = sorted(again.videos, key=lambda entry: (in_shard(entry).shard, in_shard(entry).offset))
    assert placed != list(again.videos)
    # Names in the tar files are safe for any program; the index has the data's own names.
    members: list[str] = []
    for path in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(path) as tar:
            members += tar.getnames()
    expected = [(f"{n:07d}/{Path(in_shard(e).name).stem.replace(' ', '_')}") for n, e in enumerate(placed)]
    assert members == [name + ending for name in expected for ending in (".mp4", ".json")]


def test_webdataset_reads_the_same_bytes_and_labels(folder: Path, tmp_path: Path) -> None:
    listing = listing_of(folder)
    packed = pack(listing, tmp_path, shard_size=SMALL, workers=0)
    shards = f"{tmp_path}/shard-{{000000..{packed.shards - 1:06d}}}.tar"
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    assert len({sample["__key__"] for sample in samples}) == COUNT
    found = {}
    for sample in samples:
        said = json.loads(sample["json"])
        found[sample["mp4"]] = (said["label"], said["split"], said["path"])
    assert found == {
        content(entry.source): (
            entry.labels["classes"][0],
            entry.split,
            Path(str(entry.source)).relative_to(folder).as_posix(),
        )
        for entry in listing.videos
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_clips_from_shards_are_those_from_files(workers: int, folder: Path, tmp_path: Path) -> None:
    """From the start, from a later step, and with two ranks."""
    listing = listing_of(folder)
    pack(listing, tmp_path, shard_size=SMALL, workers=0)
    files, shards = video_set(listing), video_set(open_shards(tmp_path))
    whole = list(training_batches(TrainingClips(files, SPEC, 5), Order(4, range(6))))
    packed = TrainingClips(shards, SPEC, 5, read=ReadOptions(workers=workers))
    tail = list(training_batches(packed, Order(4, range(3, 6))))
    assert len(whole) == len(tail) + 3
    for one, other in zip(whole[3:], tail, strict=True):
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.labels["classes"], other.labels["classes"])
        assert torch.equal(one.clips, other.clips)
    slices = [training_batches(TrainingClips(shards, SPEC, 5), Order(4, range(6)), Ranks(rank, 2)) for rank in (0, 1)]
    for one, first, second in zip(whole, *slices, strict=True):
        indices, clips = torch.cat([first.indices, second.indices]), torch.cat([first.clips, second.clips])
        # It does not matter which rank has a clip; each video is in a batch only once.
        assert torch.equal(one.indices.sort().values, indices.sort().values)
        assert torch.equal(one.clips[one.indices.argsort()], clips[indices.argsort()])


@pytest.mark.parametrize("encoding", [None, Encoding(short_side=16)])
def test_the_same_videos_are_held_out(encoding: Encoding | None, folder: Path, tmp_path: Path) -> None:
    """Without a validation split, packing must not change which videos are held out."""
    pack(open_data(folder), tmp_path, encoding=encoding, workers=0)
    for split in ("train", "val"):
        files, shards = open_data(folder).split(split), open_data(tmp_path).split(split)
        names = [video.source.name for video in shards.videos if isinstance(video.source, InShard)]
        assert names == [Path(str(video.source)).relative_to(folder).as_posix() for video in files.videos]
        assert [video.labels for video in shards.videos] == [video.labels for video in files.videos]


def test_workers_and_place_do_not_matter_to_a_byte(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where" / "videos"
    elsewhere.parent.mkdir()
    elsewhere.symlink_to(folder)
    pack(listing_of(folder), tmp_path / "one", shard_size=SMALL, workers=0)
    pack(listing_of(elsewhere), tmp_path / "two", shard_size=SMALL, workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_long_video_is_stored_once_for_all_its_segments(folder: Path, tmp_path: Path) -> None:
    path = folder / "a" / "clip 0.mp4"
    spans = [(0.0, 0.2), (0.2, 0.64), (0.1, 0.4)]
    entries = tuple(
        LabelledVideo(path, {"verb": (verb,), "noun": ("egg",)}, "train", span)
        for verb, span in zip("xyx", spans, strict=True)
    )
    listing = DataSet("data", entries, LabelSpace({"verb": ("x", "y"), "noun": ("egg",)}), "a test")
    assert pack(listing, tmp_path / "out", workers=0).files == 1
    again = open_shards(tmp_path / "out")
    assert len({entry.source for entry in again.videos}) == 1
    assert [(entry.labels, entry.span) for entry in again.videos] == [(e.labels, e.span) for e in entries]
    assert again.labels == listing.labels
    # The same from the shard alone, without the index.
    (tmp_path / "out" / "shards.json").unlink()
    assert open_shards(tmp_path / "out").videos == again.videos
    # When encoded, it is not cut, since more than one span is used.
    pack(listing, tmp_path / "encoded", encoding=Encoding(), workers=0)
    (source,) = {entry.source for entry in open_shards(tmp_path / "encoded").videos}
    with open_video(source) as video:
        assert video.info.num_frames == LENGTH


def test_many_labels(folder: Path, tmp_path: Path) -> None:
    paths = sorted(folder.rglob("*.mp4"))[:3]
    labels: list[tuple[str, ...]] = [("a", "b"), (), ("c",)]
    entries = tuple(LabelledVideo(path, {"classes": names}, "") for path, names in zip(paths, labels, strict=True))
    pack(DataSet("data", entries, LabelSpace(SPACE.classes, multi_label=True), "a test"), tmp_path, workers=0)
    again = open_shards(tmp_path)
    assert again.labels.multi_label
    assert [entry.labels["classes"] for entry in again.videos] == labels
    (tmp_path / "shards.json").unlink()
    walked = open_shards(tmp_path)
    assert walked.labels.multi_label
    assert {e.source: e.labels for e in walked.videos} == {e.source: e.labels for e in again.videos}


def test_shards_can_be_packed_again(folder: Path, tmp_path: Path) -> None:
    listing = listing_of(folder)
    pack(listing, tmp_path / "one", shard_size=SMALL, workers=0)
    pack(open_shards(tmp_path / "one"), tmp_path / "two", workers=0)
    again = open_shards(tmp_path / "two")
    assert {in_shard(entry).name for entry in again.videos} == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*.mp4")
    }
    assert [content(entry.source) for entry in again.videos] == [content(entry.source) for entry in listing.videos]


def test_a_shard_begins_where_another_video_would_not_fit(folder: Path, tmp_path: Path) -> None:
    packed = pack(listing_of(folder), tmp_path, shard_size=1, workers=0)
    assert packed.shards == COUNT


@pytest.mark.parametrize("encoding", [None, Encoding()])
def test_unreadable_videos_are_left_out_and_listed(encoding: Encoding | None, folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("This is not a video.\n" * 50)
    listing = listing_of(folder)
    entries = (*listing.videos[:2], LabelledVideo(broken, {"classes": ("a",)}, "train"), *listing.videos[2:])
    packed = pack(replace(listing, videos=entries), tmp_path / "out", encoding=encoding, workers=0)
    (line,) = packed.left_out
    assert "broken.mp4: not a readable video" in line
    assert line.count("broken.mp4") == 1
    again = open_shards(tmp_path / "out")
    assert [entry.labels for entry in again.videos] == [entry.labels for entry in listing.videos]
    assert json.loads((tmp_path / "out" / "shards.json").read_text())["left_out"] == [line]
    only = replace(listing, videos=(LabelledVideo(broken, {"classes": ("a",)}, "train"),))
    assert "none of 1 videos can be read, for example broken.mp4: not a" in error_of(only, tmp_path / "none", encoding)
    assert tree(tmp_path / "none") == {}


def key_frames(data: bytes, path: Path) -> list[int]:
    path.write_bytes(data)
    with av.open(str(path)) as container:
        shown = sorted((p.pts, p.is_keyframe) for p in container.demux(video=0) if p.pts is not None)
    return [number for number, (_, is_key) in enumerate(shown) if is_key]


def one_entry(path: Path, span: tuple[float, float] | None = None) -> DataSet:
    video = LabelledVideo(path, {"classes": ("a",)}, "train", span)
    return DataSet("data", (video,), LabelSpace({"classes": ("a",)}), "a test")


def encoded(path: Path, out: Path, encoding: Encoding, span: tuple[float, float] | None = None) -> LabelledVideo:
    pack(one_entry(path, span), out, encoding=encoding, workers=0)
    (entry,) = open_shards(out).videos
    return entry


@pytest.mark.parametrize("name", ["plain.mp4", "uneven.mp4", "turned.mp4", "sound.avi", "animation.gif"])
def test_frames_stay_where_they_are(name: str, tmp_path: Path) -> None:
    options: dict[str, dict[str, Any]] = {
        "uneven.mp4": {"times": [40 * k + (30 if k % 3 else 0) + (500 if k > 30 else 0) for k in range(60)]},
        "turned.mp4": {"rotation": 90},
        "sound.avi": {"codec": "mpeg4", "sound": 2.0},
        "animation.gif": {"codec": "gif", "pixel_format": "rgb8"},
    }
    path = encode(tmp_path / name, **options.get(name, {}))
    source = encoded(path, tmp_path / "out", Encoding(key_frames=8)).source
    with open_video(path) as before, open_video(source) as after:
        assert after.info.num_frames == before.info.num_frames >= 59
        assert after.info.frame_rate == pytest.approx(before.info.frame_rate, rel=1e-5)
        assert (after.info.width, after.info.height) == (before.info.width, before.info.height)
        assert (after.info.rotation, after.info.codec) == (0, "h264")
        indices = range(before.info.num_frames)
        expected, found = before.frames(indices), after.frames(indices)
    if name != "turned.mp4":
        assert read_numbers(found) == read_numbers(expected)
    assert (expected.float() - found.float()).abs().mean() < 6
    frames = key_frames(content(source), tmp_path / "packed.mp4")
    assert frames[0] == 0
    assert max(np.diff([*frames, source_length(tmp_path / "packed.mp4")])) <= 8


def source_length(path: Path) -> int:
    with av.open(str(path)) as container:
        assert not container.streams.audio
        return sum(1 for _ in container.decode(video=0))


def test_the_only_span_in_use_is_cut_out(tmp_path: Path) -> None:
    path = encode(tmp_path / "long.mp4")
    entry = encoded(path, tmp_path / "out", Encoding(), span=(0.4, 1.2))
    assert entry.span is None
    with open_video(entry.source) as video:
        assert video.info.num_frames == 20
        assert read_numbers(video.frames(range(20))) == list(range(10, 30))


@pytest.mark.parametrize("encoding", [None, Encoding()])
def test_a_video_with_none_of_its_spans_is_left_out(encoding: Encoding | None, tmp_path: Path) -> None:
    """A file with one of its spans stays."""
    whole, without = encode(tmp_path / "a.mp4", 10), encode(tmp_path / "b.mp4", 12)
    uses = [(whole, (0.0, 0.2)), (whole, (7.0, 8.0)), (without, (0.0, 480.0)), (without, (90.0, 300.0))]
    videos = tuple(LabelledVideo(path, {"classes": ("a",)}, "train", span) for path, span in uses)
    packed = pack(replace(one_entry(whole), videos=videos), tmp_path / "out", encoding=encoding, workers=0)
    assert [(line.split(":")[0], "end of the video at 0.48 s" in line) for line in packed.left_out] == [("b.mp4", True)]
    assert [video.span for video in open_shards(tmp_path / "out").videos] == [span for _, span in uses[:2]]


@pytest.mark.parametrize(("short_side", "expected"), [(16, (32, 16)), (25, (50, 24)), (64, (64, 32))])
def test_the_short_side_shrinks_and_never_grows(short_side: int, expected: tuple[int, int], tmp_path: Path) -> None:
    entry = encoded(encode(tmp_path / "a.mp4", 5), tmp_path / "out", Encoding(short_side=short_side))
    with open_video(entry.source) as video:
        assert (video.info.width, video.info.height) == expected


def test_colours_stay(tmp_path: Path) -> None:
    """Also for a video that declares HDTV colours."""
    colours = [(200, 30, 40), (20, 180, 60), (40, 50, 220), (128, 128, 128)]
    pictures = [np.full((64, 64, 3), colour, np.uint8) for colour in colours for _ in range(5)]
    path = encode(tmp_path / "a.mp4", pictures, options={"colorspace": "bt709", "crf": "1"})
    with open_video(path) as before, open_video(encoded(path, tmp_path / "out", Encoding()).source) as after:
        difference = before.frames(range(20)).float() - after.frames(range(20)).float()
    assert difference.abs().max() <= 4


def test_few_frames_at_once_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "a.mp4")
    whole = content(encoded(path, tmp_path / "whole", Encoding()).source)
    monkeypatch.setattr(encoding_module, "FRAMES_AT_ONCE", 7 * 3 * 32 * 64)
    assert content(encoded(path, tmp_path / "pieces", Encoding()).source) == whole


def test_folders_of_frames_must_be_encoded(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    message = error_of(one_entry(tmp_path / "frames"), tmp_path / "out")
    assert message.startswith(f"{tmp_path / 'frames'}: a folder of frames")


RUN = """
import resource
import sys
import tarfile
import time
from pathlib import Path
root, folder, out, kind, workers, pause_at, largest = sys.argv[1:]
sys.path.insert(0, root)
from vivit.errors import UserError
from vivit.data.datasets import DataSet, LabelledVideo
from vivit.labels import LabelSpace
from vivit.data.encode import Encoding
from vivit.data.pack import pack

def progress(done, total):
    print(done, flush=True)
    if done == int(pause_at):
        time.sleep(60)

if __name__ == "__main__":
    if int(largest):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), int(largest)))
    entries = tuple(
        LabelledVideo(path, {"classes": (path.parent.name,)}, "train" if number % 3 else "val")
        for number, path in enumerate(sorted(Path(folder).rglob("*.mp4")))
    )
    listing = DataSet(folder, entries, LabelSpace({"classes": ("a", "b", "c")}), "a test")
    encoding = Encoding() if kind == "encoded" else None
    try:
        pack(listing, Path(out), encoding=encoding, shard_size=10240, workers=int(workers), progress=progress)
    except UserError as error:
        print(error)
"""


def command(
    script: Path, folder: Path, out: Path, kind: str, *, workers: int = 0, pause_at: int = -1, largest: int = 0
) -> list[str]:
    """A command that packs in another process, which pauses at a video, or may write no file above `largest` bytes."""
    script.write_text(RUN)
    root = Path(packing.__file__).parents[2]
    return [sys.executable, *map(str, (script, root, folder, out, kind, workers, pause_at, largest))]


@pytest.mark.parametrize(("kind", "workers", "stops"), [("copied", 0, [1, 4]), ("encoded", 2, [4])])
def test_a_run_that_is_killed_goes_on_and_writes_the_same(
    kind: str, workers: int, stops: list[int], folder: Path, tmp_path: Path
) -> None:
    listing, encoding = listing_of(folder), Encoding() if kind == "encoded" else None
    plain, out = tmp_path / "plain", tmp_path / "out"
    pack(listing, plain, encoding=encoding, shard_size=SMALL, workers=0)
    for stop in stops:
        call = command(tmp_path / "run.py", folder, out, kind, workers=workers, pause_at=stop)
        with subprocess.Popen(call, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
            assert process.stdout is not None
            assert any(line.strip() == str(stop) for line in process.stdout)
            assert "another process is packing into this folder" in error_of(listing, out, encoding)
            process.kill()
        assert not (out / "shards.json").exists()
        for path in out.glob("*.tar"):
            assert path.read_bytes() == (plain / path.name).read_bytes()
        with pytest.raises(UserError, match="packing is not finished; run the same"):
            open_shards(out)
        wait_for_the_end_of(process.pid)
    assert any(out.glob("*.tar"))
    done: list[int] = []
    pack(listing, out, encoding=encoding, shard_size=SMALL, workers=0, progress=lambda now, _: done.append(now))
    assert done[0] > 0
    assert tree(out) == tree(plain)


def wait_for_the_end_of(session: int) -> None:
    """Wait until all its processes have ended: none continues without the one that writes."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("processes are left")


def test_a_second_run_writes_nothing(folder: Path, tmp_path: Path) -> None:
    first = pack(listing_of(folder), tmp_path, workers=0)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    calls: list[tuple[int, int]] = []
    assert pack(listing_of(folder), tmp_path, workers=0, progress=lambda *call: calls.append(call)) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times
    assert isinstance(first, Packed)


def test_other_shards_are_not_touched(folder: Path, tmp_path: Path) -> None:
    listing = listing_of(folder)
    fewer = replace(listing, videos=listing.videos[:-1])
    out = tmp_path / "whole"
    pack(listing, out, shard_size=SMALL, workers=0)
    assert "holds shards of other data or with other settings" in error_of(fewer, out)
    assert "holds shards of other data" in error_of(listing, out, Encoding())
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "a.tar").write_bytes(bytes(10240))
    assert "holds tar files already" in error_of(listing, foreign)
    begun = tmp_path / "begun"
    (begun / ".packing").mkdir(parents=True)
    (begun / ".packing" / "plan").write_text("another")
    assert "with other settings was started here" in error_of(listing, begun)
    assert (foreign / "a.tar").read_bytes() == bytes(10240)


@pytest.mark.parametrize("kind", ["copied", "encoded"])
def test_a_full_disk_is_one_line_and_nothing_half_written(kind: str, folder: Path, tmp_path: Path) -> None:
    """A limit on the size of files simulates it: the system refuses to write in the same place."""
    out = tmp_path / "out"
    call = command(tmp_path / "run.py", folder, out, kind, largest=600)
    printed = subprocess.run(call, capture_output=True, text=True, timeout=60)
    assert printed.stderr == ""
    assert "not written (File too large); the same command continues from there" in printed.stdout.splitlines()[-1]
    assert not list(out.glob("*.tar"))
    assert not (out / "shards.json").exists()
    encoding = Encoding() if kind == "encoded" else None
    pack(listing_of(folder), out, encoding=encoding, shard_size=SMALL, workers=0)
    assert len(open_shards(out).videos) == COUNT
