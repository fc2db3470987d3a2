"""Draws what training sees: rows of frames from a few videos' clips, plain and augmented."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.data.mirror import mirrored_classes
from vivit.data.order import clip_rng, colour_rng
from vivit.errors import UserError
from vivit.files import write_files
from vivit.labels import LabelSpace
from vivit.text import printable
from vivit.video.augment import Augmentation, augment_colours, draw_geometry
from vivit.video.clips import ClipSpec, draw_clip, view_crops
from vivit.video.decode import open_video
from vivit.video.source import VideoError
from vivit.video.span import frames_in

# Frames shown per clip.
COLUMNS = 8
AUGMENTED_ROWS = 3

_TILE = 128  # longer side of a frame, in pixels
_GAP = 4
_EDGE = 16
_MARGIN = 132  # for the names of the rows, about 19 letters
_LEAST_WIDTH = 800
_INK, _FAINT, _ALARM, _PAPER = (26, 26, 26), (110, 110, 110), (176, 32, 32), (255, 255, 255)


@dataclass(frozen=True)
class Row:
    """Frames of one clip."""

    name: str
    frames: Tensor
    """(N, 3, H, W) uint8."""


@dataclass(frozen=True)
class Section:
    """One video."""

    title: str
    note: str
    """Shown beside the title, fainter."""
    times: tuple[float, ...] = ()
    """The time of each column, in seconds."""
    rows: tuple[Row, ...] = ()
    problem: str = ""
    """Why the video has no rows; "" if it has."""


def show(
    videos: VideoSet, spec: ClipSpec, augmentation: Augmentation | None, out: Path, count: int = 4, seed: int = 0
) -> None:
    """Write a PNG with one clip of each of a few videos, from as many classes as possible, plain and augmented.

    Each augmented row shows the first epoch's clip with the augmentation that another epoch would use with this seed;
    in training, later epochs also draw other frames. Nothing is mirrored if a class names a side and has no mirror.

    Args:
        augmentation: None: show the plain clips only.
        count: how many videos to show, at most.

    Raises:
        UserError: `count` or `seed` is out of range, no video can be read, or the picture cannot be written. If only
            some videos are unreadable, each is shown as a line of text.
    """
    if count < 1:
        raise UserError(f"count: {count} is out of range; use 1 or more")
    if seed < 0:
        raise UserError(f"seed: {seed} is out of range; use 0 or more")
    mirrors = {head: mirrored_classes(names) for head, names in videos.labels.classes.items()}
    one_sided = any(len(mirrors[head]) < count for head, count in videos.labels.counts.items())
    if augmentation is not None and one_sided:
        augmentation = replace(augmentation, flip=0.0)
    sections = [_section(videos, index, spec, augmentation, mirrors, seed) for index in _choose(videos, count, seed)]
    if all(section.problem for section in sections):
        raise UserError(
            f"{out}: not written, since none of the videos chosen can be read; the first: {sections[0].problem}"
        )
    contact_sheet(sections, out)


def _choose(videos: VideoSet, count: int, seed: int) -> list[int]:
    """Choose random videos: one of each class, then a second one of each, and so on."""
    seen = Counter[str]()
    ranked = []
    for index in np.random.default_rng(seed).permutation(len(videos.videos)).tolist():
        name = _class_words(videos.labels, videos.videos[index])
        seen[name] += 1
        ranked.append((seen[name], name, index))
    chosen = sorted(ranked, key=lambda entry: entry[0])[:count]
    return [index for _, _, index in sorted(chosen, key=lambda entry: (entry[1], entry[0]))]


def _class_words(space: LabelSpace, video: LabelledVideo, mirrors: dict[str, dict[int, int]] | None = None) -> str:
    """ "dog", or "verb: wash, noun: cup"; given mirrors, the classes of the mirrored video."""
    words = []
    for head, names in video.labels.items():
        if mirrors:
            numbers = [space.numbers[head][name] for name in names]
            names = tuple(space.classes[head][mirrors[head].get(number, number)] for number in numbers)
        title, shown = space.title(head), printable(" + ".join(names)) or "none"
        words.append(f"{title}: {shown}" if title else shown)
    return ", ".join(words)


def _section(
    videos: VideoSet,
    index: int,
    spec: ClipSpec,
    augmentation: Augmentation | None,
    mirrors: dict[str, dict[int, int]],
    seed: int,
) -> Section:
    video = videos.videos[index]
    title, file_name = _class_words(videos.labels, video), printable(video.source.name)
    try:
        with open_video(video.source, rate=spec.rate) as opened:
            frames = frames_in(opened, video.span)
            info, rate = opened.info, opened.rate
            _, places = draw_clip(len(frames), spec, Augmentation(), clip_rng(seed, 0, index))  # as in the first epoch
            numbers = [frames[place] for place in places]
            shown = np.linspace(0, spec.num_frames - 1, min(COLUMNS, spec.num_frames)).round().astype(int).tolist()
            rows = [Row("plain", view_crops(opened.frames(numbers, spec.resize), spec.size, 1)[0][shown])]
            for epoch in range(AUGMENTED_ROWS):
                if augmentation is None:
                    break
                geometry = draw_geometry(augmentation, clip_rng(seed, epoch, index))
                size = geometry.frame_size(info.height, info.width, spec.resize, spec.size)
                clip = geometry.apply(opened.frames(numbers, size=size), spec.size)
                clip = augment_colours(clip, augmentation, colour_rng(seed, epoch, index))
                name = f"augmented {epoch + 1}"
                if geometry.mirrored:
                    other = _class_words(videos.labels, video, mirrors)
                    name += "\nmirrored" + (f":\n{other}" if other != title else "")
                rows.append(Row(name, clip[shown]))
    except VideoError as error:
        return Section(title, file_name, problem=str(error))
    note = f"{file_name}    {info.width} × {info.height}, {info.duration:.1f} s, {info.frame_rate:.3g} frames/s"
    return Section(title, note, tuple(numbers[i] / rate for i in shown), tuple(rows))


def contact_sheet(sections: Sequence[Section], out: Path) -> None:
    """Write the sections, one below the other, as a PNG. Raises UserError if that fails."""
    widest = max((len(section.times) for section in sections), default=0)
    tiles = [frame for section in sections for row in section.rows for frame in row.frames[:1]]
    shape = tiles[0].shape[-2:] if tiles else (1, 1)
    height, width = (max(1, round(side * _TILE / max(shape))) for side in shape)
    page_width = max(2 * _EDGE + _MARGIN + widest * (width + _GAP) - _GAP, _LEAST_WIDTH)
    heading = 28
    ruler = 20
    heights = [
        heading + (ruler + len(section.rows) * (height + _GAP) if section.rows else ruler) + _EDGE
        for section in sections
    ]
    page = Image.new("RGB", (page_width, 2 * _EDGE + sum(heights)), _PAPER)
    pen = ImageDraw.Draw(page)
    bold, plain, small = font_of("DejaVuSans-Bold", 16), font_of("DejaVuSans", 13), font_of("DejaVuSans", 12)
    top = _EDGE
    for section, section_height in zip(sections, heights, strict=True):
        room = page_width - 2 * _EDGE
        title = cut(section.title, bold, room * 2 // 3)
        pen.text((_EDGE, top + 18), title, _INK, bold, anchor="ls")
        used = round(bold.getlength(title)) + 14
        pen.text((_EDGE + used, top + 18), cut(section.note, plain, room - used), _FAINT, plain, anchor="ls")
        if section.problem:
            pen.text((_EDGE, top + heading + 14), cut(section.problem, plain, room), _ALARM, plain, anchor="ls")
        left_of = [_EDGE + _MARGIN + column * (width + _GAP) for column in range(len(section.times))]
        for left, time in zip(left_of, section.times, strict=True):
            pen.text((left + width / 2, top + heading + 14), f"{time:.2f} s", _FAINT, small, anchor="ms")
        for number, row in enumerate(section.rows):
            row_top = top + heading + ruler + number * (height + _GAP)
            lines = [line for part in row.name.split("\n") for line in textwrap.wrap(part, 17)]
            words = "\n".join(cut(line, small, _MARGIN - 8) for line in lines[: height // 16])
            pen.multiline_text((_EDGE, row_top + height / 2), words, _INK, small, anchor="lm")
            for left, frame in zip(left_of, row.frames, strict=True):
                picture = Image.fromarray(frame.permute(1, 2, 0).cpu().numpy())
                page.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (left, row_top))
        top += section_height
    write_files({out: lambda path: page.save(path, format="PNG")})


def font_of(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font from matplotlib, which covers more scripts than Pillow's."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)


def cut(text: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    """The text, shortened with an ellipsis if it does not fit."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text + "…"
