"""Any file under any name gives frames or one line of error, soon and with little memory."""

import os
import resource
import socket
import struct
import sys
import tempfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.support import encode
from tests.video.hostile import (
    SEEDS,
    boxed,
    h264_of_size,
    jpeg_of_size,
    jpegs,
    make_seeds,
    mux,
    png,
    with_frames_elsewhere,
    with_pixel_aspect,
)
from vivit.video.clips import ClipSpec, read_views, read_whole
from vivit.video.decode import open_video, read_here
from vivit.video.isolated import IsolatedReader
from vivit.video.source import InShard, VideoError, VideoSource

Look = Callable[[VideoSource], str]

ROOT = Path(__file__).resolve().parents[2]
SPEC = ClipSpec(num_frames=4, stride=2, size=(32, 32), resize=32)
LONGEST = 60.0  # seconds for a file, on a machine however busy
LARGEST = 400 << 20  # bytes that reading may add to what the process had


def look_at(path: VideoSource, folder: Path | None = None) -> tuple[str, int]:
    """Return the error, or "" if there are frames, and the most bytes of memory that it took."""
    if folder is not None:
        os.chdir(folder)
    before = _peak(since_now=True)
    try:
        views = read_views(path, SPEC, 2, 1).frames
        assert views.dtype == torch.uint8
        assert views.shape == (2, 4, 3, 32, 32)
        problem = ""
    except VideoError as error:
        message = str(error)
        name = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(path))
        assert message.startswith(f"{name}: "), message
        assert message.isprintable()
        problem = message.removeprefix(f"{name}: ")
        assert len(problem) > 5
    return problem, _peak() - before


def _peak(since_now: bool = False) -> int:
    """The peak memory of this process in bytes, reset first if the system can do that."""
    if since_now and sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.fixture(scope="module")
def reader() -> Iterator[IsolatedReader]:
    sys.path.insert(0, str(ROOT))  # for the process, which searches where this one does
    with IsolatedReader(timeout=LONGEST, memory=2 << 30) as reader:
        yield reader
    sys.path.remove(str(ROOT))


@pytest.fixture
def look(reader: IsolatedReader) -> Look:
    """The error of a file, or "" if it gives frames."""

    def look(path: VideoSource) -> str:
        problem, memory = reader(look_at, path)
        assert memory < LARGEST, f"{memory >> 20} MiB for {path} ({problem})"
        return problem

    return look


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """name → content of intact videos in every container."""
    folder = tmp_path_factory.mktemp("seeds")
    return {path.name: path.read_bytes() for path in make_seeds(folder, encode)}


