"""Help pages, shell completion, and what the command says when a name is mistyped.

`pytest tests/end_to_end/test_help.py --rewrite` rewrites the pages in transcripts/; read the difference before you
commit it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import InProcess
from tests.support import run_vivit
from vivit.cli import VERBS, build_app
from vivit.cli.experiment import EXPERIMENTS

TRANSCRIPTS = Path(__file__).parent / "transcripts"
PAGES = {
    "overview": "--help",
    **{verb: f"{verb} --help" for verb in VERBS},
    **{f"data-{verb}": f"data {verb} --help" for verb in ("show", "check", "pack")},
    **{f"experiment-{name}": f"experiment {name} --help" for name in EXPERIMENTS},
    "train-of-another-recipe": "train --recipe demo --help",
}


@pytest.fixture(params=[80, 120])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return request.param


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_as_it_was_last_read(
    name: str, vivit_here: InProcess, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    page = vivit_here(*PAGES[name].split()).succeeded()
    transcript = TRANSCRIPTS / f"{name}.txt"
    if pytestconfig.getoption("--rewrite"):
        TRANSCRIPTS.mkdir(exist_ok=True)
        transcript.write_text(page)
    assert page == transcript.read_text(), "read the page; then run this file with --rewrite"


@pytest.mark.parametrize("name", PAGES)
def test_no_line_is_wider_than_the_terminal(name: str, vivit_here: InProcess, width: int) -> None:
    lines = vivit_here(*PAGES[name].split()).succeeded().splitlines()
    assert max(map(len, lines)) <= width
    assert not [line for line in lines if line != line.rstrip()]


@pytest.mark.parametrize("words", ["-m vivit --help", "-m vivit --version", "-c PRINT"])
def test_output_that_nobody_reads_to_its_end_is_no_error(words: str) -> None:
    program = "import sys; from vivit.cli.errors import exit_status; sys.exit(exit_status(lambda: print('x')))"
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, *(program if word == "PRINT" else word for word in words.split())]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_each_transcript_is_of_a_page() -> None:
    assert {path.stem for path in TRANSCRIPTS.iterdir()} == set(PAGES)


@pytest.mark.parametrize("verb", VERBS)
def test_the_overview_says_of_a_verb_what_its_page_says_first(verb: str) -> None:
    assert build_app()[verb].help.splitlines()[0] == VERBS[verb]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_list_says_of_an_experiment_what_its_page_says_first(name: str) -> None:
    assert build_app()["experiment"][name].help.splitlines()[0] == EXPERIMENTS[name].about


def test_experiments_are_listed(vivit_here: InProcess) -> None:
    lines = vivit_here("experiment", "list").succeeded().splitlines()
    assert [line.split()[0] for line in lines] == list(EXPERIMENTS)


@pytest.mark.parametrize(
    "verb",
    [
        *(verb for verb in VERBS if verb not in ("data", "experiment")),
        *(f"data {verb}" for verb in ("show", "check", "pack")),
        *(f"experiment {name}" for name in EXPERIMENTS),
    ],
)
def test_each_option_is_explained_and_each_page_ends_with_an_example(verb: str) -> None:
    app = build_app()
    for word in verb.split():
        app = app[word]
    options = app.assemble_argument_collection(parse_docstring=True)
    assert [option.name for option in options if option.show and not option.parameter.help] == []
    assert f"  vivit {verb}" in (app.help_epilogue or "")


def imported_by(arguments: str) -> set[str]:
    """The modules that a command has imported when it ends."""
    code = f"""
import sys
sys.argv = ["vivit", *{arguments.split()!r}]
from vivit.cli import main
try:
    main()
finally:
    print(*sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return set(result.stdout.splitlines()[-1].split())


def test_without_arguments_the_overview_is_printed(vivit_here: InProcess) -> None:
    assert vivit_here().succeeded() == vivit_here("--help").succeeded()
    assert vivit_here("data").succeeded() == vivit_here("data", "--help").succeeded()


@pytest.mark.parametrize(
    "arguments", ["", "--help", "--version", "nonsense", *(f"{verb} --help" for verb in VERBS), "data show --help"]
)
def test_nothing_that_answers_at_once_imports_torch(arguments: str) -> None:
    assert not imported_by(arguments) & {"torch", "av", "matplotlib", "transformers", "accelerate"}


@pytest.mark.parametrize("arguments", ["", "trian"])
def test_the_overview_and_a_wrong_verb_import_no_verb(arguments: str) -> None:
    modules = imported_by(arguments)
    assert "vivit.cli.command" in modules
    assert not modules & {"numpy", *(f"vivit.cli.{verb}" for verb in VERBS)}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("trian", "did you mean train"),
        ("zzz", "there are demo, train"),
        ("data chek my_videos", "did you mean check"),
        ("data look my_videos", "there are show, check, pack"),
        ("--nonsense", "there are demo, train"),
        ("train my_videos --learing-rate 1", "did you mean --learning-rate"),
        ("train my_videos --learing-rate=1", "did you mean --learning-rate"),
        ("train my_videos --architecture.hiden-size 8", "did you mean --architecture.hidden-size"),
        ("train my_videos --recipe smal", "did you mean small"),
        ("train my_videos --recipe kinetic400-b", "did you mean kinetics400-b"),
        ("train --recipe smal --help", "did you mean small"),
        ("data show my_videos --recipe debgu", "did you mean debug"),
        ("train my_videos --optimiser adam", "did you mean adamw"),
        ("train my_videos --architecture.variant factorized_encoder", "did you mean factorised_encoder"),
        ("train my_videos --architecture.pooling tokens", "did you mean token"),
        ("convert start new --variant factorised_encodr", "did you mean factorised_encoder"),
        ("evaluate my_videos --model run --average probability", "did you mean probabilities"),
        ("predict clip.mp4 --modle run", "did you mean --model"),
    ],
)
def test_did_you_mean(vivit_here: InProcess, typed: str, meant: str) -> None:
    result = vivit_here(*typed.split())
    result.one_line(meant)
    assert result.out == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full disk here")
def test_output_that_cannot_be_written_is_one_line() -> None:
    command = f"{sys.executable} -m vivit"
    written = subprocess.run(f"{command} > /dev/full", shell=True, capture_output=True, text=True)
    assert written.stderr == "vivit: stdout: not written (No space left on device)\n"
    assert written.returncode == 2
    assert subprocess.run(f"{command} trian 2> /dev/full", shell=True).returncode == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_and_knows_verbs_and_options(tmp_path: Path, shell: str) -> None:
    script = tmp_path / "completion"
    installed = run_vivit(
        "--install-completion", "--shell", shell, "--output", str(script), folder=tmp_path, HOME=str(tmp_path)
    )
    installed.succeeded()
    text = script.read_text()
    for word in (*VERBS, "show", "--learning-rate", "--architecture.hidden-size", "factorised_encoder"):
        assert word in text.replace("\\", ""), word
    if shell == "bash":
        code = f"source {script}; COMP_WORDS=(vivit tr); COMP_CWORD=1; _vivit; echo ${{COMPREPLY[*]}}"
        assert subprocess.run(["bash", "-c", code], capture_output=True, text=True).stdout == "train\n"


def test_recipe_names_are_completed(vivit_here: InProcess) -> None:
    assert "kinetics400-b-fe" in vivit_here("__complete", "train", "--recipe", "kin").out
