"""The quiz asks about test videos without telling their labels, and scores what it is answered."""

import csv
from pathlib import Path

import pytest

from vivit.data.readers.listing import open_data
from vivit.errors import UserError
from vivit.experiments.motion_benchmark import BenchmarkSettings, generate
from vivit.experiments.quiz import score_quiz, write_quiz


def test_right_answers_score_full_and_wrong_ones_nothing(tmp_path: Path) -> None:
    data, out = tmp_path / "set", tmp_path / "quiz"
    generate(data, settings=BenchmarkSettings("easy", 1, 0, 4, size=(48, 48)), workers=1)
    write_quiz(data, out, 3)
    assert {file.name for file in out.iterdir()} == {"index.html", "1.mp4", "2.mp4", "3.mp4", "sheet 1.png"}

    key = {Path(str(video.source)).read_bytes(): video.labels for video in open_data(data).split("test").videos}
    rows = [{head: names[0] for head, names in key[(out / f"{n}.mp4").read_bytes()].items()} for n in (1, 2, 3)]
    rows[0]["verb"], rows[1]["noun"] = "stays_away", "nothing"
    with (tmp_path / "answers.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ("number", "verb", "noun"))
        table.writeheader()
        table.writerows({"number": number, **row} for number, row in enumerate(rows, start=1))
    scores = score_quiz(data, tmp_path / "answers.csv")
    assert scores == {"answers": 3, "verb": 2 / 3, "noun": 2 / 3, "action": 1 / 3}

    with pytest.raises(UserError, match="no CSV with a column number"):
        score_quiz(data, data / "test.csv")
    with pytest.raises(UserError, match="has 4 test videos"):
        write_quiz(data, out, 5)
