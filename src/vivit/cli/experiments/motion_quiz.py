"""`vivit experiment motion-quiz`"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vivit.cli.command import verb
from vivit.cli.options import INPUT, OUTPUT, Data

app = verb(
    "motion-quiz",
    "vivit experiment motion-quiz set --out quiz",
    "vivit experiment motion-quiz set --answers answers.csv",
)


@app.default
def motion_quiz(
    data: Data,
    /,
    *,
    count: Annotated[int, Parameter(group=INPUT, metavar="N")] = 50,
    answers: Annotated[Path | None, Parameter(group=INPUT, metavar="CSV")] = None,
    out: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FOLDER")] = None,
) -> None:
    """Ask a person what test videos show, and score the answers.

    Args:
        count: How many videos to ask about.
        answers: Score these answers, which the page saved.
        out: Where index.html, which asks, its videos, and contact sheets of them go.
    """
    from vivit.errors import UserError
    from vivit.experiments.quiz import score_quiz, write_quiz
    from vivit.progress import console

    say = console().print
    if (out is None) == (answers is None):
        raise UserError("give --out to make a quiz, or --answers to score one")
    if out is not None:
        say(f"open {write_quiz(Path(data), out, count)}, and save the answers at the end")
    elif answers is not None:
        for name, value in score_quiz(Path(data), answers).items():
            say(f"{name:10} {value if name == 'answers' else f'{value:.1%}'}")
