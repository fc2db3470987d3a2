"""`vivit extract` on files that the tests make."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet
from safetensors import safe_open

import vivit
from tests.end_to_end.conftest import InProcess
from tests.support import encode, noisy, run_vivit, tiny_model
from vivit.config import Preprocessing
from vivit.inference.extract import FeatureStore
from vivit.inference.timeline import ScoredWindow
from vivit.inference.views import clip_spec
from vivit.video.clips import read_views

CLASSES: dict[str, Sequence[str]] = {"classes": ["v", "w", "x", "y", "z"]}
MODEL = ("--model", "model", "--device", "cpu", "--step", "5")
SPAN = 11  # frames of a window
ENDINGS = (".npy", ".parquet", ".safetensors")


@pytest.fixture
def here(vivit_here: InProcess, tmp_path: Path) -> InProcess:
    vivit.save(tiny_model(CLASSES, Preprocessing(frame_stride=2, resize=32), variant="factorised_encoder"), "model")
    frames = [frame for brightness in (40, 120, 200, 80) for frame in noisy(brightness, frames=7)]
    encode(tmp_path / "clip.mp4", frames)
    encode(tmp_path / "=other.mp4", frames[8:])
    return vivit_here


def test_every_kind_of_file_has_the_same_rows(here: InProcess, tmp_path: Path) -> None:
    for ending in ENDINGS:
        told = here("extract", "clip.mp4", "=other.mp4", *MODEL, "--out", f"out{ending}")
        assert (told.status, told.out, told.err) == (0, "", f"8 windows of 2 videos in out{ending}\n")
    vectors = np.load("out.npy")
    assert (vectors.shape, vectors.dtype) == ((8, 16), np.float32)
    with open("out.csv", newline="") as file:
        rows = [(row["video"].lstrip("'"), float(row["start"]), float(row["end"])) for row in csv.DictReader(file)]
    starts = [0, 5, 10, 15, 17]  # one more ends with the last frame
    assert rows[:5] == [("clip.mp4", pytest.approx(s / 25), pytest.approx((s + SPAN) / 25)) for s in starts]
    assert [video for video, *_ in rows] == ["clip.mp4"] * 5 + ["=other.mp4"] * 3

    table = parquet.read_table("out.parquet")
    assert [tuple(row[name] for name in ("video", "start", "end")) for row in table.to_pylist()] == rows
    assert np.array_equal(table["features"].to_pylist(), vectors)
    with safe_open("out.safetensors", "np") as held:
        about = held.metadata()
        videos = json.loads(about["videos"])
        assert np.array_equal(held.get_tensor("features"), vectors)
        times = zip(held.get_tensor("start").tolist(), held.get_tensor("end").tolist(), strict=True)
        found = [(videos[n], *both) for n, both in zip(held.get_tensor("video").tolist(), times, strict=True)]
    assert found == rows
    assert about.keys() == {"model", "precision", "what", "step", "videos"}
    assert {key.decode() for key in table.schema.metadata} == about.keys() - {"videos"}
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.csv", *(f"out{e}" for e in ENDINGS)]


def test_a_window_has_the_features_of_the_clip_that_predict_takes(here: InProcess, tmp_path: Path) -> None:
    model = vivit.load("model").eval()
    predictor = vivit.Predictor("model", "cpu")
    encode(tmp_path / "short.mkv", noisy(90, frames=SPAN), codec="ffv1", pixel_format="bgr0")
    (window,) = vivit.extract(predictor, "short.mkv")
    clip = read_views(Path("short.mkv"), clip_spec(model), 1, 1).frames
    with torch.inference_mode():
        np.testing.assert_allclose(window.features, model.features(clip)[0], atol=1e-5)


def test_tokens_in_time_keep_their_shape(here: InProcess) -> None:
    shapes = {"token": (8, 16), "pooled": (8, 16), "temporal": (8, 3, 16), "tokens": (8, 4, 16)}
    for what, shape in shapes.items():
        here("extract", "clip.mp4", "=other.mp4", *MODEL, "--what", what, "--out", f"{what}.npy")
        assert np.load(f"{what}.npy").shape == shape
    here("extract", "clip.mp4", "=other.mp4", *MODEL, "--what", "temporal", "--out", "temporal.parquet")
    table = parquet.read_table("temporal.parquet")
    assert np.array_equal(table["features"].to_pylist(), np.load("temporal.npy"))


def test_a_run_that_was_stopped_goes_on_and_writes_the_same_file(
    here: InProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ("extract", "clip.mp4", "=other.mp4", *MODEL, "--out")
    here(*words, "whole.safetensors")
    added: list[str] = []
    add = FeatureStore.add

    def stopped_at_the_second(store: FeatureStore, video: Path, windows: Iterable[ScoredWindow]) -> None:
        if added == ["clip.mp4"]:
            added.append("stopped")
            next(iter(windows))
            raise KeyboardInterrupt
        added.append(video.name)
        add(store, video, windows)

    monkeypatch.setattr(FeatureStore, "add", stopped_at_the_second)
    told = here(*words, "out.safetensors")
    assert told.status == 130 and "stopped after 1 of 2 videos; the same command continues from there" in told.err
    assert not (tmp_path / "out.safetensors").exists()
    here(*words, "out.safetensors")
    assert added == ["clip.mp4", "stopped", "=other.mp4"]
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()

    # What depends on something else is computed again.
    here(*words, "folder")
    here(*words, "folder")
    assert added[3:] == ["clip.mp4", "=other.mp4"]
    here(*words, "folder", "--what", "pooled")
    encode(tmp_path / "clip.mp4", noisy(70, frames=20))
    here(*words, "folder", "--what", "pooled")
    assert added[5:] == ["clip.mp4", "=other.mp4", "clip.mp4"]
    with safe_open("folder/clip.mp4.safetensors", "np") as file:
        assert file.get_slice("features").get_shape() == [3, 16]
        assert file.metadata()["video"] == "clip.mp4"


def test_a_video_that_cannot_be_read_costs_itself_only(here: InProcess, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    told = here("extract", "clip.mp4", "broken.mp4", *MODEL, "--out", "out.npy")
    assert told.status == 2 and "broken.mp4" in told.err
    assert len(np.load("out.npy")) == 5
    assert here("extract", "broken.mp4", *MODEL, "--out", "nothing.npy").status == 2
    assert not list(tmp_path.glob("nothing.*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--out", "out.npy", "--step", "0"), "step: 0 frames"),
        (("--out", "out.mov"), "out.mov: .*must end in"),
        (("--out", "no/out.npy"), "no: no such folder"),
        (("--out", "list.npy"), "list.csv: exists; delete it"),
        (("other/clip.mp4", "--out", "folder"), "clip.mp4.safetensors: .*other.clip.mp4; give --out a file"),
    ],
)
def test_mistakes_are_one_line(here: InProcess, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "list.csv").touch()
    (tmp_path / "other").mkdir()
    encode(tmp_path / "other" / "clip.mp4", noisy(90))
    here("extract", "clip.mp4", *MODEL, *words).one_line(said)


def test_a_model_without_class_token_says_so(here: InProcess) -> None:
    vivit.save(tiny_model(CLASSES, variant="factorised_self_attention"), "no_token")
    words = ("extract", "clip.mp4", "--model", "no_token", "--what", "token", "--out", "out.npy")
    here(*words).one_line("what: the model has no class token")


def test_the_installed_command_with_the_model_of_the_package(tmp_path: Path) -> None:
    encode(tmp_path / "clip.mp4", noisy(90, frames=60))
    ran = run_vivit("extract", "clip.mp4", "--out", "out.npy", folder=tmp_path)
    assert ran.status == 0 and ran.err.endswith("4 windows of 1 video in out.npy\n")
    assert np.load(tmp_path / "out.npy").shape == (4, 160)
