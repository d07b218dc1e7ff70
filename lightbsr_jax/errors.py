"""Exceptions that the user can act on, and optional packages.

An optional package that is missing is such an exception, with its remedy.
"""

import errno
import importlib
import importlib.util
from types import ModuleType
from typing import NamedTuple

# Of an OSError: there is no space for what is written.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(ValueError):
    """A mistake in the input; the message names the mistake and the remedy.

    Commands print it as one line, like OSError (a missing file, a full disk). All other
    exceptions are bugs and keep their traceback.
    """


class Interrupted(Exception):
    """A run was interrupted, and its checkpoint is written.

    Commands exit with status 75 (EX_TEMPFAIL of the system): repeat the command.
    """


class Extra(NamedTuple):
    """An optional package, and the extra of this package that installs it."""

    module: str
    name: str  # of the extra

    @property
    def is_installed(self) -> bool:
        """Returns whether the package is there."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def remedy(self) -> str:
        """The command that installs it."""
        return f"pip install 'lightbsr-jax[{self.name}]'"

    def imported(self, purpose: str) -> ModuleType:
        """Imports the package. Raises UserError, which names extra and remedy."""
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            raise UserError(
                f"{purpose} need the extra {self.name}: {self.remedy} ({error})"
            ) from error
