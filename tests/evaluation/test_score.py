"""What `vivit evaluate` writes and prints."""

import csv
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet

import vivit
from tests.support import random_weights, refused
from vivit.data.manifest import data_hash
from vivit.data.readers.listing import open_data
from vivit.errors import UserError
from vivit.evaluation import score
from vivit.evaluation.evaluate import Evaluation, evaluate
from vivit.inference.views import Views
from vivit.labels import LabelSpace, Metric
from vivit.model.vivit import ViViT
from vivit.training.recipe import Recipe
from vivit.weights.fingerprint import hash_model
from vivit.weights.store import save


def saved(recipe: Recipe, folder: Path, classes: dict[str, Sequence[str]] | None, heads: dict[str, int]) -> Path:
    """A model folder with random weights."""
    model = ViViT(recipe.build_config(heads), classes=classes, preprocessing=recipe.build_preprocessing())
    random_weights(model, std=0.3, seed=1)
    save(model, folder)
    return folder


def score_on_val(
    data: Path, model: Path, out: Path | None = None, views: Views = Views(2), **options: Any
) -> Evaluation:
    return score.score_model(data, model, views=views, out=out, device="cpu", **options)


def read_scores(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "scores.json").read_text())


def kitchen(bright_dark: Path, folder: Path, columns: str, labels: Sequence[str]) -> Path:
    """A list of the twelve videos with these labels, all for validation."""
    shutil.copytree(bright_dark, folder / "videos")
    paths = [path.relative_to(folder) for path in sorted((folder / "videos").glob("*/*.mp4"))]
    rows = [f"{path},{cells},val" for path, cells in zip(paths, labels, strict=True)]
    file = folder / "kitchen.csv"
    file.write_text("\n".join([f"path,{columns},split", *rows]) + "\n")
    return file


