"""Live videos against the same ones read as files; lost and refused connections; frames that wait or are dropped."""

import os
import socket
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from tests.support import encode, noisy, numbered, read_numbers, refused
from vivit.video import live
from vivit.video.decode import open_video
from vivit.video.live import LiveFrame, LiveReader, LiveVideo, is_live
from vivit.video.source import VideoError

SIDE = 32
VARIABLE = np.cumsum([0, *[20] * 15, *[100] * 10, 1500, *[40] * 8]).tolist()
FASTSTART: dict[str, Any] = {"container_options": {"movflags": "faststart"}}


def of_file(path: Path) -> torch.Tensor:
    with open_video(path) as video:
        return torch.cat(list(video.in_turn(16, SIDE)))


def assert_same(found: list[LiveFrame], path: Path) -> None:
    assert torch.equal(torch.stack([frame.picture for frame in found]), of_file(path))
    with open_video(path) as video:
        assert [frame.time for frame in found] == [number / video.info.frame_rate for number in range(len(found))]
    assert [frame.follows for frame in found] == [False, *[True] * (len(found) - 1)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("constant.mp4", FASTSTART),
        ("constant.ts", {}),
        ("constant.avi", {}),
        ("variable.mp4", {"times": VARIABLE, **FASTSTART}),
        ("variable.mkv", {"times": VARIABLE}),
        ("turned.mp4", {"rotation": 90, **FASTSTART}),
        ("one.mp4", {"frames": 1, **FASTSTART}),
    ],
)
@pytest.mark.parametrize("piped", [True, False])
def test_stdin_has_the_frames_of_the_file(
    name: str, options: dict[str, Any], piped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = len(options["times"]) if "times" in options else options.pop("frames", 40)
    path = encode(tmp_path / name, frames, **options)
    with open(path, "rb") if not piped else open(pipe_of(path.read_bytes()), "rb") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert_same(list(LiveVideo("-", SIDE, print).frames()), path)


def pipe_of(data: bytes) -> int:
    reader, writer = os.pipe()

    def write() -> None:
        with open(writer, "wb") as file:
            file.write(data)

    threading.Thread(target=write).start()
    return reader


def test_an_mp4_whose_index_comes_last_is_refused_from_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "clip.mp4", noisy(90, frames=100, height=128, width=128))
    with open(pipe_of(path.read_bytes()), "rb") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        refused(lambda: list(LiveVideo("-", SIDE, print).frames()), "^-: .*index first.*< FILE")


def test_what_is_live() -> None:
    assert all(map(is_live, ("-", "/dev/video0", "rtsp://camera/1", "HTTP://host/x.ts", "udp://0.0.0.0:5000")))
    assert not any(map(is_live, ("clip.mp4", "/dev/null", "a://b".replace("://", ":/"), "folder/-")))


