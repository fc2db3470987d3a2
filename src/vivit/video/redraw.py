"""A video with something drawn on its pictures, as an MP4 file. It stands upright and keeps its sound."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.container import InputContainer, OutputContainer

from vivit.video.base import Video
from vivit.video.decode_pyav import PyAVVideo, open_container
from vivit.video.source import VideoError, reason

# Bytes of frames decoded at once.
FRAMES_AT_ONCE = 1 << 26
# Ticks a second, a multiple of the usual frame rates.
TICKS = 90_000
# Sound that every MP4 player plays; other sound is encoded as AAC.
PLAYED = {"aac", "mp3", "ac3", "eac3", "opus", "alac"}
AAC_RATE = 48_000

Drawn = Callable[[np.ndarray, float], np.ndarray]
"""Takes a picture, (height, width, 3) uint8 RGB, and its time in seconds after the first frame; returns the picture to
show, whose size is the same for all. It may change the picture that it takes."""


def redraw(video: Video, target: Path, drawn: Drawn) -> None:
    """Write all pictures of a video, each as `drawn` gives it, at an even frame rate, with the sound of the video.

    Raises:
        VideoError: the video cannot be read.
        OSError: the file cannot be written, as on a full disk.
    """
    info = video.info
    count = max(1, FRAMES_AT_ONCE // (3 * info.width * info.height))
    played = isinstance(video, PyAVVideo)  # a folder of pictures has no sound
    try:
        with (
            av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"}) as container,
            open_container(video.source) if played else nullcontext() as source,
        ):
            pictures = container.add_stream("libx264", rate=Fraction(info.frame_rate).limit_denominator(1001))
            assert isinstance(pictures, av.VideoStream)
            pictures.pix_fmt = "yuv420p"
            pictures.codec_context.time_base = Fraction(1, TICKS)
            pictures.options = {"preset": "veryfast", "crf": "20"}
            sound = _sound(video, source, container)
            ahead = next(sound, None)
            for number, frame in enumerate(frame for frames in video.in_turn(count) for frame in frames):
                seconds = number / info.frame_rate
                picture = drawn(frame.permute(1, 2, 0).contiguous().numpy(), seconds)  # (H, W, C)
                if min(picture.shape[:2]) < 2:
                    picture = picture.repeat(2, 0).repeat(2, 1)
                height, width = (side // 2 * 2 for side in picture.shape[:2])  # H.264 stores colour at half the size
                if not pictures.codec_context.is_open:
                    pictures.height, pictures.width = height, width
                encoded = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), "rgb24")
                encoded.pts, encoded.time_base = round(seconds * TICKS), Fraction(1, TICKS)
                # The muxer buffers a stream that is ahead of the other, so the two are interleaved.
                while ahead is not None and ahead[0] <= seconds:
                    container.mux(ahead[1])
                    ahead = next(sound, None)
                container.mux(pictures.encode(encoded))
            container.mux(pictures.encode(None))
            while ahead is not None:
                container.mux(ahead[1])
                ahead = next(sound, None)
    except av.error.FFmpegError as error:  # from writing: reading raises VideoError
        raise OSError(error.errno, error.strerror, str(target)) from None


Sound = Iterator[tuple[float, list[av.Packet]]]
"""Packets of a file that is being written, and their time in seconds."""


def _sound(video: Video, source: InputContainer | None, target: OutputContainer) -> Sound:
    """Add the sound of a video to a file, so that the first frame of the video is at 0 seconds."""
    if source is None or not isinstance(video, PyAVVideo):
        return iter(())
    stream = source.streams.best("audio")
    if not isinstance(stream, av.AudioStream) or stream.codec_context is None:
        return iter(())
    packets = _packets(video, source, stream)
    if stream.codec_context.codec.canonical_name in PLAYED:
        return _copied(packets, target.add_stream_from_template(stream), video.start)
    layout = "mono" if stream.codec_context.channels == 1 else "stereo"
    encoder = target.add_stream("aac", rate=AAC_RATE, layout=layout)
    assert isinstance(encoder, av.AudioStream)
    return _encoded(packets, stream, encoder, video.start)


def _packets(video: Video, source: InputContainer, stream: av.AudioStream) -> Iterator[av.Packet]:
    try:
        yield from source.demux(stream)
    except av.error.FFmpegError as error:
        raise VideoError(video.source, f"its sound cannot be read ({reason(error).lower()})") from None


def _copied(packets: Iterator[av.Packet], copy: av.AudioStream, start: float) -> Sound:
    last = None
    for packet in packets:
        if packet.pts is None or packet.dts is None or (last is not None and packet.dts <= last):
            continue  # the end, or a packet without a usable time
        last = packet.dts
        moved = round(start / packet.time_base)
        packet.pts, packet.dts, packet.stream = packet.pts - moved, packet.dts - moved, copy
        yield float(packet.dts * packet.time_base), [packet]


def _encoded(packets: Iterator[av.Packet], stream: av.AudioStream, encoder: av.AudioStream, start: float) -> Sound:
    # Gaps become silence.
    resampler = AudioResampler("fltp", encoder.layout, AAC_RATE, options={"async": "1"})
    seconds = 0.0

    def encoded(frame: av.AudioFrame | None) -> Sound:
        nonlocal seconds
        for part in resampler.resample(frame):
            part.pts = (part.pts or 0) - round(start * AAC_RATE)
            seconds = part.pts / AAC_RATE
            yield seconds, encoder.encode(part)

    for packet in packets:
        with suppress(av.error.InvalidDataError):  # a damaged packet is a gap
            for frame in stream.decode(packet):
                yield from encoded(frame)
    yield from encoded(None)
    yield seconds, encoder.encode(None)
