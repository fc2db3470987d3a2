"""`vivit data`, and data sets of several kinds through the installed command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.test_cli import SMALL, assert_one_line, vivit


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, bright_dark: Path) -> Path:
    """A folder with data/, in which one video cannot be read, and run/, which was trained on it."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(bright_dark, folder / "data")
    (folder / "data" / "dark" / "broken.mp4").write_text("This is not a video.")
    result = vivit("train", "data", "--out", "run", *SMALL, "--unreadable", "0.5", folder=folder)
    assert result.returncode == 0, result.stderr
    return folder


def test_help_of_the_verb_and_of_each_of_its_own(work: Path) -> None:
    for arguments in ([], ["--help"]):
        result = vivit("data", *arguments, folder=work)
        assert result.returncode == 0
        for verb in ("show", "check", "pack"):
            assert f"\n  {verb} " in result.stdout
    for verb in ("show", "check", "pack"):
        assert f"usage: vivit data {verb}" in vivit("data", verb, "--help", folder=work).stdout
    assert_one_line(vivit("data", "look", "data", folder=work), "no verb 'look'", "show, check, pack")


def test_show_draws_clips_and_their_augmentation(work: Path, tmp_path: Path) -> None:
    for arguments, name in (((), "plain.png"), (("--augment", "--randaugment", "2", "15"), "augmented.png")):
        result = vivit(
            *("data", "show", "data", "--recipe", "demo", "--count", "2", "--out", tmp_path / name, *arguments),
            folder=work,
        )
        assert result.returncode == 0, result.stderr
        assert f"written to {tmp_path / name}" in result.stdout
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "augmented.png") as augmented:
        assert augmented.height > 2 * plain.height
        assert len(np.unique(np.asarray(plain))) > 50
    assert_one_line(vivit("data", "show", "data", "--count", "0", folder=work), "count")


def test_check_finds_the_broken_video_and_fix_leaves_it_out(work: Path, tmp_path: Path) -> None:
    fixed = work / "good.csv"
    result = vivit("data", "check", "data", "--out", tmp_path / "manifest.json", "--fix", fixed, folder=work)
    assert result.returncode == 1, result.stderr
    assert "broken.mp4" in result.stdout
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    bad = [file["name"] for file in manifest["files"] if file.get("problem")]
    assert [Path(name).name for name in bad] == ["broken.mp4"]
    again = vivit("data", "check", fixed, "--out", tmp_path / "again.json", folder=work)
    assert again.returncode == 0, again.stdout
    assert "unreadable (" not in again.stdout


def test_a_model_scores_the_same_on_files_and_on_shards(work: Path, tmp_path: Path) -> None:
    packed = vivit("data", "pack", "data", tmp_path / "shards", folder=work)
    assert packed.returncode == 0, packed.stderr
    assert "broken.mp4" in packed.stdout
    scores = {}
    for data in (work / "good.csv", tmp_path / "shards"):
        if not data.exists():
            vivit("data", "check", "data", "--out", tmp_path / "m.json", "--fix", data, folder=work)
        out = tmp_path / data.stem
        result = vivit(
            "evaluate", data, "--model", "run", "--views", "1x1", "--out", out, "--device", "cpu", folder=work
        )
        assert result.returncode == 0, result.stderr
        scores[data.stem] = json.loads((out / "scores.json").read_text())
    files, shards = scores["good"], scores["shards"]
    assert shards["top1"] == files["top1"]
    assert shards["data_hash"] == files["data_hash"]
    assert files["unreadable"] == shards["unreadable"] == 0
    trained = vivit("train", tmp_path / "shards", "--out", tmp_path / "run", *SMALL, folder=work)
    assert trained.returncode == 0, trained.stderr
    assert "bright" in vivit("info", tmp_path / "run", folder=work).stdout


def test_reencoded_shards_are_smaller_pictures(work: Path, tmp_path: Path) -> None:
    result = vivit("data", "pack", "data", tmp_path / "shards", "--short-side", "32", "--key-frames", "8", folder=work)
    assert result.returncode == 0, result.stderr
    checked = vivit("data", "check", tmp_path / "shards", folder=work)
    assert checked.returncode == 0, checked.stdout
    manifest = json.loads((tmp_path / "shards" / "manifest.json").read_text())
    assert {min(file["width"], file["height"]) for file in manifest["files"]} == {32}
    again = vivit("data", "pack", "data", tmp_path / "shards", "--short-side", "24", folder=work)
    assert_one_line(again, "holds other shards")


def test_a_list_whose_videos_lie_elsewhere(work: Path, tmp_path: Path) -> None:
    rows = [
        f"{path.parent.name}/{path.name},{path.parent.name}" for path in sorted((work / "data").glob("*/*[0-9].mp4"))
    ]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    assert_one_line(vivit("train", tmp_path / "list.csv", "--out", tmp_path / "run", *SMALL, folder=work), "not there")
    result = vivit(
        *("train", tmp_path / "list.csv", "--out", tmp_path / "run", "--videos", work / "data", *SMALL), folder=work
    )
    assert result.returncode == 0, result.stderr


def test_every_augmentation_trains_and_goes_on(work: Path, tmp_path: Path) -> None:
    arguments = (
        *("train", work / "good.csv", "--out", tmp_path / "run", *SMALL, "--mixup", "0.3", "--cutmix", "0.5"),
        *("--scale-jitter", "0.9", "1.33", "--colour-jitter", "0.8", "--grey-scale", "0.1", "--randaugment", "2", "15"),
    )
    assert vivit(*arguments, folder=work).returncode == 0
    again = vivit(*arguments, folder=work)
    assert again.returncode == 0, again.stderr
    assert "is trained already" in again.stdout


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_reading_in_a_process_that_may_be_ended(verb: str, work: Path, tmp_path: Path) -> None:
    data = "data" if verb == "evaluate" else "data/bright/bright0.mp4"
    arguments = ("--model", "run", "--device", "cpu", "--views", "1x1")
    assert vivit(verb, data, *arguments, "--timeout", "60", folder=work).returncode == 0
    late = vivit(verb, data, *arguments, "--timeout", "0.0001", folder=work)
    assert "took longer than 0.0001 s to read" in late.stdout + late.stderr


def test_a_recipe_without_sense_is_one_line(work: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (("--scale-jitter", "2", "1"), "scale_jitter"),
        (("--mirrored", "bright", "nothing"), "no class 'nothing'"),
        (("--randaugment", "2", "40"), "randaugment"),
    ):
        result = vivit("train", work / "good.csv", "--out", tmp_path / "run", *SMALL, *arguments, folder=work)
        assert result.returncode == 2, arguments
        assert words in result.stderr, result.stderr
        assert not (tmp_path / "run").exists()
