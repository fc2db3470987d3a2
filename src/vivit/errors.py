"""Exceptions that end a command with one line: a mistake that the user can fix, or a request to stop."""

from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import ValidationError

from vivit.text import printable

SHOWN = 5  # findings of one file in a message
LONGEST = 900  # characters of a message
MOST_LISTED = 20  # names in a message
CLOSE = 0.7  # similarity, 0 to 1, from which a known name is suggested for an unknown one


class UserError(Exception):
    """One line that names the file or field at fault and says what to do.

    The command line prints it without a traceback and exits with status 2. Control characters are escaped and long
    messages shortened, since parts of them may come from a file.
    """

    def __init__(self, message: str) -> None:
        if len(message) > LONGEST:
            message = f"{message[: LONGEST * 2 // 3]} … {message[-LONGEST // 3 :]}"
        super().__init__(printable(message))


class Stopped(Exception):
    """A run was asked to stop; the same call continues it.

    The command line prints it and exits with status 130 after Ctrl-C, else with 75 (EX_TEMPFAIL: call again).
    """

    def __init__(self, message: str, interrupted: bool) -> None:
        super().__init__(message)
        self.exit_status = 130 if interrupted else 75


class Interrupted(Exception):
    """Work was interrupted on request, in every rank."""


def one_line(error: Exception) -> str:
    """An error's message; for a pydantic error, its first findings, each as `field: message`."""
    if not isinstance(error, ValidationError):
        return str(error)
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


def no_class(field: str, name: str, classes: Iterable[str], model: str = "the model") -> UserError:
    """The error for a class that a model does not have; suggests a close name, or lists the names if they are few."""
    known = list(classes)
    hint = did_you_mean(name, known) or (f"it has {', '.join(known)}" if len(known) <= MOST_LISTED else "")
    return UserError(f"{field}: {model} has no class {name!r}{hint and '; ' + hint}")
