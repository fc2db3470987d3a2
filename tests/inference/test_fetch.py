"""Fetching from addresses: what arrives, what is refused, and what is kept secret."""

import base64
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.inference.conftest import Handler
from tests.support import refused
from vivit.inference import fetch as module
from vivit.inference.fetch import Fetching, Url, fetch, is_public, read_fetched
from vivit.video.clips import ClipSpec
from vivit.video.source import VideoError

LOCAL = Fetching(max_bytes=100_000, private_hosts=True)


@pytest.fixture
def fetched(tmp_path: Path) -> Callable[..., bytes]:
    def call(address: str, fetching: Fetching = LOCAL) -> bytes:
        with (tmp_path / "fetched").open("w+b") as file:
            fetch(Url(address), file, fetching)
            file.seek(0)
            return file.read()

    return call


@pytest.mark.parametrize(
    "path", ["good", "without-length", "chunked", "zipped", "zipped-in-parts", "to?/good", "good?a=ü b"]
)
def test_what_is_sent_arrives(server: str, handler: type[Handler], fetched: Callable[..., bytes], path: str) -> None:
    assert fetched(f"{server}/{path}") == handler.video


PROBLEMS = {
    "missing": "cannot be fetched: the server answers 404 Not Found",
    "too-large": "larger than 0 MB; --max-size",
    "too-large-unsaid": "larger than 0 MB",
    "bomb": "larger than 0 MB",
    "behind-the-end?": "larger than 0 MB",
    "damaged-gzip": "damaged gzip",
    "half-a-gzip": "ended before the video did",
    "brotli": r"unknown encoding \(br\)",
    "cut": "ended before the video did",
    "cut-chunk": "ended before the video did",
    "negative-chunk": "no proper answer",
    "to-nowhere": "gives no URL",
    "page": "a web page, not a video",
    "to?file:///etc/passwd": "redirects to file:///etc/passwd, which is not fetched",
    "to?ftp://127.0.0.1/x": "redirects to ftp://",
    "to?//[": "not a valid URL",
    "loop": "more than 5 times",
    "nonsense": "no proper answer",
    "hangs-up": "cannot be fetched",
}


@pytest.mark.parametrize("path", PROBLEMS)
def test_what_goes_wrong_is_one_line(server: str, fetched: Callable[..., bytes], path: str) -> None:
    name = f"http://127.0.0.1:.*/{path.partition('?')[0]}"
    refused(lambda: fetched(f"{server}/{path}"), f"^{name}.*: .*{PROBLEMS[path]}")


@pytest.mark.parametrize(
    "address", ["http://[::1", "http://h:99999/", "http:///x", "http://h:x/", "http://a\x00b/", f"http://{'a' * 70}.b/"]
)
def test_what_is_no_address_is_one_line(fetched: Callable[..., bytes], address: str) -> None:
    refused(lambda: fetched(address), "cannot be fetched")


LOCAL_NAMES = (
    *("127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "0.0.0.0", "0", "127.1"),
    *("[::ffff:127.0.0.1]", "[::1]", "[::]", "[::ffff:7f00:1]"),
)


def test_hosts_that_are_not_public_are_refused_by_their_address(
    server: str, handler: type[Handler], fetched: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = server.rpartition(":")[2]
    for host in LOCAL_NAMES:
        address = f"http://{host}:{port}/good"
        refused(lambda: fetched(address, Fetching()), "not a host of the public internet")  # noqa: B023
    # A name that once stood for a public host, and leads to this machine when it is asked for again.
    answers = iter([[("93.184.216.34", 80)], [("127.0.0.1", int(port))]])

    def rebinding(*args: object, **kwargs: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in next(answers)]

    connected: list[tuple[str, int]] = []

    class Socket(socket.socket):
        def connect(self, place: tuple[str, int]) -> None:  # type: ignore[override]
            connected.append(place)
            raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(socket, "socket", Socket)
    refused(lambda: fetched(f"http://rebinding.example:{port}/good", Fetching()), "Connection refused")
    refused(lambda: fetched(f"http://rebinding.example:{port}/good", Fetching()), "not a host of the public internet")
    assert connected == [("93.184.216.34", 80)]
    assert handler.seen == []


def test_a_redirect_to_a_private_host_is_refused(
    server: str, handler: type[Handler], fetched: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first host counts as public."""
    port = server.rpartition(":")[2]
    monkeypatch.setattr(module, "is_public", lambda address: address == "127.0.0.1")
    for host in ("127.0.0.2", "[::1]", "localhost.localdomain"):
        with pytest.raises(VideoError, match="cannot be fetched"):
            fetched(f"{server}/to?http://{host}:{port}/good", Fetching())
    assert fetched(f"{server}/to?{server}/good", Fetching()) == handler.video


PUBLIC = ("8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")
PRIVATE = (
    *("127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
    *("224.0.0.1", "239.255.255.250", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
    *("::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:7f00:1::", "2001:db8::1"),
)


def test_which_addresses_are_public() -> None:
    assert [address for address in PUBLIC if not is_public(address)] == []
    assert [address for address in PRIVATE if is_public(address)] == []


def test_secrets_are_sent_to_their_host_only_and_shown_to_nobody(
    server: str, handler: type[Handler], fetched: Callable[..., bytes]
) -> None:
    with_password = server.replace("//", "//me:s%20ecret@")
    sent = "Basic " + base64.b64encode(b"me:s ecret").decode()
    fetched(f"{with_password}/to?/good")
    assert [authorization for _, authorization in handler.seen] == [sent, sent]
    handler.seen.clear()
    fetched(f"{with_password}/to?{server.replace('127.0.0.1', 'localhost')}/good")
    assert [authorization for _, authorization in handler.seen] == [sent, None]

    for address in (f"{with_password}/missing?token=s%20ecret", f"{with_password}/to?file://u:s%20ecret@h/?s%20ecret"):
        message = refused(lambda: fetched(address))  # noqa: B023
        assert "ecret" not in message and "me:" not in message
    url = Url("https://u:secret@h/a?secret#secret")
    assert "secret" not in f"{url} {url!r} {[url]}"
    assert len({str(Url(f"http://h/?id={number}")) for number in range(100)}) == 100


def test_a_server_that_never_sends_is_left(fetched: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        refused(lambda: fetched(f"http://127.0.0.1:{silent.getsockname()[1]}/"), "cannot be fetched: timed out")
        assert time.monotonic() - begun < 20


def test_what_was_fetched_is_read_and_leaves_nothing(server: str, handler: type[Handler], tmp_path: Path) -> None:
    spec = ClipSpec(num_frames=4, stride=2, size=(16, 16), resize=16)
    read = read_fetched(Url(f"{server}/zipped"), tmp_path, LOCAL, spec, 2, 3, "pyav")
    assert (read.shown, tuple(read.frames.shape)) == (8, (6, 4, 3, 16, 16))
    handler.seen.clear()
    for path in ("playlist", "page", "too-large-unsaid"):
        with pytest.raises(VideoError, match=rf"^{server}/{path}: (?!.*{tmp_path})"):
            read_fetched(Url(f"{server}/{path}"), tmp_path, LOCAL, spec, 2, 3, "pyav")
    # FFmpeg has not asked for what the playlist names.
    assert [path for path, _ in handler.seen] == ["/playlist", "/page", "/too-large-unsaid"]
    assert list(tmp_path.iterdir()) == []
