"""The one exception type for mistakes that a user can make and mend."""


class UserError(Exception):
    """One line that names the file or field at fault and says what to do.

    The command line prints it without a traceback and exits with 2.
    """
