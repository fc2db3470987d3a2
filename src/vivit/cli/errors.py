"""How commands end: errors as one line on stderr, and exit statuses."""

import errno
import os
import sys
from collections.abc import Callable
from typing import TextIO

import pydantic
from cyclopts.argument import Argument
from cyclopts.exceptions import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
    ValidationError,
)

from vivit.cli.command import NONE
from vivit.errors import Stopped, UserError, did_you_mean, one_line
from vivit.text import printable

# A full disk, or a terminal that has been closed.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def exit_status(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit status: what it returns, or 2 after printing a user's mistake."""
    status = _status_of(command)
    try:
        sys.stdout.flush()
    except OSError:  # what an error left there; Python would try again at exit, and end with status 120
        _discard(sys.stdout)
    return status


def _status_of(command: Callable[[], int | None]) -> int:
    try:
        status = command() or 0
        sys.stdout.flush()
        return status
    except CycloptsError as error:
        page = " ".join(["vivit", *(error.command_chain or ())])
        return complain(str(UserError(f"{_mistake(error)} (see {page} --help)")))  # shortens what was typed
    except UserError as error:
        return complain(str(error))
    except pydantic.ValidationError as error:
        return complain(one_line(error))
    except Stopped as stopped:
        complain(str(stopped))
        return stopped.exit_status
    except KeyboardInterrupt:
        complain("stopped")
        return 130
    except BrokenPipeError:
        # The reader of our output (head, a pager) has exited.
        _discard(sys.stdout)
        return 0
    except OSError as error:
        if error.errno not in FULL or (error.errno == errno.EIO and error.filename):
            raise
        _discard(sys.stdout)
        return complain(f"{error.filename or 'stdout'}: not written ({error.strerror})")


def complain(message: str) -> int:
    """Print one line on stderr and return 2."""
    # One write, because several processes of a run may complain at once.
    try:
        sys.stderr.write(f"vivit: {f'process {rank()}: ' if rank() else ''}{printable(message)}\n")
        sys.stderr.flush()
    except OSError:  # nowhere to report it
        _discard(sys.stderr)
    return 2


def _discard(stream: TextIO) -> None:
    """Discard further output to a stream, so that Python's flush at exit cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def rank() -> int:
    """The rank of this process among those that torchrun started."""
    return int(os.environ.get("RANK", "0"))


def _mistake(error: CycloptsError) -> str:
    """What was mistyped, in words."""
    argument, cause = error.argument, error.__cause__
    unexpected = (error.unused_tokens or [""])[0]
    if isinstance(error, UnknownCommandError) and error.app is not None:
        verbs = [name for name in error.app if not name.startswith("-")]
        return f"no verb {unexpected!r}; {did_you_mean(unexpected, verbs) or 'there are ' + ', '.join(verbs)}"
    if isinstance(error, UnknownOptionError):
        option = error.token.keyword or error.token.value
        meant = did_you_mean(option, [name for known in error.argument_collection for name in known.names])
        return f"no option {option}{meant and '; ' + meant}"
    if isinstance(error, UnusedCliTokensError):
        return f"unexpected argument {unexpected!r}"
    if isinstance(error, MissingArgumentError) and argument is not None:
        if not (error.keyword or argument.tokens):
            return f"{argument.name} is missing"
        wanted = argument.token_count()[0]
        return f"{error.keyword or argument.name} needs {'a value' if wanted == 1 else f'{wanted} values'}"
    if isinstance(error, CoercionError) and argument is not None:
        return _not_a_value(error, argument)
    if isinstance(error, ValidationError) and isinstance(cause, pydantic.ValidationError):
        return one_line(cause)
    error.verbose = False
    return str(error)


def _not_a_value(error: CoercionError, argument: Argument) -> str:
    word = error.token.value if error.token else " ".join(token.value for token in argument.tokens)
    choices = argument.get_choices() or ()
    if error.target_type is int:
        wanted = "a whole number"
    elif error.target_type is float:
        wanted = "a number"
    elif argument.parameter.metavar and NONE in choices:
        wanted = f"{argument.parameter.metavar} or None"
    elif choices:
        meant = did_you_mean(word, choices)
        wanted = f"one of {', '.join(choices)}{meant and '; ' + meant}"
    else:
        wanted = str(argument.parameter.metavar)
    return f"{argument.name}: {word!r} is not {wanted}"