@pytest.fixture(scope="module")
def pictures(seeds: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """30 JPEGs of 64 x 32."""
    path = tmp_path_factory.mktemp("pictures") / "mjpeg.avi"
    path.write_bytes(seeds["mjpeg.avi"])
    return jpegs(path)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.avi", "x.ts", "x.gif", "x.h264"])
@pytest.mark.parametrize("content", ["nothing", "one byte", "zeros", "ones", "random", "text", "html", "pdf", "zip"])
def test_no_video(content: str, name: str, look: Look, tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "some text " * 100)
    contents = {
        "nothing": b"",
        "one byte": b"\x47",
        "zeros": bytes(1 << 20),
        "ones": b"\xff" * (1 << 20),
        "random": np.random.default_rng(0).bytes(1 << 20),
        "text": b"This is not a video.\n" * 1000,
        "html": b"<!DOCTYPE html><html><head><title>404</title></head><body>Not Found</body></html>\n",
        "pdf": b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF\n",
        "zip": archive.read_bytes(),
    }
    problem = look(write(tmp_path / name, contents[content]))
    assert "is empty" in problem if content == "nothing" else problem


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_picture_called_a_video_is_a_video_of_one_frame_or_none(kind: str, look: Look, tmp_path: Path) -> None:
    path = tmp_path / "picture.mp4"
    Image.new("RGB", (64, 32), (200, 30, 90)).save(path, kind)
    problem = look(path)
    if not problem:
        with open_video(path) as video:
            assert video.info.num_frames == 1
            assert (video.frames([0])[0].float().mean((1, 2)) - torch.tensor([200.0, 30.0, 90.0])).abs().max() < 12


@pytest.mark.parametrize("kind", ["sound", "cover", "subtitles"])
def test_nothing_to_see(kind: str, look: Look, tmp_path: Path) -> None:
    path = tmp_path / "x.mkv"
    if kind == "subtitles":
        path = write(tmp_path / "x.mp4", b"1\n00:00:00,000 --> 00:00:02,000\nhello\n")
    else:
        path = path.with_suffix(".mkv" if kind == "sound" else ".mp4")
        with av.open(str(path), "w") as container:
            sound = container.add_stream("aac", rate=48000)
            assert isinstance(sound, av.AudioStream)
            if kind == "cover":
                cover = container.add_stream("png", rate=1)
                assert isinstance(cover, av.VideoStream)
                cover.width, cover.height, cover.pix_fmt = 64, 32, "rgb24"
                cover.disposition = av.stream.Disposition.attached_pic
                container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 64, 3), np.uint8))))
            silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            silence.sample_rate = 48000
            container.mux([*sound.encode(silence), *sound.encode(None)])
    assert look(path)


@pytest.mark.parametrize("name", SEEDS)
def test_cut_off(name: str, seeds: dict[str, bytes], look: Look, tmp_path: Path) -> None:
    if name not in seeds:
        pytest.skip("PyAV cannot encode it")
    assert look(write(tmp_path / name, seeds[name])) == ""
    for fraction in (0.001, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.999):
        look(write(tmp_path / name, seeds[name][: int(len(seeds[name]) * fraction)]))


@pytest.mark.parametrize("name", ["moov_first.mp4", "fragmented.mp4"])
def test_mp4_cut_at_every_byte_of_its_header(name: str, seeds: dict[str, bytes], look: Look, tmp_path: Path) -> None:
    """Where the codec is not told yet, PyAV before 18.1 crashed when it was asked to decode."""
    header = seeds[name].index(b"mdat") + 40
    problems = Counter(look(write(tmp_path / "x.mp4", seeds[name][:end])) for end in range(header))
    assert header > 406
    assert problems.pop("its codec is not known") > 20
    assert "" not in problems


