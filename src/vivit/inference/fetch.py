"""Fetch a video from an http or https URL, from public hosts only unless private ones are allowed."""

import base64
import hashlib
import http.client
import ipaddress
import re
import socket
import ssl
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from vivit.video.clips import ClipSpec, ViewsOfVideo, read_views
from vivit.video.decode import Decoder
from vivit.video.source import VideoError, reason

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
PORTS = {"http": 80, "https": 443}
MOST_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
# Seconds within which a server must accept a connection, and then send something. `Fetching.timeout` limits the whole.
PATIENCE = 30.0
CHUNK = 1 << 16
GZIP = ("gzip", "x-gzip")
# IPv6 networks whose last 32 bits are an IPv4 address: IPv4-mapped addresses, and NAT64.
HOLD_IPV4 = [ipaddress.IPv6Network(network) for network in ("::ffff:0:0/96", "64:ff9b::/96")]
UNICAST = ipaddress.IPv6Network("2000::/3")
TUNNELS = [ipaddress.IPv6Network(network) for network in ("2002::/16", "2001::/32")]  # 6to4, Teredo


@dataclass(frozen=True)
class Fetching:
    """What may be fetched."""

    max_bytes: int = 500_000_000
    """Of one video."""
    private_hosts: bool = False
    """Whether hosts on this machine or its private network may be fetched from, too."""
    timeout: float = 300.0
    """Seconds for fetching and reading one video."""


@dataclass(frozen=True, repr=False)
class Url:
    """An http or https URL. Its text omits what may be secret: user name, password and query.

    URLs that differ only in the query still differ as text.
    """

    address: str

    def __str__(self) -> str:
        try:
            parts = urlsplit(self.address)
        except ValueError:
            return "(not a URL)"
        query = f"?…{hashlib.sha256(parts.query.encode(errors='replace')).hexdigest()[:8]}" if parts.query else ""
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{query}"

    __repr__ = __str__


def read_fetched(
    url: Url, folder: Path, fetching: Fetching, spec: ClipSpec, num_clips: int, num_crops: int, decoder: Decoder
) -> ViewsOfVideo:
    """Fetch a video to a temporary file in a folder, and read it as `read_views` does. Raises VideoError."""
    with NamedTemporaryFile(dir=folder) as file:
        fetch(url, file, fetching)
        file.flush()
        try:
            return read_views(Path(file.name), spec, num_clips, num_crops, decoder=decoder)
        except VideoError as error:
            raise VideoError(url, error.without(file.name)) from None


def fetch(url: Url, file: IO[bytes], fetching: Fetching) -> None:
    """Download a URL to a file. Raises VideoError."""
    try:
        _follow(url, file, fetching)
    except (OSError, http.client.HTTPException, ValueError) as error:
        # The text of an exception that is not an OSError may hold the URL, with its secrets.
        if isinstance(error, OSError):
            problem = reason(error)
        elif isinstance(error, http.client.IncompleteRead):
            problem = "the connection ended before the video did"
        elif isinstance(error, http.client.HTTPException):
            problem = f"the server gives no proper answer ({type(error).__name__})"
        else:
            problem = "it is not a valid URL, or redirects to one that is not"
        raise VideoError(url, f"cannot be fetched: {problem}") from None


def _follow(url: Url, file: IO[bytes], fetching: Fetching) -> None:
    """Fetch the URL, following redirects. Also raises ValueError for an invalid URL."""
    here = urlsplit(url.address)
    authorization = _authorization(here)
    for _ in range(MOST_REDIRECTS + 1):
        with closing(_connection(here, fetching.private_hosts)) as connection:
            headers = {"Accept-Encoding": "identity", "Connection": "close", "User-Agent": "vivit", **authorization}
            connection.request("GET", _target(here), headers=headers)
            response = connection.getresponse()
            if response.status not in REDIRECTS:
                _save(url, response, file, fetching.max_bytes)
                return
            place = response.headers.get("Location", "").strip()
            if not place:
                raise VideoError(url, "cannot be fetched: the server redirects, but gives no URL")
            following = urlsplit(urljoin(here.geturl(), place))
        if following.scheme not in ("https", here.scheme):
            raise VideoError(url, f"redirects to {Url(following.geturl())}, which is not fetched")
        if _origin(following) != _origin(here):  # another origin must not see the password
            authorization = _authorization(following)
        here = following
    raise VideoError(url, f"redirects more than {MOST_REDIRECTS} times")


