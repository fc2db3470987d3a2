import shutil
from math import exp
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.support import random_weights
from vivit.data.datasets import LabelledVideo, VideoSet
from vivit.data.readers.listing import open_data
from vivit.evaluation.evaluate import Evaluation, evaluate, evaluation_of
from vivit.evaluation.pictures import draw_confusions
from vivit.inference.views import Views, clip_spec, mean_logits
from vivit.labels import LabelSpace
from vivit.model.vivit import ViViT
from vivit.training.recipe import Recipe
from vivit.video.clips import read_views
from vivit.video.decode import ReadOptions
from vivit.video.source import VideoError


@pytest.fixture
def model(tiny_recipe: Recipe) -> ViViT:
    """Random weights, so that every view has different logits."""
    model = ViViT(tiny_recipe.build_config({"classes": 2}), preprocessing=tiny_recipe.build_preprocessing())
    return random_weights(model, std=0.3)


def test_logits_are_the_mean_over_views(bright_dark: Path, model: ViViT) -> None:
    videos = open_data(bright_dark).split("all")
    # Twelve videos with six views each need several batches.
    found = evaluate(model, videos, Views(2, 3))
    assert not model.training
    for index, video in enumerate(videos.videos):
        views = read_views(video.source, clip_spec(model), 2, 3).frames
        with torch.no_grad():
            each = torch.cat([model(view[None]) for view in views])
        assert len(each) == 6
        torch.testing.assert_close(found.logits["classes"][index], each.mean(dim=0), rtol=1e-4, atol=1e-5)
    assert found.truth["classes"].tolist() == [0] * 6 + [1] * 6
    assert found.space == LabelSpace({"classes": ("bright", "dark")})


def test_probabilities_are_averaged_on_request(bright_dark: Path, model: ViViT) -> None:
    videos = open_data(bright_dark).split("val")
    found = evaluate(model, videos, Views(2, 3, "probabilities"))
    for index, video in enumerate(videos.videos):
        with torch.no_grad():
            each = model(read_views(video.source, clip_spec(model), 2, 3).frames)
        expected = (each.exp() / each.exp().sum(dim=1, keepdim=True)).mean(dim=0)
        torch.testing.assert_close(found.logits["classes"][index].exp(), expected, rtol=1e-4, atol=1e-5)


def test_known_logits_give_the_same_scores(bright_dark: Path, tmp_path: Path, model: ViViT) -> None:
    data = shutil.copytree(bright_dark, tmp_path / "data")
    (data / "dark" / "dark1.mp4").write_bytes(b"no video")
    videos = open_data(data).split("all")
    found = evaluate(model, videos)
    again = evaluation_of(videos, found.logits, {7: "dark1.mp4: no video"})
    assert list(found.failures) == list(again.failures) == [7]
    assert again.scores() == found.scores()
    assert again.per_class() == found.per_class()
    assert again.readable.tolist() == [index != 7 for index in range(12)]


def test_videos_may_have_different_numbers_of_views(model: ViViT) -> None:
    clips = torch.randint(0, 256, (20, 4, 3, 32, 32), dtype=torch.uint8)
    found = mean_logits(model.eval(), [clips[:3], clips[3:4], clips[4:]])
    assert found.keys() == {"classes"}
    with torch.no_grad():
        each = model(clips)
    expected = torch.stack([each[:3].mean(0), each[3], each[4:].mean(0)])
    torch.testing.assert_close(found["classes"], expected, rtol=1e-4, atol=1e-5)


def test_twice_is_the_same_and_workers_do_not_matter(bright_dark: Path, model: ViViT) -> None:
    videos = open_data(bright_dark).split("val")
    first = evaluate(model.train(), videos, Views(2))
    second = evaluate(model.train(), videos, Views(2), read=ReadOptions(workers=1))
    assert torch.equal(first.logits["classes"], second.logits["classes"])


