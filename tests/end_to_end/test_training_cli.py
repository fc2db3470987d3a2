"""`vivit train` as someone uses it who has a few videos and has never used it before, with their mistakes."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification
from transformers.utils import logging

import vivit
from tests.end_to_end.conftest import InProcess
from tests.support import Result, run_vivit
from vivit.training import plan

CLASSES = ("lying", "standing")
CLIPS = 10  # of each class and split
# A run of a second, whatever it starts from.
BRIEF = ("--recipe", "debug", "--workers", "0", "--device", "cpu")


def stripes(lying: bool, number: int, rng: np.random.Generator) -> np.ndarray:
    """Pictures of stripes of one direction, of any width, place and colour: (N, 32, 32, 3) uint8."""
    periods, phases = rng.uniform(6, 12, (number, 1)), rng.uniform(0, 1, (number, 1))
    waves = np.sin(2 * np.pi * (np.arange(32) / periods + phases))  # (N, 32)
    waves = waves[:, :, None, None] if lying else waves[:, None, :, None]
    colours = rng.uniform(40, 100, (number, 1, 1, 3))
    noise = rng.normal(0, 10, (number, 32, 32, 3))
    return np.clip(128 + waves * colours + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With my_videos/train/CLASS/*.mp4 and my_videos/val, stripes that move; and an image ViT that knows stripes."""
    folder, rng = tmp_path_factory.mktemp("stripes"), np.random.default_rng(0)
    for split in ("train", "val"):
        for name in CLASSES:
            of_class = folder / "my_videos" / split / name
            of_class.mkdir(parents=True)
            for number, picture in enumerate(stripes(name == "lying", CLIPS, rng)):
                write_moving(of_class / f"{number}.mp4", picture)
    logging.disable_progress_bar()
    train_image_vit(rng).save_pretrained(folder / "image_vit")
    logging.enable_progress_bar()
    return folder


def write_moving(path: Path, picture: np.ndarray) -> None:
    """A video of a picture that goes down and to the right."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for step in range(16):
            moved = np.roll(picture, (step, step), axis=(0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(moved), format="rgb24")))
        container.mux(stream.encode(None))


def train_image_vit(rng: np.random.Generator) -> ViTForImageClassification:
    """A small ViT of transformers that has learnt from still pictures for a few seconds."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, num_labels=2, **sizes))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    labels = torch.arange(2).repeat_interleave(32)
    for _ in range(100):
        pictures = np.concatenate([stripes(lying, 32, rng) for lying in (True, False)])
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1  # (N, H, W, 3) → (N, 3, H, W)
        optimiser.zero_grad()
        model(pixels, labels=labels).loss.backward()
        optimiser.step()
    return model


@pytest.fixture(scope="module")
def trained(folder: Path) -> str:
    """What the command says, which is given the data and the start and nothing else."""
    return run_vivit("train", "my_videos", "--init", "image_vit", folder=folder, COLUMNS="200").succeeded()


