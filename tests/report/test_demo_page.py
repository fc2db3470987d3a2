"""The demo's page."""

import json
from pathlib import Path

import pytest
import torch

from tests.report.page import Page
from tests.report.phone import WIDTH, look, needs_chromium
from vivit.evaluation.evaluate import Evaluation
from vivit.labels import LabelSpace
from vivit.report.demo_page import Comparison, Example, Trained, write_demo


@pytest.fixture
def page(tmp_path: Path, bright_dark: Path) -> Page:
    """Two models: one right for three of four videos, the other for half of them; two examples, one of them right."""
    space = LabelSpace({"classes": ("pan_left", "pan_right")})
    truth, failures = {"classes": torch.tensor([0, 0, 1, 1])}, {3: "broken"}
    models = []
    for name, predicted in (("encoder", [0, 0, 1]), ("pooling", [0, 1, 1])):
        logits = torch.cat([torch.eye(2)[predicted], torch.full((1, 2), torch.nan)])
        folder = tmp_path / name
        folder.mkdir()
        rows = [{"epoch": epoch, "loss": 1 / epoch, "top1": 0.25 * epoch} for epoch in (1, 2)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        models.append(Trained(name, folder, Evaluation(space, {"classes": logits}, truth, failures)))
    video = bright_dark / "dark" / "dark0.mp4"
    answers = [("pan_left", 0.75), ("pan_right", 0.25)]
    examples = [Example(video, label, answers) for label in ("pan_left", "pan_right")]
    compared = Comparison(steps=1234, views="4x1", chance=1 / 8, order_blind=5 / 9)
    write_demo(tmp_path / "report.html", models, compared, examples, ["vivit train <my> --out run"])
    return Page(tmp_path / "report.html")


def test_the_page_is_whole(page: Page) -> None:
    page.check()
    assert len(page.drawings()) == 4
    assert len(page.sources("video")) == 2


def test_models_are_shown_with_their_scores_and_confusions(page: Page) -> None:
    words = " ".join(page.words.split())
    assert "encoder75.0 % top-1 on 4 held-out videos (1 unreadable)" in words
    assert "pooling50.0 % top-1" in words
    assert "trained for 1,234 steps" in words
    assert "would be right in 55.6 % of the videos" in words and "would be right in 12.5 %" in words
    encoder, pooling = page.drawings()[-2:]
    assert [svg.count(">pan left</text>") for svg in (encoder, pooling)] == [2, 2]
    assert (encoder.count(">2</text>"), pooling.count(">2</text>")) == (1, 0)


def test_right_and_wrong_answers_are_shown_apart(page: Page) -> None:
    right, wrong = " ".join(page.words.split()).partition("Right answers")[2].split("Wrong answers")
    assert "3 of 4 videos" in right and "pan left 75 %, pan right 25 %" in right and "true:" not in right
    assert "1 of 4 videos" in wrong and "pan left 75 %, pan right 25 %" in wrong and "true: pan right" in wrong


def test_it_ends_with_the_next_commands(page: Page) -> None:
    assert page.words.rstrip().endswith("vivit train <my> --out run")


@needs_chromium
def test_on_a_phone_nothing_is_cut_and_all_can_be_read(page: Page, tmp_path: Path) -> None:
    seen = look(tmp_path / "report.html")
    assert (seen.width, seen.outside, seen.cut) == (WIDTH, [], [])
    assert seen.letters > 9
