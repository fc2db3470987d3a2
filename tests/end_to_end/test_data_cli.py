"""`vivit data`, and data sets of several kinds through the installed command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.conftest import InProcess
from tests.end_to_end.test_cli import SMALL
from tests.support import run_vivit


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, bright_dark: Path) -> Path:
    """A folder with data/, in which one video cannot be read, and run/, which was trained on it."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(bright_dark, folder / "data")
    (folder / "data" / "dark" / "broken.mp4").write_text("This is not a video.")
    result = run_vivit("train", "data", "--out", "run", *SMALL, "--unreadable", "0.5", folder=folder)
    assert result.status == 0, result.err
    return folder


@pytest.fixture
def here(work: Path, vivit_here: InProcess, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """The command in this process and in that folder."""
    monkeypatch.chdir(work)
    return vivit_here


def test_show_draws_clips_and_their_augmentation(work: Path, here: InProcess, tmp_path: Path) -> None:
    for arguments, name in (((), "plain.png"), (("--augment", "--randaugment", "2", "15"), "augmented.png")):
        result = here(
            *("data", "show", "data", "--recipe", "demo", "--count", "2", "--out", tmp_path / name, *arguments),
        )
        assert result.status == 0, result.err
        assert f"written to {tmp_path / name}" in result.out
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "augmented.png") as augmented:
        assert augmented.height > 2 * plain.height
        assert len(np.unique(np.asarray(plain))) > 50
    here("data", "show", "data", "--count", "0").one_line("count")


def test_check_finds_the_broken_video_and_fix_leaves_it_out(work: Path, here: InProcess, tmp_path: Path) -> None:
    fixed = work / "good.csv"
    result = here("data", "check", "data", "--out", tmp_path / "manifest.json", "--fix", fixed)
    assert result.status == 1, result.err
    assert "broken.mp4" in result.out
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    bad = [file["name"] for file in manifest["files"] if file.get("problem")]
    assert [Path(name).name for name in bad] == ["broken.mp4"]
    again = here("data", "check", fixed, "--out", tmp_path / "again.json")
    assert again.status == 0, again.out
    assert "unreadable (" not in again.out


def test_training_says_the_cure_and_knows_what_a_check_found(
    work: Path, here: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arguments = ("train", "data", "--out", tmp_path / "run", *SMALL, "--unreadable")
    cure = "1 of .* training videos cannot be read.*broken.*vivit data check data --fix good.csv"
    late = here(*arguments, "0")
    late.err = late.err.splitlines()[-1]
    late.one_line(cure)
    assert (tmp_path / "run/checkpoints").exists()
    checked = here("data", "check", "data", "--num-frames", "30", "--frame-stride", "3")
    assert "vivit data check data --fix good.csv makes a list of the others" in checked.out
    assert "shorter than a clip of 30 frames at a stride of 3 (88 frames)" in checked.out
    assert not list((work / "data").glob("*.json*"))
    here(*arguments, "0").one_line(cure)
    shutil.copy(work / "data/dark/dark0.mp4", tmp_path / "mended.mp4")
    with (work / "data/dark/broken.mp4").open("r+b") as file:  # it can be read now
        file.write((tmp_path / "mended.mp4").read_bytes())
    try:
        assert here(*arguments, "0").status == 0
    finally:
        (work / "data/dark/broken.mp4").write_text("This is not a video.")


def test_a_model_scores_the_same_on_files_and_on_shards(work: Path, here: InProcess, tmp_path: Path) -> None:
    packed = here("data", "pack", "data", tmp_path / "shards")
    assert packed.status == 0, packed.err
    assert "broken.mp4" in packed.out
    scores = {}
    for data in (work / "good.csv", tmp_path / "shards"):
        if not data.exists():
            here("data", "check", "data", "--out", tmp_path / "m.json", "--fix", data)
        out = tmp_path / data.stem
        result = here("evaluate", data, "--model", "run", "--views", "1x1", "--out", out, "--device", "cpu")
        assert result.status == 0, result.err
        scores[data.stem] = json.loads((out / "scores.json").read_text())
    files, shards = scores["good"], scores["shards"]
    assert shards["top1"] == files["top1"]
    assert shards["data_hash"] == files["data_hash"]
    assert files["unreadable"] == shards["unreadable"] == 0
    trained = here("train", tmp_path / "shards", "--out", tmp_path / "run", *SMALL)
    assert trained.status == 0, trained.err
    assert "bright" in here("info", tmp_path / "run").out


def test_reencoded_shards_are_smaller_pictures(work: Path, here: InProcess, tmp_path: Path) -> None:
    result = here("data", "pack", "data", tmp_path / "shards", "--short-side", "32", "--key-frames", "8")
    assert result.status == 0, result.err
    checked = here("data", "check", tmp_path / "shards", "--out", tmp_path / "manifest.json")
    assert checked.status == 0, checked.out
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {min(file["width"], file["height"]) for file in manifest["files"]} == {32}
    again = here("data", "pack", "data", tmp_path / "shards", "--short-side", "24")
    again.one_line("holds shards of other data")


def test_a_list_whose_videos_lie_elsewhere(work: Path, here: InProcess, tmp_path: Path) -> None:
    rows = [
        f"{path.parent.name}/{path.name},{path.parent.name}" for path in sorted((work / "data").glob("*/*[0-9].mp4"))
    ]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    here("train", tmp_path / "list.csv", "--out", tmp_path / "run", *SMALL).one_line("not there")
    result = here(*("train", tmp_path / "list.csv", "--out", tmp_path / "run", "--videos", work / "data", *SMALL))
    assert result.status == 0, result.err


def test_every_augmentation_trains_and_goes_on(work: Path, here: InProcess, tmp_path: Path) -> None:
    arguments = (
        *("train", work / "good.csv", "--out", tmp_path / "run", *SMALL, "--mixup", "0.3", "--cutmix", "0.5"),
        *("--scale-jitter", "0.9", "1.33", "--colour-jitter", "0.8", "--grey-scale", "0.1", "--randaugment", "2", "15"),
    )
    assert here(*arguments).status == 0
    again = here(*arguments)
    assert again.status == 0, again.err
    assert "is trained already" in again.out


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_reading_in_a_process_that_may_be_ended(verb: str, here: InProcess) -> None:
    data = "data" if verb == "evaluate" else "data/bright/bright0.mp4"
    arguments = ("--model", "run", "--device", "cpu", "--views", "1x1")
    assert here(verb, data, *arguments, "--timeout", "60").status == 0
    late = here(verb, data, *arguments, "--timeout", "0.0001")
    assert "took longer than 0.0001 s to read" in late.out + late.err


def test_a_recipe_without_sense_is_one_line(work: Path, here: InProcess, tmp_path: Path) -> None:
    for arguments, words in (
        (("--scale-jitter", "2", "1"), "scale_jitter"),
        (("--mirrored", "bright", "nothing"), "no class 'nothing'"),
        (("--randaugment", "2", "40"), "randaugment"),
    ):
        result = here("train", work / "good.csv", "--out", tmp_path / "run", *SMALL, *arguments)
        assert result.status == 2, arguments
        assert words in result.err, result.err
        assert not (tmp_path / "run").exists()