@pytest.fixture
def here(folder: Path, vivit_here: InProcess, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """The command in this process and in that folder."""
    monkeypatch.chdir(folder)
    return vivit_here


def one_line(result: Result, *parts: str) -> None:
    assert result.status == 2, result
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith("vivit: ")
    for part in parts:
        assert part in result.err, result.err


def test_data_and_start_alone_give_a_useful_model(folder: Path, trained: str, here: InProcess) -> None:
    run = folder / "runs" / "my_videos"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["top1"] >= 0.9
    assert rows[-1]["loss"] < rows[0]["loss"]
    page = (run / "report.html").read_text()
    assert all(name in page for name in CLASSES)

    videos = sorted((folder / "my_videos" / "val").glob("*/*.mp4"))
    answer = here("predict", *videos, "--model", "runs/my_videos", "--json", "--device", "cpu")
    assert (answer.status, answer.err) == (0, "")
    labels = [json.loads(line)["predictions"][0]["label"] for line in answer.out.splitlines()]
    right = [label == video.parent.name for label, video in zip(labels, videos, strict=True)]
    assert sum(right) / len(right) == rows[-1]["top1"]
    # What it prints last can be typed.
    assert trained.splitlines()[-1].endswith("try: vivit predict VIDEO --model runs/my_videos")


@pytest.mark.parametrize(
    "choice",
    [
        r"train .*\b20 videos.*\b2 classes.*my_videos/train",
        r"validate .*\b20\b.*\bval\b",
        r"recipe finetune\b.*--init",
        r"factorised encoder.*64,930 parameters.*image_vit",
        r"normalised.*\[-1, 1\]",
        r"not from the image model:.*encoder\.temporal.*heads",
        r"32 frames.*stride of 2.*32 × 32.*image_size",
        r"200 steps of 8 clips.*100 epochs.*10",
        r"on .* in (bf16|f32)",
        r"runs/my_videos/report\.html",
    ],
)
def test_each_choice_is_said(trained: str, choice: str) -> None:
    assert re.search(choice, trained), trained


def test_the_folder_of_a_run_is_its_own(folder: Path, trained: str, here: InProcess) -> None:
    again = here("train", "my_videos", "--init", "image_vit", "--device", "cpu")
    assert again.status == 0
    assert "runs/my_videos is trained already" in again.out
    other = ("train", "my_videos", "--out", "runs/my_videos", "--device", "cpu")
    one_line(here(*other), "runs/my_videos: this run is finished, with ", "init image_vit (now none)", "--out")
    one_line(here(*other, "--init", "image_vit", "--seed", "1"), "runs/my_videos", "seed 0 (now 1)", "--out")


def test_a_longer_run_is_offered_from_the_weights_of_a_finished_one(here: InProcess, tmp_path: Path) -> None:
    run = tmp_path / "my run"
    given = ("train", "my_videos", f"--out={run}", *BRIEF)
    assert here(*given).status == 0
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    result = here(*given, "--epochs", "6")
    one_line(result, f"{run}: this run is finished, with epochs 1 (now 6); ")
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    offered = shlex.split(result.err.split(": ")[-1])
    assert offered[0] == "vivit"
    longer = here(*offered[1:])
    assert longer.status == 0, longer.err
    assert f"starting from {run}" in longer.out and "6 epochs" in longer.out
    assert (tmp_path / "my run-2" / "model.safetensors").exists()
    # The next one has a folder of its own too.
    one_line(here(*given, "--init", "image_vit"), "init none (now image_vit)", "my run-3")


def test_a_large_model_from_scratch_on_few_videos_is_warned_of(here: InProcess, tmp_path: Path) -> None:
    small = ("--num-frames", "2", "--image-size", "16", "--epochs", "1", "--min-steps", "1", "--batch-size", "20")
    result = here("train", "my_videos", "--out", tmp_path / "run", *small, "--workers", "0", "--device", "cpu")
    assert result.status == 0, result.err
    assert "recipe small, the default without --init; changed: num_frames 2, image_size 16, epochs 1, " in result.out
    advice = r"from scratch on 20 videos a model of \S+ M parameters learns little: give --init .* --recipe demo"
    assert re.search(advice, result.out)
    # The model of that recipe is small enough.
    result = here("train", "my_videos", "--out", tmp_path / "brief", *BRIEF)
    assert "learns little" not in result.out


@pytest.mark.parametrize(
    ("init", "parts"),
    [
        ("nowhere", ("nowhere", "no such file")),
        ("my_videos", ("my_videos", "config.json")),
        ("my_videos/val/lying/0.mp4", ("0.mp4",)),
        ("someone/nothing", ("someone/nothing", "no such file or folder")),
    ],
)
def test_what_is_no_start(here: InProcess, tmp_path: Path, init: str, parts: tuple[str, ...]) -> None:
    one_line(here("train", "my_videos", "--out", tmp_path / "run", "--init", init, *BRIEF), *parts)
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_size_than_the_start(here: InProcess, tmp_path: Path) -> None:
    flags = ("--init", "image_vit", "--recipe", "kinetics400-b-fe", "--out", tmp_path / "run", "--device", "cpu")
    one_line(here("train", "my_videos", *flags), "model: you gave vivit-b-16x2-fe", "image_vit is an image ViT")
    assert not (tmp_path / "run").exists()


def test_a_start_of_other_classes_gets_a_fresh_head(here: InProcess, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "mlp_dim": 32, "temporal_layers": 1}
    config = vivit.ModelConfig(
        variant="factorised_encoder",
        num_frames=4,
        image_size=(32, 32),
        tubelet_size=(2, 16, 16),
        num_classes=5,
        **sizes,
    )
    vivit.save(vivit.ViViT(config, classes={"classes": list("abcde")}), tmp_path / "of_five")
    flags = ("--epochs", "1", "--min-steps", "1", "--workers", "0", "--device", "cpu")
    result = here("train", "my_videos", "--init", tmp_path / "of_five", "--out", tmp_path / "run", *flags)
    assert (result.status, result.err) == (0, "")
    assert "fresh head of 2 classes, untrained: the weights have 5" in result.out
    assert vivit.load(tmp_path / "run").classes == {"classes": CLASSES}


def test_a_batch_is_learnt_by_heart_and_it_is_said(
    here: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "OVERFIT_STEPS", 30)
    flags = ("--overfit", "1", "--num-frames", "4", "--learning-rate", "0.01", "--workers", "0", "--device", "cpu")
    result = here("train", "my_videos", "--init", "image_vit", "--out", tmp_path / "run", *flags)
    assert (result.status, result.err) == (0, "")
    assert "learns these clips by heart" in " ".join(result.out.split())


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("train", ("DATA",)),
        ("train my_videos --recipe nope", ("recipe", "'nope'", "finetune, probe, small", "ssv2-l-fe-official")),
        ("train my_videos --learning-rate -1", ("learning_rate", "greater than 0")),
        ("train my_videos --learning-rate much", ("--learning-rate", "'much' is not a number")),
        ("train my_videos --batch-size 0", ("batch_size", "greater than or equal to 1")),
        ("train my_videos --batch-size 1.5", ("--batch-size", "'1.5' is not a whole number")),
        ("train my_videos --ema 1 --flip 2", ("ema", "less than 1", "flip", "less than or equal to 1")),
        ("train my_videos --epochs", ("--epochs",)),
        ("train my_videos --learing-rate 1", ("--learing-rate", "did you mean --learning-rate")),
        ("train my_videos --nonsense", ("--nonsense", "vivit train --help")),
        ("train my_videos --optimiser adam", ("'adam'", "--optimiser", "sgd", "adamw")),
        ("train my_videos --randaugment 2", ("--randaugment", "'2' is not LAYERS MAGNITUDE")),
        ("train my_videos --timeout soon", ("--timeout", "'soon' is not a number")),
        ("train my_videos --overfit 0", ("overfit", "1 or more")),
        ("train my_videos --device tpu", ("device", "'tpu'")),
        ("report", ("RUN", "vivit report --help")),
        ("report my_videos", ("my_videos", "recipe.json")),
        ("evaluate my_videos", ("--model",)),
        ("evaluate my_videos --model x --split half", ("'half'", "--split")),
        ("predict clip.mp4 --model x --top many", ("--top", "'many' is not a whole number")),
        ("data show my_videos --count x", ("--count", "'x'", "vivit data show --help")),
        ("data pack my_videos", ("OUT",)),
        ("convert image_vit out --variant fast", ("'fast'", "--variant")),
        ("info image_vit --num-frames x", ("--num-frames", "'x'")),
        ("experiment nothing --out out", ("'nothing'", "there are list, paper")),
        ("experiment paper --out x --only tabel2", ("only", "did you mean table2")),
        ("experiment paper --out x --budget soon", ("budget", "'soon'", "6h")),
        ("experiment camera-videos", ("--out", "vivit experiment camera-videos --help")),
    ],
)
@pytest.mark.parametrize("columns", ["200", "40"])
def test_a_wrong_flag_of_any_verb_is_one_line(
    here: InProcess, monkeypatch: pytest.MonkeyPatch, flags: str, parts: tuple[str, ...], columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    result = here(*flags.split())
    one_line(result, *parts)
    assert result.out == ""
    assert "---" not in result.err


def test_data_that_cannot_be_learnt_from(folder: Path, here: InProcess, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    one_line(here("train", tmp_path / "nothing", *BRIEF), "nothing", "no videos found", "for each class")
    shutil.copytree(folder / "my_videos" / "train" / "lying", tmp_path / "one" / "lying")
    one_line(here("train", tmp_path / "one", *BRIEF), "one", "'lying'", "two or more")
    for name in CLASSES:
        (tmp_path / "two" / name).mkdir(parents=True)
        shutil.copy(folder / "my_videos" / "train" / name / "0.mp4", tmp_path / "two" / name)
    one_line(here("train", tmp_path / "two", *BRIEF), "two", "too few videos", "val split")


def test_without_a_val_split_a_fifth_is_held_out(folder: Path, here: InProcess, tmp_path: Path) -> None:
    shutil.copytree(folder / "my_videos" / "train", tmp_path / "data" / "train")
    result = here("train", tmp_path / "data", "--out", tmp_path / "run", *BRIEF)
    assert (result.status, result.err) == (0, "")
    assert re.search(r"train .*\b16 videos.*\b2 classes", result.out)
    assert re.search(r"validate .*\b4\b.*held out", result.out)
    answers = (tmp_path / "run" / "val_predictions.csv").read_text().splitlines()
    assert len(answers) == 5
