"""Stopping in good order.

A run that is told to stop (SIGTERM or SIGUSR1, as schedulers send them, SIGHUP of a
terminal that is closed, or Ctrl-C) ends after the step under way, with a checkpoint.
Where several processes train, all of them stop after the same step, whichever was told.
"""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Interruption:
    """Within its context, signals to stop are noted; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self._noted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            signals = {signal.SIGINT: self._note, signal.SIGUSR1: self._note}
            if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup leaves it
                signals[signal.SIGHUP] = self._note
            # With several processes JAX notes SIGTERM itself, and tells the others.
            if jax.process_count() == 1:
                signals[signal.SIGTERM] = self._note
            for number, handler in signals.items():
                self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def noted(self, step: int) -> bool:
        """Whether to stop after `step`; call it at every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._noted

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._noted:
            raise KeyboardInterrupt
        self._noted = True
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
