"""What the package raises when the user can put it right."""


class UserError(ValueError):
    """A mistake in the input; the message names it and the remedy.

    Commands show it as one line. Other exceptions are bugs and keep their traceback,
    but for the operating system's (a missing file, a full disk).
    """


class Interrupted(Exception):
    """A run was told to stop, and its checkpoint is written.

    Commands end with the exit status 75 (the system's EX_TEMPFAIL): do it again.
    """
