"""Make strange but legal video files with the ffmpeg program, and record what it shows of each."""

import re
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import imageio_ffmpeg  # type: ignore[import-untyped]
import numpy as np
import pytest
from PIL import Image

from tests.support import numbered

FRAMES = 50
RATE = 25


def ffmpeg(*arguments: str | Path, stdin: bytes | None = None) -> tuple[bytes, str]:
    """Run ffmpeg and return its output and its report. Skips the test if it lacks the encoder."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-y", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True)
    report = done.stderr.decode(errors="replace")
    if lacking := re.search(r"Unknown encoder '(.+)'", report):
        pytest.skip(f"this build of ffmpeg has no {lacking[1]}")
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{report}")
    return done.stdout, report


@dataclass(frozen=True)
class Shown:
    """All frames that the ffmpeg program shows of a file, in order and upright."""

    times: list[float]
    """Seconds after the first frame."""
    pictures: np.ndarray
    """(N, height, width, 3) uint8."""

    def at(self, time: float) -> int:
        """The frame on screen at this time."""
        return max([number for number, shown in enumerate(self.times) if shown <= time + 1e-6], default=0)


def shown_by_ffmpeg(path: Path, filters: str = "") -> Shown:
    """Decode the whole file, apply these filters, and record the time of each frame."""
    filters = ",".join(filter(None, [filters, "showinfo=checksum=0"]))
    arguments = ["-nostats", "-copyts", "-i", str(path), "-vf", filters, "-fps_mode", "passthrough"]
    arguments += ["-sws_flags", "bilinear+full_chroma_int+accurate_rnd"]
    pixels, report = ffmpeg(*arguments, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    shown = re.findall(r"showinfo.* n: *\d+ pts: *\S+ pts_time:(\S+) .* s:(\d+)x(\d+) ", report)
    width, height = int(shown[0][1]), int(shown[0][2])  # to which the program scales those of another size
    times = [float(time) for time, _, _ in shown]
    return Shown([time - times[0] for time in times], np.frombuffer(pixels, np.uint8).reshape(-1, height, width, 3))


@dataclass(frozen=True)
class Strange:
    """A file of the corpus: how to make it, and what is known without decoding it."""

    options: str = ""
    """Options of the ffmpeg program, between the source and the result."""
    of: str = "numbered.nut"
    """The source: another file of the corpus."""
    before: str = ""
    """Options before the source."""
    numbers: Sequence[int] | None = range(FRAMES)
    """The numbers in the frames, in order; None if the frames are too small."""
    starts: Sequence[float] | None = None
    """Seconds from the first frame to each; None: at an even rate."""
    rate: float = RATE
    size: tuple[int, int] = (64, 32)
    """Width and height, as displayed."""
    rotation: int = 0
    mirrored: bool = False
    filters: str = ""
    """Filters with which the ffmpeg program displays it correctly."""

    @property
    def count(self) -> int:
        """The number of frames shown."""
        return FRAMES if self.numbers is None else len(self.numbers)


# Scale frames with pixels that are not square as on a screen.
SQUARE = "scale=round(iw*sar):ih,setsar=1"
# For files that do not tell exactly how long their last frame is shown.
EVEN = [number / RATE for number in range(FRAMES)]
X264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p"
B_FRAMES = "-c:v libx264 -preset veryfast -pix_fmt yuv420p -bf 3 -g 12"
LONG_GOP = "-c:v libx264 -preset veryfast -pix_fmt yuv420p -bf 3 -g 250"
X265 = "-c:v libx265 -preset ultrafast -pix_fmt yuv420p"
VP9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8"
AV1 = "-c:v libsvtav1 -preset 12 -g 12"

CONTAINERS = {
    "h264.mp4": Strange(B_FRAMES),
    "h264.mov": Strange(B_FRAMES),
    "h264.m4v": Strange(B_FRAMES),
    "h264.3gp": Strange(B_FRAMES),
    "h264.f4v": Strange(B_FRAMES),
    "h264.flv": Strange(B_FRAMES),
    "h264.mkv": Strange(B_FRAMES),
    "h264.ts": Strange(B_FRAMES),
    "h264.m2ts": Strange(B_FRAMES),
    "h264.avi": Strange(B_FRAMES),
    "h264.nut": Strange(B_FRAMES),
    "in_parts.avi": Strange(),
    "raw.h264": Strange(B_FRAMES),
    "raw.h265": Strange(f"{X265} -bf 2 -g 12"),
    "fragmented.mp4": Strange(f"{B_FRAMES} -movflags frag_keyframe+empty_moov"),
    "fragmented_default_base.mp4": Strange(f"{B_FRAMES} -movflags frag_every_frame+default_base_moof+empty_moov"),
    "indexed_fragments.mp4": Strange(f"{B_FRAMES} -movflags dash+global_sidx", starts=EVEN),
    "hybrid_fragmented.mp4": Strange(f"{B_FRAMES} -movflags hybrid_fragmented"),
    "index_first.mp4": Strange(f"{B_FRAMES} -movflags faststart"),
    "negative_offsets.mp4": Strange(f"{B_FRAMES} -movflags negative_cts_offsets"),
    "no_edit_list.mp4": Strange(f"{B_FRAMES} -use_editlist 0"),
    "sets_in_band.mp4": Strange(f"{B_FRAMES} -tag:v avc3"),
    "live.mkv": Strange(f"{B_FRAMES} -f matroska -live 1"),
    "vp8.webm": Strange("-c:v libvpx -deadline realtime -cpu-used 8 -g 20 -b:v 2M"),
    "vp8_hidden_frames.webm": Strange("-c:v libvpx -deadline good -auto-alt-ref 1 -lag-in-frames 16 -g 30 -b:v 2M"),
    "vp9.webm": Strange(f"{VP9} -g 20"),
    "vp9.mp4": Strange(f"{VP9} -g 20"),
    "vp9.ivf": Strange(f"{VP9} -g 20"),
    "live.webm": Strange(f"{VP9} -g 20 -live 1"),
    "flv1.flv": Strange("-c:v flv -g 12"),
    "wmv2.wmv": Strange("-c:v wmv2 -g 12 -b:v 1M"),
    "wmv1.asf": Strange("-c:v wmv1 -g 12 -b:v 1M"),
    "theora.ogv": Strange("-c:v libtheora -g 12 -q:v 8"),
    "mpeg2.mxf": Strange("-c:v mpeg2video -pix_fmt yuv422p -g 12 -bf 2 -b:v 4M"),
    "mpeg1.mpg": Strange("-c:v mpeg1video -g 12 -bf 2 -b:v 1M"),
    "mpeg2.vob": Strange("-c:v mpeg2video -g 12 -bf 2 -b:v 1M"),
    "mpeg2.ts": Strange("-c:v mpeg2video -g 12 -bf 2 -b:v 1M"),
    "h263.3gp": Strange("-c:v h263 -s 128x96 -g 12 -b:v 1M", size=(140, 96), filters=SQUARE),
    "realvideo.rm": Strange("-c:v rv20 -g 12 -b:v 1M"),
    "frames.y4m": Strange("-pix_fmt yuv420p"),
    "frames.mjpeg": Strange("-c:v mjpeg -q:v 3"),
}

CODECS = {
    "baseline.mp4": Strange(f"{X264} -profile:v baseline -g 12"),
    "ten_bit.mp4": Strange("-c:v libx264 -preset ultrafast -pix_fmt yuv420p10le -g 12"),
    "four_two_two.mp4": Strange("-c:v libx264 -preset ultrafast -pix_fmt yuv422p -g 12"),
    "four_two_two_ten_bit.mp4": Strange("-c:v libx264 -preset ultrafast -pix_fmt yuv422p10le -g 12"),
    "four_four_four.mp4": Strange("-c:v libx264 -preset ultrafast -pix_fmt yuv444p -g 12"),
    "grey.mp4": Strange("-c:v libx264 -preset ultrafast -pix_fmt gray -g 12"),
    "lossless.mp4": Strange(f"{X264} -qp 0 -g 12"),
    "lossless_rgb.mp4": Strange("-c:v libx264rgb -preset ultrafast -qp 0 -g 12"),
    "fields.mp4": Strange(f"{X264} -x264-params interlaced=1:bff=1:keyint=12:bframes=2"),
    "pretended_fields.mp4": Strange(f"{X264} -x264-params fake-interlaced=1:keyint=12:bframes=2"),
    "open_gop.mp4": Strange(f"{B_FRAMES} -x264-params open-gop=1:keyint=10:min-keyint=10:scenecut=0:bframes=3"),
    "open_gop.mkv": Strange(f"{B_FRAMES} -x264-params open-gop=1:keyint=10:min-keyint=10:scenecut=0:bframes=3"),
    "open_gop.ts": Strange(f"{B_FRAMES} -x264-params open-gop=1:keyint=10:min-keyint=10:scenecut=0:bframes=3"),
    "intra_refresh.mp4": Strange(f"{X264} -x264-params intra-refresh=1:keyint=10:bframes=0"),
    "intra_refresh.mkv": Strange(f"{X264} -x264-params intra-refresh=1:keyint=10:bframes=0"),
    "intra_refresh.ts": Strange(f"{X264} -x264-params intra-refresh=1:keyint=10:bframes=0"),
    "pyramid.mp4": Strange(f"{LONG_GOP} -x264-params b-pyramid=normal:bframes=8:b-adapt=0:ref=4"),
    "sixteen_b_frames.mp4": Strange(f"{LONG_GOP} -x264-params b-pyramid=normal:bframes=16:b-adapt=0"),
    "slices.mp4": Strange(f"{X264} -x264-params slices=2:keyint=12"),
    "cropped.mp4": Strange(
        f"-vf pad=96:64:16:16 {X264} -g 12 -bsf:v h264_metadata=crop_left=16:crop_right=16:crop_top=16:crop_bottom=16"
    ),
    "hevc.mp4": Strange(f"{X265} -bf 2 -g 12"),
    "hevc_sets_in_band.mp4": Strange(f"{X265} -bf 2 -g 12 -tag:v hev1"),
    "hevc.mkv": Strange(f"{X265} -bf 2 -g 12"),
    "hevc.ts": Strange(f"{X265} -bf 2 -g 12"),
    "hevc_ten_bit.mp4": Strange("-c:v libx265 -preset ultrafast -pix_fmt yuv420p10le -g 12"),
    "hevc_open_gop.mp4": Strange(f"{X265} -x265-params open-gop=1:keyint=10:min-keyint=10:bframes=3:scenecut=0"),
    "hevc_open_gop.ts": Strange(f"{X265} -x265-params open-gop=1:keyint=10:min-keyint=10:bframes=3:scenecut=0"),
    "vp9_hidden_frames.webm": Strange(
        "-c:v libvpx-vp9 -deadline good -cpu-used 8 -auto-alt-ref 1 -lag-in-frames 16 -g 30"
    ),
    "vp9_hidden_frames.mp4": Strange(
        "-c:v libvpx-vp9 -deadline good -cpu-used 8 -auto-alt-ref 1 -lag-in-frames 16 -g 30"
    ),
    "vp9_ten_bit.webm": Strange(f"{VP9} -pix_fmt yuv420p10le -profile:v 2 -g 20"),
    "vp9_four_four_four.webm": Strange(f"{VP9} -pix_fmt yuv444p -profile:v 1 -g 20"),
    "vp9_alpha.webm": Strange(f"{VP9} -pix_fmt yuva420p -auto-alt-ref 0 -g 20"),
    "av1.mp4": Strange(AV1),
    "av1.mkv": Strange(AV1),
    "av1.webm": Strange(AV1),
    "av1.ivf": Strange(AV1),
    "av1.obu": Strange(AV1),
    "av1_ten_bit.mp4": Strange(f"{AV1} -pix_fmt yuv420p10le"),
    "av1_film_grain.mp4": Strange(f"{AV1} -svtav1-params film-grain=8"),
    "mpeg4.mp4": Strange("-c:v mpeg4 -bf 2 -g 12 -q:v 3"),
    "quarter_pixel.avi": Strange("-c:v mpeg4 -flags +qpel+mv4+aic -bf 2 -g 12 -q:v 3"),
    "packed_b_frames.avi": Strange("-c:v libxvid -bf 2 -g 12 -q:v 3", numbers=[*range(47), 48], starts=EVEN),
    "msmpeg4.avi": Strange("-c:v msmpeg4 -g 12 -q:v 3"),
    "mjpeg.avi": Strange("-c:v mjpeg -q:v 3 -pix_fmt yuvj420p"),
    "mjpeg.mov": Strange("-c:v mjpeg -q:v 3 -pix_fmt yuvj422p"),
    "prores.mov": Strange("-c:v prores_ks -profile:v 2"),
    "prores_alpha.mov": Strange("-c:v prores_ks -profile:v 4444 -pix_fmt yuva444p10le"),
    "dnxhr.mov": Strange("-s 256x128 -c:v dnxhd -profile:v dnxhr_lb -pix_fmt yuv422p", size=(256, 128)),
    "dnxhr.mxf": Strange("-s 256x128 -c:v dnxhd -profile:v dnxhr_lb -pix_fmt yuv422p", size=(256, 128)),
    "ffv1.mkv": Strange("-c:v ffv1 -g 5"),
    "ffv1_grey.mkv": Strange("-c:v ffv1 -pix_fmt gray"),
    "ffv1_grey_sixteen_bit.mkv": Strange("-c:v ffv1 -pix_fmt gray16le"),
    "ffv1_alpha.mkv": Strange("-c:v ffv1 -pix_fmt yuva420p"),
    "ffv1_bgra.mkv": Strange("-c:v ffv1 -pix_fmt bgra"),
    "ffv1_gbrp.mkv": Strange("-c:v ffv1 -pix_fmt gbrp10le"),
    "ffv1_four_one_one.mkv": Strange("-c:v ffv1 -pix_fmt yuv411p"),
    "huffyuv.avi": Strange("-c:v huffyuv -pix_fmt rgb24"),
    "ffvhuff.avi": Strange("-c:v ffvhuff -pix_fmt yuv420p"),
    "utvideo.avi": Strange("-c:v utvideo -pix_fmt gbrp"),
    "magicyuv.mkv": Strange("-c:v magicyuv -pix_fmt yuv422p"),
    "png.mov": Strange("-c:v png -pix_fmt rgba"),
    "animation.mov": Strange("-c:v qtrle -pix_fmt argb -g 12"),
    "jpeg2000.mov": Strange("-c:v jpeg2000 -q:v 2"),
    "dropped_frames.avi": Strange(
        "-c:v mpeg4 -bf 2 -g 12 -q:v 3 -vf setpts=(N+5*gte(N\\,20))/25/TB -fps_mode passthrough -enc_time_base 1:25",
        starts=[(number + 5 * (number >= 20)) / RATE for number in range(FRAMES)],
    ),
    "cinepak.avi": Strange("-c:v cinepak -g 12 -frames:v 10", numbers=range(10)),
    "uncompressed.avi": Strange("-c:v rawvideo -pix_fmt bgr24"),
    "uncompressed_yuv.avi": Strange("-c:v rawvideo -pix_fmt yuyv422"),
    "uncompressed.mov": Strange("-c:v rawvideo -pix_fmt uyvy422"),
    "uncompressed.mkv": Strange("-c:v rawvideo -pix_fmt yuv420p"),
    "v210.mov": Strange("-c:v v210"),
    "palette.avi": Strange(
        "-c:v rawvideo -pix_fmt pal8 -vf split[a][b];[a]palettegen=stats_mode=full[p];[b][p]paletteuse"
    ),
    "vvc.mp4": Strange("-c:v libvvenc -preset faster -pix_fmt yuv420p10le -frames:v 9", numbers=range(9)),
    "camcorder.dv": Strange(
        "-c:v dvvideo -s 720x576 -pix_fmt yuv420p -frames:v 5", numbers=range(5), size=(768, 576), filters=SQUARE
    ),
}

GEOMETRY = {
    **{
        f"turned_{angle}.{ending}": Strange(
            "-c copy",
            "h264.mp4",
            f"-display_rotation:v:0 {angle}",
            rotation=angle,
            size=(32, 64) if angle % 180 else (64, 32),
        )
        for angle in (90, 180, 270)
        for ending in ("mp4", "mkv", "mov")
    },
    **{
        f"turned_{angle}_mirrored_{way}.{ending}": Strange(
            "-c copy",
            "h264.mp4",
            f"-display_rotation:v:0 {angle} -display_{way}flip:v:0",
            rotation=angle if way == "h" else (angle + 180) % 360,
            mirrored=True,
            size=(32, 64) if angle % 180 else (64, 32),
        )
        for angle in (0, 90, 180, 270)
        for way in "hv"
        for ending in ("mp4", "mkv")
    },
    "turned_by_the_stream.ts": Strange(
        "-c copy -bsf:v h264_metadata=display_orientation=insert:rotate=90", "h264.mp4", rotation=90, size=(32, 64)
    ),
    "odd.mp4": Strange("-c:v libx264 -preset ultrafast -pix_fmt yuv444p -vf scale=63:31", size=(63, 31)),
    "odd.mkv": Strange("-c:v ffv1 -pix_fmt yuv420p -vf scale=63:31", size=(63, 31)),
    "odd.webm": Strange(f"{VP9} -pix_fmt yuv420p -vf scale=63:31", size=(63, 31)),
    "one_pixel.mkv": Strange("-c:v ffv1 -pix_fmt gbrp -vf scale=1:1", size=(1, 1), numbers=None),
    "one_pixel.webm": Strange(f"{VP9} -pix_fmt yuv420p -vf scale=1:1", size=(1, 1), numbers=None),
    "four_pixels.mp4": Strange(f"{X264} -vf scale=2:2", size=(2, 2), numbers=None),
    "wide.mp4": Strange(f"{X264} -vf scale=16384:16:flags=neighbor -frames:v 3", size=(16384, 16), numbers=range(3)),
    "tall.mkv": Strange("-c:v ffv1 -vf scale=4:4096:flags=neighbor -frames:v 3", size=(4, 4096), numbers=range(3)),
    "one_frame.mp4": Strange(f"{X264} -frames:v 1", "other.nut", numbers=[200]),
    "one_frame.mkv": Strange(f"{X264} -frames:v 1", "other.nut", numbers=[200]),
    "one_frame.webm": Strange(f"{VP9} -frames:v 1", "other.nut", numbers=[200]),
    "one_frame.ts": Strange(f"{X264} -frames:v 1", "other.nut", numbers=[200], rate=50),
    "one_frame.mpg": Strange("-c:v mpeg2video -frames:v 1", "other.nut", numbers=[200], rate=50),
    "one_frame.gif": Strange("-frames:v 1", "other.nut", numbers=[200]),
    "one_frame.h264": Strange(f"{X264} -frames:v 1", "other.nut", numbers=[200]),
    "one_frame.avi": Strange("-c:v mpeg4 -frames:v 1", "other.nut", numbers=[200]),
    "one_frame.flv": Strange(f"{X264} -frames:v 1", "other.nut", numbers=[200]),
    "two_frames.mp4": Strange(f"{LONG_GOP} -frames:v 2", "other.nut", numbers=[200, 201]),
    "two_frames.mkv": Strange(f"{LONG_GOP} -frames:v 2", "other.nut", numbers=[200, 201]),
    "two_frames.webm": Strange(f"{VP9} -frames:v 2", "other.nut", numbers=[200, 201]),
    "two_frames.mpg": Strange("-c:v mpeg2video -frames:v 2", "other.nut", numbers=[200, 201], rate=50, starts=EVEN),
    "two_frames.flv": Strange(f"{X264} -frames:v 2", "other.nut", numbers=[200, 201]),
    **{
        name: Strange(f"{options} -vf setsar={ratio}", size=size, filters=SQUARE)
        for name, options, ratio, size in [
            ("wide_pixels.mp4", X264, "2/1", (128, 32)),
            ("wide_pixels.mkv", X264, "2/1", (128, 32)),
            ("narrow_pixels.mpg", "-c:v mpeg2video -b:v 1M", "8/9", (57, 32)),
            ("wide_pixels.avi", "-c:v mpeg4 -q:v 3", "2/1", (128, 32)),
            ("slightly_wide_pixels.mp4", X264, "16/15", (68, 32)),
            ("narrow_pixels.mp4", X264, "1/2", (32, 32)),
        ]
    },
}


def _sound(seconds: float) -> str:
    return f"-f lavfi -t {seconds} -i sine=sample_rate=48000"


TIMES = {
    "long_gop.mp4": Strange(LONG_GOP),
    **{
        f"trimmed.{ending}": Strange("-c copy", "long_gop.mp4", "-ss 0.9", numbers=range(23, 50), starts=EVEN)
        for ending in ("mp4", "mov", "m4v")
    },
    "trimmed_at_a_key_frame.mp4": Strange("-c copy", "h264.mp4", "-ss 0.96", numbers=range(24, 50)),
    "trimmed_at_a_key_frame.ts": Strange("-c copy", "h264.mp4", "-ss 0.96", numbers=range(24, 50)),
    "trimmed_at_a_key_frame.mkv": Strange("-c copy", "h264.mp4", "-ss 0.96", numbers=range(24, 50)),
    "trimmed_hevc.mp4": Strange("-c copy", "hevc_open_gop.mp4", "-ss 0.5", numbers=range(13, 50), starts=EVEN),
    "ended_early.mp4": Strange(
        "-c copy -t 1", "h264.mp4", numbers=[*range(25), 26], starts=[*(k / 25 for k in range(25)), 1.04]
    ),
    **{
        f"from_an_open_gop.{ending}": Strange(
            "-c copy", "hevc_open_gop.ts", "-ss 0.9", numbers=range(30, 50), starts=EVEN
        )
        for ending in ("ts", "mkv", "mp4", "h265")
    },
    "two_edits.mp4": Strange(numbers=[*range(30, 40), *range(5, 15)]),
    **{
        f"ten_hours_in.{ending}": Strange(f"{B_FRAMES} -output_ts_offset 36000")
        for ending in ("mp4", "mov", "mkv", "ts", "nut", "flv")
    },
    "ten_hours_in.webm": Strange(f"{VP9} -g 20 -output_ts_offset 36000"),
    "clock_wraps_around.ts": Strange(f"{B_FRAMES} -output_ts_offset 95442.7"),
    **{
        f"late.{ending}": Strange(f"{B_FRAMES} -map 1:v -map 0:a -c:a aac", before=f"{_sound(2)} -itsoffset 0.5")
        for ending in ("mp4", "mov", "mkv", "ts", "flv", "m2ts")
    },
    **{
        f"late_sound.{ending}": Strange(f"{B_FRAMES} -map 1:v -map 0:a -c:a aac", before=f"-itsoffset 0.7 {_sound(5)}")
        for ending in ("mp4", "mkv", "ts", "avi", "flv")
    },
    **{
        name: Strange(f"{options} -map 0:a -map 1:v", before=_sound(6))
        for name, options in [
            ("long_sound.mp4", f"{B_FRAMES} -c:a aac"),
            ("long_sound.mkv", f"{B_FRAMES} -c:a aac"),
            ("long_sound.ts", f"{B_FRAMES} -c:a aac"),
            ("long_sound.webm", f"{VP9} -g 20 -c:a libopus"),
            ("long_sound.avi", "-c:v mpeg4 -bf 2 -q:v 3 -c:a libmp3lame"),
            ("long_sound.flv", f"{B_FRAMES} -c:a aac"),
            ("long_sound.mpg", "-c:v mpeg2video -bf 2 -q:v 3 -c:a mp2"),
            ("long_sound.wmv", "-c:v wmv2 -q:v 3 -c:a wmav2"),
            ("long_sound.ogv", "-c:v libtheora -g 12 -q:v 8 -c:a libvorbis"),
            ("long_sound_in_fragments.mp4", f"{B_FRAMES} -c:a aac -movflags frag_keyframe+empty_moov"),
        ]
    },
    **{
        f"{name}_a_second.{ending}": Strange(options, before=f"-r {rate}", rate=value)
        for name, rate, value in [
            ("24_000_in_1001", "24000/1001", 24000 / 1001),
            ("30_000_in_1001", "30000/1001", 30000 / 1001),
            ("60", "60", 60.0),
            ("240", "240", 240.0),
            ("1", "1", 1.0),
            ("half", "0.5", 0.5),
        ]
        for ending, options in [("mp4", B_FRAMES), ("mkv", B_FRAMES), ("webm", f"{VP9} -g 20"), ("ts", B_FRAMES)]
    },
    **{
        f"variable.{ending}": Strange(
            f"{options} -vf setpts=(20*N+N*N)/1000/TB -fps_mode passthrough -enc_time_base 1:1000",
            starts=[(20 * number + number**2) / 1000 for number in range(FRAMES)],
        )
        for ending, options in [
            ("mp4", B_FRAMES),
            ("mkv", B_FRAMES),
            ("webm", f"{VP9} -g 20"),
            ("ts", B_FRAMES),
            ("mov", B_FRAMES),
            ("flv", B_FRAMES),
        ]
    },
    **{
        f"held.{ending}": Strange(
            f"{options} -vf setpts=(N/25+9*gte(N\\,20))/TB -fps_mode passthrough -enc_time_base 1:1000",
            starts=[number / 25 + 9 * (number >= 20) for number in range(FRAMES)],
        )
        for ending, options in [("mp4", B_FRAMES), ("mkv", B_FRAMES), ("webm", f"{VP9} -g 20"), ("ts", B_FRAMES)]
    },
}

UNMARKED = "-disposition:v:0 0 -disposition:v:1 0"
MARKED = "-disposition:v:0 0 -disposition:v:1 default"
STREAMS = {
    "words_first.mkv": Strange(f"{B_FRAMES} -map 0:s -map 1:v", before="-i <words.srt>"),
    "words_first.mp4": Strange(f"{B_FRAMES} -map 0:s -map 1:v -c:s mov_text", before="-i <words.srt>"),
    "time_code.mov": Strange(f"{B_FRAMES} -timecode 00:00:00:00"),
    "time_code.mp4": Strange(f"{B_FRAMES} -timecode 10:00:00:00"),
    "chapters.mp4": Strange(f"{B_FRAMES} -map 1:v -map_chapters 0", before="-i <chapters.txt>"),
    "cover_first.mp4": Strange("-map 0:v -map 1:v -c copy -disposition:v:0 attached_pic", "h264.mp4", "-i <cover.png>"),
    "cover.mkv": Strange("-c copy -attach <cover.png> -metadata:s:t mimetype=image/png", "h264.mp4"),
    "cover.m4v": Strange("-map 1:v -map 0:v -c copy -disposition:v:1 attached_pic", "h264.mp4", "-i <cover.png>"),
    # The ffmpeg program shows the default stream, then the largest, then the first. MP4 marks the first as the
    # default if no other is.
    **{
        name: Strange(f"{X264} -map 0:v -map 1:v {options}", before="-i <other.nut>", numbers=numbers, size=size)
        for name, options, numbers, size in [
            ("small_video_first.mkv", f"-s:v:0 32x16 {UNMARKED}", range(50), (64, 32)),
            ("small_video_first.mp4", f"-s:v:0 32x16 {UNMARKED}", range(200, 250), (32, 16)),
            ("small_video_first.ts", "-s:v:0 32x16", range(50), (64, 32)),
            ("large_video_first.mkv", f"-s:v:1 32x16 {UNMARKED}", range(200, 250), (64, 32)),
            ("large_video_first.mp4", f"-s:v:1 32x16 {UNMARKED}", range(200, 250), (64, 32)),
            ("second_video_is_default.mkv", MARKED, range(50), (64, 32)),
            ("second_video_is_default.mp4", MARKED, range(50), (64, 32)),
            ("small_video_is_default.mkv", f"-s:v:1 32x16 {MARKED}", range(50), (32, 16)),
            ("small_video_is_default.mp4", f"-s:v:1 32x16 {MARKED}", range(50), (32, 16)),
        ]
    },
}

DELAYS = [40, 100, 20, 40, 300, 60, 40, 200]  # milliseconds
PICTURES = {
    # The seventh is undone, and so is the wiped picture before it, on which the eighth draws one block.
    "parts.gif": Strange(numbers=[*range(7), 1], starts=[sum(DELAYS[:number]) / 1000 for number in range(8)]),
    "animated.gif": Strange(),
    "transparent.gif": Strange("-vf colorkey=black:0.1,split[a][b];[a]palettegen[p];[b][p]paletteuse", numbers=None),
    "animated.apng": Strange("-c:v apng -pred mixed"),
    "picture.png": Strange("-frames:v 1 -update 1", "other.nut", numbers=[200]),
    "picture.jpg": Strange("-frames:v 1 -update 1", "other.nut", numbers=[200]),
    "picture.webp": Strange("-frames:v 1 -c:v libwebp", "other.nut", numbers=[200]),
    "picture.bmp": Strange("-frames:v 1 -update 1", "other.nut", numbers=[200]),
    "picture.tiff": Strange("-frames:v 1 -update 1", "other.nut", numbers=[200]),
    "turned.jpg": Strange(numbers=[37], rotation=270, size=(32, 64)),
    "picture.avif": Strange(f"{AV1} -frames:v 1", "other.nut", numbers=[200], rate=1),
}

# Files that PyAV's FFmpeg may be unable to read.
APART = {"animated.webp": Strange("-c:v libwebp_anim -lossless 1")}
HALVES = {
    f"{half}.{ending}": Strange(options + more, source)
    for half, source, more in [("first", "numbered.nut", ""), ("second", "other.nut", " -s 128x64 -output_ts_offset 2")]
    for ending, options in [
        ("ts", f"{X264} -g 12"),
        ("h264", B_FRAMES),
        ("vp8.webm", "-c:v libvpx -deadline realtime -cpu-used 8 -g 20 -b:v 2M"),
        ("vp9.webm", f"{VP9} -g 20"),
        ("av1.mkv", AV1),
        ("hevc.mkv", f"{X265} -g 12 -x265-params repeat-headers=1"),
        ("mjpeg.mkv", "-c:v mjpeg -q:v 3"),
    ]
}
TWO_SIZES = {
    f"two_sizes.{name}": Strange("-c copy", source, before, numbers=[*range(50), *range(200, 250)])
    for name, source, before in [
        ("ts", "joined.ts", ""),
        ("mkv", "joined.ts", ""),
        ("mp4", "list.ts", "-f concat -safe 0"),
        ("h264", "joined.h264", ""),
        ("vp8.webm", "list.vp8.webm", "-f concat -safe 0"),
        ("vp9.webm", "list.vp9.webm", "-f concat -safe 0"),
        ("vp9.mp4", "list.vp9.webm", "-f concat -safe 0"),
        ("av1.mkv", "list.av1.mkv", "-f concat -safe 0"),
        ("hevc.mkv", "list.hevc.mkv", "-f concat -safe 0"),
        ("mjpeg.avi", "list.mjpeg.mkv", "-f concat -safe 0"),
    ]
}

FILES: dict[str, Strange] = CONTAINERS | CODECS | GEOMETRY | TIMES | STREAMS | PICTURES | TWO_SIZES


class Workshop:
    """A folder in which each file is made at its first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shown: dict[str, Shown] = {}

    def file(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            part = self.folder / f"part.{name}"
            if name in BY_HAND:
                BY_HAND[name](self, part)
            elif name.startswith("joined."):
                part.write_bytes(b"".join(half.read_bytes() for half in self._halves(name)))
            elif name.startswith("list."):
                part.write_text("".join(f"file '{half}'\n" for half in self._halves(name)))
            else:
                strange = (FILES | HALVES | APART)[name]
                source = self.file(strange.of)
                ffmpeg(*self._words(strange.before), "-i", source, *self._words(strange.options), part)
            part.rename(path)
        return path

    def _halves(self, name: str) -> list[Path]:
        return [self.file(f"{half}.{name.split('.', 1)[1]}") for half in ("first", "second")]

    def _words(self, options: str) -> list[str]:
        return [re.sub(r"^<(.+)>$", lambda name: str(self.file(name[1])), word) for word in options.split()]

    def shown(self, name: str) -> Shown:
        if name not in self._shown:
            self._shown[name] = shown_by_ffmpeg(self.file(name), FILES[name].filters)
        return self._shown[name]


def _write_numbered(path: Path, first: int) -> None:
    pixels = b"".join(numbered(number).tobytes() for number in range(first, first + FRAMES))
    shape = f"-f rawvideo -pix_fmt rgb24 -s 64x32 -r {RATE}".split()
    ffmpeg(*shape, "-i", "-", "-c:v", "copy", path, stdin=pixels)


def _gif_of_parts(_: Workshop, path: Path) -> None:
    """Each frame holds its difference from the one before, which is kept, wiped or undone first."""
    pictures = [Image.fromarray(numbered(number)).convert("P") for number in range(8)]
    pictures[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=DELAYS,
        disposal=[1, 2, 3, 1, 2, 2, 3, 1],
    )


def _turned_by_exif(_: Workshop, path: Path) -> None:
    """A video from a phone held upright: to be turned a quarter clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(numbered(37)).save(path, exif=exif)


def _two_edits(workshop: Workshop, path: Path) -> None:
    """An edit list with two spans of the same frames, instead of an empty one and a whole one."""
    data = workshop.file("late.mp4").read_bytes()
    head = data.index(b"elst") + 8
    ((count,), first, second) = struct.unpack_from(">I", data, head), head + 4, head + 16
    assert count == 2
    (clock,) = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)
    (_, media_time, rate) = struct.unpack_from(">Iii", data, second)
    ticks = 12800 // RATE
    edits = [struct.pack(">Iii", 400 * clock // 1000, media_time + start * ticks, rate) for start in (30, 5)]
    path.write_bytes(data[:first] + edits[0] + edits[1] + data[second + 12 :])


def _avi_in_parts(workshop: Workshop, path: Path) -> None:
    """OpenDML, for AVI files above a gigabyte: further RIFFs, an index in each, and an index of these indices."""
    container = av.open(str(workshop.file("frames.mjpeg")))
    frames = [bytes(packet) for packet in container.demux(video=0) if packet.size]

    def chunk(name: bytes, content: bytes, kind: bytes = b"") -> bytes:
        content = kind + content
        return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)

    def stretch(some: Sequence[bytes], at: int) -> tuple[bytes, bytes]:
        """A `movi` list that begins at this offset, and its entry in the index of indices."""
        places, content = [], b""
        for frame in some:
            places.append((len(content) + 8, len(frame)))
            content += chunk(b"00dc", frame)
        table = b"".join(struct.pack("<II", *place) for place in places)
        index = struct.pack("<HBBI4sQI", 2, 0, 1, len(some), b"00dc", at + 12, 0) + table
        entry = struct.pack("<QII", at + 12 + len(content), len(index) + 8, len(some))
        return chunk(b"LIST", content + chunk(b"ix00", index), b"movi"), entry

    def head(entries: bytes) -> bytes:
        main = struct.pack("<14I", 40000, 0, 0, 0x10, 20, 0, 1, 0, 64, 32, 0, 0, 0, 0)
        stream = struct.pack("<4s4sIIIIIIIIII4H", b"vids", b"MJPG", 0, 0, 0, 1, 25, 0, 50, 0, 0, 0, 0, 0, 64, 32)
        shape = struct.pack("<IiiHH4sIiiII", 40, 64, 32, 1, 24, b"MJPG", 64 * 32 * 3, 0, 0, 0, 0)
        super_index = struct.pack("<HBBI4s12x", 4, 0, 0, 2, b"00dc") + entries
        streams = chunk(b"strh", stream) + chunk(b"strf", shape) + chunk(b"indx", super_index)
        extended = chunk(b"LIST", chunk(b"dmlh", struct.pack("<I", 50)), b"odml")
        return chunk(b"LIST", chunk(b"avih", main) + chunk(b"LIST", streams, b"strl") + extended, b"hdrl")

    start = 12 + len(head(bytes(32)))
    first, first_entry = stretch(frames[:20], start)
    second, second_entry = stretch(frames[20:], start + len(first) + 12)
    path.write_bytes(
        chunk(b"RIFF", head(first_entry + second_entry) + first, b"AVI ") + chunk(b"RIFF", second, b"AVIX")
    )


BY_HAND: dict[str, Callable[[Workshop, Path], object]] = {
    "numbered.nut": lambda _, path: _write_numbered(path, 0),
    "other.nut": lambda _, path: _write_numbered(path, 200),
    "cover.png": lambda _, path: ffmpeg("-f", "lavfi", "-i", "color=red:s=300x300", "-frames:v", "1", path),
    "words.srt": lambda _, path: path.write_text("1\n00:00:00,100 --> 00:00:01,500\nwords\n"),
    "chapters.txt": lambda _, path: path.write_text(
        ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=1000\ntitle=one\n"
        "[CHAPTER]\nTIMEBASE=1/1000\nSTART=1000\nEND=2000\ntitle=two\n"
    ),
    "parts.gif": _gif_of_parts,
    "turned.jpg": _turned_by_exif,
    "two_edits.mp4": _two_edits,
    "in_parts.avi": _avi_in_parts,
}
