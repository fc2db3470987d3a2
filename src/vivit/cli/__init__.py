"""The `vivit` command. To add a verb, write `vivit/cli/VERB.py` and add a line to VERBS.

A verb's file defines a function, whose signature and docstring become the command and its help page, and an `app` that
holds it (see `vivit.cli.command.verb`). The file is imported when the verb is called; the function does its own
imports, so help pages do not wait for torch.
"""

import io
import os
import sys
from typing import TYPE_CHECKING

from cyclopts import App, Group, Parameter

from vivit import __version__
from vivit.cli.command import HelpPage, leave_out_none, to_value
from vivit.cli.errors import exit_status
from vivit.errors import UserError
from vivit.progress import console

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry

# Each verb with the first line of its help page.
VERBS = {
    "demo": "Make camera-motion videos, learn to name the motion, and write a report.",
    "train": "Train a model on labelled videos.",
    "pretrain": "Pretrain a model on videos without labels, to train it on a few labelled ones.",
    "evaluate": "Score a model on labelled videos, from several views of each.",
    "predict": "Label videos.",
    "timeline": "Divide a video into labelled segments.",
    "stream": "Label a video as it arrives.",
    "extract": "Write features of videos to a file.",
    "index": "Index a folder of videos for vivit search.",
    "search": "Find the videos of an index that look like a video, or that have a label.",
    "attention": "Show where and when a model looks in a video.",
    "report": "Write a run's page: curves, scores, mistakes, settings and cost.",
    "data": "Look at videos before training: show, check, pack.",
    "convert": "Turn weights of any kind into a model folder.",
    "export": "Write a model for ONNX Runtime, OpenVINO, torch.export or AOTInductor.",
    "info": "Show what a model is and where its weights come from.",
    "benchmark": "Measure how fast a model is on this machine.",
    "experiment": "Run an experiment of the paper or of this project.",
}
# The packages that the extra "train" installs, with their dependencies. The other verbs work without it.
TRAIN_EXTRA = ("accelerate", "jinja2", "markupsafe", "matplotlib", "tensorboard")
# verb → the extra that installs these packages, if it is another one.
EXTRAS = {
    "demo": "demo",
    "search": "search",
    "predict": "timeline",
    "timeline": "timeline",
    "attention": "timeline",
}


class Pages(HelpPage):
    """Help pages; the overview describes each verb without importing it."""

    def about(self, entry: "HelpEntry") -> str:
        return VERBS.get(entry.names[0] if entry.names else "") or super().about(entry)


def build_app() -> App:
    app = App(
        name="vivit",
        help="ViViT, a video vision transformer: from video files to labels.",
        help_epilogue="Start with: vivit predict clip.mp4\nOptions of a verb: vivit VERB --help",
        usage="Usage: vivit VERB …",
        console=console(),
        version=f"vivit {__version__}",
        group_commands=Group("Verbs", sort_key=0),
        help_formatter=Pages(),
        help_format="plaintext",
        default_parameter=Parameter(converter=to_value, allow_repeating=True, negative_iterable=""),
        config=leave_out_none,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    for position, verb in enumerate(VERBS):
        app.command(f"vivit.cli.{verb}:app", name=verb, sort_key=position)
    app.register_install_completion_command()
    options = Group("Options", sort_key=1)
    abouts = {
        "--help": "Show this page, or a verb's.",
        "--version": "Show the version.",
        "--install-completion": "Let the shell complete verbs, options and their values.",
    }
    for flag, about in abouts.items():
        app[flag].group, app[flag].help = options, about
    return app


def main() -> None:
    """Run the command line and exit; a user's mistake gives one line on stderr and exit status 2."""
    # Otherwise the first files to be opened would get the descriptors that the caller has closed.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    words = ["@-" if word == "-" else word for word in sys.argv[1:]]  # cyclopts takes a single - for an option

    def run() -> int | None:
        app = build_app()
        try:
            return app(words, exit_on_error=False, print_error=False)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in TRAIN_EXTRA:
                raise
            verb = " ".join(app.parse_commands(words)[0])
            extra = EXTRAS.get(verb, "train")
            raise UserError(f"vivit {verb} needs {package}: pip install 'vivit[{extra}]'") from None

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack characters of a name
    sys.exit(exit_status(run))
