"""What the pages in docs/ say to type works, on small stand-ins under the names of the real files."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import vivit
from tests.end_to_end.conftest import InProcess
from tests.support import tiny_model
from vivit import cli
from vivit.training import plan

FOLDER = Path(__file__).resolve().parents[2] / "docs"
DOCS = (FOLDER / "weights.md").read_text()
TRAINING = (FOLDER / "training.md").read_text()
PREDICTING = (FOLDER / "predicting.md").read_text()
TIMELINE = (FOLDER / "timeline.md").read_text()
STREAM = (FOLDER / "stream.md").read_text()
ATTENTION = (FOLDER / "attention.md").read_text()
FEATURES = (FOLDER / "features.md").read_text()
SEARCH = (FOLDER / "search.md").read_text()
EXPORT = (FOLDER / "export.md").read_text()
# What makes the commands of docs/training.md small.
IN_ONE_PROCESS = ("--workers", "0", "--device", "cpu")
SMALL: dict[str, tuple[str, ...]] = {
    "train": (
        *("--epochs", "1", "--min-steps", "1", "--batch-size", "4", "--model", "None"),
        *("--num-frames", "4", "--image-size", "32", "--resize", "None", *IN_ONE_PROCESS),
    ),
    "pretrain": (
        *("--epochs", "1", "--batch-size", "4", "--num-frames", "4", "--image-size", "32", "--decoder-layers", "1"),
        *("--architecture.num-layers", "1", *IN_ONE_PROCESS),
    ),
    "evaluate": IN_ONE_PROCESS,
}
Typed = Callable[[str, Path], str]


def blocks(language: str, text: str = DOCS) -> str:
    return "\n".join(re.findall(rf" *```{language}\n(.*?)```", text, re.DOTALL))


@pytest.fixture
def folder(stand_ins: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    shutil.copytree(stand_ins, folder)
    return folder


def test_the_command_for_every_published_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    commands = re.findall(r"\| `vivit convert (.*?)` \|", DOCS)
    assert len(commands) == 7
    for command in commands:
        # In this process: a process for each takes seconds.
        cli.build_app()(["convert", *command.split()])
        source, out = command.split()
        model = vivit.load(folder / out)
        if source.endswith("/checkpoint"):
            assert (model.config.num_frames, model.config.image_size) == (32, (224, 224))
            assert (model.config.variant == "factorised_encoder") == ("_fe/" in source)
            # The folder that Scenic names after the model does as well as the file in it.
            assert vivit.load((folder / source).parent).config == model.config
    assert model.origin == ("transformers' ViViT google/vivit-b-16x2",)
    epic = vivit.load(folder / "l-fe-epic")
    assert epic.config.heads == {"noun": 300, "verb": 97}
    assert epic.preprocessing.frame_stride == 1


def test_commands_and_python(folder: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder / "google" / "vivit-b-16x2", folder / "run")
    for command in blocks("sh").splitlines():
        typed(command, folder)
    assert json.loads((folder / "out" / "config.json").read_text())["model_type"] == "vivit"
    start = vivit.load(folder / "start")
    assert (start.config.variant, start.config.num_frames) == ("factorised_encoder", 16)
    assert start.classes == {"classes": ("wave", "jump")}

    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(blocks("python"), names)
    model = names["model"]
    assert isinstance(model, vivit.ViViT)
    assert model.config.variant == "factorised_encoder"
    assert model.config.activation == "gelu_tanh"  # of the .npz, which came last


@pytest.fixture
def trained(folder: Path, vivit_here: InProcess, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Command → what it printed, of all that docs/training.md says to type."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(plan, "OVERFIT_STEPS", 4)
    printed = {}
    for line in filter(str.strip, blocks("sh", TRAINING).splitlines()):
        program, verb, *words = shlex.split(line)
        assert program == "vivit"
        small = SMALL.get(verb, ())
        result = vivit_here(verb, *words, *small)
        assert (result.status, result.err) == (0, ""), line
        printed[line.strip()] = result.out
    return printed


def test_commands_of_the_guide_to_training(folder: Path, trained: dict[str, str]) -> None:
    assert len(trained) >= 15
    held = {path.name for path in (folder / "run").iterdir()}
    table = TRAINING.partition("What a run folder holds")[2].partition("\n## ")[0]
    named = re.findall(r"`([^`]+)`", "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|")))
    assert set(named) >= {"config.json", "checkpoints/", "report.html", "sessions.jsonl"}
    for name in named:
        assert list((folder / "run").glob(name)), f"{name} is not among {held}"
    # All there is but what `vivit evaluate` adds.
    assert held - {"evaluation"} <= {path.name for name in named for path in (folder / "run").glob(name)}

    assert vivit.load(folder / "run-actions").config.heads == {"noun": 3, "verb": 2}
    assert vivit.load(folder / "run-tags").config.multi_label
    assert vivit.load(folder / "run-frozen").config.adapter_size == 64
    assert (folder / "run-frozen" / "features").is_dir()
    assert vivit.load(folder / "run-probe").config.attentive_pooling
    assert vivit.load(folder / "epic-run").config.variant == "factorised_encoder"
    learnt_by_heart = next(text for command, text in trained.items() if "--overfit" in command)
    assert re.search(r"the loss went from \S+ to \S+ in \d+ steps", learnt_by_heart)
    assert (folder / "answers.csv").read_text().count("\n") == 3  # the names of columns, and two held-out videos


def test_every_flag_in_the_guide_to_training_exists(vivit_here: InProcess) -> None:
    verbs = (("train",), ("pretrain",), ("evaluate",), ("data", "show"), ("data", "check"), ("predict",))
    helps = " ".join(vivit_here(*verb, "--help").out for verb in verbs)
    of_others = {"--nproc-per-node", "--logdir", "--help"}
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", TRAINING)) - of_others
    assert len(flags) > 20
    assert {flag for flag in flags if not re.search(rf"{flag}(?![\w-])", helps)} == set()


def test_commands_and_python_of_the_guide_to_predicting(
    folder: Path,
    vivit_here: InProcess,
    typed: Typed,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    vivit.save(tiny_model(classes={"classes": ["a", "b", "c", "d", "e"]}), folder / "run")
    (folder / "list.txt").write_text("clip.mp4\nmy_videos\n")
    lines = [line for line in blocks("sh", PREDICTING).splitlines() if line]
    assert len(lines) == 11
    for line in lines:
        if "|" in line:
            typed(line, folder)
            continue
        command, _, file = line.partition(" > ")
        program, *words = shlex.split(command, comments=True)
        assert program == "vivit"
        result = vivit_here(*words)
        # Without a model, a line on stderr tells which one answers.
        printed = result.succeeded() if "--model" in words else result.out
        if file:
            (folder / file).write_text(printed)
    assert (folder / "labelled.mp4").exists()
    assert (folder / "answers.csv").read_text().count("\n") == 1 + 12 * 5
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [len(row["predictions"]) for row in rows] == [1] * 12
    exec(blocks("python", PREDICTING), {})
    answers = r"clip\.mp4 [a-e] .*\nnot read: missing\.mp4: no such file\n"
    assert re.fullmatch(answers + r"(\d+ \('[a-e]', [\d.]+\)\n)+", capsys.readouterr().out)


def test_timelines(
    folder: Path, vivit_here: InProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    vivit.save(tiny_model({"classes": ["nothing", "b", "c", "d", "e"]}), folder / "run")
    clips = sorted((folder / "my_videos").rglob("*.mp4"))
    shutil.copy(clips[0], folder / "holiday.mp4")
    (folder / "spans.csv").write_text("path,label,start,end\nholiday.mp4,b,0,0.1\nholiday.mp4,c,0.1,0.3\n")
    for line in filter(None, blocks("sh", TIMELINE).splitlines()):
        command, _, file = line.partition(" > ")
        program, *words = shlex.split(command)
        assert program == "vivit"
        result = vivit_here(*words)
        assert result.status == 0, result
        if file:
            (folder / file).write_text(result.out)
    written = {path.name for path in folder.glob("holiday.*")}
    assert written == {"holiday.mp4", "holiday.html", "holiday.png", "holiday.vtt"}
    assert (folder / "shown.mp4").exists()
    assert {row.split(",")[0] for row in (folder / "segments.csv").read_text().splitlines()[1:]} <= set(
        map(str, (clip.relative_to(folder) for clip in clips))
    )
    window = json.loads((folder / "scores.jsonl").read_text().splitlines()[0])
    assert window["start"] == 0 and sum(window["scores"].values()) == pytest.approx(1, abs=1e-5)
    exec(blocks("python", TIMELINE), {})
    assert capsys.readouterr().out


def test_streams(
    folder: Path, vivit_here: InProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    vivit.save(tiny_model({"classes": ["nothing", "b", "c", "d", "e"]}), folder / "run")
    shutil.copy(folder / "clip.mp4", folder / "holiday.mp4")
    for line in blocks("sh", STREAM).splitlines():
        result = vivit_here(*shlex.split(line.partition(" > ")[0])[1:])
        assert result.status == 0, result
    assert json.loads(result.out.splitlines()[0])["start"] == 0
    exec(blocks("python", STREAM), {})
    lines = capsys.readouterr().out.splitlines()
    assert "0 (0.0, 0.0)" in lines and lines[-1] == "1"


def test_features(
    folder: Path, vivit_here: InProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    vivit.save(tiny_model({"classes": ["a", "b", "c", "d", "e"]}), folder / "run")
    shutil.copy(folder / "clip.mp4", folder / "my_videos" / "holiday.mp4")
    shutil.copy(folder / "clip.mp4", folder / "holiday.mp4")
    for line in filter(None, blocks("sh", FEATURES).splitlines()):
        _, *words = shlex.split(line)
        assert vivit_here(*words).status == 0, line
    assert {path.name for path in folder.glob("holiday.*")} == {"holiday.mp4", "holiday.npy", "holiday.csv"}
    assert len(list((folder / "features").iterdir())) == len(list((folder / "my_videos").rglob("*.mp4")))
    for block in re.findall(r"```python\n(.*?)```", FEATURES, re.DOTALL):
        exec(block, {})
        assert capsys.readouterr().out


def test_search(
    folder: Path, vivit_here: InProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    vivit.save(tiny_model({"classes": ["jump", "b", "c", "d", "e"]}), folder / "run")
    for line in filter(None, blocks("sh", SEARCH).splitlines()):
        program, *words = shlex.split(line)
        if program == "vivit":
            assert vivit_here(*words).status == 0, line
    assert (folder / "answers.png").is_file()
    table = re.findall(r"^\| `(\S+)` \|", SEARCH, re.MULTILINE)
    assert {path.name for path in (folder / "my_index").iterdir()} == set(table)
    for block in re.findall(r"```python\n(.*?)```", SEARCH, re.DOTALL):
        exec(block, {})
        assert capsys.readouterr().out


def test_attention(
    folder: Path, vivit_here: InProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    vivit.save(tiny_model({"classes": ["jump", "b", "c", "d", "e"]}, variant="factorised_encoder"), folder / "run")
    for line in filter(None, blocks("sh", ATTENTION).splitlines()):
        program, *words = shlex.split(line)
        assert program == "vivit"
        assert vivit_here(*words).status == 0, line
    assert all((folder / name).stat().st_size for name in ("overlaid.mp4", "strip.png", "maps.npz"))
    exec(blocks("python", ATTENTION), {})
    assert capsys.readouterr().out.startswith("0.0 ")


def test_commands_of_the_guide_to_exporting(
    folder: Path, vivit_here: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    vivit.save(tiny_model(classes={"classes": ["a", "b", "c", "d", "e"]}, num_layers=1), folder / "run")
    lines = [line for line in blocks("sh", EXPORT).splitlines() if line and not line.startswith("pip ")]
    assert len(lines) == 5
    for line in lines:
        _, *words = shlex.split(line)
        vivit_here(*words).succeeded()
    assert {*json.loads((folder / "exported" / "parity.json").read_text())} == {
        *("clips", "taken_from", "precision", "max_difference", "max_logit", "same_top1")
    }
    for file in ("config.json", "export.json", "parity.json", "model.onnx"):
        assert f"`{file}`" in EXPORT and (folder / "exported" / file).is_file()
    assert {path.name for path in (folder / "small").glob("model.*")} == {"model.xml", "model.bin"}
