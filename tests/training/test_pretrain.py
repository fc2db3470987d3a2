"""Pretraining without labels: what is learnt, what a run leaves, and that it resumes exactly."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.support import encode, refused
from tests.training.runs import LONGEST, finish, rows, signal_held, start
from vivit.data.order import mask_rng
from vivit.data.readers.listing import open_unlabelled
from vivit.inference.predictor import Predictor
from vivit.model.masked import tubes
from vivit.training.pretrain import pretrain
from vivit.training.recipe import PretrainRecipe, Recipe
from vivit.training.recipes import PRETRAIN_RECIPES
from vivit.training.train import train
from vivit.weights.describe import describe
from vivit.weights.store import load

SETTINGS = (
    *("--model", "vivit-ti-16x2-fe", "--num-frames", "4", "--frame-stride", "1", "--image-size", "32"),
    *(
        "--architecture.tubelet-size",
        "2",
        "8",
        "8",
        "--architecture.hidden-size",
        "32",
        "--architecture.num-heads",
        "2",
    ),
    *("--architecture.num-layers", "1", "--architecture.mlp-dim", "64", "--architecture.temporal-layers", "1"),
    *("--architecture.dropout", "0.1", "--decoder-layers", "1", "--decoder-size", "32"),
    *("--epochs", "3", "--warmup-epochs", "1", "--batch-size", "4", "--accumulate", "2"),
)
STEPS = 9  # of 4 of the 12 videos


@pytest.fixture(scope="module")
def tiny() -> PretrainRecipe:
    return PRETRAIN_RECIPES["pretrain"].model_copy(
        update={
            **{"num_frames": 4, "frame_stride": 1, "image_size": 32, "batch_size": 4, "epochs": 2, "min_steps": 0},
            **{"decoder_layers": 1, "decoder_size": 32, "mask_ratio": 0.75},
            "architecture": {
                **{"tubelet_size": (2, 8, 8), "hidden_size": 32, "num_heads": 2, "num_layers": 1, "mlp_dim": 64},
                "temporal_layers": 1,
            },
        }
    )


@pytest.fixture(scope="module")
def slopes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos at two depths: light grows from left to right, or the other way round."""
    folder = tmp_path_factory.mktemp("slopes")
    (folder / "a" / "b").mkdir(parents=True)
    for number in range(8):
        slope = np.linspace(20, 200, 40) if number % 2 else np.linspace(220, 40, 40)
        picture = np.broadcast_to(slope[None, :, None], (32, 40, 3)).astype(np.uint8)
        encode(folder / ("a/b" if number > 4 else "") / f"{number}.mp4", [picture] * 6)
    return folder


@pytest.mark.parametrize("variant", ["spatiotemporal", "factorised_encoder"])
def test_it_learns_more_than_the_mean_and_leaves_a_start_without_a_head(
    slopes: Path, tmp_path: Path, tiny: PretrainRecipe, variant: str
) -> None:
    """Predicting each tubelet's mean has a loss of 1, but for what is nearly plain."""
    architecture = {**tiny.architecture, "variant": variant}
    if variant == "spatiotemporal":
        del architecture["temporal_layers"]
    recipe = tiny.model_copy(
        update={
            "model": "vivit-ti-16x2",
            "architecture": architecture,
            "epochs": 1,
            "min_steps": 80,
            "learning_rate": 0.05,
        }
    )
    run = tmp_path / "run"
    model = pretrain(slopes, run, recipe, device="cpu", workers=0)
    losses = [row["loss"] for row in rows(run / "steps.jsonl")]
    assert losses[0] > 0.6 and max(losses[-5:]) < 0.2
    assert not model.training and model.config.class_counts == {}
    for name, value in load(run).state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
        assert not name.startswith("heads.")
    assert dict(describe(model))["origin"].startswith("pretrained on 8 videos without labels, so without a head")
    assert Image.open(run / "reconstructions.png").size == (4 * 34, 4 * 3 * 34)
    assert refused(lambda: Predictor(run)) == (
        f"{run}: has no classes yet: train it on labelled videos, vivit train DATA --init {run}"
    )


def test_a_training_starts_from_it(bright_dark: Path, tmp_path: Path, tiny: PretrainRecipe) -> None:
    """Its weights are those of the encoder; only the head is new."""
    pretrained = pretrain(bright_dark, tmp_path / "pretrained", tiny, device="cpu", workers=0)
    recipe = Recipe(epochs=1, batch_size=4, learning_rate=1e-9, colour_jitter=0.0)
    model = train(bright_dark, tmp_path / "run", recipe, init=str(tmp_path / "pretrained"), device="cpu", workers=0)
    assert model.classes == {"classes": ("bright", "dark")}
    for name, value in pretrained.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=1e-6)
    assert model.origin[0].startswith("pretrained on 12 videos without labels")


