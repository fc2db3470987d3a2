"""The one exception type for mistakes that a user can make and mend."""

from pydantic import ValidationError


class UserError(Exception):
    """One line that names the file or field at fault and says what to do.

    The command line prints it without a traceback and exits with 2.
    """


def one_line(error: ValidationError) -> str:
    """What pydantic found wrong, each finding as `field: message`."""
    found = []
    for finding in error.errors():
        field = ".".join(map(str, finding["loc"]))
        message = finding["msg"].removeprefix("Value error, ")
        found.append(f"{field}: {message}" if field else message)
    return "; ".join(found)
