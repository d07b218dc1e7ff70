"""Stopping a run after a step, with a checkpoint.

On SIGTERM or SIGUSR1 (of schedulers), SIGHUP (of a closed terminal) or Ctrl-C, a run
stops after the current step and writes a checkpoint. If several processes train, all of
them stop after the same step, even if only one got the signal.
"""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Interruption:
    """Context that notes signals to stop; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self._noted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            signals = {signal.SIGINT: self._note, signal.SIGUSR1: self._note}
            if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
                signals[signal.SIGHUP] = self._note
            # With several processes, JAX notes SIGTERM itself and informs the others.
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
        """Returns whether to stop after `step`; call it at every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._noted

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._noted:
            raise KeyboardInterrupt
        self._noted = True
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
