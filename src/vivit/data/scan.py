"""Reads files to find out what they hold, many at once, in processes that may hang or crash."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

import av
from av.container import InputContainer

from vivit.data.look_alikes import SIDE, thumbnails
from vivit.data.manifest import Scan
from vivit.video.decode import open_video
from vivit.video.decode_pyav import PyAVVideo, open_container
from vivit.video.frame_walk import demux
from vivit.video.isolated import IsolatedReader
from vivit.video.source import VideoError, VideoSource, reason
from vivit.video.span import Span, span_problem

# Seconds allowed for reading a few frames of a file, or all.
TIMEOUT, FULL_TIMEOUT = 120.0, 3600.0
PICTURES = "pictures"
"""The container of a folder of frames."""
# Frames of such a folder in memory at once.
AT_ONCE = 16


def scan_files(
    sources: Mapping[VideoSource, Sequence[Span]], *, full: bool, workers: int
) -> Iterator[tuple[VideoSource, Scan]]:
    """Scan files and yield each result as soon as it is ready. Closing the generator stops the scan.

    Args:
        sources: file → its spans in use.
    """
    own = threading.local()  # one reader per thread; its process ends with the thread

    def start() -> None:
        own.reader = IsolatedReader(FULL_TIMEOUT if full else TIMEOUT)

    def scan(source: VideoSource) -> tuple[VideoSource, Scan]:
        try:
            return source, own.reader(scan_file, source, full, sources[source])
        except VideoError as error:
            return source, Scan(problem=error.without(source))

    # The pool's threads are daemons, so this process can end while one waits for its reader.
    with ThreadPool(max(1, min(workers, len(sources))), start) as pool:
        yield from pool.imap_unordered(scan, sources)


def scan_file(source: VideoSource, full: bool, spans: Sequence[Span] = ()) -> Scan:
    """Decode the first frame, the last and three in between, or with `full` all of them.

    Args:
        spans: the spans in use; if one is past the end that the file states, the real end is measured.

    Raises:
        VideoError: the file cannot be opened.
    """
    with open_video(source) as video:
        if any(span_problem(span, video.info.duration, video.info.frame_rate) for span in spans):
            video.measure()
        info = video.info
        try:
            between = [info.num_frames * quarter // 4 for quarter in (1, 2, 3)]
            frames = video.frames([0, *between, info.num_frames - 1], size=(4 * SIDE, 4 * SIDE))
            problem, pictures = "", thumbnails(frames[1:4])
            container, excess = PICTURES, ""
            if isinstance(video, PyAVVideo):
                container, excess, problem = _look_inside(source, video.stream_index, info.num_frames, full)
            elif full:
                for first in range(0, info.num_frames, AT_ONCE):
                    video.frames(range(first, min(first + AT_ONCE, info.num_frames)))
        except VideoError as error:
            problem, pictures, container, excess = error.without(source), "", "", ""
    return Scan(
        problem=problem,
        excess=excess,
        duration=round(info.duration, 6),
        frames=info.num_frames,
        frame_rate=round(info.frame_rate, 6),
        width=info.width,
        height=info.height,
        codec=info.codec,
        container=container,
        thumbnails=pictures,
        full=full,
    )


def _look_inside(source: VideoSource, number: int, num_frames: int, full: bool) -> tuple[str, str, str]:
    """Return the container, what it claims but lacks, and the damage, as FFmpeg sees stream `number`."""
    with open_container(source) as container:
        stream = container.streams[number]
        assert isinstance(stream, av.VideoStream)
        size = source.stat().st_size if isinstance(source, Path) else source.size
        excess, damage = _excess(stream, num_frames, size), ""
        if full:
            packets, damage = _decode_all(container, stream)
            if packets < stream.frames:
                excess = f"its container counts {stream.frames} frames, but it has {packets}"
        # FFmpeg has several names for a container, such as mov,mp4,m4a,3gp; prefer the file's own extension.
        names, ending = container.format.name.split(","), str(source).rsplit(".", 1)[-1].lower()
        return ending if ending in names else names[0], excess, damage


def _excess(stream: av.VideoStream, num_frames: int, size: int) -> str:
    entries = stream.index_entries
    beyond = sum(entry.pos + entry.size > size for entry in entries)
    if beyond:
        return f"its container lists {len(entries)} frames, but {beyond} of them are past its end"
    # A file that is cut off may have lost its index.
    if len(entries) < stream.frames and num_frames + 1 < stream.frames:
        return f"its container counts {stream.frames} frames, but it has about {num_frames}"
    return ""


def _decode_all(container: InputContainer, stream: av.VideoStream) -> tuple[int, str]:
    """Count the packets, and describe the damage.

    Decoding for training skips a damaged packet and repeats the previous frame; here damage is counted.
    """
    stream.codec_context.thread_type = "SLICE"  # frame threading hides errors
    packets = damaged = 0
    first: float | None = None
    try:
        for packet in demux(container, stream):
            packets += packet.size > 0
            bad = packet.is_corrupt
            try:
                for frame in packet.decode():
                    assert isinstance(frame, av.VideoFrame)
                    bad |= frame.is_corrupt
            except av.error.FFmpegError:
                bad = True
            if bad:
                damaged += 1
                if first is None and packet.dts is not None and packet.time_base is not None:
                    first = float(packet.dts * packet.time_base)
    except av.error.FFmpegError as error:
        return packets, f"damaged: it ends after {packets} frames ({reason(error).lower()})"
    if not damaged:
        return packets, ""
    where = "" if first is None else f", the first at {max(0.0, first):.1f} s"
    return packets, f"damaged: {damaged} of {packets} frames cannot be decoded correctly{where}"
