"""`vivit experiment`. To add an experiment, write `vivit/cli/experiments/NAME.py` and add it to EXPERIMENTS.

As for a verb, the file defines a function, whose signature and docstring become the command and its help page, and an
`app` that holds it. The file is imported when the experiment is called.
"""

from typing import TYPE_CHECKING, NamedTuple

from cyclopts import App, Group

from vivit.cli.command import HelpPage, verb
from vivit.progress import console

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry


class Experiment(NamedTuple):
    about: str
    """The first line of its help page."""
    takes: str
    """How long it takes on two cores."""


EXPERIMENTS = {
    "paper": Experiment("Run the paper's comparisons on the motion benchmark.", "6 hours"),
    "tables": Experiment("Make tables, plots and conclusions from the records of paper.", "seconds"),
    "table2": Experiment("Print sizes and costs of the five models, beside the paper's table 2.", "2 minutes"),
    "table5": Experiment("Print the costs of ViViT-L/16x2 at three crops, beside the paper's table 5.", "10 seconds"),
    "figure9": Experiment("Print how the costs of the five models grow with the frames of a clip.", "20 seconds"),
    "camera-motion": Experiment(
        "Train and score the camera-motion model that vivit predict uses without --model.", "1 hour"
    ),
    "camera-videos": Experiment("Make the camera-motion videos that vivit demo learns from.", "2 minutes"),
    "motion-benchmark": Experiment("Make the videos of the motion benchmark: verbs and nouns.", "3 minutes"),
    "single-frame": Experiment("Measure what an image model can tell from single frames of a data set.", "10 minutes"),
    "motion-quiz": Experiment("Ask a person what test videos show, and score the answers.", "seconds"),
}


class Pages(HelpPage):
    """The overview describes each experiment without importing it."""

    def about(self, entry: "HelpEntry") -> str:
        name = entry.names[0] if entry.names else ""
        return EXPERIMENTS[name].about if name in EXPERIMENTS else super().about(entry)


app = App(
    name="experiment",
    help="Run an experiment of the paper or of this project.",
    help_epilogue="Options of an experiment: vivit experiment NAME --help",
    usage="Usage: vivit experiment NAME …",
    group_commands=Group("Experiments"),
    help_formatter=Pages(),
)
app["--help"].show = False
list_app = verb("list", "vivit experiment list")
list_app.sort_key = 0
app.command(list_app)
for position, experiment in enumerate(EXPERIMENTS, start=1):
    module = f"vivit.cli.experiments.{experiment.replace('-', '_')}"
    app.command(f"{module}:app", name=experiment, sort_key=position)


@list_app.default
def list_experiments() -> None:
    """List the experiments, and how long each takes on two cores."""
    say = console().print
    for name, (about, takes) in EXPERIMENTS.items():
        say(f"{name:18} {takes:14} {about}")
