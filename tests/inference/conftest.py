"""A server on this machine that behaves in every way a server can."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from tests.support import encode, noisy


class Handler(BaseHTTPRequestHandler):
    """Answers as the path says."""

    video = b""
    seen: ClassVar[list[tuple[str, str | None]]] = []
    """The path and the Authorization of each request."""
    stopped = threading.Event()

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["Authorization"]))
        name = self.path.split("?")[0].strip("/").replace("-", "_")
        getattr(self, name, self.missing)()

    def answer(self, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header.replace("_", "-"), value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def missing(self) -> None:
        self.answer(b"gone\x1b[2J", 404, 7)

    def good(self) -> None:
        self.answer(self.video, length=len(self.video))

    def without_length(self) -> None:
        self.answer(self.video)

    def chunked(self) -> None:
        self.protocol_version = "HTTP/1.1"
        half = len(self.video) // 2
        parts = (self.video[:half], self.video[half:], b"")
        self.answer(b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts), Transfer_Encoding="chunked")

    def cut_chunk(self) -> None:
        self.protocol_version = "HTTP/1.1"
        self.answer(b"fff\r\nshort", Transfer_Encoding="chunked")

    def negative_chunk(self) -> None:
        self.protocol_version = "HTTP/1.1"
        self.answer(b"-5\r\nshort", Transfer_Encoding="chunked")

    def zipped(self) -> None:
        self.answer(gzip.compress(self.video), Content_Encoding="gzip")

    def zipped_in_parts(self) -> None:
        self.answer(
            gzip.compress(self.video[:99]) + gzip.compress(self.video[99:]) + bytes(9), Content_Encoding="x-gzip"
        )

    def bomb(self) -> None:
        self.answer(gzip.compress(bytes(5_000_000)), Content_Encoding="gzip")

    def behind_the_end(self) -> None:
        self.answer(gzip.compress(self.video) + bytes(5_000_000), Content_Encoding="gzip")

    def damaged_gzip(self) -> None:
        self.answer(b"\x1f\x8bnonsense" * 9, Content_Encoding="gzip")

    def half_a_gzip(self) -> None:
        self.answer(gzip.compress(self.video)[:-30], Content_Encoding="gzip")

    def brotli(self) -> None:
        self.answer(self.video, Content_Encoding="br")

    def too_large(self) -> None:
        self.answer(b"", length=200_000)

    def too_large_unsaid(self) -> None:
        self.answer(bytes(200_000))

    def cut(self) -> None:
        self.answer(self.video[:-100], length=len(self.video))

    def page(self) -> None:
        self.answer(b"<html>", Content_Type="text/html; charset=utf-8")

    def playlist(self) -> None:
        address = f"http://{self.headers['Host']}/good"
        text = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{address}\n#EXT-X-ENDLIST\n"
        self.answer(text.encode(), Content_Type="application/vnd.apple.mpegurl")

    def to(self) -> None:
        self.answer(b"", 302, 0, Location=self.path.partition("?")[2])

    def loop(self) -> None:
        self.answer(b"", 307, 0, Location="/loop")

    def to_nowhere(self) -> None:
        self.answer(b"", 301, 0)

    def nonsense(self) -> None:
        self.wfile.write(b"no HTTP at all\n")

    def drips(self) -> None:
        self.answer(b"", length=len(self.video))
        with suppress(OSError):
            while not self.stopped.wait(0.1):
                self.wfile.write(b"x")

    def hangs_up(self) -> None:
        self.connection.close()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address, http://127.0.0.1:PORT."""
    Handler.video = encode(tmp_path_factory.mktemp("video") / "clip.mp4", noisy(90)).read_bytes()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        Handler.stopped.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def handler() -> type[Handler]:
    """The requests that come from now on, and the video that is sent."""
    Handler.seen.clear()
    return Handler
