"""What works without the extras: labelling, converting and checking; the other verbs say what to install."""

import json
import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.utils import canonicalize_name

import vivit
from benchmarks.install_size import packages, requirements
from tests.support import tiny_model
from vivit.cli import EXTRAS, TRAIN_EXTRA
from vivit.config import Preprocessing

# Runs commands where some packages seem not to be installed; prints their exit statuses and what they said, as JSON.
SCRIPT = """
import contextlib, io, json, sys
from importlib.machinery import PathFinder

blocked, commands = (json.loads(argument) for argument in sys.argv[1:])
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *place: None if name.partition(".")[0] in blocked else find(name, *place)
import vivit
from vivit.cli import main

results = []
for command in commands:
    sys.argv = ["vivit", *command]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as error:
        try:
            main()
        except SystemExit as end:
            status = end.code
    results.append((status, out.getvalue(), error.getvalue()))
print(json.dumps(results))
"""


def run_without(blocked: set[str], commands: list[list[str]], folder: Path) -> list[tuple[int, str, str]]:
    arguments = [json.dumps(sorted(blocked)), json.dumps(commands)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SCRIPT, *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=600)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_without_extras_videos_are_labelled_and_training_says_what_to_install(
    tmp_path: Path, bright_dark: Path
) -> None:
    allowed = {*packages(requirements()), "vivit"}
    blocked = {
        module
        for module, owners in packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & allowed and not module.startswith("_")
    }
    assert blocked >= {"accelerate", "matplotlib", "tensorboard", "skimage", "pyarrow", "transformers"}
    model = tiny_model({"classes": list("abcde")}, Preprocessing(frame_stride=1, resize=24))
    vivit.save(model, tmp_path / "model")
    clip, data = str(bright_dark / "dark" / "dark0.mp4"), str(bright_dark)
    before = [["predict", clip, "--model", "model"], ["info", "model"], ["convert", "model", "copy"]]
    checks = [["predict", clip], ["data", "check", data], ["train", "--help"]]
    extract = ["extract", clip, "--model", "model", "--out"]
    refused = [
        ["experiment", "camera-videos", "--out", "x"],
        ["index", data, "--model", "model", "--out", "x"],
        [*extract, "x.parquet"],
    ]
    works = [*before, ["predict", clip, "--model", "copy"], *checks, [*extract, "x.npy"]]
    *worked, photographs, index, parquet = run_without(blocked, [*works, *refused], tmp_path)
    assert [status for status, _, _ in worked] == [0] * len(worked), worked
    assert worked[3][1] == worked[0][1] and any(f" {name}" in worked[0][1] for name in "abcde")
    assert photographs[0] == 2 and photographs[2].endswith("pip install 'vivit[demo]'\n")
    assert index == [2, "", "vivit: x: an index needs pyarrow: pip install 'vivit[search]'\n"]
    assert parquet[0] == 2 and parquet[2].endswith("pip install 'vivit[parquet]', or write .npy\n")

    # jinja2 comes with torch.
    training = [
        ["train", data, "--out", "run"],
        ["evaluate", data, "--model", "model"],
        ["data", "show", data],
        ["demo"],
        ["timeline", clip, "--out", "x.html"],
        ["attention", clip, "--out", "x.png"],
        ["predict", clip, "--overlay", "x.mp4"],
    ]
    for verb, (status, said, complaint) in zip(
        ("train", "evaluate", "data show", "demo", "timeline", "attention", "predict"),
        run_without({*blocked, *TRAIN_EXTRA}, training, tmp_path),
        strict=True,
    ):
        extra = EXTRAS.get(verb, "train")
        assert (status, said, complaint.count("\n")) == (2, "", 1)
        assert complaint.startswith(f"vivit: vivit {verb} needs ")
        assert complaint.endswith(f": pip install 'vivit[{extra}]'\n")
    (alone,) = run_without({"tensorboard"}, training[:1], tmp_path)
    assert alone[2] == "vivit: vivit train needs tensorboard: pip install 'vivit[train]'\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "model", "x.csv", "x.npy"]


def test_what_training_adds_is_known_by_name() -> None:
    direct = {canonicalize_name(each.partition(">")[0]) for each in requirements("train")}
    direct -= {canonicalize_name(each.partition(">")[0]) for each in requirements()}
    assert {*TRAIN_EXTRA} == {*direct, "markupsafe"}  # which jinja2 brings
    assert {*requirements("train")} <= {*requirements("demo")} & {*requirements("test")}