@contextmanager
def server(answers: Iterator[Callable[[BaseHTTPRequestHandler], None]]) -> Iterator[str]:
    """An HTTP server that answers each request in its own way."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            next(answers)(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}/clip.ts"
        served.shutdown()


def sends(data: bytes, promised: int | None = None) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(promised or len(data)))
        request.end_headers()
        request.wfile.write(data)

    return answer


def fails(request: BaseHTTPRequestHandler) -> None:
    request.send_error(404)


def test_an_address_has_the_frames_of_the_file_and_ends_with_it(tmp_path: Path) -> None:
    path, said = encode(tmp_path / "clip.ts", 40), list[str]()
    with server(iter([sends(path.read_bytes())])) as address:
        assert_same(list(LiveVideo(address, SIDE, said.append).frames()), path)
    assert not said


def test_a_lost_connection_is_made_again_and_given_up_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "RETRY_DELAYS", (0.01, 0.02))
    data = encode(tmp_path / "clip.ts", 40).read_bytes()
    cut, said, found = sends(data, promised=2 * len(data)), list[str](), list[LiveFrame]()
    with server(iter([cut, fails, cut, fails, fails])) as address:
        video = LiveVideo(address, SIDE, said.append, name="the camera")

        def read() -> None:
            for frame in video.frames():
                found.append(frame)  # also those before an error

        refused(read, "^the camera: cannot be opened .*404")
    assert [line.rpartition("; ")[2] for line in said] == [
        *("reconnecting in 0.01 s, attempt 1 of 2", "reconnecting in 0.02 s, attempt 2 of 2"),
        *("reconnecting in 0.01 s, attempt 1 of 2", "reconnecting in 0.02 s, attempt 2 of 2"),
    ]
    numbers = read_numbers(torch.stack([frame.picture for frame in found]))
    assert numbers == 2 * list(range(40))
    assert [number for number, frame in enumerate(found) if not frame.follows] == [0, 40]
    times = [frame.time for frame in found]
    assert times == sorted(times) and len(set(times)) == 80


def test_a_refused_address_is_not_tried_again() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        for scheme in ("http", "rtsp", "tcp"):
            said: list[str] = []
            video = LiveVideo(f"{scheme}://127.0.0.1:{unused.getsockname()[1]}/x", SIDE, said.append)
            refused(partial(list, video.frames()), "cannot be opened .connection refused")
            assert not said
    refused(lambda: LiveVideo("ftp://host/clip.mp4", SIDE, print), "URLs start with http")
    refused(lambda: list(LiveVideo("/dev/video99", SIDE, print).frames()), "/dev/video99: no such device")


class Camera(socketserver.StreamRequestHandler):
    """Answers RTSP requests, and sends a transport stream within the same connection; then it hangs up."""

    data: ClassVar[bytes]

    def handle(self) -> None:
        while lines := list(iter(lambda: self.rfile.readline().decode().strip(), "")):
            method = lines[0].split()[0]
            fields = dict(line.split(": ", 1) for line in lines[1:])
            sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\n"
            answers = {
                "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n",
                "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n",
            }
            refused = method == "SETUP" and "TCP" not in fields["Transport"]
            status = "461 Unsupported Transport" if refused else "200 OK"
            head = f"RTSP/1.0 {status}\r\nCSeq: {fields['CSeq']}\r\n{'' if refused else answers.get(method, '')}\r\n"
            self.wfile.write((head + (sdp if method == "DESCRIBE" else "")).encode())
            if method == "PLAY":
                for number, start in enumerate(range(0, len(self.data), 1316)):
                    some = self.data[start : start + 1316]
                    # Interleaved on channel 0: an RTP packet of type 33.
                    self.wfile.write(struct.pack(">cBH", b"$", 0, len(some) + 12))
                    self.wfile.write(struct.pack(">BBHII", 0x80, 33, number, 0, 1) + some)
                return


def test_a_camera_that_hangs_up_is_connected_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "RETRY_DELAYS", (0.01,))
    path, said, found = encode(tmp_path / "clip.ts", 40), list[str](), list[LiveFrame]()
    monkeypatch.setattr(Camera, "data", path.read_bytes(), raising=False)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Camera) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        video = LiveVideo(f"rtsp://127.0.0.1:{served.server_address[1]}/live", SIDE, said.append)
        for frame in video.frames():
            found.append(frame)
            if len(said) == 2:
                break
        served.shutdown()
    numbers = read_numbers(torch.stack([frame.picture for frame in found]))
    again = numbers.index(0, 1)
    # FFmpeg leaves out the packet that has not ended when the connection does.
    assert numbers[:36] == list(range(36)) == numbers[again : again + 36] and again <= 40


def test_a_sender_that_falls_silent_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SILENCE", 0.5)
    monkeypatch.setattr(live, "RETRY_DELAYS", (0.01,))
    data = encode(tmp_path / "clip.ts", [numbered(n % 256) for n in range(100)], options={"g": "10"}).read_bytes()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    enough, said = threading.Event(), list[str]()

    def send() -> None:
        # Again and again: nobody may listen yet, and a busy machine loses packets.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for place in count(0, 1316):
                if enough.is_set():
                    return
                start = place % (len(data) - len(data) % 1316)
                sender.sendto(data[start : start + 1316], address)
                time.sleep(0.002)

    thread = threading.Thread(target=send)
    thread.start()
    video = LiveVideo(f"udp://{address[0]}:{address[1]}", SIDE, said.append)

    def read() -> None:
        for number, _ in enumerate(video.frames()):
            if number == 60:
                enough.set()

    try:
        refused(read, r"no data for 0\.5 s")
    finally:
        enough.set()
        thread.join()
    assert len(said) == 1 and "was lost (no data for 0.5 s); reconnecting in 0.01 s, attempt 1 of 1" in said[0]


def made(total: int, gate: Callable[[int], object]) -> Generator[LiveFrame]:
    for number in range(total):
        gate(number)
        yield LiveFrame(torch.tensor(number), number / 25, 0.0, number > 0)


@pytest.mark.parametrize("seed", range(5))
def test_the_oldest_frames_are_dropped_and_each_gap_shows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    total, most = 60, int(rng.integers(1, 6))
    turns = threading.Semaphore(0)  # frames that may come
    reader = LiveReader(made(total, lambda _: turns.acquire()), most, drop=True)
    found: list[LiveFrame] = []
    came = 0
    frames = iter(reader)
    while came < total:
        some = min(int(rng.integers(1, 12)), total - came)
        came += some
        for _ in range(some):
            turns.release()
        while len(reader._waiting) + reader.dropped + len(found) < came:
            time.sleep(0.0005)
        assert len(reader._waiting) <= most
        # Those that wait are the newest.
        assert [int(frame.picture) for frame in reader._waiting] == list(range(came - len(reader._waiting), came))
        for _ in range(int(rng.integers(0, len(reader._waiting) + 1))):
            found.append(next(frames))
    found += list(frames)
    numbers = [int(frame.picture) for frame in found]
    assert numbers == sorted(set(numbers)) and numbers[-1] == total - 1
    assert reader.dropped == total - len(found)
    assert [frame.follows for frame in found[1:]] == [b == a + 1 for a, b in pairwise(numbers)]


def test_a_source_that_waits_loses_nothing() -> None:
    ahead, seen = [], 0

    def gate(number: int) -> None:
        ahead.append(number - seen)

    reader = LiveReader(made(100, gate), 4, drop=False)
    for frame in reader:
        assert int(frame.picture) == seen
        seen += 1
        if seen % 20 == 0:
            time.sleep(0.005)
    assert (seen, reader.dropped) == (100, 0)
    assert max(ahead) <= 4 + 2


def test_an_error_comes_after_the_frames_before_it_and_a_stop_ends_at_once() -> None:
    def broken(number: int) -> None:
        if number == 3:
            raise VideoError("camera", "was lost")

    found: list[int] = []
    with pytest.raises(VideoError, match="camera: was lost"):
        found.extend(int(frame.picture) for frame in LiveReader(made(9, broken), 2, drop=False))
    with LiveReader(made(10**9, lambda _: None), 2, drop=True) as reader:
        frames = iter(reader)
        next(frames)
        reader.stop()
        assert list(frames) == []
    assert not reader._thread.is_alive()