def _origin(address: SplitResult) -> tuple[str, str, int]:
    """Scheme, host and port. Raises ValueError."""
    host = (address.hostname or "").encode("idna").decode()
    if not host or address.scheme not in PORTS:
        raise ValueError
    return address.scheme, host, address.port or PORTS[address.scheme]


def _target(address: SplitResult) -> str:
    """The request target: path and query."""
    query = f"?{address.query}" if address.query else ""
    return quote(f"{address.path or '/'}{query}", safe="%/:=&?~+!$,;'@()*[]")


def _authorization(address: SplitResult) -> dict[str, str]:
    """The header with the user name and password, if the URL has them."""
    user, at, _ = address.netloc.rpartition("@")
    return {"Authorization": f"Basic {base64.b64encode(unquote(user).encode()).decode()}"} if at else {}


def _connection(address: SplitResult, private: bool) -> http.client.HTTPConnection:
    scheme, host, port = _origin(address)
    connection = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[scheme](host, port)
    connection.auto_open = 0  # it would resolve the host again, and connect without a check
    connection.sock = _connect(host, port, private)
    if scheme == "https":
        try:
            connection.sock = ssl.create_default_context().wrap_socket(connection.sock, server_hostname=host)
        except OSError:
            connection.close()
            raise
    return connection


def _connect(host: str, port: int, private: bool) -> socket.socket:
    """Connect to an address of a host that has been checked: resolving the name again could give another one."""
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if not (private or is_public(str(place[0]))):
            failure = OSError(f"{host} is not a host of the public internet; --allow-private fetches from it")
            continue
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(PATIENCE)
            sock.connect(place)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure


def is_public(address: str) -> bool:
    """Whether an IP address belongs to a host of the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if not any(ip in network for network in HOLD_IPV4):
            return ip in UNICAST and ip.is_global and not any(ip in network for network in TUNNELS)
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.is_global and not ip.is_multicast


def _save(url: Url, response: http.client.HTTPResponse, file: IO[bytes], most: int) -> None:
    if response.status != 200:
        raise VideoError(url, f"cannot be fetched: the server answers {response.status} {response.reason}".rstrip())
    if response.headers.get_content_type() == "text/html":
        raise VideoError(url, "is a web page, not a video")
    if (response.length or 0) > most:
        raise _too_large(url, most)
    size = 0
    for chunk in _decoded(url, response, most):
        size += len(chunk)
        if size > most:
            raise _too_large(url, most)
        file.write(chunk)


def _decoded(url: Url, response: http.client.HTTPResponse, most: int) -> Iterator[bytes]:
    """The body, decompressed if the server compresses it although asked not to."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", *GZIP):
        raise VideoError(url, f"cannot be fetched: the server sends it in an unknown encoding ({encoding})")
    inflate = _inflate() if encoding in GZIP else None
    received = 0
    while chunk := _read(response):
        received += len(chunk)
        if received > most:
            raise _too_large(url, most)
        if inflate is None:
            yield chunk
            continue
        try:
            while chunk:
                if inflate.eof:  # gzip data may have several members
                    inflate = _inflate()
                yield inflate.decompress(chunk, CHUNK)
                chunk = inflate.unused_data.lstrip(b"\0") if inflate.eof else inflate.unconsumed_tail
        except zlib.error:
            raise VideoError(url, "cannot be fetched: the server sends damaged gzip data") from None
    if inflate is not None:
        yield inflate.flush()
    if response.length or (inflate is not None and not inflate.eof):
        raise VideoError(url, "cannot be fetched: the connection ended before the video did")


def _inflate() -> "zlib._Decompress":
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except ValueError as error:  # a negative chunk size
        raise http.client.HTTPException from error


def _too_large(url: Url, most: int) -> VideoError:
    return VideoError(url, f"is larger than {most / 1e6:,.0f} MB; --max-size sets the limit")
