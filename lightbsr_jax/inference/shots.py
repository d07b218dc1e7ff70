"""Finding the cuts between the shots of a video.

A frame begins a new shot if its mean absolute difference of luma from the frame before
is large, both absolutely and beside the last differences. Pair-wise
comparison with a threshold is the oldest detector of cuts (Zhang, Kankanhalli and
Smoliar, "Automatic partitioning of full-motion video", Multimedia Systems 1, 1993);
the ratio keeps motion and noise from counting as cuts, as in the adaptive detector of
PySceneDetect. Frames are compared at 64 x 36 pixels, where noise averages out.
Dissolves and fades are not found: both of their shots count as one.
"""

from typing import Any

import numpy as np

SIZE = 36, 64  # height and width of the compared frames
_LEAST = 15.0  # levels of 255 by which the frames at a cut differ
_RATIO = 3.0  # at a cut, to the median of the last differences
_RECENT = 3  # differences that are remembered


class Cuts:
    """A detector that is given one frame after the other."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        """Begins with a first frame, or goes on from the `state` of another one."""
        self._before: np.ndarray | None = None
        self._recent: list[float] = []
        if state is not None:
            self._before = np.array(state["before"], np.uint8).reshape(SIZE)
            self._recent = list(state["recent"])

    @property
    def state(self) -> dict[str, Any]:
        """Plain values from which another detector goes on."""
        assert self._before is not None
        return {"before": self._before.ravel().tolist(), "recent": self._recent}

    def begins_shot(self, luma: np.ndarray) -> bool:
        """Returns whether the next frame, uint8 [*SIZE], begins a shot."""
        before, self._before = self._before, luma
        if before is None:
            return True
        difference = float(np.abs(luma.astype(np.int16) - before).mean())
        usual = float(np.median(self._recent)) if self._recent else 0.0
        self._recent = [*self._recent, difference][-_RECENT:]
        return difference >= max(_LEAST, _RATIO * usual)