NUMBERS = [0, 1, 5000, 0x7FFF, 10**6, 10**8, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
# Offsets of four-byte numbers in the content of each box.
FIELDS = {
    "mvhd": (12, 16),
    "tkhd": (12, 20),
    "mdhd": (12, 16),
    "elst": (4, 8, 12, 16),
    "stsd": (4, 8),
    "avc1": (24, 28),
    "stts": (4, 8, 12),
    "ctts": (4, 8, 12),
    "stss": (4, 8),
    "stsc": (4, 8, 12, 16),
    "stsz": (4, 8, 12, 16),
    "stco": (4, 8),
    "moov": (-8,),
    "trak": (-8,),
    "mdat": (-8,),
}


@pytest.mark.parametrize("box", FIELDS)
def test_mp4_with_false_numbers(box: str, seeds: dict[str, bytes], look: Look, tmp_path: Path) -> None:
    for name in ("moov_last.mp4", "moov_first.mp4"):
        for field in FIELDS[box]:
            for number in NUMBERS:
                look(write(tmp_path / "x.mp4", boxed(seeds[name], box, field, struct.pack(">I", number))))


@pytest.mark.parametrize("seconds", [36_000, 2**40, 2**62])
def test_duration_of_hours_or_ages(seconds: int, seeds: dict[str, bytes], look: Look, tmp_path: Path) -> None:
    """The last view would be where nothing is."""
    content = seeds["mjpeg.avi"]
    at = content.index(b"strh") + 8
    length = struct.pack("<I", min(25 * seconds, 2**32 - 1))
    assert "only its first" in look(write(tmp_path / "x.avi", content[: at + 32] + length + content[at + 36 :]))
    if seconds < 2**31:
        ticks = struct.pack(">I", min(seconds * 12_800, 2**32 - 1))
        look(write(tmp_path / "x.mp4", boxed(seeds["moov_last.mp4"], "mdhd", 16, ticks)))


SIZES = [(1, 1), (16, 16), (16, 65_520), (65_520, 16), (16_384, 8_192), (16_000, 16_000), (32_768, 32_768)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["png", "gif", "mjpeg", "h264"])
def test_size_that_is_not_true(
    kind: str, size: tuple[int, int], seeds: dict[str, bytes], look: Look, tmp_path: Path
) -> None:
    width, height = size
    path = tmp_path / f"x.{kind}"
    if kind == "png":
        write(path, png(width, height))
    elif kind == "gif":
        content = seeds["animated.gif"]
        write(path, content[:6] + struct.pack("<HH", width, height) + content[10:])
    elif kind == "mjpeg":
        write(path, jpeg_of_size(seeds["mjpeg.avi"], width, height))
    else:
        if size == (1, 1):
            size = (16, 16)
        raw = encode(tmp_path / "raw.h264", 5, options={"profile": "baseline"}).read_bytes()
        write(path, h264_of_size(raw, *size))
    look(path)


def test_h264_of_its_true_size_decodes(look: Look, tmp_path: Path) -> None:
    raw = encode(tmp_path / "raw.h264", 5, options={"profile": "baseline"}).read_bytes()
    assert look(write(tmp_path / "x.h264", h264_of_size(raw, 64, 32))) == ""


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1), (30_000, 2)])
def test_thin_pictures(size: tuple[int, int], look: Look, tmp_path: Path) -> None:
    """30,000 x 2 with a short side of 32 is 480,000 x 32."""
    width, height = size
    look(encode(tmp_path / "x.mov", [np.zeros((height, width, 3), np.uint8)] * 8, codec="png", pixel_format="rgb24"))


@pytest.mark.parametrize("aspect", [(0, 1), (1, 0), (2**31 - 1, 1), (1, 2**31 - 1), (100_000, 1), (1, 100_000)])
def test_pixels_far_from_square(aspect: tuple[int, int], seeds: dict[str, bytes], look: Look, tmp_path: Path) -> None:
    look(write(tmp_path / "x.mp4", with_pixel_aspect(seeds["moov_last.mp4"], *aspect)))


TIMES = {
    "negative": [-5000, -4960, -4920],
    "back and forth": [0, 4000, 40, 80, 120, 60, 1000, 20],
    "far apart": [0, 40, 2**40, 2**40 + 40],
    "at the bounds": [0, 2**61, 2**62],
    "below and above": [-(2**61), 0, 2**61],
    "one, late": [2**62],
    "all the same": [7] * 8,
}


@pytest.mark.parametrize("container", ["mkv", "mp4", "nut", "avi"])
@pytest.mark.parametrize("times", TIMES)
def test_strange_times(times: str, container: str, pictures: list[bytes], look: Look, tmp_path: Path) -> None:
    packets = [(time, pictures[number]) for number, time in enumerate(TIMES[times])]
    try:
        path = mux(tmp_path / f"x.{container}", packets, Fraction(1, 1000))
    except av.error.FFmpegError:
        pytest.skip("this container cannot hold them")
    look(path)


def test_all_frames_of_a_file_that_lasts_for_ages(pictures: list[bytes], tmp_path: Path) -> None:
    packets = [(time, pictures[number]) for number, time in enumerate(TIMES["far apart"])]
    path = mux(tmp_path / "x.mkv", packets, Fraction(1, 1000))
    with open_video(path) as video:
        assert video.info.num_frames > 10**10
    with pytest.raises(VideoError, match="takes more memory"):
        read_here(read_whole, path, None, ClipSpec(num_frames=4, stride=2, size=(32, 32), resize=32))


