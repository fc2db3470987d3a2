"""Read the sheet's picture back: which frames are where."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.support import encode, read_numbers, refused
from vivit.data import contact_sheet as module
from vivit.data.contact_sheet import Row, Section, contact_sheet, show
from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.data.loader import TrainingClips, training_batches
from vivit.data.order import Order
from vivit.errors import UserError
from vivit.labels import LabelSpace
from vivit.video.augment import Augmentation
from vivit.video.clips import ClipSpec

SPEC = ClipSpec(num_frames=4, stride=2, size=(32, 64), resize=32)


@pytest.fixture
def sections(monkeypatch: pytest.MonkeyPatch) -> list[Section]:
    """The sections that `show` draws."""
    drawn: list[Section] = []
    monkeypatch.setattr(module, "contact_sheet", lambda given, out: drawn.extend(given))
    return drawn


@pytest.fixture
def videos(tmp_path: Path) -> VideoSet:
    names = ("pan_left", "pan_right", "tilt")
    labelled = [
        LabelledVideo(encode(tmp_path / f"{number}.mp4", 12), {"classes": (names[min(number, 2)],)})
        for number in range(5)
    ]
    return VideoSet(tuple(labelled), LabelSpace({"classes": names}), "made up")


def plain_grey(value: int, frames: int) -> Tensor:
    return torch.full((frames, 3, 20, 40), value, dtype=torch.uint8)


def test_each_frame_is_in_its_row_and_column(tmp_path: Path) -> None:
    reds = torch.arange(1, 25, dtype=torch.uint8) * 10
    # Colours that no letter has.
    coloured = torch.stack([reds, torch.zeros_like(reds), torch.full_like(reds, 255)], dim=1)  # (24, 3)
    rows = coloured.view(6, 4, 3, 1, 1).expand(6, 4, 3, 32, 64)
    sheet = [
        Section("one", "a.mp4", (0.0, 0.5, 1.0, 1.5), tuple(Row(f"row {i}", rows[i]) for i in range(3))),
        Section("two", "b.mp4", (0.0, 0.5, 1.0, 1.5), tuple(Row(f"row {i}", rows[i]) for i in range(3, 6))),
    ]
    contact_sheet(sheet, tmp_path / "sheet.png")
    page = np.array(Image.open(tmp_path / "sheet.png").convert("RGB"))
    places = []
    for red in reds.tolist():
        where = np.argwhere((page == (red, 0, 255)).all(-1))
        assert len(where) == 128 * 64
        places.append(tuple(where.min(axis=0).tolist()))
    assert places == sorted(places)
    assert [len({place[axis] for place in places}) for axis in (0, 1)] == [6, 4]


def test_names_and_titles_are_written(tmp_path: Path) -> None:
    """Other words give another picture."""
    row = Row("plain", plain_grey(200, 2))
    first = Section("dog", "a.mp4", (0.0, 1.0), (row,))
    others = [
        first,
        Section("cat", "a.mp4", (0.0, 1.0), (row,)),
        Section("dog", "b.mp4", (0.0, 1.0), (row,)),
        Section("dog", "a.mp4", (0.0, 2.0), (row,)),
        Section("dog", "a.mp4", (0.0, 1.0), (Row("augmented 1", row.frames),)),
        Section("dog", "a.mp4", problem="a.mp4: is empty"),
        Section("dog", "a.mp4", problem="a.mp4: no such file"),
    ]
    pages = set()
    for number, section in enumerate(others):
        contact_sheet([section], tmp_path / f"{number}.png")
        pages.add((tmp_path / f"{number}.png").read_bytes())
    assert len(pages) == len(others)


def test_long_names_stay_on_the_page(tmp_path: Path) -> None:
    """The frames and the edge of the page stay the same, however long the words are."""
    pages = []
    for words in ("x", "a class whose name goes on " * 12, "w" * 300):
        rows = (Row(f"augmented 1\nmirrored:\n{words}", plain_grey(120, 8)),)
        contact_sheet([Section(words, words, tuple(range(8)), rows)], tmp_path / "sheet.png")
        pages.append(np.array(Image.open(tmp_path / "sheet.png").convert("RGB")))
    for page in pages:
        assert page.shape == pages[0].shape
        assert (page[:, -12:] == 255).all() and (page[-12:] == 255).all()
        assert np.array_equal((page == 120).all(-1)[60:, 150:], (pages[0] == 120).all(-1)[60:, 150:])


def test_plain_rows_are_the_clips_frames_at_their_times(
    videos: VideoSet, sections: list[Section], tmp_path: Path
) -> None:
    show(videos, SPEC, None, tmp_path / "sheet.png", count=5, seed=1)
    assert len(sections) == 5
    for section in sections:
        (row,) = section.rows
        numbers = read_numbers(row.frames)
        assert np.diff(numbers).tolist() == [2, 2, 2]
        assert section.times == pytest.approx([number / 25 for number in numbers])
        assert "64 × 32, 0.5 s, 25 frames/s" in section.note


def test_videos_of_as_many_classes_as_can_be(videos: VideoSet, sections: list[Section], tmp_path: Path) -> None:
    for seed in range(4):
        show(videos, SPEC, None, tmp_path / "sheet.png", count=3, seed=seed)
        assert [section.title for section in sections] == ["pan_left", "pan_right", "tilt"]
        sections.clear()
    show(videos, SPEC, None, tmp_path / "sheet.png", count=99)
    assert [section.title for section in sections] == ["pan_left", "pan_right", "tilt", "tilt", "tilt"]


def test_augmented_rows_are_training_clips_of_the_same_frames(
    videos: VideoSet, sections: list[Section], tmp_path: Path
) -> None:
    everything = Augmentation(scale_jitter=(0.9, 1.33), colour_jitter=0.8, grey_scale=0.1, randaugment=(2, 10))
    show(videos, SPEC, everything, tmp_path / "sheet.png", count=5, seed=3)
    (batch,) = training_batches(TrainingClips(videos, SPEC, 3, everything), Order(5, range(1)))
    trained = {clip.numpy().tobytes() for clip in batch.clips}
    assert {section.rows[1].frames.numpy().tobytes() for section in sections} == trained
    sections.clear()
    show(videos, SPEC, Augmentation(flip=0.0, colour_jitter=1.0), tmp_path / "sheet.png", count=1, seed=3)
    plain, *augmented = sections[0].rows
    assert [row.name for row in sections[0].rows] == ["plain", "augmented 1", "augmented 2", "augmented 3"]
    for row in augmented:
        assert read_numbers((row.frames > 100) * 255) == read_numbers(plain.frames)


def test_a_mirrored_clip_is_named_by_its_mirrored_class(
    videos: VideoSet, sections: list[Section], tmp_path: Path
) -> None:
    show(videos, SPEC, Augmentation(flip=1.0), tmp_path / "sheet.png", count=3)
    named = {section.title: section.rows[1].name for section in sections}
    assert named == {
        "pan_left": "augmented 1\nmirrored:\npan_right",
        "pan_right": "augmented 1\nmirrored:\npan_left",
        "tilt": "augmented 1\nmirrored",
    }
    for section in sections:
        assert torch.equal(section.rows[1].frames, section.rows[0].frames.flip(-1))


def test_nothing_is_mirrored_where_a_side_has_no_mirror(
    videos: VideoSet, sections: list[Section], tmp_path: Path
) -> None:
    renamed = [replace(video, labels={"classes": ("pan_left",)}) for video in videos.videos[:2]]
    lonely = VideoSet(tuple(renamed), LabelSpace({"classes": ("pan_left", "pan_up", "tilt")}), "made up")
    show(lonely, SPEC, Augmentation(flip=1.0), tmp_path / "sheet.png", count=3)
    for section in sections:
        assert torch.equal(section.rows[1].frames, section.rows[0].frames)


def test_heads_and_many_labels_are_spelled_out(videos: VideoSet, sections: list[Section], tmp_path: Path) -> None:
    video = LabelledVideo(videos.videos[0].source, {"verb": ("put",), "noun": ("cup", "pan")})
    space = LabelSpace({"verb": ("take", "put"), "noun": ("cup", "knife", "pan")}, multi_label=True)
    heads = VideoSet((video,), space, "made up")
    show(heads, SPEC, None, tmp_path / "sheet.png")
    assert [section.title for section in sections] == ["verb: put, noun: cup + pan"]


def test_a_video_that_cannot_be_read_is_a_line(videos: VideoSet, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    mixed = replace(videos, videos=(LabelledVideo(broken, {"classes": ("tilt",)}), *videos.videos[2:3]))
    show(mixed, SPEC, Augmentation(), tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        alarm = (np.array(sheet) == (176, 32, 32)).all(-1)
        assert alarm.sum() > 50
        assert sheet.height > 4 * 64
    # With nothing to show, no picture is left, as if something were there.
    nothing = replace(mixed, videos=mixed.videos[:1])
    refused(
        lambda: show(nothing, SPEC, None, tmp_path / "broken.png"), "none of the videos .*broken.mp4: not a readable"
    )
    assert not (tmp_path / "broken.png").exists()


def test_names_that_are_no_text_are_drawn_escaped(videos: VideoSet, tmp_path: Path) -> None:
    for number, name in enumerate((b"caf\xe9.mp4", b"two\nlines.mp4", b"\x1b[31m.mp4", "\u202efdp.mp4".encode())):
        source = shutil.copy(str(videos.videos[0].source), tmp_path / os.fsdecode(name))
        odd = replace(videos, videos=(LabelledVideo(Path(source), videos.videos[0].labels),))
        show(odd, SPEC, None, tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size > 1000


def test_mistakes_are_one_line(videos: VideoSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="count: 0"):
        show(videos, SPEC, None, tmp_path / "sheet.png", count=0)
    with pytest.raises(UserError, match=r"sheet\.png: not written"):
        show(videos, SPEC, None, tmp_path / "nowhere" / "sheet.png", count=1)
