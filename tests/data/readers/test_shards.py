"""Tar files made by Python's tarfile and by webdataset, on disk, in memory and behind a test server."""

import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import av
import fsspec
import numpy as np
import pytest
import torch
import webdataset

from tests.support import encode, numbered
from vivit.data.datasets import DataSet, VideoSet
from vivit.data.loader import TrainingClips, training_batches
from vivit.data.order import Order
from vivit.data.pack import pack
from vivit.data.readers.shards import expand_braces, is_shards, open_shards
from vivit.errors import UserError
from vivit.video import source as reading
from vivit.video.clips import ClipSpec
from vivit.video.decode import ReadOptions, open_video
from vivit.video.source import InShard, VideoError

SPEC = ClipSpec(num_frames=3, stride=2, size=(32, 64), resize=32)
COUNT = 5


@pytest.fixture(autouse=True)
def _cache_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Frame k of video i carries the number 20 · i + k."""
    folder = tmp_path_factory.mktemp("clips")
    return [encode(folder / f"{i}.mp4", [numbered(20 * i + k) for k in range(20)]).read_bytes() for i in range(COUNT)]


def write_tar(path: Path, members: Mapping[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, value in members.items():
            data = value.encode() if isinstance(value, str) else value
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def foreign(clips: list[bytes], tmp_path: Path) -> Path:
    """A folder of two shards whose labels are numbers, as webdataset's own writer makes them."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    for shard, numbers in enumerate([(0, 1, 2), (3, 4)]):
        with webdataset.TarWriter(str(folder / f"clips-{shard:02d}.tar")) as writer:
            for number in numbers:
                writer.write({"__key__": f"some/clip{number}", "mp4": clips[number], "cls": 10 - number % 3})
    return folder


def names_of(listing: DataSet) -> list[tuple[str, ...]]:
    return [entry.labels["classes"] for entry in listing.videos]


def bytes_of(listing: DataSet) -> list[bytes]:
    return [in_shard(listing, number).read() for number in range(len(listing.videos))]


def in_shard(listing: DataSet, number: int = 0) -> InShard:
    source = listing.videos[number].source
    assert isinstance(source, InShard)
    return source


def video_set(listing: DataSet) -> VideoSet:
    return VideoSet(listing.videos, listing.labels, "a test")