def test_an_unreadable_video_counts_as_wrong_and_is_listed(bright_dark: Path, tmp_path: Path, model: ViViT) -> None:
    data = shutil.copytree(bright_dark, tmp_path / "data")
    broken = data / "bright" / "bright2.mp4"
    broken.write_bytes(b"no video")
    done: list[int] = []
    found = evaluate(model, open_data(data).split("all"), progress=done.append)
    whole = evaluate(model, open_data(bright_dark).split("all"))

    assert list(found.failures) == [2]
    assert found.failures[2].startswith(f"{broken}: ")
    assert found.scores()["videos"] == 12
    assert found.scores()["unreadable"] == 1
    assert found.accuracy(5) == pytest.approx(11 / 12)
    assert found.confusion().sum() == 11
    # The other videos keep their rows.
    others = [i for i in range(12) if i != 2]
    torch.testing.assert_close(found.logits["classes"][others], whole.logits["classes"][others], rtol=1e-4, atol=1e-5)
    assert done == list(range(1, 13))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_an_answer_that_is_not_finite_counts_as_wrong_and_is_listed(
    bright_dark: Path, model: ViViT, value: float
) -> None:
    """A model whose first logit overflows in bright videos only."""
    videos = open_data(bright_dark).split("all")
    whole = evaluate(model, videos)

    def overflow(_: nn.Module, clips: tuple[Tensor], logits: Tensor) -> Tensor:
        bright = clips[0].float().mean(dim=(1, 2, 3, 4)) > 127
        return torch.stack([logits[:, 0].masked_fill(bright, value), logits[:, 1]], dim=1)

    with model.register_forward_hook(overflow):
        found = evaluate(model, videos)
    assert list(found.failures) == [0, 1, 2, 3, 4, 5]
    assert all(f"{videos.videos[index].source}: " in reason for index, reason in found.failures.items())
    assert found.readable.tolist() == [False] * 6 + [True] * 6
    assert found.scores()["unreadable"] == 6
    right = (whole.logits["classes"][6:].argmax(dim=1) == 1).sum().item()
    assert found.accuracy(1) == right / 12
    assert found.confusion().sum() == 6


def test_no_readable_video_at_all(tmp_path: Path, model: ViViT) -> None:
    (tmp_path / "x.mp4").write_bytes(b"")
    videos = VideoSet(
        (LabelledVideo(tmp_path / "x.mp4", {"classes": ("a",)}),), LabelSpace({"classes": ("a", "b")}), ""
    )
    scores = evaluate(model, videos).scores()
    assert scores == {"top1": 0.0, "top5": 0.0, "videos": 1, "unreadable": 1}


NAN = [float("nan")] * 7


def of(logits: list[list[float]], labels: list[int]) -> Evaluation:
    space = LabelSpace({"classes": tuple("abcdefg")})
    return Evaluation(space, {"classes": Tensor(logits)}, {"classes": torch.tensor(labels)}, {})


def telling(evaluation: Evaluation) -> dict[str, float]:
    return {metric.title: value for metric, value in evaluation.metrics().items() if metric.informative}


