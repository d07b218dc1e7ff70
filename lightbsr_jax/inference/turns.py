"""Turns of visitors and of background work: one picture is upscaled at a time."""

import contextlib
import threading
from collections.abc import Callable, Iterator

_STEP = 0.2  # seconds between checks whether a visitor has left


class TooManyWait(Exception):
    """Too many visitors wait already."""


class Turns:
    """A lock for visitors, to whom background work yields."""

    def __init__(self, most: int) -> None:
        """Admits `most` visitors at once, including the one at work."""
        self._working = threading.Lock()
        self._places = threading.BoundedSemaphore(most)
        self._counting = threading.Lock()
        self._visitors = 0

    @property
    def wanted(self) -> bool:
        """True if a visitor works or waits."""
        return self._visitors > 0

    @contextlib.contextmanager
    def visitor(self, is_gone: Callable[[], bool]) -> Iterator[None]:
        """Waits until no other picture is being upscaled.

        Raises ConnectionAbortedError if the visitor leaves, TooManyWait.
        """
        if not self._places.acquire(blocking=False):
            raise TooManyWait
        self._count(1)
        try:
            while not self._working.acquire(timeout=_STEP):
                if is_gone():
                    raise ConnectionAbortedError("the visitor left")
            try:
                yield
            finally:
                self._working.release()
        finally:
            self._count(-1)
            self._places.release()

    @contextlib.contextmanager
    def background(self) -> Iterator[None]:
        """Waits until no picture is being upscaled."""
        with self._working:
            yield

    def _count(self, change: int) -> None:
        with self._counting:
            self._visitors += change
