"""Locks that keep two processes from writing to the same folder."""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from lightbsr_jax.errors import UserError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def held(file: Path, folder: Path) -> Iterator[None]:
    """Holds a lock file; the lock of a dead process is released.

    Where the system has no such locks nothing is held. Raises UserError if another
    process is writing to `folder`.
    """
    with open(file, "a+") as opened:
        if fcntl is None:
            yield
            return
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            opened.seek(0)
            owner = opened.read().strip() or "another process"
            raise UserError(
                f"{folder} is in use by {owner}: wait for it, or name another folder"
            ) from error
        except OSError:  # a file system without locks
            yield
            return
        opened.truncate(0)
        opened.write(f"process {os.getpid()} on {platform.node()}\n")
        opened.flush()
        yield
