"""`vivit convert` and `vivit info`, and `vivit predict` with what they make."""

import json
import math
import re
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import VivitConfig, VivitForVideoClassification
from transformers.utils import logging

import vivit
from tests.end_to_end.conftest import InProcess
from tests.support import REFERENCE, run_vivit, tiny_model
from vivit.inference.views import clip_spec
from vivit.video.clips import read_views
from vivit.weights.store import save

SCENIC, IMAGE_VIT = REFERENCE / "scenic", REFERENCE / "image_init" / "vit32" / "vit.npz"
SMALL = ("--image-size", "32", "32")
NAMES = ["wave", "jump", "run", "sit", "lie", "stand", "turn"]
VARIANTS = ("spatiotemporal", "factorised_encoder", "factorised_self_attention", "factorised_dot_product")


@pytest.fixture
def run(vivit_here: InProcess) -> InProcess:
    return vivit_here


@pytest.fixture(scope="module")
def video(bright_dark: Path) -> Path:
    return bright_dark / "bright" / "bright0.mp4"


@pytest.fixture(scope="module")
def theirs() -> Iterator[VivitForVideoClassification]:
    logging.disable_progress_bar()
    torch.manual_seed(0)
    model = VivitForVideoClassification(
        VivitConfig(
            image_size=32,
            num_frames=4,
            tubelet_size=[2, 8, 8],
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            id2label={0: "bright", 1: "dark", 2: "neither"},
            label2id={"bright": 0, "dark": 1, "neither": 2},
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    yield model
    logging.enable_progress_bar()


@pytest.fixture(scope="module")
def theirs_folder(theirs: VivitForVideoClassification, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transformers") / "vivit-bright-dark"
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A model folder of ours: factorised encoder, eight frames of 32 × 32, seven classes."""
    model = tiny_model(
        {"classes": NAMES},
        origin=("trained for a test",),
        variant="factorised_encoder",
        num_frames=8,
        image_size=32,
        hidden_size=32,
        temporal_layers=1,
        num_classes=7,
        std=0.2,
    )
    save(model, tmp_path / "ours")
    return tmp_path / "ours"


@pytest.fixture
def names(tmp_path: Path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    return path


def clip_of(video: Path, folder: Path) -> Tensor:
    """The pixels that predict shows a model, as (1, T, C, H, W) in [−1, 1]."""
    (clip,) = read_views(video, clip_spec(vivit.load(folder)), 1, 1).frames
    return (clip[None] if clip.ndim == 4 else clip).float() / 127.5 - 1


def scores_of(answer: str) -> dict[str, float]:
    """What predict --json says."""
    return {each["label"]: each["score"] for each in json.loads(answer)["predictions"]}


def told(out: str) -> dict[str, str]:
    """What info says: name → text, its lines joined; a line without a name goes on with the one before."""
    about: dict[str, str] = {}
    name = ""
    for line in out.splitlines():
        name = line[:15].strip() or name
        about[name] = f"{about[name]}\n{line[15:]}" if name in about else line[15:]
    return about


def predicted(run: InProcess, video: Path, model: str) -> dict[str, float]:
    return scores_of(run("predict", video, "--model", model, "--json", "--top", "1000", "--device", "cpu").succeeded())


# ---- from every kind to a model that predicts


def test_a_model_of_transformers_keeps_its_answers(
    run: InProcess, video: Path, theirs: VivitForVideoClassification, theirs_folder: Path
) -> None:
    assert "written to new" in run("convert", theirs_folder, "new").succeeded()
    with torch.no_grad():
        expected = theirs(clip_of(video, Path("new"))).logits[0].softmax(dim=0)
    found = predicted(run, video, "new")
    assert found.keys() == {"bright", "dark", "neither"}
    for label, score in zip(("bright", "dark", "neither"), expected.tolist(), strict=True):
        assert found[label] == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_image_model_becomes_each_variant(run: InProcess, video: Path, names: Path, variant: str) -> None:
    out = run("convert", IMAGE_VIT, "new", "--variant", variant, "--num-frames", "4", "--classes", names).succeeded()
    assert "written to new" in out
    model = vivit.load("new")
    assert (model.config.variant, model.config.num_frames, model.config.tubelet_size) == (variant, 4, (2, 8, 8))
    with np.load(IMAGE_VIT) as file:
        kernel = torch.from_numpy(file["embedding/kernel"]).permute(3, 2, 0, 1)  # (h, w, C, D) → (D, C, h, w)
    found = model.state_dict()["embedding.weight"]
    # At the central frame of two (equation 9).
    assert torch.equal(found[:, :, 1], kernel)
    assert torch.count_nonzero(found[:, :, 0]) == 0
    # Nothing was learned yet: all labels alike.
    scores = predicted(run, video, "new")
    assert scores.keys() == set(NAMES)
    assert all(score == pytest.approx(1 / 7) for score in scores.values())


def test_an_image_model_by_filter_inflation(run: InProcess) -> None:
    flags = ("--tubelet-size", "4", "8", "8", "--tubelet-init", "filter_inflation", "--num-classes", "3")
    run("convert", IMAGE_VIT, "new", *flags).succeeded()
    with np.load(IMAGE_VIT) as file:
        kernel = torch.from_numpy(file["embedding/kernel"]).permute(3, 2, 0, 1)
    found = vivit.load("new").state_dict()["embedding.weight"]
    torch.testing.assert_close(found, kernel[:, :, None].expand(-1, -1, 4, -1, -1) / 4)


@pytest.mark.parametrize("case", ["fe", "joint"])
def test_a_checkpoint_of_scenic_with_names(run: InProcess, video: Path, names: Path, case: str) -> None:
    out = run("convert", SCENIC / case / "checkpoint", "new", *SMALL, "--classes", names).succeeded()
    # The names belong to the trained head.
    assert "fresh" not in out
    model = vivit.load("new")
    with np.load(SCENIC / case / "io.npz") as io, torch.no_grad():
        logits = model(torch.from_numpy(io["video"]).permute(0, 1, 4, 2, 3)).numpy()
        assert np.abs(logits - io["logits"]).max() <= 1e-5 * np.abs(io["logits"]).max()
        expected = model(clip_of(video, Path("new")))[0].softmax(dim=0)
    found = predicted(run, video, "new")
    assert [found[name] for name in NAMES] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_checkpoint_of_scenic_with_heads(run: InProcess, video: Path) -> None:
    source = SCENIC / "fe_epic" / "checkpoint"
    run("convert", source, "new", *SMALL, "--heads", "noun=5", "verb=3").succeeded()
    model = vivit.load("new")
    with np.load(SCENIC / "fe_epic" / "io.npz") as io, torch.no_grad():
        logits = model(torch.from_numpy(io["video"]).permute(0, 1, 4, 2, 3))
        expected = torch.from_numpy(io["logits"])
    torch.testing.assert_close(torch.cat([logits["noun"], logits["verb"]], dim=1), expected, rtol=1e-5, atol=1e-5)
    about = told(run("info", "new").succeeded())
    assert (about["head noun"][:2], about["head verb"][:2]) == ("5:", "3:")
    run("predict", video, "--model", "new").one_line("new: .*class names")


def test_our_folder_for_other_clips_and_classes(run: InProcess, video: Path, ours: Path, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("bright\ndark\n")
    flags = ("--num-frames", "16", "--image-size", "48", "32", "--tubelet-size", "4", "8", "8", "--classes", "two.txt")
    out = run("convert", "ours", "new", *flags).succeeded()
    config = vivit.load("new").config
    assert (config.num_frames, config.image_size, config.tubelet_size) == (16, (48, 32), (4, 8, 8))
    scores = predicted(run, video, "new")
    # A fresh head knows nothing.
    assert scores == {"bright": pytest.approx(0.5), "dark": pytest.approx(0.5)}

    *steps, last = out.splitlines()
    assert last == "written to new"
    for pattern in (r"4 × 4.* 6 × 4", r"kernel.* 2 .*4 frames", r"fresh head.* 2 classes.* 7", r"shorter side"):
        assert any(re.search(pattern, step) for step in steps), (pattern, steps)
    # Whoever gets the folder is told the same, after what it was before.
    origin = told(run("info", "new").succeeded())["origin"]
    positions = [origin.index(step) for step in ("trained for a test", *steps)]
    assert positions == sorted(positions)


def test_info_tells_what_would_be_changed_without_writing(run: InProcess, ours: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    about = told(run("info", "ours", "--num-frames", "16", "--image-size", "48", "32").succeeded())
    assert about["clip"] == "16 frames of 48 × 32"
    assert re.search(r"4 × 4.* 6 × 4", about["origin"])
    assert re.search(r"from 4 to 8", about["origin"])
    assert sorted(tmp_path.rglob("*")) == before


def test_converting_a_folder_into_itself(run: InProcess, video: Path, ours: Path) -> None:
    kept = predicted(run, video, "ours")
    run("convert", "ours", "ours").succeeded()
    assert predicted(run, video, "ours") == pytest.approx(kept, abs=1e-6)
    run("convert", "ours", "ours", "--num-frames", "16").succeeded()
    assert vivit.load("ours").config.num_frames == 16
    assert sorted(path.name for path in ours.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_a_run_an_exported_model_and_a_folder_of_videos_are_not_written_into(run: InProcess, ours: Path) -> None:
    for other in ("recipe.json", "model.onnx", "clip.mp4"):
        before = {file.name: file.read_bytes() for file in ours.iterdir()}
        (ours / other).touch()
        run("convert", "ours", "ours", "--num-frames", "16").one_line(f"ours: .*{other}.*choose another name")
        (ours / other).unlink()
        assert {file.name: file.read_bytes() for file in ours.iterdir()} == before


def test_to_transformers_and_back(run: InProcess, video: Path, names: Path) -> None:
    source = SCENIC / "joint" / "checkpoint"
    run("convert", source, "theirs", *SMALL, "--classes", names, "--to", "huggingface").succeeded()
    model = VivitForVideoClassification.from_pretrained("theirs").eval()
    with np.load(SCENIC / "joint" / "io.npz") as io, torch.no_grad():
        logits = model(torch.from_numpy(io["video"]).permute(0, 1, 4, 2, 3)).logits.numpy()
        assert np.abs(logits - io["logits"]).max() <= 1e-5 * np.abs(io["logits"]).max()
    assert model.config.id2label == dict(enumerate(NAMES))
    run("convert", source, "ours", *SMALL, "--classes", names).succeeded()
    assert predicted(run, video, "theirs") == pytest.approx(predicted(run, video, "ours"), abs=1e-5)


def test_a_licence_gets_into_the_card(run: InProcess, theirs_folder: Path) -> None:
    run("convert", theirs_folder, "new", "--licence", "apache-2.0").succeeded()
    assert "\nlicense: apache-2.0\n" in Path("new/README.md").read_text()


@pytest.mark.parametrize("text", ["\ufeffwave\njump\nrun\n", "wave\r\njump\r\n\r\n  run  "])
def test_a_file_of_names_as_editors_leave_it(run: InProcess, theirs_folder: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "names.txt").write_bytes(text.encode())
    run("convert", theirs_folder, "new", "--classes", "names.txt").succeeded()
    assert vivit.load("new").classes == {"classes": ("wave", "jump", "run")}


def test_an_id_of_the_hub_serves_every_verb(
    run: InProcess, video: Path, theirs_folder: Path, tmp_path: Path, bright_dark: Path
) -> None:
    snapshot = tmp_path / "hub" / "models--name--model" / "snapshots" / ("0" * 40)
    shutil.copytree(theirs_folder, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    assert "name/model" in told(run("info", "name/model").succeeded())["origin"]
    run("convert", "name/model", "new").succeeded()
    assert predicted(run, video, "name/model") == pytest.approx(predicted(run, video, "new"), abs=1e-6)


# ---- what info says


def shapes_in(folder: Path) -> dict[str, list[int]]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def test_info_agrees_with_the_files(run: InProcess, theirs_folder: Path) -> None:
    out = run("info", theirs_folder).succeeded()
    about = told(out)
    count = sum(math.prod(shape) for shape in shapes_in(theirs_folder).values())
    assert int(about["parameters"].replace(",", "")) == count
    # Every token against every other: 2 × 4 × 4 of them and the class token.
    times, rows, columns, width, mlp, layers, outputs = 2, 4, 4, 32, 48, 2, 3
    tokens = times * rows * columns + 1
    cost = (tokens - 1) * 3 * 2 * 8 * 8 * width + outputs * width
    cost += layers * (tokens * (4 * width**2 + 2 * width * mlp) + 2 * tokens**2 * width)
    amount, unit = re.findall(r"^([\d.]+) ([kMG])\b", about["multiply-adds"])[0]
    assert float(amount) * {"k": 1e3, "M": 1e6, "G": 1e9}[unit] == pytest.approx(cost, rel=1e-3)
    assert about["clip"] == "4 frames of 32 × 32"
    assert about["classes"] == "3: bright, dark, neither"
    assert "transformers" in about["origin"]
    assert theirs_folder.name in about["origin"]


def test_info_of_an_image_model_says_what_is_not_learned(run: InProcess) -> None:
    about = told(run("info", IMAGE_VIT).succeeded())
    assert "image ViT" in about["kind"]
    assert about["tokens"].startswith("1 × 4 × 4")
    assert "head/kernel" in about["note"]
    # Nor classes or frames that nobody asked for.
    assert not {"classes", "clip", "variant"} & about.keys()
    video = told(run("info", IMAGE_VIT, "--variant", "factorised_encoder", "--num-frames", "8").succeeded())
    assert video["clip"] == "8 frames of 32 × 32"
    assert "vit.npz" in video["origin"]
    assert "heads" in video["origin"]


# ---- mistakes

JOINT, EPIC = SCENIC / "joint" / "checkpoint", SCENIC / "fe_epic" / "checkpoint"
MISTAKES: dict[str, tuple[list[str | Path], list[str]]] = {
    "no source": (["missing"], ["missing: no such file"]),
    "no id": (["name/missing"], ["name/missing", "Hub"]),
    "malformed id": (["a b/c"], ["a b/c"]),
    "long": (["a" * 5000], ["a" * 50]),
    "video": (["clip.mp4"], ["clip.mp4", "not readable as weights"]),
    "text": (["text.txt"], ["text.txt", "not readable as weights"]),
    "empty file": (["empty.txt"], ["empty.txt", "not readable as weights"]),
    "empty folder": (["nothing"], ["nothing", "config.json"]),
    "file of a folder": (["ours/model.safetensors"], ["model.safetensors", "give the folder"]),
    "sizes not told": ([JOINT], ["checkpoint", "image.size"]),
    "variant not told": ([SCENIC / "fdp" / "checkpoint", *SMALL], ["variant", "factorised_dot_product"]),
    "order not told": ([SCENIC / "fsa" / "checkpoint", *SMALL], ["attention.order"]),
    "other variant": ([JOINT, *SMALL, "--variant", "factorised_encoder"], ["factorised_encoder", "spatiotemporal"]),
    "order of another": ([JOINT, *SMALL, "--attention-order", "space_time"], ["attention.order"]),
    "picture not whole": ([IMAGE_VIT, "--image-size", "33", "32"], ["image.size", "33", "32 or 40"]),
    "picture of ours not whole": (["ours", "--image-size", "32", "33"], ["ours", "image.size", "33"]),
    "frames not whole": (["ours", "--num-frames", "9"], ["ours", "num.frames", "8 or 10"]),
    "places do not divide": ([JOINT, "--image-size", "32", "40"], ["image.size", "20", "64"]),
    "head without number": ([EPIC, *SMALL, "--heads", "noun"], ["heads", "noun"]),
    "head with a word": ([EPIC, *SMALL, "--heads", "noun=5", "verb=x"], ["heads", "verb=x"]),
    "head without name": ([EPIC, *SMALL, "--heads", "=5", "verb=3"], ["heads"]),
    "head of none": ([EPIC, *SMALL, "--heads", "noun=0", "verb=8"], ["heads"]),
    "head twice": ([EPIC, *SMALL, "--heads", "noun=5", "noun=3"], ["heads", "noun"]),
    "names missing": (["ours", "--classes", "names.csv"], ["names.csv: No such file"]),
    "names empty": (["ours", "--classes", "empty.txt"], ["empty.txt"]),
    "names a folder": (["ours", "--classes", "nothing"], ["nothing"]),
    "names a video": (["ours", "--classes", "clip.mp4"], ["clip.mp4", "text"]),
    "names of another number": (["ours", "--classes", "text.txt", "--num-classes", "5"], ["5", "1"]),
    "names of an image model": ([IMAGE_VIT, "--classes", "text.txt", "--num-classes", "5"], ["5", "1"]),
    "kernel anew": (["ours", "--tubelet-init", "random"], ["tubelet.init"]),
    "not in transformers": (["ours", "--to", "huggingface"], ["factorised.encoder"]),
    "heads not in transformers": ([JOINT, *SMALL, "--heads", "a=3", "b=4", "--to", "huggingface"], ["heads"]),
}


@pytest.mark.parametrize(("arguments", "patterns"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(
    run: InProcess, ours: Path, video: Path, tmp_path: Path, arguments: list[str | Path], patterns: list[str]
) -> None:
    shutil.copy(video, tmp_path / "clip.mp4")
    (tmp_path / "text.txt").write_text("This is not a model.\n")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "nothing").mkdir()
    source, *flags = arguments
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    result = run("convert", source, "new", *flags)
    result.one_line(*patterns)
    assert result.out == ""
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("out", ["file", "file/inner"])
@pytest.mark.parametrize("to", ["vivit", "huggingface"])
def test_out_that_cannot_be_a_folder(run: InProcess, theirs_folder: Path, tmp_path: Path, out: str, to: str) -> None:
    (tmp_path / "file").write_text("stays")
    run("convert", theirs_folder, out, "--to", to).one_line(out)
    assert (tmp_path / "file").read_text() == "stays"


def test_other_variants_are_not_made_of_ours(run: InProcess, ours: Path) -> None:
    result = run("convert", "ours", "new", "--variant", "spatiotemporal")
    result.one_line("ours", "spatiotemporal")
    # That is what was asked for; nobody spoke of temporal layers.
    assert "temporal_layers" not in result.err
    assert not Path("new").exists()


def test_names_that_no_file_can_hold_are_one_line(run: InProcess, theirs_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(theirs_folder, tmp_path / "hostile")
    config = json.loads((tmp_path / "hostile" / "config.json").read_text())
    config["id2label"]["0"] = "\ud800"
    (tmp_path / "hostile" / "config.json").write_text(json.dumps(config))
    result = run("convert", "hostile", "new")
    assert result.status in (0, 2), result
    assert len(result.err.splitlines()) <= 1
    assert not list(tmp_path.rglob("*.unfinished"))


def test_a_full_disk_leaves_no_half_written_weights(run: InProcess, tmp_path: Path) -> None:
    size = 60_000
    assert JOINT.stat().st_size > 2 * size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        result = run("convert", JOINT, "new", *SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    result.one_line("new/model.safetensors: not written")
    # An empty folder at most.
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# ---- as it is installed


def test_the_installed_command(theirs_folder: Path, video: Path, tmp_path: Path) -> None:
    shutil.copytree(theirs_folder, tmp_path / "theirs")
    assert run_vivit("convert", "theirs", "new", folder=tmp_path).succeeded().endswith("written to new\n")
    answer = run_vivit("predict", video, "--model", "new", "--json", "--device", "cpu", folder=tmp_path).succeeded()
    assert sum(scores_of(answer).values()) == pytest.approx(1)
