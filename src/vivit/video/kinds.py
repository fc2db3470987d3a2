"""Whether a file is a video: as its name says, or else by what FFmpeg finds at its beginning."""

import codecs
import os
from pathlib import Path

from vivit.video.decode_pyav import open_container
from vivit.video.frame_folder import PICTURES
from vivit.video.source import VideoError


def _endings(*words: str) -> frozenset[str]:
    return frozenset(f".{word}" for line in words for word in line.split())


EXTENSIONS = _endings(
    "264 265 266 3g2 3gp asf avi dif divx dv evo f4v flv gif gxf h261 h263 h264 h265 hevc ivf m1v m2t m2ts m2v m4v",
    "mj2 mjpeg mjpg mk3d mkv mov mp4 mpe mpeg mpg mpv mts mxf nsv nut obu ogm ogv qt rm rmvb roq ts vob vvc webm wmv",
    "wtv y4m",
)
"""Extensions of videos, in lower case."""
_PICTURES = _endings("avif cr2 dng exr hdr heic heif ico jp2 jpe jpf jxl nef pbm pgm pnm psd raw svg tga thm")
_SOUND = _endings("aac ac3 aif aiff amr ape au caf flac m4a m4b mid midi mka mp2 mp3 mpa oga opus wav wma wv")
_TEXT = _endings(
    "ass bib c cc cfg conf cpp css csv doc docx eaf h htm html idx ini ipynb js json jsonl log lrc m md nfo odt pdf",
    "pls ppt pptx ps1 py pyc rst rtf sbv sh smi srt ssa sub sup tex toml tsv ttml txt url vtt xls xlsx xml yaml yml",
)
_NUMBERS = _endings(
    "7z bz2 gz lz4 rar tar tgz xz zip zst arrow ckpt db feather flo h5 hdf5 lmdb mat mdb npy npz onnx parquet pb",
    "pickle pkl pt pth safetensors sqlite tfrecord md5 sha1 sha256",
)
_UNFINISHED_OR_OLD = _endings(
    "aria2 bak crdownload download filepart lock old orig part partial swp temp tmp unfinished"
)
_OTHERS = PICTURES | _PICTURES | _SOUND | _TEXT | _NUMBERS | _UNFINISHED_OR_OLD
# Beginnings of pictures that FFmpeg reads like videos, after four bytes.
_STILL = tuple(b"ftyp" + brand for brand in (b"avif", b"heic", b"heix", b"heim", b"heis", b"mif1", b"jxl "))
# FFmpeg's readers of single pictures (those of most kinds end in "_pipe") and of text on a terminal, and two that
# accept one random file in some thousands.
_NO_VIDEO = ("image2", "ico", "tty", "bin", "xbin", "adf", "idf", "h261", "h263")
_BEGINNING = 4096
# Enough to recognise a format; FFmpeg would look for it in a megabyte of any file.
_LOOK_AT = 1 << 14


def is_named_video(name: str) -> bool | None:
    """Whether a file of this name is a video; None if the name does not say.

    A further extension after that of a video, as in clip.mp4.part, means that it is something else.
    """
    stem, ending = os.path.splitext(name.lower())
    if ending in EXTENSIONS:
        return True
    other = ending in _OTHERS or ending.endswith("~") or os.path.splitext(stem)[1] in EXTENSIONS
    return False if other else None


def holds_video(path: str) -> bool:
    """Whether FFmpeg finds moving pictures in a regular file. No frame is decoded.

    Raises:
        OSError: it cannot be opened.
    """
    with open(path, "rb", buffering=0, opener=_without_waiting) as file:
        beginning = file.read(_BEGINNING)
    if not beginning or beginning[4:12] in _STILL or _is_text(beginning):
        return False
    try:
        with open_container(Path(path), formatprobesize=_LOOK_AT, skip_frame="all") as container:
            name = container.format.name
            if name in _NO_VIDEO or name.endswith("_pipe"):
                return False
            # A cover picture is a video stream too, marked as attached.
            return any(not stream.disposition & stream.disposition.attached_pic for stream in container.streams.video)
    except VideoError:
        return False


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _is_text(beginning: bytes) -> bool:
    if b"\0" in beginning or beginning.startswith(b"YUV4MPEG2"):
        return False
    try:
        # The last character may be cut off.
        codecs.getincrementaldecoder("utf-8")().decode(beginning)
    except UnicodeDecodeError:
        return False
    return True
