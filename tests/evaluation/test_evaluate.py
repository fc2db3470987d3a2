import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vivit.evaluation.evaluate import Evaluation, evaluate
from vivit.evaluation.views import clip_spec, mean_logits
from vivit.model.vivit import ViViT
from vivit.training.recipes import Recipe
from vivit.video.datasets import LabelledVideo, VideoSet, open_split
from vivit.video.loader import read_views


@pytest.fixture
def model(tiny_recipe: Recipe) -> ViViT:
    """Every weight random, so that every view gives another answer."""
    model = ViViT(tiny_recipe.build_config({"classes": 2}), preprocessing=tiny_recipe.build_preprocessing())
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def test_logits_are_the_mean_over_views(bright_dark: Path, model: ViViT) -> None:
    videos = open_split(bright_dark, "all")
    # Twelve videos of six views are more than go through the network at once.
    found = evaluate(model, videos, num_clips=2, num_crops=3)
    assert not model.training
    for index, video in enumerate(videos.videos):
        views = read_views(video.source, clip_spec(model), 2, 3)
        with torch.no_grad():
            each = torch.cat([model(view[None]) for view in views])
        assert len(each) == 6
        torch.testing.assert_close(found.logits[index], each.mean(dim=0), rtol=1e-4, atol=1e-5)
    assert found.labels.tolist() == [0] * 6 + [1] * 6
    assert found.classes == ("bright", "dark")


def test_videos_may_have_different_numbers_of_views(model: ViViT) -> None:
    clips = torch.randint(0, 256, (20, 4, 3, 32, 32), dtype=torch.uint8)
    found = mean_logits(model.eval(), [clips[:3], clips[3:4], clips[4:]])
    assert found.keys() == {"classes"}
    with torch.no_grad():
        each = model(clips)
    expected = torch.stack([each[:3].mean(0), each[3], each[4:].mean(0)])
    torch.testing.assert_close(found["classes"], expected, rtol=1e-4, atol=1e-5)


def test_twice_is_the_same_and_workers_do_not_matter(bright_dark: Path, model: ViViT) -> None:
    videos = open_split(bright_dark, "val")
    first = evaluate(model.train(), videos, num_clips=2, num_crops=1)
    second = evaluate(model.train(), videos, num_clips=2, num_crops=1, workers=1)
    assert torch.equal(first.logits, second.logits)


def test_unreadable_video_counts_as_wrong_and_is_listed(bright_dark: Path, tmp_path: Path, model: ViViT) -> None:
    data = shutil.copytree(bright_dark, tmp_path / "data")
    broken = data / "bright" / "bright2.mp4"
    broken.write_bytes(b"no video")
    done: list[int] = []
    found = evaluate(model, open_split(data, "all"), num_clips=1, num_crops=1, progress=done.append)
    whole = evaluate(model, open_split(bright_dark, "all"), num_clips=1, num_crops=1)

    assert [failure.split(":")[0] for failure in found.failures] == [str(broken)]
    assert found.scores()["videos"] == 12
    assert found.scores()["unreadable"] == 1
    assert found.accuracy(5) == pytest.approx(11 / 12)
    assert found.confusion.sum() == 11
    # The others are where they were: nobody has moved up.
    others = [i for i in range(12) if i != 2]
    torch.testing.assert_close(found.logits[others], whole.logits[others], rtol=1e-4, atol=1e-5)
    assert done == list(range(1, 13))


def test_no_readable_video_at_all(tmp_path: Path, model: ViViT) -> None:
    (tmp_path / "x.mp4").write_bytes(b"")
    videos = VideoSet((LabelledVideo(tmp_path / "x.mp4", {"classes": 0}),), {"classes": ("a", "b")}, "")
    scores = evaluate(model, videos, num_clips=1, num_crops=1).scores()
    assert scores == {"top1": 0.0, "top5": 0.0, "videos": 1, "unreadable": 1}


NAN = [float("nan")] * 7


def of(logits: list[list[float]], labels: list[int]) -> Evaluation:
    return Evaluation(Tensor(logits), torch.tensor(labels), tuple("abcdefg"), ())


def test_scores_by_hand() -> None:
    """Ranks of the true classes: 1, 2, 5, 6, unreadable."""
    ladder = [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    found = of([ladder, ladder, ladder, ladder, NAN], [0, 1, 4, 5, 0])
    assert found.accuracy(1) == pytest.approx(1 / 5)
    assert found.accuracy(2) == pytest.approx(2 / 5)
    assert found.accuracy(5) == pytest.approx(3 / 5)
    assert found.read.tolist() == [True, True, True, True, False]


def test_confusion_by_hand() -> None:
    """Rows are the truth."""

    def predicted(label: int) -> list[float]:
        return [float(i == label) for i in range(7)]

    found = of([predicted(2), predicted(2), predicted(0), predicted(6), NAN], [1, 1, 0, 2, 3])
    expected = torch.zeros(7, 7, dtype=torch.long)
    expected[1, 2], expected[0, 0], expected[2, 6] = 2, 1, 1
    assert torch.equal(found.confusion, expected)
