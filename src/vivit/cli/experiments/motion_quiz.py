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
    out: Annotated[Path | None, Parameter(group=OUTPUT, metavar="PATH")] = None,
) -> None:
    """Ask a person what test videos show, and score the answers.

    Args:
        count: How many videos to ask about.
        answers: Score these answers, saved by the page.
        out: A folder for the quiz page index.html, its videos, and contact sheets; with --answers, a JSON file for the
            scores.
    """
    from vivit.errors import UserError
    from vivit.experiments.quiz import score_quiz, write_quiz
    from vivit.experiments.record import write_record
    from vivit.progress import console

    say = console().print
    if answers is not None:
        scores = score_quiz(Path(data), answers)
        if out is not None:
            write_record(out, scores)
        for name, value in scores.items():
            say(f"{name:10} {value if name == 'answers' else f'{value:.1%}'}")
    elif out is not None:
        say(f"open {write_quiz(Path(data), out, count)}, and save the answers at the end")
    else:
        raise UserError("give --out to make a quiz, or --answers to score one")
