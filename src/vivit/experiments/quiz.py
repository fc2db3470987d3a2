"""A quiz on a data set: how well does a person, or another reader of pictures, label its videos?

The videos are copied under numbers that do not reveal their labels, beside a page that asks for the labels, and contact
sheets for those who cannot play videos. The answer key is not included.
"""

import csv
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np

from vivit.data.contact_sheet import COLUMNS, Row, Section, contact_sheet
from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.data.readers.listing import open_data
from vivit.errors import UserError
from vivit.files import as_text, make_folder, write_files
from vivit.video.decode import open_video

ROWS = 10  # questions on a contact sheet
SHOWN_SIDE = 96  # shorter side of a frame on it


def write_quiz(data: Path, out: Path, count: int) -> Path:
    """Write `out`/index.html, the videos that it asks about, and contact sheets. Returns the page.

    Args:
        data: a data set of video files with a test split.
        count: how many videos.

    Raises:
        UserError: the data set has no such split, or a file cannot be written.
    """
    videos, chosen = _choose(data, count)
    make_folder(out)
    sections = []
    for number, video in enumerate(chosen, start=1):
        write_files({out / f"{number}.mp4": partial(shutil.copyfile, str(video.source))})
        with open_video(video.source) as opened:
            times = np.linspace(0, opened.info.num_frames - 1, COLUMNS).round().astype(int).tolist()
            row = Row("", opened.frames(times, SHOWN_SIDE))
        sections.append(Section(f"{number}", "", tuple(time / opened.info.frame_rate for time in times), (row,)))
    for first in range(0, count, ROWS):
        contact_sheet(sections[first : first + ROWS], out / f"sheet {first // ROWS + 1}.png")
    page = (Path(__file__).parent / "quiz.html").read_text(encoding="utf-8")
    asked = json.dumps({"count": len(chosen), "heads": dict(videos.labels.classes)}).replace("<", "\\u003c")
    write_files({out / "index.html": as_text(page.replace("ASKED", asked))})
    return out / "index.html"


def score_quiz(data: Path, answers: Path) -> dict[str, float | int]:
    """The fraction of correct answers for each head, and for all heads of a video at once.

    Args:
        answers: a CSV with a column `number` and one for each head, as saved by the page. Videos that it leaves out are
            left out of the score.

    Raises:
        UserError: it is not such a file.
    """
    try:
        with answers.open(newline="", encoding="utf-8") as file:
            given = {int(row["number"]): row for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{answers}: is no CSV with a column number, as the page of the quiz saves it") from error
    if not given:
        raise UserError(f"{answers}: has no answers")
    videos, chosen = _choose(data, max(given))
    heads = videos.labels.heads
    right = np.array(
        [[given[n].get(head) in chosen[n - 1].labels[head] for head in heads] for n in sorted(given) if n > 0]
    )
    scores = {head: float(right[:, column].mean()) for column, head in enumerate(heads)}
    return {"answers": len(given), **scores, videos.labels.joint: float(right.all(axis=1).mean())}


def _choose(data: Path, count: int) -> tuple[VideoSet, list[LabelledVideo]]:
    """The first `count` test videos in a fixed order."""
    videos = open_data(data).split("test")
    if not 1 <= count <= len(videos.videos):
        raise UserError(f"count: {count} is out of range; {data} has {len(videos.videos)} test videos")
    order = np.random.default_rng(0).permutation(len(videos.videos))
    return videos, [videos.videos[index] for index in order[:count]]
