"""The demo's page."""

import json
from pathlib import Path

import pytest
import torch

from tests.report.page import Page
from vivit.evaluation.evaluate import Evaluation
from vivit.inference.predictor import Prediction, ScoredLabel
from vivit.labels import LabelSpace
from vivit.report.demo_page import Example, Trained, write_demo


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
    answer = Prediction(video, {"classes": (ScoredLabel("pan_left", 0.75), ScoredLabel("pan_right", 0.25))})
    examples = [Example(video, label, answer) for label in ("pan_left", "pan_right")]
    write_demo(tmp_path / "report.html", models, examples, "4x1")
    return Page(tmp_path / "report.html")


def test_the_page_is_whole(page: Page) -> None:
    page.check()
    assert len(page.drawings()) == 4
    assert len(page.sources("video")) == 2


def test_models_are_shown_with_their_scores_and_confusions(page: Page) -> None:
    words = " ".join(page.words.split())
    assert "encoder75.0 % top-1 on 4 held-out videos (1 unreadable)" in words
    assert "pooling50.0 % top-1" in words
    encoder, pooling = page.drawings()[-2:]
    assert [svg.count(">pan left</text>") for svg in (encoder, pooling)] == [2, 2]
    assert (encoder.count(">2</text>"), pooling.count(">2</text>")) == (1, 0)


def test_examples_are_shown_with_their_predictions(page: Page) -> None:
    words = " ".join(page.words.split())
    assert words.count("pan left 75 %, pan right 25 %") == 2
    assert words.count("true: pan right") == 1 and "true: pan left" not in words
