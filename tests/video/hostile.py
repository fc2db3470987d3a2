"""Make files that must do no harm to a reader: damaged, with false claims, or not videos at all."""

import struct
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

# Every container with the codecs usual in it, tiny: 30 frames of 64 x 32.
SEEDS: dict[str, dict[str, object]] = {
    "moov_last.mp4": {"options": {"bf": "2", "g": "12"}},
    "moov_first.mp4": {"options": {"bf": "2", "g": "12"}, "container_options": {"movflags": "faststart"}},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}, "options": {"g": "12"}},
    "turned.mov": {"options": {"g": "12"}, "rotation": 90},
    "h265.mp4": {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": "log-level=none:keyint=12"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12", "svtav1-params": "lp=1"}},
    "h264.mkv": {"options": {"bf": "2", "g": "12"}, "sound": 1.2},
    "ffv1.mkv": {"codec": "ffv1"},
    "vp8.webm": {"codec": "libvpx", "options": {"deadline": "realtime", "g": "12"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8", "g": "12"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "12"}, "sound": 1.2},
    "mjpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "h264.ts": {"options": {"bf": "2", "g": "12"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}},
    "flv1.flv": {"codec": "flv", "options": {"g": "12"}},
    "wmv2.wmv": {"codec": "wmv2", "options": {"g": "12"}},
    "h263.3gp": {"codec": "mpeg4", "options": {"g": "12"}},
    "animated.gif": {"codec": "gif", "pixel_format": "rgb8"},
    "bare.h264": {"options": {"g": "12"}},
    "bare.hevc": {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": "log-level=none:keyint=12"}},
    "bare.m2v": {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}},
    "ffv1.nut": {"codec": "ffv1"},
    "mpeg2.mxf": {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}},
    "vp8.ivf": {"codec": "libvpx", "options": {"deadline": "realtime", "g": "12"}},
    "raw.y4m": {"codec": "wrapped_avframe"},
    "prores.mov": {"codec": "prores_ks", "pixel_format": "yuv422p10le"},
    "rv20.rm": {"codec": "rv20"},
    "huffyuv.avi": {"codec": "huffyuv", "pixel_format": "yuv422p"},
    "msmpeg4.asf": {"codec": "msmpeg4v3", "options": {"g": "12"}},
    "moving.apng": {"codec": "apng", "pixel_format": "rgb24"},
}


def make_seeds(folder: Path, encode: Callable[..., Path]) -> list[Path]:
    """Make the videos of `SEEDS`, for the codecs that this PyAV can encode."""
    return [
        encode(folder / name, 30, **how)
        for name, how in SEEDS.items()
        if how.get("codec", "libx264") in av.codecs_available
    ]


def boxed(data: bytes, box: str, offset: int, value: bytes) -> bytes:
    """Write bytes at this offset in the content of an MP4's first box of that name; −8 is the size of the box."""
    at = data.index(box.encode()) + 4 + offset
    return data[:at] + value + data[at + len(value) :]