@pytest.mark.parametrize("tick", [Fraction(1, 1), Fraction(3600, 1), Fraction(1, 10**6), Fraction(1, 2**31 - 1)])
@pytest.mark.parametrize("container", ["mkv", "mp4", "avi"])
def test_strange_ticks(container: str, tick: Fraction, pictures: list[bytes], look: Look, tmp_path: Path) -> None:
    assert look(mux(tmp_path / f"x.{container}", list(enumerate(pictures)), tick)) == ""


@pytest.mark.parametrize(("rate", "scale"), [(0, 1), (1, 0), (0, 0), (10**6, 1), (90_000, 1), (1, 2**32 - 1)])
def test_strange_frame_rates(rate: int, scale: int, seeds: dict[str, bytes], look: Look, tmp_path: Path) -> None:
    content = seeds["mjpeg.avi"]
    at = content.index(b"strh") + 8 + 20
    look(write(tmp_path / "x.avi", content[:at] + struct.pack("<II", scale, rate) + content[at + 8 :]))


@pytest.mark.parametrize("container", ["mkv", "mp4", "avi"])
@pytest.mark.parametrize("content", [b"", b"\0"])
def test_very_many_packets_without_a_frame(
    content: bytes, container: str, pictures: list[bytes], look: Look, tmp_path: Path
) -> None:
    packets = [(0, pictures[0]), *((number, content) for number in range(1, 20_000))]
    look(mux(tmp_path / f"x.{container}", packets, Fraction(1, 25)))


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[str]]]:
    """A server's address, and the requests it received."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *words: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n",
    "live.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n",
    "master.m3u8": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{target}\n",
    "ffconcat": "ffconcat version 1.0\nfile {target}\nfile {target}\n",
    "sdp": "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 5004 RTP/AVP 96\r\n"
    "a=rtpmap:96 H264/90000\r\na=control:{target}\r\n",
    "xspf": '<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/"><trackList><track><location>'
    "{target}</location></track></trackList></playlist>",
    "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:'
    'isoff-on-demand:2011" type="static" mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "svg": '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="10" height="10">'
    '<image xlink:href="{target}"/></svg>',
    "asx": "[Reference]\nRef1={target}\n",
}


@pytest.mark.parametrize("target", ["a video", "a text", "itself", "a server", "a server in a list"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_playlist_leads_nowhere(
    kind: str, target: str, server: tuple[str, list[str]], seeds: dict[str, bytes], look: Look, tmp_path: Path
) -> None:
    write(tmp_path / "other.ts", seeds["h264.ts"])
    address, asked = server
    for name in (f"list.{kind}", "list.mp4", "list.txt"):
        targets = {
            "a video": "other.ts",
            "a text": "/etc/passwd",
            "itself": name,
            "a server": f"{address}/video.ts",
            "a server in a list": f"concat:{address}/video.ts|file:///etc/passwd",
        }
        path = write(tmp_path / name, PLAYLISTS[kind].format(target=targets[target]).encode())
        assert look(path), name
    assert not asked


def test_playlist_in_a_shard_leads_nowhere(seeds: dict[str, bytes], look: Look, tmp_path: Path) -> None:
    other = write(tmp_path / "other.mp4", seeds["moov_last.mp4"])
    playlist = PLAYLISTS["ffconcat"].format(target=other).encode()
    shard = write(tmp_path / "shard.tar", seeds["moov_last.mp4"] + playlist)
    whole = len(seeds["moov_last.mp4"])
    assert look(InShard(str(shard), "whole.mp4", 0, whole)) == ""
    assert look(InShard(str(shard), "list.mp4", whole, len(playlist)))


def test_film_whose_frames_lie_in_another_file(seeds: dict[str, bytes], look: Look, tmp_path: Path) -> None:
    other = write(tmp_path / "other.mov", seeds["turned.mov"])
    assert look(other) == ""
    assert look(write(tmp_path / "x.mov", with_frames_elsewhere(seeds["turned.mov"], other)))


def test_pipe_into_which_nobody_writes(look: Look, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.mp4")
    assert "regular file" in look(tmp_path / "x.mp4")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/random"])
def test_device(device: str, look: Look, tmp_path: Path) -> None:
    (tmp_path / "x.mp4").symlink_to(device)
    assert look(tmp_path / "x.mp4")


def test_socket_folder_and_link_to_itself(look: Look) -> None:
    # The address of a socket has at most a hundred characters, fewer than the folders of pytest.
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/socket.mp4")
        listening.listen()
        (Path(folder) / "folder.mp4").mkdir()
        (Path(folder) / "link.mp4").symlink_to("link.mp4")
        assert look(Path(folder) / "socket.mp4")
        assert "holds no pictures" in look(Path(folder) / "folder.mp4")
        assert look(Path(folder) / "link.mp4")


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read(seeds: dict[str, bytes], look: Look, tmp_path: Path) -> None:
    path = write(tmp_path / "x.mp4", seeds["moov_last.mp4"])
    path.chmod(0)
    assert "permission denied" in look(path)


def test_name_that_is_too_long_or_has_a_zero(look: Look, tmp_path: Path) -> None:
    assert look(tmp_path / ("a" * 300 + ".mp4"))
    assert look(tmp_path / "a\0b.mp4")


NAMES = [
    *("a\nb.mp4", "'q'.mp4", '"q".mp4', "é漢🎬.mp4", "\udcff\udc80.mp4", "a b.mp4", " .mp4", "\\.mp4", "$(ls).mp4"),
    *("-i", "--help", "pipe:0", "pipe:", "fd:0", "file:x", "data:x", "http:x", "concat:a|b", "cache:x", "async:x"),
    *("subfile,,start,0,end,9,,:x", "%d.mp4", "%03d.png", "*.mp4", "[a].jpg", "C:x.mp4", "rtp:x", "null", "x.m3u8"),
]


@pytest.mark.parametrize("name", NAMES)
def test_name_is_that_of_a_file_and_nothing_else(
    name: str, seeds: dict[str, bytes], reader: IsolatedReader, look: Look, tmp_path: Path
) -> None:
    try:
        path = write(tmp_path / name, seeds["moov_last.mp4"])
    except OSError:
        pytest.skip("this system has no such names")
    assert look(path) == ""
    assert reader(look_at, Path(name), tmp_path)[0] == ""
    path.unlink()
    assert look(path) == reader(look_at, Path(name), tmp_path)[0] == "no such file"


@pytest.mark.parametrize("name", ["moov_first.mp4", "h264.mkv", "mpeg4.avi", "h264.ts", "bare.h264"])
@pytest.mark.parametrize("change", ["cut", "empty", "twice", "gone", "other"])
def test_file_that_changes_while_it_is_read(
    change: str, name: str, seeds: dict[str, bytes], reader: IsolatedReader, tmp_path: Path
) -> None:
    content = seeds[name]
    path = write(tmp_path / name, content)
    changed = {"cut": content[: len(content) // 2], "empty": b"", "twice": content * 2, "other": bytes(len(content))}
    reader(read_around_a_change, path, changed.get(change))


def read_around_a_change(path: Path, changed: bytes | None) -> None:
    with open_video(path) as video:
        assert video.frames([0]).shape == (1, 3, 32, 64)
        if changed is None:
            path.unlink()
        else:
            path.write_bytes(changed)
        for indices in ([29], [0, 15], [0]):
            try:
                assert video.frames(indices).shape == (len(indices), 3, 32, 64)
            except VideoError as error:
                assert str(error).startswith(f"{path}: ")
