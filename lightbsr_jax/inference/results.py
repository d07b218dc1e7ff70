"""Storage of results until the browser fetches them, in memory for some minutes."""

import secrets
import threading
import time
from collections import OrderedDict
from typing import NamedTuple

KEPT_SECONDS = 600  # time for which results can be fetched
_KEPT_BYTES = 1_000_000_000  # limit of all results; the oldest are deleted first
_ANSWER = 4  # the most results of a picture; the newest ones are kept beyond the limit


class Kept(NamedTuple):
    """A stored file."""

    kind: str  # media type
    content: bytes
    since: float  # by time.monotonic


class Results:
    """Files at paths that cannot be guessed."""

    def __init__(self) -> None:
        self._results: OrderedDict[str, Kept] = OrderedDict()
        self._keeping = threading.Lock()

    def __len__(self) -> int:
        return len(self._results)

    def keep(self, kind: str, content: bytes) -> str:
        """Stores a result for KEPT_SECONDS; returns the path to fetch it from."""
        path = f"/result/{secrets.token_urlsafe(12)}"
        with self._keeping:
            self._results[path] = Kept(kind, content, time.monotonic())
            self._forget()
        return path

    def at(self, path: str) -> Kept | None:
        """The result stored at a path, if it is still kept."""
        with self._keeping:
            self._forget()
            return self._results.get(path)

    def forget(self) -> None:
        """Deletes results whose time is over."""
        with self._keeping:
            self._forget()

    def _forget(self) -> None:
        oldest = time.monotonic() - KEPT_SECONDS
        size = sum(len(kept.content) for kept in self._results.values())
        earlier = len(self._results) - _ANSWER
        for place, (path, kept) in enumerate(list(self._results.items())):
            if kept.since >= oldest and (size <= _KEPT_BYTES or place >= earlier):
                break
            size -= len(kept.content)
            del self._results[path]