def png(width: int, height: int) -> bytes:
    """A picture that claims this size, followed by a thousand zeros."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def h264_of_size(data: bytes, width: int, height: int) -> bytes:
    """Raw H.264 whose parameters claim this size for the pictures of `data`, in multiples of 16."""
    bits = f"{66:08b}{0:08b}{62:08b}"  # baseline, no constraints, level 6.2
    for value in (0, 0, 2, 1):  # the set's number, bits of the frame number, order as output, frames referred to
        bits += _exp_golomb(value)
    bits += "0" + _exp_golomb(width // 16 - 1) + _exp_golomb(height // 16 - 1)
    bits += "1" + "1" + "0" + "0" + "1"  # frames only, direct by 8 x 8, no crop, nothing on display, end
    bits += "0" * (-len(bits) % 8)
    content = int(bits, 2).to_bytes(len(bits) // 8, "big")
    while (escaped := content.replace(b"\0\0\0", b"\0\0\3\0").replace(b"\0\0\1", b"\0\0\3\1")) != content:
        content = escaped
    units = data.split(b"\0\0\1")[1:]
    kept = [unit for unit in units if unit[0] & 31 != 7]
    return b"".join(b"\0\0\0\1" + unit for unit in [b"\x67" + content, *kept])


def _exp_golomb(value: int) -> str:
    binary = f"{value + 1:b}"
    return "0" * (len(binary) - 1) + binary


def jpeg_of_size(data: bytes, width: int, height: int) -> bytes:
    """Make every JPEG in the file claim this size."""
    parts = data.split(b"\xff\xc0\x00\x11\x08")
    return parts[0] + b"".join(
        b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", height, width) + part[4:] for part in parts[1:]
    )


def mux(path: Path, packets: Sequence[tuple[int, bytes]], tick: Fraction) -> Path:
    """A file of packets (time in ticks, content), declared as JPEGs of 64 x 32."""
    first = min((time for time, _ in packets), default=0) - len(packets)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuvj420p"
        stream.time_base = stream.codec_context.time_base = tick
        for number, (time, content) in enumerate(packets):
            packet = av.Packet(content)
            # Only presentation times may go back.
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, time, first + number, tick
            packet.is_keyframe = True
            container.mux_one(packet)
    return path


def jpegs(path: Path) -> list[bytes]:
    """The pictures in a file of JPEGs."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux() if packet.size]


def with_pixel_aspect(data: bytes, across: int, down: int) -> bytes:
    """An MP4 whose pixels are this much wider than high, from a box in place of its bit rate."""
    at = data.index(b"btrt") - 4
    box = struct.pack(">I4sIII", 20, b"pasp", across, down, 0)
    return data[:at] + box + data[at + len(box) :]


def with_frames_elsewhere(data: bytes, other: Path) -> bytes:
    """A QuickTime file with its index last that claims its frames are in another file; its own are blank."""
    path = bytes(other) + b"\0" * (len(bytes(other)) % 2)
    levels = struct.pack(">HH", 1, 1)
    alias = bytes(10) + bytes([1]) + b"x" * 27 + bytes(12) + bytes([1]) + b"x" * 63 + bytes(16) + levels + bytes(16)
    alias += struct.pack(">HH", 2, len(path)) + path + struct.pack(">HH", 0xFFFF, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    start = data.index(b"dref") + 12
    end = start + struct.unpack_from(">I", data, start)[0]
    film = bytearray(data[:start] + entry + data[end:])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = film.index(box) - 4 if box != b"dinf" else film.index(b"dref") - 12
        struct.pack_into(">I", film, at, struct.unpack_from(">I", film, at)[0] + len(film) - len(data))
    content = film.index(b"mdat") + 4
    film[content : film.index(b"moov") - 4] = bytes(film.index(b"moov") - 4 - content)
    return bytes(film)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Make one to eight changes: flip bits, overwrite bytes, set numbers to their bounds, cut, repeat or swap ranges.
    Half of them are in the headers at either end of the file."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        size = len(changed)
        if size < 16:
            break
        near_start, near_end = int(rng.exponential(200)), size - 1 - int(rng.exponential(400))
        anywhere = int(rng.integers(size))
        at = min(max((anywhere, anywhere, near_start, near_end)[rng.integers(4)], 0), size - 1)
        length = int(min(size - at, 1 + rng.exponential(20)))
        match int(rng.integers(7)):
            case 0:
                changed[at] ^= 1 << int(rng.integers(8))
            case 1:
                changed[at : at + length] = rng.bytes(length)
            case 2:
                changed[at : at + length] = bytes([int(rng.choice([0, 255]))]) * length
            case 3:
                number = int(rng.choice([0, 1, -1, 0x7FFF, 0x8000, 0x7FFFFFFF, -0x80000000]))
                order = "<" if rng.random() < 0.5 else ">"
                changed[at : at + 4] = struct.pack(f"{order}i", number)
            case 4:
                del changed[at : at + length * (50 if rng.random() < 0.2 else 1)]
            case 5:
                changed[at:at] = changed[at : at + length]
            case 6:
                other = int(rng.integers(size - length + 1))
                changed[at : at + length], changed[other : other + length] = (
                    changed[other : other + length],
                    changed[at : at + length],
                )
    return bytes(changed)
