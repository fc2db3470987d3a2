"""Check the hash of a split against one made by hand, and the comparison of changed data with a manifest."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.data.file_state import file_sizes
from vivit.data.manifest import (
    FileRecord,
    Manifest,
    Scan,
    compare,
    data_hash,
    from_line,
    read_manifest,
    to_line,
    write_manifest,
)
from vivit.data.readers.listing import open_data
from vivit.errors import UserError
from vivit.labels import LabelSpace
from vivit.video.source import InShard

CLASSES = ("jump", "run")


def make(root: Path, sizes: dict[str, int]) -> Path:
    """Write files with this many bytes."""
    for name, size in sizes.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return root


def videos_in(root: Path, names: Sequence[str], classes: Sequence[str] = CLASSES) -> VideoSet:
    """Videos labelled with the names of their folders."""
    videos = tuple(LabelledVideo(root / name, {"classes": (Path(name).parent.name,)}) for name in names)
    return VideoSet(videos, LabelSpace({"classes": tuple(classes)}), "videos of a test")


NAMES = ("clips/run/1.mp4", "clips/run/2.mp4", "clips/jump/1.mp4")
SIZES = dict(zip(NAMES, (3, 5, 8), strict=True))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "data", SIZES)


def manifest_of(root: Path, videos: VideoSet, split: str = "val") -> Manifest:
    """The manifest that checking the data in that folder would write."""
    sizes = file_sizes(video.source for video in videos.videos)
    files: dict[str, FileRecord] = {}
    for video in videos.videos:
        name = video.source.name if isinstance(video.source, InShard) else video.source.relative_to(root).as_posix()
        record = files.get(name) or FileRecord(name, Scan(codec="h264"), size=sizes[video.source])
        files[name] = replace(record, videos=(*record.videos, replace(video, split=split)))
    return Manifest({split: data_hash(videos)}, "a test", tuple(files.values()))


def test_hash_is_sha256_of_a_line_for_each_video_in_order(root: Path) -> None:
    lines = [
        '["jump/1.mp4", 8, [["classes", ["jump"]]], null]',
        '["run/1.mp4", 3, [["classes", ["run"]]], null]',
        '["run/2.mp4", 5, [["classes", ["run"]]], null]',
    ]
    assert data_hash(videos_in(root, NAMES)) == hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_hash_ignores_order_place_and_how_classes_are_numbered(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = data_hash(videos_in(root, NAMES))
    for seed in range(5):
        shuffled = random.Random(seed).sample(NAMES, len(NAMES))
        assert data_hash(videos_in(root, shuffled)) == expected
    assert data_hash(videos_in(root, NAMES, ("run", "walk", "jump"))) == expected
    moved = shutil.copytree(root, tmp_path / "else/where/it/lies")
    assert data_hash(videos_in(moved, NAMES)) == expected
    monkeypatch.chdir(moved / "clips")
    assert data_hash(videos_in(Path(".."), NAMES)) == expected
    assert data_hash(videos_in(Path("../clips/jump/../.."), NAMES)) == expected


def test_hash_ignores_the_separator_of_paths(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = data_hash(videos_in(root, NAMES))
    monkeypatch.setattr(os.path, "abspath", lambda path: "C:" + str(path).replace("/", "\\"))
    monkeypatch.setattr(os, "sep", "\\")
    assert data_hash(videos_in(root, NAMES)) == expected


def test_hash_changes_with_what_is_in_the_split(root: Path) -> None:
    videos = videos_in(root, NAMES)
    first, *others = videos.videos
    renamed = Path(shutil.copy(root / NAMES[0], root / "clips/run/renamed.mp4"))
    changed = [
        replace(videos, videos=tuple(others)),
        replace(videos, videos=(first, first, *others)),
        replace(videos, videos=(replace(first, source=renamed), *others)),
        replace(videos, videos=(replace(first, labels={"classes": (CLASSES[0],)}), *others)),
        replace(videos, videos=(replace(first, labels={"classes": CLASSES}), *others)),
        replace(videos, videos=(replace(first, span=(0.0, 1.5)), *others)),
        replace(videos, videos=(replace(first, span=(0.0, 1.75)), *others)),
        replace(videos, videos=tuple(replace(video, labels={"classes": ("leap",)}) for video in videos.videos)),
    ]
    hashes = [data_hash(videos), *map(data_hash, changed)]
    (root / NAMES[0]).write_bytes(b"another size")
    hashes.append(data_hash(videos))
    (root / NAMES[0]).unlink()
    hashes.append(data_hash(videos))
    assert len(set(hashes)) == len(hashes)


def test_hash_keeps_heads_apart_and_ignores_their_order(root: Path) -> None:
    def videos(**labels: str) -> VideoSet:
        video = LabelledVideo(root / NAMES[0], {head: (name,) for head, name in labels.items()})
        return VideoSet((video,), LabelSpace({"verb": ("cut", "open"), "noun": ("cut", "open")}), "a test")

    assert data_hash(videos(verb="cut", noun="open")) == data_hash(videos(noun="open", verb="cut"))
    assert data_hash(videos(verb="cut", noun="open")) != data_hash(videos(verb="open", noun="cut"))


def test_hash_of_shards_does_not_depend_on_where_or_in_which_shard_a_video_lies() -> None:
    def videos(folder: str, order: Sequence[int], size: int = 10) -> VideoSet:
        members = [
            LabelledVideo(
                InShard(f"{folder}{n}.tar", f"{number:07d}/clip.mp4", 512 * n, size),
                {"classes": (CLASSES[number % 2],)},
            )
            for n, number in enumerate(order)
        ]
        return VideoSet(tuple(members), LabelSpace({"classes": CLASSES}), "shards")

    expected = data_hash(videos("s3://bucket/train-", range(6)))
    assert data_hash(videos("/mnt/disk/", [3, 1, 0, 5, 2, 4])) == expected
    assert data_hash(videos("s3://bucket/train-", range(6), size=11)) != expected


def test_hash_takes_names_that_differ_in_the_encoding_of_accents_for_the_same(tmp_path: Path) -> None:
    composed = make(tmp_path / "a", {"run/caf\u00e9.mp4": 3, "jump/1.mp4": 4})
    apart = make(tmp_path / "b", {"run/cafe\u0301.mp4": 3, "jump/1.mp4": 4})
    one = data_hash(videos_in(composed, ["run/caf\u00e9.mp4", "jump/1.mp4"]))
    assert one == data_hash(videos_in(apart, ["run/cafe\u0301.mp4", "jump/1.mp4"]))


def test_hash_of_a_folder_of_frames_counts_them(tmp_path: Path) -> None:
    make(tmp_path, {"run/clip.frames/1.jpg": 3, "run/clip.frames/2.jpg": 4, "jump/1.mp4": 4})
    videos = videos_in(tmp_path, ["run/clip.frames", "jump/1.mp4"])
    before = data_hash(videos)
    assert file_sizes([tmp_path / "run/clip.frames"]) == {tmp_path / "run/clip.frames": 2}
    (tmp_path / "run/clip.frames/2.jpg").unlink()
    assert data_hash(videos) != before


def test_held_out_splits_of_an_opened_data_set_have_hashes_of_their_own(tmp_path: Path) -> None:
    names = {f"{name}/{number}.mp4": number + 1 for name in CLASSES for number in range(6)}
    make(tmp_path, names)
    train, val = (data_hash(open_data(tmp_path).split(split)) for split in ("train", "val"))
    assert train != val
    make(tmp_path, {"notes.txt": 7})
    assert data_hash(open_data(tmp_path).split("train")) == train


def test_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    scan = Scan("", "too few", 2.5, 50, 20.0, 64, 32, "h264", "mp4", "AAAA", True)
    name = Path("run/1, 2.mp4")
    uses = (
        LabelledVideo(name, {"verb": ("cut",), "noun": ("a", "b")}, "train", (0.5, 2.0)),
        LabelledVideo(name, {"verb": (), "noun": ("c",)}, "val"),
    )
    files = (
        FileRecord("run/1, 2.mp4", scan, "", 77, 123456789, "ab" * 32, uses, ("is odd",)),
        FileRecord("0001/\udcff.mp4", Scan(problem="is empty"), "s3://b/1.tar", 0),
    )
    manifest = Manifest(
        {"train": "12", "val": "34"}, "words", files, (("a", "b"),), (("c", "d", "e"),), (), {"val": ("gone.mp4",)}
    )
    path = tmp_path / "manifest.json"
    write_manifest(path, manifest)
    assert read_manifest(path) == manifest
    said = json.loads(path.read_text())
    assert list(said)[:2] == ["format", "hash"]
    assert said["files"][1] == {"name": "0001/\udcff.mp4", "shard": "s3://b/1.tar", "size": 0, "problem": "is empty"}
    assert all(from_line(to_line(record)) == record for record in files)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": "another"}', '{"annotations": []}', "\x00\xff", "[" * 10**5]
)
def test_another_file_is_no_manifest(content: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"manifest\.json: not a manifest"):
        read_manifest(path)
    with pytest.raises(UserError, match="none: cannot be read"):
        read_manifest(tmp_path / "none")


@pytest.mark.parametrize(
    "line",
    [
        *("", "nothing", "[]", "{}", "[" * 10**5, '{"name": "a", "new": 1}', '{"name": "a", "uses": [1]}'),
        *('{"name": 5}', '{"name": "a", "duration": "long"}', '{"name": "a", "duration": 1e999}'),
        *('{"name": "a", "thumbnails": 5}', '{"name": "a", "sha256": [1]}', '{"name": "a", "full": "yes"}'),
    ],
)
def test_a_broken_line_is_no_record(line: str) -> None:
    with pytest.raises(ValueError):
        from_line(line)


def test_compare_counts_what_has_changed(root: Path) -> None:
    videos = videos_in(root, NAMES)
    manifest = manifest_of(root, videos)
    assert compare(manifest, "val", videos) == ""
    assert compare(manifest, "val", replace(videos, videos=videos.videos[::-1])) == ""

    make(root, {"clips/run/3.mp4": 1, "clips/run/4.mp4": 1, "clips/run/5.mp4": 1, "clips/run/2.mp4": 99})
    names = ("clips/run/2.mp4", "clips/jump/1.mp4", *(f"clips/run/{number}.mp4" for number in (3, 4, 5)))
    assert compare(manifest, "val", videos_in(root, names)) == "3 videos added, 1 gone, 1 of another size"
    assert compare(manifest, "val", videos_in(root, NAMES)) == "1 video of another size"
    assert compare(manifest, "train", videos_in(root, NAMES)) == "3 videos added"


def test_compare_tells_of_labels_and_spans(root: Path) -> None:
    videos = videos_in(root, NAMES)
    first, *others = videos.videos
    manifest = manifest_of(root, videos)
    for changed in (replace(first, labels={"classes": (CLASSES[0],)}), replace(first, span=(0.0, 1.0))):
        now = replace(videos, videos=(changed, *others))
        assert compare(manifest, "val", now) == "1 video with other labels or spans"
    spans = replace(videos, videos=tuple(replace(first, span=(float(n), n + 1.0)) for n in range(3)))
    assert compare(manifest_of(root, spans), "val", spans) == ""
    fewer = replace(spans, videos=spans.videos[:2])
    assert compare(manifest_of(root, spans), "val", fewer) == "1 video with other labels or spans"


def test_compare_sees_through_another_shared_folder(root: Path, tmp_path: Path) -> None:
    few = videos_in(root, NAMES)
    make(root, {"more/run/3.mp4": 1})
    many = videos_in(root, (*NAMES, "more/run/3.mp4"))
    assert compare(manifest_of(root, few), "val", many) == "1 video added"
    assert compare(manifest_of(root, many), "val", few) == "1 video gone"
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert compare(manifest_of(root, many), "val", videos_in(moved, NAMES)) == "1 video gone"


def test_compare_with_nothing_is_all_gone_or_all_added(root: Path) -> None:
    videos = videos_in(root, NAMES)
    assert compare(manifest_of(root, videos), "val", replace(videos, videos=())) == "3 videos gone"
    assert compare(Manifest({}, "a test", ()), "val", videos) == "3 videos added"