def test_scores_by_hand() -> None:
    """Ranks of the true classes: 1, 2, 5, 6, unreadable."""
    ladder = [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    found = of([ladder, ladder, ladder, ladder, NAN], [0, 1, 4, 5, 0])
    assert found.accuracy(1) == pytest.approx(1 / 5)
    assert found.accuracy(2) == pytest.approx(2 / 5)
    assert found.accuracy(5) == pytest.approx(3 / 5)
    assert found.readable.tolist() == [True, True, True, True, False]


def test_a_top_5_that_is_always_right_tells_nothing() -> None:
    """Each of five classes is among the first five. Files record the top-5 nevertheless."""
    logits, labels = Tensor([[5.0, 4.0, 3.0, 2.0, 1.0], [5.0, 4.0, 3.0, 2.0, 1.0]]), torch.tensor([0, 4])
    five = Evaluation(LabelSpace({"classes": tuple("abcde")}), {"classes": logits}, {"classes": labels}, {})
    assert telling(five) == {"top-1": 0.5}
    assert five.scores() == {"top1": 0.5, "top5": 1.0, "videos": 2, "unreadable": 0}
    assert telling(of([[*range(7)]], [1])) == {"top-1": 0.0, "top-5": 0.0}


def test_calibration_leaves_out_unreadable_videos() -> None:
    """The softmax of (log 4, 0, …, 0) over seven classes is 0.4; one of three such answers is right."""
    sure = [1.3862943611198906] + [0.0] * 6
    calibration = of([sure, sure, NAN, sure], [0, 1, 0, 2]).calibration()
    assert calibration is not None
    assert calibration.error == pytest.approx(0.4 - 1 / 3, abs=1e-6)
    assert sum(calibration.counts) == 3
    assert of([NAN, NAN], [0, 1]).calibration() is None


def test_confusion_by_hand() -> None:
    """Rows are the true classes."""

    def predicted(label: int) -> list[float]:
        return [float(i == label) for i in range(7)]

    found = of([predicted(2), predicted(2), predicted(0), predicted(6), NAN], [1, 1, 0, 2, 3])
    expected = torch.zeros(7, 7, dtype=torch.long)
    expected[1, 2], expected[0, 0], expected[2, 6] = 2, 1, 1
    assert torch.equal(found.confusion(), expected)


def test_accuracy_of_each_class_by_hand() -> None:
    """Two videos of "a": one is right, one unreadable. One of "b" is mistaken for "a". The other classes have none."""
    first = [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    rows = of([first, NAN, first], [0, 0, 1]).per_class()
    assert rows[:3] == [
        {"class": "a", "videos": 2, "accuracy": 0.5},
        {"class": "b", "videos": 1, "accuracy": 0.0},
        {"class": "c", "videos": 0, "accuracy": None},
    ]
    assert [row["class"] for row in rows] == list("abcdefg")


VERBS, NOUNS = ("take", "put"), ("cup", "door", "knife", "lid", "pan", "tap", "towel")


def random_model(recipe: Recipe, classes: dict[str, tuple[str, ...]]) -> ViViT:
    heads = {head: len(names) for head, names in classes.items()}
    model = ViViT(recipe.build_config(heads), classes=classes, preprocessing=recipe.build_preprocessing())
    return random_weights(model, std=0.3, seed=1)


def with_a_broken_video(bright_dark: Path, folder: Path) -> list[Path]:
    """Twelve files; the sixth is not a video."""
    shutil.copytree(bright_dark, folder)
    paths = sorted(folder.glob("*/*.mp4"))
    paths[5].write_bytes(b"no video")
    return paths


def plain_logits(model: ViViT, path: Path) -> dict[str, list[float]] | None:
    """Head → the mean over two clips, or None for the broken video."""
    try:
        views = read_views(path, clip_spec(model), 2, 1).frames
    except VideoError:
        return None
    with torch.no_grad():
        answers = [model.eval()(view[None]) for view in views]
    named = [answer if isinstance(answer, dict) else {"classes": answer} for answer in answers]
    return {head: torch.cat([answer[head] for answer in named]).mean(dim=0).tolist() for head in named[0]}


def test_scores_of_several_heads_follow_from_ranked_lists(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe
) -> None:
    paths = with_a_broken_video(bright_dark, tmp_path / "data")
    # The model has its heads in another order than the data.
    model = random_model(tiny_recipe, {"noun": NOUNS, "verb": VERBS})
    labels = [{"verb": (i // 3) % 2, "noun": (5 * i) % 7} for i in range(12)]
    videos = VideoSet(
        tuple(
            LabelledVideo(path, {"verb": (VERBS[label["verb"]],), "noun": (NOUNS[label["noun"]],)})
            for path, label in zip(paths, labels, strict=True)
        ),
        LabelSpace({"verb": VERBS, "noun": NOUNS}),
        "",
    )
    found = evaluate(model, videos, Views(2))

    hits = {f"{head}_top{k}": 0 for head in ("verb", "noun", "action") for k in (1, 5)}
    for path, label in zip(paths, labels, strict=True):
        logits = plain_logits(model, path)
        if logits is None:
            continue
        probable = {head: [exp(v) / sum(map(exp, values)) for v in values] for head, values in logits.items()}
        pairs = [(v, n) for v in range(len(VERBS)) for n in range(len(NOUNS))]
        scored: dict[str, list[tuple[float, object]]] = {
            "verb": list(zip(probable["verb"], range(2), strict=True)),
            "noun": list(zip(probable["noun"], range(7), strict=True)),
            "action": [(probable["verb"][v] * probable["noun"][n], (v, n)) for v, n in pairs],
        }
        ranked = {
            head: [number for _, number in sorted(of_head, key=lambda scored: -scored[0])]
            for head, of_head in scored.items()
        }
        truth = {**label, "action": (label["verb"], label["noun"])}
        for head, order in ranked.items():
            for k in (1, 5):
                hits[f"{head}_top{k}"] += truth[head] in order[:k]
    scores = found.scores()
    assert (scores.pop("videos"), scores.pop("unreadable")) == (12, 1)
    assert list(scores) == list(hits)
    assert scores == pytest.approx({name: count / 12 for name, count in hits.items()})
    # The scores differ from each other.
    assert len(set(hits.values())) > 3
    assert telling(found)["action top-5"] == scores["action_top5"]

    written = draw_confusions(found, tmp_path)
    assert [path.name for path in written] == ["confusion_verb.png", "confusion_noun.png"]
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")
    assert found.confusion("noun").sum(dim=1).tolist() == [
        sum(label["noun"] == noun for i, label in enumerate(labels) if i != 5) for noun in range(7)
    ]
    assert found.confusion("verb").diagonal().sum() == hits["verb_top1"]


def test_the_joint_label_of_other_heads_has_their_names() -> None:
    logits = {"who": Tensor([[1, 0], [1, 0]]), "where": Tensor([[1, 0], [1, 0]])}
    labels = {"who": torch.tensor([0, 0]), "where": torch.tensor([0, 1])}
    found = Evaluation(LabelSpace({"who": ("a", "b"), "where": ("c", "d")}), logits, labels, {})
    assert {metric.key: value for metric, value in found.metrics().items()} == {
        **{"who_top1": 1.0, "who_top5": 1.0, "where_top1": 0.5, "where_top5": 1.0},
        **{"who+where_top1": 0.5, "who+where_top5": 1.0},
    }


def test_mean_average_precision_follows_from_ranked_lists(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe
) -> None:
    paths = with_a_broken_video(bright_dark, tmp_path / "data")
    model = random_model(tiny_recipe, {"classes": NOUNS})
    # No video has the last class; all but one have the first, and that one has none; the unreadable one has three.
    labels: list[tuple[int, ...]] = [(0, *(k for k in range(1, 6) if i % (k + 1) == 0)) for i in range(12)]
    labels[3], labels[5], labels[7] = (), (0, 2, 5), (0,)
    videos = VideoSet(
        tuple(
            LabelledVideo(path, {"classes": tuple(NOUNS[number] for number in label)})
            for path, label in zip(paths, labels, strict=True)
        ),
        LabelSpace({"classes": NOUNS}, multi_label=True),
        "",
    )
    found = evaluate(model, videos, Views(2))

    each = [plain_logits(model, path) for path in paths]
    expected: list[float | None] = []
    for k in range(7):
        precisions = []
        # The unreadable video ranks last.
        order = sorted(range(12), key=lambda i: (each[i] is None, -(each[i] or {"classes": [0.0] * 7})["classes"][k]))
        seen = 0
        for place, video in enumerate(order, start=1):
            if k in labels[video]:
                seen += 1
                precisions.append(seen / place)
        expected.append(sum(precisions) / len(precisions) if precisions else None)
    assert expected[6] is None
    known = [value for value in expected if value is not None]
    assert len(known) == 6
    assert found.scores() == {"mAP": pytest.approx(sum(known) / 6), "videos": 12, "unreadable": 1}
    assert telling(found) == {"mAP": found.scores()["mAP"]}
    rows = found.per_class()
    assert [row["average_precision"] for row in rows[:6]] == pytest.approx(known)
    assert rows[6] == {"class": "towel", "videos": 0, "average_precision": None}
    assert [row["videos"] for row in rows] == [sum(k in label for label in labels) for k in range(7)]
    assert draw_confusions(found, tmp_path / "nowhere") == []
    assert found.calibration() is None