def error_of(data: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        open_shards(data)
    message = str(caught.value)
    assert "\n" not in message
    return message


def problem_of(source: InShard) -> str:
    """The error message, which names the shard and the video."""
    messages = set()
    for read in (source.read, lambda: source.open().read(), lambda: open_video(source)):
        with pytest.raises(VideoError) as caught:
            read()
        messages.add(str(caught.value))
    (message,) = messages
    assert "\n" not in message
    assert message.startswith(f"{source.shard}/{source.name}: ")
    return message.removeprefix(f"{source}: ")


def test_shards_of_others(foreign: Path, clips: list[bytes]) -> None:
    listing = open_shards(foreign)
    assert names_of(listing) == [("10",), ("9",), ("8",), ("10",), ("9",)]
    assert listing.labels.classes == {"classes": ("8", "9", "10")}
    assert not listing.labels.multi_label
    assert {entry.split for entry in listing.videos} == {""}
    assert bytes_of(listing) == clips


def test_the_walk_is_kept_until_a_shard_changes(
    foreign: Path, clips: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_shards(foreign)
    assert (foreign / "shards.json").is_file()
    with monkeypatch.context() as context:
        context.setattr("vivit.data.readers.shards._walk", lambda *_: pytest.fail("walked again"))
        again = open_shards(foreign)
        assert (again.videos, again.labels) == (before.videos, before.labels)
    write_tar(foreign / "clips-02.tar", {"new.mp4": clips[0], "new.txt": "a"})
    assert names_of(open_shards(foreign))[-1] == ("a",)
    # Same size, other content.
    old = (foreign / "clips-02.tar").stat()
    write_tar(foreign / "clips-02.tar", {"new.mp4": clips[0], "new.txt": "b"})
    assert (foreign / "clips-02.tar").stat().st_size == old.st_size
    assert names_of(open_shards(foreign))[-1] == ("b",)


def test_shards_by_name_with_braces(foreign: Path, clips: list[bytes]) -> None:
    assert expand_braces("x-{08..10}{a,b}.tar") == [f"x-{n}{x}.tar" for n in ("08", "09", "10") for x in "ab"]
    assert bytes_of(open_shards(f"{foreign}/clips-{{00..01}}.tar")) == clips
    assert bytes_of(open_shards(foreign / "clips-01.tar")) == clips[3:]
    assert not (foreign / "shards.json").exists()
    assert error_of(f"{foreign}/clips-{{00..02}}.tar") == f"{foreign}/clips-02.tar: no such file"


def test_labels_beside_a_video(clips: list[bytes], tmp_path: Path) -> None:
    clip = clips[0]
    write_tar(
        tmp_path / "a.tar",
        {
            "1.json": json.dumps({"label": "run", "split": "training", "other": [1]}),
            "1.mp4": clip,
            "2.mp4": clip,
            "2.json": json.dumps({"label": 7, "span": [1, 2.5]}),
            "3.mp4": clip,
            "3.txt": " long jump\n",
            "3.json": json.dumps({"width": 5}),
            "4.side.mp4": clip,
            "4.jpg": b"",
            "4.cls": "3",
            "5.MP4": clip,
            "5.json": json.dumps({"entries": [{"label": "a", "span": [0, 1]}, {"label": "b", "span": [1, 2]}]}),
        },
    )
    found = [(e.labels["classes"], e.split, e.span) for e in open_shards(tmp_path).videos]
    assert found == [
        (("run",), "train", None),
        (("7",), "", (1.0, 2.5)),
        (("long jump",), "", None),
        (("3",), "", None),
        (("a",), "", (0.0, 1.0)),
        (("b",), "", (1.0, 2.0)),
    ]


def test_many_labels_and_many_heads(clips: list[bytes], tmp_path: Path) -> None:
    write_tar(tmp_path / "m" / "a.tar", {"1.mp4": clips[0], "1.json": '{"labels": ["b", "a"]}'})
    listing = open_shards(tmp_path / "m")
    assert (listing.labels.multi_label, names_of(listing)) == (True, [("b", "a")])
    write_tar(tmp_path / "h" / "a.tar", {"1.mp4": clips[0], "1.json": '{"label": {"verb": "cut", "noun": 5}}'})
    listing = open_shards(tmp_path / "h")
    assert not listing.labels.multi_label
    assert listing.videos[0].labels == {"verb": ("cut",), "noun": ("5",)}
    assert listing.labels.classes == {"verb": ("cut",), "noun": ("5",)}


def test_splits_by_the_names_of_shards(clips: list[bytes], tmp_path: Path) -> None:
    for name in ("train/000.tar", "kinetics-val-000.tar", "Test_0.tar", "train-and-val.tar"):
        write_tar(tmp_path / "data" / name, {f"{name[:2]}.mp4": clips[0], f"{name[:2]}.cls": "1"})
    listing = open_shards(tmp_path / "data")
    assert {
        in_shard(listing, i).shard.removeprefix(f"{tmp_path}/data/"): e.split for i, e in enumerate(listing.videos)
    } == {
        "train/000.tar": "train",
        "kinetics-val-000.tar": "val",
        "Test_0.tar": "test",
        "train-and-val.tar": "",
    }


def test_members_that_are_no_labelled_videos_are_left_out_and_listed(clips: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "data" / "a.tar"
    write_tar(
        path,
        {
            "../x.mp4": clips[0],
            "../x.cls": "1",
            "/etc/y.mp4": clips[0],
            "/etc/y.cls": "1",
            "no label.mp4": clips[0],
            "odd.mp4": clips[0],
            "odd.json": '{"label": {"a": {}}}',
            "bad.mp4": clips[0],
            "bad.json": "{" * 100_000,
            "good.mp4": clips[1],
            "good.cls": "1",
        },
    )
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    listing = open_shards(tmp_path / "data")
    assert bytes_of(listing) == [clips[1]]
    assert sorted(set(tmp_path.rglob("*")) - set(before)) == [tmp_path / "data" / "shards.json"]
    left_out = json.loads((tmp_path / "data" / "shards.json").read_text())["left_out"]
    assert [line.partition(": ")[0].removeprefix("a.tar/") for line in left_out] == [
        *("../x.mp4", "/etc/y.mp4", "no label.mp4", "odd.mp4", "bad.mp4", "link.mp4"),
    ]
    for again in (listing, open_shards(tmp_path / "data")):  # the second time from the index
        assert again.remarks[0].startswith("passed over 6 videos in the shards: a.tar/../x.mp4: ")


def test_no_labelled_video_at_all(clips: list[bytes], tmp_path: Path) -> None:
    write_tar(tmp_path / "data" / "a.tar", {"1.mp4": clips[0]})
    assert "no labelled video in 1 tar files" in error_of(tmp_path / "data")
    assert "(a.tar/1.mp4: no label beside it)" in error_of(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    assert "no tar files and no shards.json" in error_of(tmp_path / "empty")


@pytest.mark.parametrize("cut", [100, 700, 3000])
def test_foreign_shard_that_is_cut_off(cut: int, foreign: Path) -> None:
    path = foreign / "clips-01.tar"
    path.write_bytes(path.read_bytes()[:cut])
    message = error_of(foreign)
    assert message.startswith(f"{path}: not a complete tar file (")


def test_foreign_shard_with_a_damaged_header(foreign: Path) -> None:
    """tarfile reads it as the end of the archive."""
    path = foreign / "clips-00.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        second = tar.getmember("some/clip1.mp4").offset
    data[second : second + 20] = b"\xff" * 20
    path.write_bytes(data)
    assert f"no header at byte {second:,}" in error_of(foreign)


def test_compressed_shards_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    assert "decompress it first" in error_of(tmp_path)


def test_which_data_is_shards(foreign: Path, tmp_path: Path) -> None:
    for data in (foreign, f"{foreign}/clips-{{00..01}}.tar", "s3://bucket/folder", foreign / "shards.json"):
        assert is_shards(data)
    for part in ("folder/class", "train/class"):
        (tmp_path / part).mkdir(parents=True)
    assert not is_shards(tmp_path / "folder")
    assert not is_shards(tmp_path / "list.csv")


@pytest.fixture
def packed(foreign: Path, tmp_path: Path) -> Path:
    pack(open_shards(foreign), tmp_path / "packed", shard_size=10240, workers=0)
    return tmp_path / "packed"


def test_shards_missing_or_cut_off(packed: Path) -> None:
    listing = open_shards(packed)
    path = packed / "shard-000000.tar"
    whole = path.read_bytes()
    place = next(in_shard(listing, i) for i in range(COUNT) if in_shard(listing, i).shard == str(path))
    path.write_bytes(whole[: place.offset + 100])
    message = f"{path}: has {place.offset + 100:,} bytes and should have {len(whole):,}; copy it again"
    assert error_of(packed) == message
    # A shard that changes later.
    assert problem_of(place) == f"cannot be read: the shard has 100 of its {place.size:,} bytes"
    path.unlink()
    assert f"{path}: no such file (1 of " in error_of(packed)
    assert problem_of(place) == "cannot be read: no such file"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda index: index["entries"][1].update(offset=10**9), "is outside its shard"),
        (lambda index: index["entries"][1].update(offset=-1), "is outside its shard"),
        (lambda index: index["entries"][1].update(offset=1.5), "are not whole numbers"),
        (lambda index: index["entries"][1].update(shard=99), "is outside its shard"),
        (lambda index: index["entries"][1].update(shard=-1), "is outside its shard"),
        (lambda index: index["entries"][1].pop("size"), "'size' is missing"),
        (lambda index: index["entries"][1].update(label="swim"), "the label 'swim' of 'classes' is not among"),
        (lambda index: index["entries"][1].update(split="holdout"), "is 'holdout'"),
        (lambda index: index["entries"][1].update(span=["a", "b"]), "not an index of shards"),
        (lambda index: index["shards"][0].update(name="../shard-000000.tar"), "which is not in its folder"),
        (lambda index: index["shards"][0].update(name="/etc/passwd"), "which is not in its folder"),
        (lambda index: index["shards"][0].update(name="http://localhost/x.tar"), "which is not in its folder"),
        (lambda index: index.update(version=2), "has version 2"),
        (lambda index: index.update(entries=None), "not an index of shards"),
        (lambda index: index.clear(), "'version' is missing"),
    ],
)
def test_a_damaged_index_is_one_line(change: Callable[[dict], object], cause: str, packed: Path) -> None:
    path = packed / "shards.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    message = error_of(packed)
    assert message.startswith(f"{path}: ")
    assert cause in message


def test_an_index_that_is_cut_off(packed: Path) -> None:
    path = packed / "shards.json"
    path.write_bytes(path.read_bytes()[:-50])
    assert error_of(packed).startswith(f"{path}: not an index of shards (")


def test_the_index_can_be_looked_through(packed: Path) -> None:
    lines = [line for line in (packed / "shards.json").read_text().splitlines() if '"offset"' in line]
    assert len(lines) == COUNT
    assert json.loads(lines[0].rstrip(","))["label"] == "10"


def test_shards_in_a_store(packed: Path, clips: list[bytes]) -> None:
    store = fsspec.filesystem("memory")
    store.put(str(packed), "/data/packed", recursive=True)
    listing = open_shards("memory://data/packed")
    assert sorted(bytes_of(listing)) == sorted(clips)
    assert listing.videos[0].labels == open_shards(packed).videos[0].labels
    store.rm("/data/packed/shards.json")
    walked = open_shards("memory://data/packed")
    assert sorted(bytes_of(walked)) == sorted(clips)
    assert {e.source: e.labels for e in walked.videos} == {e.source: e.labels for e in listing.videos}
    store.rm("/data", recursive=True)
    monkey = in_shard(listing)
    assert problem_of(monkey) == "cannot be read: no such file"


def test_no_such_store() -> None:
    assert error_of("nosuch://bucket/folder").startswith("nosuch://bucket/folder: Protocol not known")


def test_a_resumed_run_reads_no_earlier_videos(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that resumes at step n reads nothing for earlier steps."""
    read: list[tuple[InShard, int, int]] = []
    whole = InShard.read_range

    def noted(source: InShard, start: int, end: int) -> bytes:
        read.append((source, start, end))
        return whole(source, start, end)

    videos = video_set(open_shards(packed))
    monkeypatch.setattr(InShard, "read_range", noted)
    batches = list(training_batches(TrainingClips(videos, SPEC, 0), Order(2, range(9, 10))))
    seen = [videos.videos[index].source for index in batches[0].indices.tolist()]
    assert read == [(source, 0, source.size) for source in seen if isinstance(source, InShard)]
    assert len(read) == 2


def test_a_video_can_be_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 128, 128, 3)).astype(np.uint8)
    path = encode(tmp_path / "a.mp4", list(noise))
    data = path.read_bytes()
    shard = write_tar(tmp_path / "a.tar", {"0.txt": "before", "1.mp4": data, "1.cls": "1"})
    source = in_shard(open_shards(shard))
    monkeypatch.setattr(reading, "LOCAL_BUFFER", 512)
    read: list[int] = []
    whole = InShard.read_range

    def noted(source: InShard, start: int, end: int) -> bytes:
        read.append(end - start)
        return whole(source, start, end)

    monkeypatch.setattr(InShard, "read_range", noted)
    with source.open() as file:
        file.seek(-100, io.SEEK_END)
        assert file.read() == data[-100:]
        file.seek(1000)
        assert file.read(10) == data[1000:1010]
        assert sum(read) <= 2 * 512
        assert file.seek(5, io.SEEK_CUR) == 1015
        assert file.read() == data[1015:]
        assert file.read() == b""
    with av.open(source.open(), "r") as inside, av.open(str(path), "r") as outside:
        for one, other in zip(inside.decode(video=0), outside.decode(video=0), strict=True):
            assert (one.to_ndarray() == other.to_ndarray()).all()
    with av.open(source.open(), "r") as inside:
        shard.write_bytes(shard.read_bytes()[: source.offset + 1000])
        with pytest.raises(VideoError, match="cannot be read: the shard has"):
            list(inside.decode(video=0))


class Server(BaseHTTPRequestHandler):
    """Serves byte ranges of the files in a folder, and fails as often as it is told."""

    protocol_version = "HTTP/1.1"
    folder: ClassVar[Path]
    failures: ClassVar[list[int]]
    requests: ClassVar[list[tuple[str, str, str]]]
    connections: ClassVar[set[tuple[str, int]]]
    ranges: ClassVar[bool]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        asked = self.headers.get("Range", "")
        self.requests.append((self.command, self.path, asked))
        self.connections.add(self.client_address)
        path = self.folder / self.path.lstrip("/")
        if body and asked and self.failures:
            self.give(self.failures.pop(), b"")
        elif not path.is_file():
            self.give(404, b"")
        elif asked and self.ranges:
            data = path.read_bytes()
            first, _, last = asked.removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last or len(data)) + 1]
            self.give(206, part if body else b"", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}", len(part))
        else:
            data = path.read_bytes()
            self.give(200, data if body else b"", length=len(data))

    def give(self, status: int, data: bytes, content_range: str = "", length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        if self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(packed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of the folder `packed`."""
    pytest.importorskip("aiohttp", reason="fsspec needs it for http")
    monkeypatch.setattr(reading, "RETRY_DELAYS", (0.01, 0.02, 0.03))
    Server.folder, Server.failures, Server.ranges = packed, [], True
    Server.requests, Server.connections = [], set()
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    listening.server_close()
    thread.join()


def test_a_server_is_asked_once_for_each_video_over_few_connections(server: str, clips: list[bytes]) -> None:
    listing = open_shards(server)
    assert listing.videos
    Server.requests.clear()
    Server.connections.clear()
    for _ in range(3):
        for number in range(COUNT):
            with open_video(in_shard(listing, number)) as video:
                video.frames(range(20))
    assert sorted(bytes_of(listing)) == sorted(clips)
    assert len(Server.requests) == 4 * COUNT
    assert all(asked for _, _, asked in Server.requests)
    assert len(Server.connections) <= 2


def test_a_server_that_fails_twice_is_asked_again(server: str, clips: list[bytes]) -> None:
    listing = open_shards(server)
    Server.failures += [503, 500]
    assert in_shard(listing).read() in clips
    assert not Server.failures
    Server.failures += [503] * 100
    Server.requests.clear()
    problem = problem_of(in_shard(listing))
    assert problem.startswith("cannot be read: ")
    assert "503" in problem
    assert len(Server.requests) == 3 * 4  # read in three ways, each asked four times


def test_a_server_without_ranges_is_named(server: str) -> None:
    listing = open_shards(server)
    Server.ranges = False
    assert "whole files only" in problem_of(in_shard(listing))


def test_workers_read_the_same_from_a_server_as_from_files(server: str, packed: Path) -> None:
    """Even if an event loop is already running in this process."""
    files, remote = video_set(open_shards(packed)), video_set(open_shards(server))
    assert isinstance(remote.videos[0].source, InShard)
    remote.videos[0].source.read()
    order = Order(2, range(4))
    plain = list(training_batches(TrainingClips(files, SPEC, 5), order))
    again = list(training_batches(TrainingClips(remote, SPEC, 5, read=ReadOptions(workers=2)), order))
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.clips, other.clips)


def test_foreign_shards_on_a_server_are_walked_by_their_headers(server: str, tmp_path: Path) -> None:
    large = encode(
        tmp_path / "large.mp4",
        [np.random.default_rng(0).integers(0, 255, (256, 256, 3)).astype(np.uint8)] * 1,
        options={"qp": "1"},
    ).read_bytes()
    large += bytes(500_000)
    folder = tmp_path / "of others"
    write_tar(
        folder / "a.tar", {f"{i}.{kind}": value for i in range(4) for kind, value in (("mp4", large), ("cls", str(i)))}
    )
    Server.folder = folder
    listing = open_shards(f"{server}/a.tar")
    assert names_of(listing) == [("0",), ("1",), ("2",), ("3",)]
    fetched = sum(
        int(last) - int(first) + 1
        for _, _, asked in Server.requests
        if asked
        for first, _, last in [asked.removeprefix("bytes=").partition("-")]
    )
    assert fetched < 200_000 < 4 * len(large)
    assert bytes_of(listing) == [large] * 4
    Server.requests.clear()
    assert open_shards(f"{server}/a.tar").videos == listing.videos
    assert not any(asked for _, _, asked in Server.requests)