def test_scores_are_recorded_with_their_data_and_model(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(bright_dark, data / "val")
    (data / "val" / "dark" / "dark3.mp4").write_bytes(b"no video")
    model = saved(tiny_recipe, tmp_path / "model", {"classes": ["dark", "bright"]}, {"classes": 2})
    found = score_on_val(data, model)

    hashed = data_hash(open_data(data).split("val"))
    (out,) = (model / "evaluation").iterdir()
    assert out.name.startswith(f"val-2x1-{hashed[:8]}-")
    scores = read_scores(out)
    assert scores["data_hash"] == hashed
    assert (scores["videos"], scores["unreadable"], scores["missing"], scores["views"]) == (12, 1, 0, "2x1")
    assert (scores["top1"], scores["top5"]) == (found.accuracy(1), found.accuracy(5))
    assert ["dark3.mp4" in failure for failure in scores["failures"]] == [True]
    # Each class has half of the videos; the broken one is dark, and counts as wrong.
    dark, bright = scores["per_class"]
    assert (dark["class"], dark["videos"], bright["class"], bright["videos"]) == ("dark", 6, "bright", 6)
    assert (dark["accuracy"] + bright["accuracy"]) / 2 == pytest.approx(scores["top1"])
    assert dark["accuracy"] <= 5 / 6

    said = capsys.readouterr().out
    beside = f"12 videos, data {hashed[:16]}"
    assert f"top-1 {scores['top1']:.1%}   ({beside})\n" in said
    assert (out / "confusion.png").is_file()
    assert re.search(rf"accuracy  videos  class\n +{min(dark['accuracy'], bright['accuracy']):.1%} +6  ", said)
    card = " ".join((model / "README.md").read_text().split())
    assert f"data, val, 2x1 views, f32, {beside}" in card
    assert scores["precision"] == "f32" and "2x1 views each, in f32 (this processor has no fast bf16)\n" in said

    # Eleven videos say nothing about calibration.
    assert scores["calibration"] is None and not (out / "reliability.png").exists()
    assert "calibration left out: 11 videos were read" in said
    assert scores["model"]["source"] == str(model)
    with (out / "per_video.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["video"] for row in rows] == [str(video.source) for video in open_data(data).split("val").videos]
    assert [row["error"] for row in rows if row["error"]] == scores["failures"]
    assert sum(row["label"] == row["predicted"] for row in rows) == round(12 * scores["top1"])
    assert {row["label"] for row in rows if "dark3" in row["video"]} == {"dark"}


def test_probabilities_are_averaged_and_every_table_is_written(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved(tiny_recipe, tmp_path / "model", {"classes": ["bright", "dark"]}, {"classes": 2})
    table, out = tmp_path / "table.parquet", tmp_path / "out"
    found = score_on_val(bright_dark, model, out, Views(2, 1, "probabilities"), per_video=table)
    expected = evaluate(vivit.load(model), open_data(bright_dark).split("val"), Views(2, 1, "probabilities"))
    assert torch.equal(found.logits["classes"], expected.logits["classes"])
    assert read_scores(out)["average"] == "probabilities"
    assert "2x1 views, their probabilities averaged, " in " ".join((model / "README.md").read_text().split())
    rows = parquet.read_table(table).to_pylist()
    assert [row["probability"] for row in rows] == pytest.approx(
        expected.logits["classes"].softmax(dim=1).amax(dim=1).tolist()
    )
    assert str(table) in capsys.readouterr().out


def test_an_impossible_output_is_refused_before_anything_is_read(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(tiny_recipe, tmp_path / "model", {"classes": ["bright", "dark"]}, {"classes": 2})
    monkeypatch.setattr(score, "evaluate", None)
    with pytest.raises(UserError, match=r"table\.txt"):
        score_on_val(bright_dark, model, per_video=tmp_path / "table.txt")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: cannot create this folder"):
        score_on_val(bright_dark, model, tmp_path / "file")


def test_if_no_video_can_be_read_one_of_them_is_named(bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe) -> None:
    data = shutil.copytree(bright_dark, tmp_path / "data")
    for path in data.glob("*/*.mp4"):
        path.write_bytes(b"no video")
    model = saved(tiny_recipe, tmp_path / "model", {"classes": ["bright", "dark"]}, {"classes": 2})
    with pytest.raises(
        UserError, match=r"data: none of the 2 videos can be read; .*bright\d\.mp4: not a readable video"
    ):
        score_on_val(data, model, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_hash_of_a_model_covers_its_weights_classes_and_preprocessing(tmp_path: Path, tiny_recipe: Recipe) -> None:
    folder = saved(tiny_recipe, tmp_path / "model", {"classes": ["bright", "dark"]}, {"classes": 2})
    hashes = {
        hash_model(vivit.load(folder)),
        hash_model(vivit.load(shutil.copytree(folder, tmp_path / "b"))),
    }
    assert len(hashes) == 1
    model = vivit.load(folder)
    model.state_dict()["heads.classes.bias"][0] += 1e-6
    hashes.add(hash_model(model))
    saved(tiny_recipe, tmp_path / "other", {"classes": ["dark", "bright"]}, {"classes": 2})
    hashes.add(hash_model(vivit.load(tmp_path / "other")))
    strided = tiny_recipe.model_copy(update={"frame_stride": 2})
    hashes.add(hash_model(vivit.load(saved(strided, tmp_path / "c", {"classes": ["bright", "dark"]}, {"classes": 2}))))
    assert len(hashes) == 4


def test_the_hash_of_the_data_ignores_the_models_order_of_classes(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe
) -> None:
    hashes = []
    for number, names in enumerate((["bright", "dark"], ["dark", "unseen", "bright"])):
        model = saved(tiny_recipe, tmp_path / f"model{number}", {"classes": names}, {"classes": len(names)})
        score_on_val(bright_dark, model, tmp_path / f"out{number}")
        hashes.append(read_scores(tmp_path / f"out{number}")["data_hash"])
    assert hashes[0] == hashes[1] == data_hash(open_data(bright_dark).split("val"))


VERBS, NOUNS = ("open", "close"), ("cup", "door", "knife", "lid", "pan", "tap", "towel")


def test_several_heads_have_scores_and_pictures_each(
    bright_dark: Path,
    tmp_path: Path,
    tiny_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = [f"{VERBS[i % 2]},{NOUNS[i % 3]}" for i in range(12)]
    data = kitchen(bright_dark, tmp_path, "verb,noun", labels)
    heads = {"noun": 7, "verb": 2}
    model = saved(tiny_recipe, tmp_path / "model", {"noun": NOUNS, "verb": VERBS}, heads)
    for_the_card: list[Any] = []
    monkeypatch.setattr(score, "score_card", lambda *given: for_the_card.append(given))
    monkeypatch.setattr(score, "CALIBRATED_FROM", 12)
    found = score_on_val(data, model, tmp_path / "out")

    scores = read_scores(tmp_path / "out")
    videos = open_data(data).split("val", LabelSpace({"verb": VERBS, "noun": NOUNS}))
    expected = evaluate(vivit.load(model), videos, Views(2))
    named = {f"{head}_top{k}" for head in ("verb", "noun", "action") for k in (1, 5)}
    assert {name: scores[name] for name in named} == {name: expected.scores()[name] for name in named}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("scores.json", "per_video.csv"),
        *(f"{picture}_{head}.png" for picture in ("confusion", "reliability") for head in ("verb", "noun")),
    }
    assert scores["calibration"].keys() == {"verb", "noun"}
    calibration = found.calibration("verb")
    assert calibration is not None
    assert scores["calibration"]["verb"]["error"] == calibration.error
    assert sum(scores["calibration"]["verb"]["counts"]) == 12
    assert scores["per_class"].keys() == {"verb", "noun"}
    assert [row["videos"] for row in scores["per_class"]["verb"]] == [6, 6]
    assert [row["videos"] for row in scores["per_class"]["noun"]] == [4, 4, 4, 0, 0, 0, 0]
    said = capsys.readouterr().out
    assert f"verb expected calibration error {calibration.error:.1%}\n" in said
    assert "classes of verb, the worst first" in said and "4 of 7 classes have no videos here" in said
    assert f"action top-1 {scores['action_top1']:.1%}   action top-5 {scores['action_top5']:.1%}" in said
    ((folder, _, given, words),) = for_the_card
    assert folder == model
    assert given[Metric(("noun", "verb"), 5, "action")] == scores["action_top5"]
    assert words == f"kitchen.csv, val, 2x1 views, f32, 12 videos, data {scores['data_hash'][:16]}"


def test_many_labels_have_a_table_of_average_precisions(
    bright_dark: Path,
    tmp_path: Path,
    tiny_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = [";".join(noun for k, noun in enumerate(NOUNS[:6]) if i % (k + 1) == 0) for i in range(12)]
    data = kitchen(bright_dark, tmp_path, "labels", labels)
    model = saved(tiny_recipe, tmp_path / "model", {"classes": NOUNS}, {"classes": 7})
    monkeypatch.setattr(score, "score_card", lambda *_: None)
    score_on_val(data, model, tmp_path / "out")
    scores = read_scores(tmp_path / "out")
    assert [row["class"] for row in scores["per_class"]] == list(NOUNS)
    precisions = [row["average_precision"] for row in scores["per_class"]]
    assert (precisions[0], precisions[6]) == (1.0, None)
    assert scores["mAP"] == pytest.approx(sum(precisions[:6]) / 6)
    assert f"mAP {scores['mAP']:.1%}   (12 videos" in capsys.readouterr().out
    assert scores["calibration"] is None
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"scores.json", "per_video.csv"}


def test_a_model_with_other_heads_is_refused_and_both_are_named(
    bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe
) -> None:
    data = kitchen(bright_dark, tmp_path, "verb,noun", [f"{VERBS[i % 2]},{NOUNS[i % 3]}" for i in range(12)])
    other = saved(tiny_recipe, tmp_path / "other", {"verb": VERBS, "place": NOUNS}, {"verb": 2, "place": 7})
    with pytest.raises(UserError, match=r"kitchen\.csv.*verb, noun.*verb, place") as error:
        score_on_val(data, other)
    assert "\n" not in str(error.value)
    single = saved(tiny_recipe, tmp_path / "single", {"classes": VERBS}, {"classes": 2})
    with pytest.raises(UserError, match=r"verb, noun.*one head without a name"):
        score_on_val(data, single)
    nameless = saved(tiny_recipe, tmp_path / "nameless", None, {"verb": 2, "noun": 7})
    with pytest.raises(UserError, match=r"nameless: has no class names"):
        score_on_val(data, nameless)
    assert not list(tmp_path.rglob("scores.json"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_no_evaluation_replaces_the_results_of_another(bright_dark: Path, tmp_path: Path, tiny_recipe: Recipe) -> None:
    """Other views, averages, splits, videos and weights have folders of their own; the same again has the same."""
    data = tmp_path / "data"
    for split in ("val", "test"):
        shutil.copytree(bright_dark, data / split)
    model = saved(tiny_recipe, tmp_path / "model", {"classes": ["bright", "dark"]}, {"classes": 2})
    folder, before = model / "evaluation", dict[str, bytes]()

    def added() -> list[str]:
        """The folders that are new; checks that nothing in the others has changed."""
        nonlocal before
        now, was = contents(folder), before
        assert {name: now[name] for name in was} == was
        before = now
        return sorted({name.split("/")[0] for name in now} - {name.split("/")[0] for name in was})

    score_on_val(data, model)
    assert len(added()) == 1
    score_on_val(data, model)
    assert added() == []
    for options in ({"views": Views(1)}, {"views": Views(2, 1, "probabilities")}, {"split": "test"}):
        score_on_val(data, model, **options)
        assert len(added()) == 1
    (data / "val" / "dark" / "dark5.mp4").unlink()
    score_on_val(data, model)
    assert len(added()) == 1
    trained_on = vivit.load(model)
    random_weights(trained_on, std=0.3, seed=2)
    save(trained_on, model)
    score_on_val(data, model)
    assert len(added()) == 1

    # A folder that the user gives has one evaluation, too, and no other file of its names.
    out = tmp_path / "out"
    score_on_val(data, model, out)
    was = contents(out)
    score_on_val(data, model, out)
    assert contents(out) == was
    refused(lambda: score_on_val(data, model, out, Views(1)), f"{out}: has the scores.json of another", "--out")
    refused(lambda: score_on_val(data, model, out, split="test"), f"{out}: has the scores.json of another")
    (out / "scores.json").write_bytes(b"\xff")
    refused(lambda: score_on_val(data, model, out), f"{out}: has the scores.json of another")
    (model / "confusion.png").write_bytes(b"of the training")
    refused(lambda: score_on_val(data, model, model), "has the confusion.png of another")
    assert (model / "confusion.png").read_bytes() == b"of the training"


def test_of_many_classes_the_worst_are_shown(tmp_path: Path) -> None:
    names = tuple(f"class {number}" for number in range(50))
    truth = torch.arange(48).repeat(2)
    # The first half of the classes is right every time, others once, except for one that never is.
    answers = torch.where((torch.arange(96) < 48) | (truth < 24), truth, 49)
    answers[[40, 88]] = 49
    logits = torch.nn.functional.one_hot(answers, 50).float()
    found = Evaluation(LabelSpace({"classes": names}), {"classes": logits}, {"classes": truth}, {})
    title, head, first, *rows, more, none = score.class_lines(found, "classes", tmp_path / "scores.json")
    assert "worst first" in title and head.split() == ["accuracy", "videos", "class"]
    assert first.split() == ["0.0%", "2", "class", "40"]
    assert [row.split()[:2] for row in rows] == [["50.0%", "2"]] * 19
    assert "28 better ones" in more and str(tmp_path / "scores.json") in more
    assert "2 of 50 classes have no videos" in none
