"""Pictures: what must be seen is seen, whatever the classes are called and however many they are."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.evaluation.evaluate import Evaluation, evaluation_of
from vivit.evaluation.pictures import draw_confusions, draw_reliabilities
from vivit.report import drawing
from vivit.report.drawing import write_confusion


def pixels(path: Path) -> np.ndarray:
    """(height, width), 0 is black."""
    return np.asarray(Image.open(path).convert("L")).astype(int)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are made."""
    figures: list[Figure] = []

    class Kept(Figure):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
            figures.append(self)

    monkeypatch.setattr(drawing, "Figure", Kept)
    return figures


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]


@pytest.mark.parametrize("number", [3, 50, 100])
def test_names_of_any_kind_are_drawn_without_a_warning(number: int, tmp_path: Path) -> None:
    names = ["日本 🎉", r"$\frac{", "two\nlines", "bytes \udcff", "x" * 500, "", "<b>%s{}"] * 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_confusion(tmp_path / "c.png", np.ones((number, number), int), names[:number])
    assert pixels(tmp_path / "c.png").min() < 50


def test_few_classes_have_their_counts_in_the_cells(tmp_path: Path, drawn: list[Figure]) -> None:
    write_confusion(tmp_path / "c.png", np.array([[11, 0], [4, 7]]), ["push_up", "sit_up"])
    written = texts(drawn[0])
    assert [written.count(text) for text in ("11", "4", "7", "0")] == [1, 1, 1, 0]
    assert {"push up", "sit up"} <= set(written)


@pytest.mark.parametrize("number", [41, 174, 400])
def test_one_video_of_fifty_is_seen_among_many_classes(number: int, tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(number)]
    confusion = 50 * np.eye(number, dtype=int)
    write_confusion(tmp_path / "right.png", confusion, names)
    confusion[30, 10], confusion[30, 30] = 1, 49
    write_confusion(tmp_path / "wrong.png", confusion, names)
    right, wrong = pixels(tmp_path / "right.png"), pixels(tmp_path / "wrong.png")
    assert right.shape == wrong.shape
    # Left of the words; a cell of at least two pixels each way.
    square = slice(0, right.shape[0])
    assert ((right - wrong)[:, square] > 30).sum() >= 4


def test_most_frequent_confusions_of_many_classes_are_told(tmp_path: Path, drawn: list[Figure]) -> None:
    confusion = 5 * np.eye(200, dtype=int)
    confusion[7, 150], confusion[150, 7], confusion[3, 4] = 2, 9, 4
    write_confusion(tmp_path / "c.png", confusion, [f"name_{i}" for i in range(200)])
    (told,) = [text for text in texts(drawn[0]) if "most frequent" in text]
    assert told.splitlines()[2:] == [
        "9 of 14   name 150 (150) as name 7 (7)",
        "4 of 9   name 3 (3) as name 4 (4)",
        "2 of 7   name 7 (7) as name 150 (150)",
    ]


def evaluation_with(rows: list[list[float]], labels: list[int], heads: tuple[str, ...] = ("classes",)) -> Evaluation:
    videos = VideoSet(
        tuple(LabelledVideo(Path("x.mp4"), dict.fromkeys(heads, label)) for label in labels),
        dict.fromkeys(heads, ("a", "b")),
        "",
    )
    return evaluation_of(videos, dict.fromkeys(heads, torch.tensor(rows)), {})


def test_reliability_has_a_bar_for_each_bin(tmp_path: Path, drawn: list[Figure]) -> None:
    """Confidences of 0.75, three of which are right, one not, and one of 0.9 that is not."""
    rows = torch.tensor([[0.75, 0.25]] * 4 + [[0.9, 0.1]]).log().tolist()
    (path,) = draw_reliabilities(evaluation_with(rows, [0, 0, 0, 1, 1]), tmp_path)
    assert path == tmp_path / "reliability.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    above, below = ([bar.get_height() for bar in axes.patches] for axes in drawn[0].axes)  # type: ignore[attr-defined]
    # Of fifteen bins: 0.75 lies in the twelfth, up to 0.8, and 0.9 in the fourteenth, up to 0.933.
    assert above == pytest.approx([0] * 11 + [0.75] + [0] * 3)
    assert below == [0] * 11 + [4, 0, 1, 0]
    assert "expected calibration error 18.0%, 5 predictions" in texts(drawn[0])


def test_pictures_are_named_after_their_heads(tmp_path: Path) -> None:
    found = evaluation_with([[1.0, 0.0]], [0], heads=("verb", "noun"))
    names = [path.name for path in draw_confusions(found, tmp_path) + draw_reliabilities(found, tmp_path)]
    assert names == ["confusion_verb.png", "confusion_noun.png", "reliability_verb.png", "reliability_noun.png"]
    nan = float("nan")
    assert draw_reliabilities(evaluation_with([[nan, nan]], [0]), tmp_path / "nowhere") == []