def test_what_is_hidden_depends_on_seed_epoch_and_video_alone() -> None:
    def hidden(*key: int) -> list[int]:
        return tubes([mask_rng(*key)], 64, 0.75)[1][0].tolist()

    assert hidden(1, 2, 3) == hidden(1, 2, 3)
    assert len({tuple(hidden(*key)) for key in [(1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0)]}) == 4


def tensors(run: Path) -> dict[str, torch.Tensor]:
    files = (run / "checkpoints" / f"step-{STEPS:08d}").glob("*.safetensors")
    return {name: value for file in files for name, value in load_file(file).items()}


def test_a_run_told_to_stop_resumes_to_the_same_bits(bright_dark: Path, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole" / "run", tmp_path / "halves" / "run"
    for run in (whole, halves):
        run.parent.mkdir()
    finish(start(bright_dark, whole, *SETTINGS, "--workers", "0", verb="pretrain"))
    process = start(bright_dark, halves, *SETTINGS, "--workers", "1", hold_after=4, verb="pretrain")
    signal_held(process, halves, signal.SIGTERM)
    _, complaint = process.communicate(timeout=LONGEST)
    assert process.returncode == 75, complaint
    out, _ = finish(start(bright_dark, halves, *SETTINGS, "--workers", "0", verb="pretrain"))
    assert "resuming after step" in out
    for name in ("steps.jsonl", "metrics.jsonl"):
        assert rows(whole / name) == rows(halves / name)
    assert len(rows(whole / "steps.jsonl")) == STEPS
    first, second = tensors(whole), tensors(halves)
    assert any(name.startswith("optimiser/decoder.") for name in first) and first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert (whole / "model.safetensors").read_bytes() == (halves / "model.safetensors").read_bytes()


def test_two_processes_share_the_work(bright_dark: Path, tmp_path: Path) -> None:
    still = (*SETTINGS, "--architecture.dropout", "0", "--workers", "0")
    losses: list[list[float]] = []
    for processes in (1, 2):
        run = tmp_path / str(processes) / "run"
        run.parent.mkdir()
        finish(start(bright_dark, run, *still, processes=processes, verb="pretrain"))
        losses.append([row["loss"] for row in rows(run / "steps.jsonl")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "vivit-ti-16x2-fsa"}, "model: masked tubes need model 1 or 2, not factorised self attention"),
        ({"image_size": 33}, "image_size: the height 33 is not a multiple"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(
    bright_dark: Path, tmp_path: Path, tiny: PretrainRecipe, changes: dict[str, Any], message: str
) -> None:
    architecture = {name: value for name, value in tiny.architecture.items() if name != "temporal_layers"}
    recipe = tiny.model_copy(update={"architecture": architecture, "model": "vivit-ti-16x2", **changes})
    assert message in refused(lambda: pretrain(bright_dark, tmp_path / "run", recipe, device="cpu", workers=0))


def test_a_folder_gives_all_its_videos_and_a_data_set_those_to_train_on(bright_dark: Path, tmp_path: Path) -> None:
    assert len(open_unlabelled(bright_dark).videos) == 12
    shutil.copytree(bright_dark, tmp_path / "data" / "train")
    shutil.copytree(bright_dark / "dark", tmp_path / "data" / "val" / "dark")
    assert len(open_unlabelled(tmp_path / "data").videos) == 12
    (tmp_path / "list.csv").write_text("path,label\ndata/train/dark/dark1.mp4,a\ndata/train/dark/dark2.mp4,b\n")
    listed = open_unlabelled(tmp_path / "list.csv")
    assert listed.labels.heads == () and all(not video.labels for video in listed.videos)
    (tmp_path / "empty").mkdir()
    assert "no videos found" in refused(lambda: open_unlabelled(tmp_path / "empty"))


def test_another_run_in_the_folder_is_refused(bright_dark: Path, tmp_path: Path, tiny: PretrainRecipe) -> None:
    pretrain(bright_dark, tmp_path / "run", tiny, device="cpu", workers=0)
    other = tiny.model_copy(update={"mask_ratio": 0.5})
    message = refused(lambda: pretrain(bright_dark, tmp_path / "run", other, device="cpu", workers=0))
    assert "mask_ratio 0.75 (now 0.5)" in message
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["mask_ratio"] == 0.75
