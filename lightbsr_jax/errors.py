"""Exceptions that the user can act on."""


class UserError(ValueError):
    """A mistake in the input; the message names the mistake and the remedy.

    Commands print it as one line, like OSError (a missing file, a full disk). All other
    exceptions are bugs and keep their traceback.
    """


class Interrupted(Exception):
    """A run was interrupted, and its checkpoint is written.

    Commands exit with status 75 (EX_TEMPFAIL of the system): repeat the command.
    """
