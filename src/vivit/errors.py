"""What ends a command in one line: a mistake that the user can mend, or a wish to stop."""

from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import ValidationError

SHOWN = 5  # findings of one file in a message
LONGEST = 900  # characters of a message
CLOSE = 0.7  # how similar a name must be to be suggested for a wrong one, of 1


class UserError(Exception):
    """One line that names the file or field at fault and says what to do.

    The command line prints it without a traceback and exits with 2. What words out of a file could do to a line or a
    terminal is escaped, and cut where they do not end.
    """

    def __init__(self, message: str) -> None:
        if len(message) > LONGEST:
            message = f"{message[: LONGEST * 2 // 3]} … {message[-LONGEST // 3 :]}"
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in message))


class Stopped(Exception):
    """A run was asked to stop, and the same call goes on with it.

    The command line prints it and exits with 130 after Ctrl-C, else with 75 (EX_TEMPFAIL: call again).
    """

    def __init__(self, message: str, interrupted: bool) -> None:
        super().__init__(message)
        self.exit_status = 130 if interrupted else 75


class Interrupted(Exception):
    """Work was broken off because somebody wished it, in every process that has a part in it."""


def one_line(error: ValidationError) -> str:
    """What pydantic found wrong, each finding as `field: message`."""
    found = []
    for finding in error.errors(include_url=False, include_input=False)[:SHOWN]:
        field = ".".join(map(str, finding["loc"]))
        message = finding["msg"].removeprefix("Value error, ")
        found.append(f"{field}: {message}" if field else message)
    more = error.error_count() - SHOWN
    return "; ".join(found) + (f"; and {more} more" if more > 0 else "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "did you mean NAME?", or "" if no known name is close to the word."""
    close = get_close_matches(word, list(known), n=1, cutoff=CLOSE)
    return f"did you mean {close[0]}?" if close else ""
